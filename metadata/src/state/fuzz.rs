//! What must hold of any commands and rows: the fuzz targets of the state machine, which plain tests replay over `fuzz/corpus`.
//!
//! A command that panics, or makes a table corrupt, stops every replica at the same log entry, for ever: so whatever a client can
//! send, in whatever order, is answered. Each function takes any bytes, panics where a promise is broken, and returns whether
//! something in them was understood.

use super::rows::{
    self, BucketFence, CompletedRow, Head, LeaseRow, ManifestHead, PartHead, PastRow, ReleasedRow, UploadRow,
};
use super::{
    apply_cluster, apply_index, cluster_config, cluster_map, init_index, keys, pending_fences, query_cluster,
    query_index,
};
use crate::api::cluster::ClusterCommand;
use crate::api::index::{Fence, IndexCommand, IndexQuery, IndexReply, Part};
use crate::api::{Envelope, User};
use crate::raft::ClusterEnvelope;
use crate::table::{MemoryTable, Overlay};
use serde::{Serialize, de::DeserializeOwned};
use tenfour_types::{CommandId, ConfigVersion, LeaseId, Manifest, MetaGroupId, StripeRow};

const GROUP: MetaGroupId = MetaGroupId(1);
/// Steps of one input: enough for a story, few enough for many inputs a second.
const STEPS_MAX: usize = 48;
/// Longest key that every store takes.
const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// What first byte of a step makes it a query; any other is a command.
const QUERY: u8 = 0;
const COMMAND: u8 = 1;
/// Above these, planning a map takes too long to be done millions of times.
const GROUPS_MAX: u32 = 8;
const INDEX_GROUPS_MAX: u16 = 4;
const NODES_MAX: usize = 24;

/// Commands and queries of an index group: steps, one after the other, on a group with the leases 1 and 2.
pub fn index_commands(mut bytes: &[u8]) -> bool {
    let mut replica = Replica::new();
    for (number, lease) in [(1, LeaseId(1)), (2, LeaseId(2))] {
        replica.fence(number, Fence::LeaseGranted(lease));
    }
    let mut understood = 0;
    while let Some((kind, rest)) = bytes.split_first().filter(|_| understood < STEPS_MAX) {
        let left = match *kind {
            QUERY => next::<IndexQuery>(rest).map(|(query, rest)| {
                let answer = query_index(&replica.table, replica.index, &query);
                assert!(answer.is_ok(), "{query:?} is answered {answer:?}");
                rest
            }),
            COMMAND => next::<Envelope<IndexCommand>>(rest).map(|(envelope, rest)| {
                replica.send_twice(&envelope);
                rest
            }),
            _ => None,
        };
        let Some(rest) = left else { break };
        (bytes, understood) = (rest, understood + 1);
    }
    understood > 0
}

/// Commands of the cluster group, one after the other; an index group takes every fence that they make.
pub fn cluster_commands(mut bytes: &[u8]) -> bool {
    let (mut zero, mut replica) = (MemoryTable::default(), Replica::new());
    let mut understood = 0;
    while let Some((ClusterEnvelope { id, command }, rest)) = next(bytes).filter(|_| understood < STEPS_MAX) {
        (bytes, understood) = (rest, understood + 1);
        if takes_too_long(&command, &zero) {
            continue;
        }
        let applied = apply_cluster(&mut zero, understood as u64, id, &command);
        let Ok(applied) = applied else { panic!("{command:?} made the table corrupt: {applied:?}") };
        if id.is_some() {
            let again = apply_cluster(&mut zero, understood as u64, id, &command);
            assert!(
                again.is_ok_and(|again| again == applied),
                "{command:?} sent twice is not answered as at first"
            );
        }
        drive(&mut zero, &mut replica);
    }
    assert!(query_cluster(&zero).is_ok() && cluster_config(&zero).is_ok());
    understood > 0
}

fn next<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    postcard::take_from_bytes(bytes).ok()
}

fn takes_too_long(command: &ClusterCommand, zero: &MemoryTable) -> bool {
    match command {
        ClusterCommand::BuildGroups { count } => count.is_none_or(|count| count > GROUPS_MAX),
        ClusterCommand::Bootstrap { index_groups, .. } => *index_groups > INDEX_GROUPS_MAX,
        ClusterCommand::RegisterNode { targets, .. } => {
            let map = cluster_map(zero).unwrap_or_default();
            map.nodes.len() > NODES_MAX || map.targets.len() + targets.len() > NODES_MAX
        }
        _ => false,
    }
}

/// Carries the fences of the group to its tables, as the driver does.
fn drive(zero: &mut MemoryTable, replica: &mut Replica) {
    let pending = pending_fences(zero, GROUP, usize::MAX).unwrap_or_default();
    let Some(last) = pending.last().map(|(number, _)| *number) else { return };
    for (number, fence) in pending {
        replica.fence(number, fence);
    }
    let done = ClusterCommand::FenceDone { group: GROUP, number: last };
    assert!(apply_cluster(zero, 0, None, &done).is_ok_and(|applied| applied.reply.is_ok()));
}

/// An index group in memory.
struct Replica {
    table: MemoryTable,
    index: u64,
}

impl Replica {
    fn new() -> Self {
        let mut table = MemoryTable::default();
        assert!(init_index(&mut table, GROUP).is_ok());
        Self { table, index: 0 }
    }

    /// A fence that group 0 made: it is never refused.
    fn fence(&mut self, number: u64, fence: Fence) {
        let id = CommandId { lease: LeaseId(0), sequence: 0 };
        let command = IndexCommand::Fence { number, fence };
        let reply = self.send(&Envelope { id, config: ConfigVersion(0), command }).0;
        assert!(reply.is_ok(), "fence {number} was refused: {reply:?}");
    }

    /// What succeeded once has the same reply again, and changes nothing.
    fn send_twice(&mut self, envelope: &Envelope<IndexCommand>) {
        let (first, _) = self.send(envelope);
        let is_clients =
            !matches!(envelope.command, IndexCommand::Fence { .. } | IndexCommand::Watermark { .. });
        if is_clients && first.is_ok() {
            assert_eq!(self.send(envelope), (first, 0), "{envelope:?} sent twice");
        }
    }

    /// The reply, and how many rows were written.
    fn send(&mut self, envelope: &Envelope<IndexCommand>) -> (IndexReply, usize) {
        self.index += 1;
        let mut overlay = Overlay::new(&self.table);
        let reply = apply_index(&mut overlay, self.index, envelope);
        let Ok(reply) = reply else { panic!("{envelope:?} made the table corrupt: {reply:?}") };
        let changes = overlay.into_changes();
        let is_key = |key: &[u8]| (1..=KEY_BYTES_MAX).contains(&key.len());
        assert!(
            changes.iter().all(|(_, key, _)| is_key(key)),
            "{envelope:?} writes a key that no store takes"
        );
        let written = changes.len();
        self.table.apply(changes);
        (reply, written)
    }
}

/// Rows and keys of the tables; the first byte says which.
pub fn rows(bytes: &[u8]) -> bool {
    let kinds: [fn(&[u8]) -> bool; 14] = [
        survives::<Head>,
        survives::<LeaseRow>,
        survives::<BucketFence>,
        survives::<UploadRow>,
        survives::<CompletedRow>,
        survives::<PastRow>,
        survives::<ReleasedRow>,
        |bytes| survives::<Manifest>(bytes) && rows::decode_head::<ManifestHead>(bytes).is_ok(),
        |bytes| survives::<Part>(bytes) && rows::decode_head::<PartHead>(bytes).is_ok(),
        survives::<StripeRow>,
        survives::<User>,
        move_key,
        upload_key,
        command_key,
    ];
    let Some((kind, body)) = bytes.split_first() else { return false };
    kinds.get(usize::from(*kind)).is_some_and(|check| check(body))
}

fn survives<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(row) = rows::decode::<T>(bytes) else { return false };
    let encode = |row: &T| rows::encode(row).unwrap_or_default();
    let encoded = encode(&row);
    assert!((1..=bytes.len()).contains(&encoded.len()));
    assert_eq!(rows::decode::<T>(&encoded).map(|row| encode(&row)).ok(), Some(encoded));
    true
}

fn move_key(key: &[u8]) -> bool {
    keys::parse_move(key).is_some_and(|(epoch, group, index)| {
        assert!(key.starts_with(&keys::moves(epoch, Some(group), Some(index))));
        true
    })
}

fn upload_key(key: &[u8]) -> bool {
    let parsed = keys::parse_upload(key).zip(key.first_chunk::<9>());
    parsed.is_some_and(|((name, upload), [tag, bucket @ ..])| {
        let bucket = tenfour_types::BucketId(u64::from_be_bytes(*bucket));
        let written = keys::upload(*tag, bucket, &name, upload);
        assert_eq!(keys::parse_upload(&written), Some((name, upload)));
        true
    })
}

fn command_key(key: &[u8]) -> bool {
    keys::parse_command(key).is_some_and(|id| {
        assert_eq!(keys::command(id), key);
        true
    })
}

#[cfg(test)]
mod tests {
    use super::super::keys::upload_tag;
    use super::super::tests::{
        BUCKET, MIB, complete_command, create_command, delete_command, envelope, etag, id, key, manifest,
        part_command, put_command, put_envelope,
    };
    use super::*;
    use crate::api::index::{ListRequest, Precondition, ShardAway, SlotMove, Watermark};
    use crate::fuzz::replay::replay;
    use tenfour_placement::NodeState;
    use tenfour_types::{
        Body, BucketId, BucketName, ClusterId, ETag, Epoch, GroupId, Headers, NodeId, ShardIndex, StripeId,
        TargetId, UploadId,
    };

    fn story(steps: &[Vec<u8>]) -> Vec<u8> {
        steps.concat()
    }

    fn command(sequence: u64, command: IndexCommand) -> Vec<u8> {
        postcard::to_extend(&envelope(id(1, sequence), command), vec![COMMAND]).unwrap()
    }

    fn query(query: &IndexQuery) -> Vec<u8> {
        postcard::to_extend(query, vec![QUERY]).unwrap()
    }

    fn put(sequence: u64, name: &str, size: u64) -> Vec<u8> {
        postcard::to_extend(&put_envelope(id(1, sequence), name, size, etag(sequence)), vec![COMMAND])
            .unwrap()
    }

    #[test]
    fn index_groups_answer_whatever_they_are_sent() {
        let list = ListRequest {
            bucket: BUCKET,
            prefix: "a".into(),
            delimiter: Some("/".into()),
            after: Some("a/1".into()),
            most: 5,
        };
        let object = IndexQuery::Object { bucket: BUCKET, key: key("a/b"), range: Some((3, u64::MAX)) };
        let (version, range) = (id(1, 1), (0, 1));
        let past = IndexQuery::Segments { bucket: BUCKET, key: key("a/b"), version, range };
        let objects = story(&[
            put(1, "a/b", 5),
            put(2, "a/b", MIB),
            query(&object),
            query(&past),
            query(&IndexQuery::List(list)),
            command(3, delete_command("a/b")),
            query(&IndexQuery::IsEmpty { bucket: BUCKET }),
            query(&IndexQuery::Stripes { after: None, most: 9 }),
        ]);
        let upload = UploadId(id(1, 1));
        let parts = [(1, id(1, 2), 5 * MIB), (7, id(1, 3), 1)];
        let uploads = story(&[
            command(1, create_command("big")),
            command(2, part_command(id(1, 2), "big", upload, 1, 5 * MIB)),
            command(3, part_command(id(1, 3), "big", upload, 7, 1)),
            query(&IndexQuery::Parts { bucket: BUCKET, key: key("big"), upload, after: 0, most: 5 }),
            query(&IndexQuery::Uploads {
                bucket: BUCKET,
                prefix: "b".into(),
                after: Some(("b".into(), None)),
                most: 5,
            }),
            command(4, complete_command(id(1, 4), "big", upload, &parts)),
            query(&IndexQuery::ObjectPart { bucket: BUCKET, key: key("big"), number: 2 }),
            command(5, create_command("other")),
            command(6, part_command(id(1, 6), "other", UploadId(id(1, 5)), 1, 3)),
            command(7, part_command(id(1, 7), "other", UploadId(id(1, 5)), 1, 4)),
            command(
                8,
                IndexCommand::AbortUpload { bucket: BUCKET, key: key("other"), upload: UploadId(id(1, 5)) },
            ),
        ]);
        let watermark = Watermark { commands_below: 3, stripes_below: 3, reads_below: 4 };
        let moved = SlotMove {
            group: GroupId(0),
            index: ShardIndex::new(3).unwrap(),
            from: TargetId(4),
            to: TargetId(5),
        };
        let fence = |number, fence| command(0, IndexCommand::Fence { number, fence });
        let fences = story(&[
            put(1, "k", 5),
            fence(3, Fence::Moves { epoch: Epoch(2), moves: vec![moved] }),
            fence(4, Fence::Epoch(Epoch(2))),
            put(2, "k", 6),
            command(0, IndexCommand::Watermark { lease: LeaseId(1), watermark }),
            fence(5, Fence::BucketClosed(BUCKET)),
            put(9, "k", 7),
            fence(6, Fence::BucketReopened(BUCKET)),
            fence(7, Fence::Config(ConfigVersion(1))),
            fence(8, Fence::LeaseEnded(LeaseId(1))),
            put(10, "k", 7),
            fence(9, Fence::BucketRemoved(BucketId(3))),
        ]);
        let away = ShardAway {
            stripe: StripeId { meta_group: GROUP, lease: LeaseId(1), counter: 1000 },
            index: moved.index,
            target: moved.from,
        };
        let home = story(&[
            fence(3, Fence::Moves { epoch: Epoch(2), moves: vec![moved] }),
            fence(4, Fence::Epoch(Epoch(2))),
            put(1, "k", 5),
            query(&IndexQuery::StripesAway { after: None, most: 9 }),
            command(0, IndexCommand::BringHome { epoch: Epoch(2), shards: vec![away] }),
            query(&IndexQuery::StripesAway { after: None, most: 9 }),
        ]);
        // What once stopped every replica: a client may name any fence.
        let short_slots = story(&[fence(3, Fence::Slots(vec![GROUP])), put(1, "k", 5)]);
        let conditions = [Precondition::Absent, Precondition::Present, Precondition::Match(vec![etag(1)])];
        let conditions: Vec<_> = (1..)
            .zip(conditions)
            .map(|(sequence, precondition)| {
                command(sequence, put_command(id(1, sequence), "k", 1, etag(sequence), precondition))
            })
            .collect();
        let seeds = [
            ("objects", objects),
            ("uploads", uploads),
            ("fences", fences),
            ("home", home),
            ("short-slots", short_slots),
            ("conditions", story(&conditions)),
        ];
        replay("metadata_index_commands", index_commands, &seeds);
    }

    #[test]
    fn the_cluster_group_answers_whatever_it_is_sent_and_its_fences_are_taken() {
        let mut sequence = 0;
        let mut of = |command: ClusterCommand| {
            sequence += 1;
            postcard::to_stdvec(&ClusterEnvelope { id: Some(id(1 << 40, sequence)), command }).unwrap()
        };
        let user = |name: &str| User {
            access_key: name.into(),
            secret_key: "secret".into(),
            display_name: name.into(),
            enabled: true,
            root: name == "root",
        };
        let bootstrap = ClusterCommand::Bootstrap {
            cluster: ClusterId([1; 16]),
            index_groups: 2,
            root: Some(user("root")),
        };
        let register = |node: u32| ClusterCommand::RegisterNode {
            node: NodeId(node),
            endpoints: vec![format!("tcp:127.0.0.1:{node}")],
            rack: "r".into(),
            targets: vec![(TargetId(node), 10)],
        };
        let name = BucketName::new("photos").unwrap();
        let buckets = story(&[
            of(bootstrap.clone()),
            of(ClusterCommand::CreateBucket { name, owner: "root".into(), created_ms: 5 }),
            of(ClusterCommand::CloseBucket { bucket: BucketId(1) }),
            of(ClusterCommand::FinishCloseBucket { bucket: BucketId(1), round: 1, empty: true }),
            of(ClusterCommand::PutUser { user: user("eve") }),
            of(ClusterCommand::RemoveUser { access_key: "eve".into() }),
            of(ClusterCommand::GrantLease { holder: "gateway".into() }),
            of(ClusterCommand::GrantLease { holder: "gateway".into() }),
            of(ClusterCommand::EndLease { lease: LeaseId(2) }),
            of(ClusterCommand::FenceDone { group: MetaGroupId(2), number: 3 }),
        ]);
        let nodes = story(&[
            of(bootstrap.clone()),
            of(register(1)),
            of(register(2)),
            of(ClusterCommand::BuildGroups { count: Some(2) }),
            of(register(3)),
            of(ClusterCommand::PoisonTarget { target: TargetId(1) }),
            of(ClusterCommand::SetNodeState { node: NodeId(2), state: NodeState::Out }),
            of(ClusterCommand::SetNodeState { node: NodeId(3), state: NodeState::Down }),
            of(register(3)),
        ]);
        let successor = TargetId(1_000_000);
        let again = ClusterCommand::RegisterNode {
            node: NodeId(2),
            endpoints: vec!["tcp:127.0.0.1:2".into()],
            rack: "r".into(),
            targets: vec![(successor, 10)],
        };
        let slots = [0, 1]
            .map(GroupId)
            .into_iter()
            .flat_map(|group| ShardIndex::all().map(move |index| (group, index)));
        let repair = story(&[
            of(bootstrap),
            of(register(1)),
            of(register(2)),
            of(ClusterCommand::BuildGroups { count: Some(2) }),
            of(ClusterCommand::ReplaceTarget { node: NodeId(2), target: TargetId(2) }),
            of(again),
            of(ClusterCommand::SlotsWhole { target: successor, epoch: Epoch(4), slots: slots.collect() }),
        ]);
        let seeds = [("buckets", buckets), ("nodes", nodes), ("repair", repair)];
        replay("metadata_cluster_commands", cluster_commands, &seeds);
    }

    #[test]
    fn rows_and_keys_survive() {
        fn of<T: Serialize>(kind: u8, row: &T) -> Vec<u8> {
            [vec![kind], rows::encode(row).unwrap()].concat()
        }
        let with = |kind: u8, key: Vec<u8>| [vec![kind], key].concat();
        let version = id(70_000, 12);
        let manifest = manifest(version, 5, ETag { parts: Some(2), ..etag(7) }, Body::Extents(Vec::new()));
        let IndexCommand::PutPart { part, stripes, .. } = part_command(version, "k", UploadId(version), 3, 9)
        else {
            unreachable!()
        };
        let past = PastRow { replaced_at: 5, bucket: BUCKET, key: "k".into(), manifest: manifest.clone() };
        let released = rows::Released::Parts { upload: UploadId(version), numbers: vec![1, 300] };
        let lease = LeaseRow { ended: Some(3), watermark: Watermark::default(), forgotten_below: 4 };
        let upload = UploadRow { created_ms: 5, checksum: None, headers: Headers::default() };
        let seeds = [
            ("head", of(0, &Head { group: GROUP, floor: 300, ..Head::default() })),
            ("lease", of(1, &lease)),
            ("bucket-fence", of(2, &BucketFence::Removed)),
            ("upload", of(3, &upload)),
            ("completed", of(4, &CompletedRow { version, etag: etag(7) })),
            ("past", of(5, &past)),
            ("released", of(6, &ReleasedRow { what: released, done: 1 })),
            ("manifest", of(7, &manifest)),
            ("part", of(8, &part)),
            ("stripe", of(9, &stripes[0])),
            ("move-key", with(11, keys::moves(Epoch(4), Some(GroupId(5)), ShardIndex::new(13)))),
            ("upload-key", with(12, keys::upload(upload_tag::OPEN, BUCKET, "a\0b", UploadId(version)))),
            ("command-key", with(13, keys::command(version))),
        ];
        replay("metadata_rows", rows, &seeds);
    }
}
