//! What must hold of any bytes that a peer sends or a disk holds: the fuzz targets of this crate, which plain tests replay over
//! `fuzz/corpus`. Those of the state machine are in `state/fuzz.rs`.
//!
//! Each function takes any bytes, panics where a promise is broken, and returns whether they were what it decodes. Where a checksum
//! would keep everything out, the bytes are also tried with a good one.

pub use crate::state::fuzz::{cluster_commands, index_commands, rows};

use crate::api::{
    ClusterAnswer, ClusterQuery, ClusterReply, Envelope, IndexQuery, IndexReply,
    cluster::{Heartbeat, RepairProgress},
    index::{IndexAnswerAt, IndexCommand},
};
use crate::client::ReplicaStatus;
use crate::net::frame::take_frame;
use crate::net::{Frame, Hello, Role};
use crate::raft::{
    Batch, BatchBuilder, ClusterEnvelope, Entry, Replica, SnapshotBegin, StoredMembership, TypeConfig, Vote,
};
use crate::store::mark;
use crate::table::journal::intact_bytes;
use crate::table::{MemoryStore, Scan, Space, Store, Table, write_snapshot};
use bytes::BytesMut;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use tenfour_types::{ClusterId, ConfigVersion, Epoch};

/// Frames on a connection: however the bytes are cut, the same frames come, and each is written as it was read.
pub fn frames(bytes: &[u8]) -> bool {
    let Some((&cut, stream)) = bytes.split_first() else { return false };
    let (whole, taken) = take_frames(stream, stream.len());
    let (again, _) = take_frames(stream, usize::from(cut) % (stream.len() + 1));
    assert_eq!(whole, again, "cut at {cut}");
    assert_eq!(whole.concat(), stream.get(..taken).unwrap_or_default());
    !whole.is_empty()
}

/// The frames of a stream that comes in two pieces, each as it would be written, and how many bytes they took.
fn take_frames(stream: &[u8], cut: usize) -> (Vec<Vec<u8>>, usize) {
    let mut frames = Vec::new();
    let mut buffer = BytesMut::new();
    let (first, second) = stream.split_at(cut);
    let mut pieces = [first, second].into_iter();
    loop {
        match take_frame(&mut buffer) {
            // A stream ends with the first frame that is none.
            Err(_) => break,
            Ok(None) => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => break,
            },
            Ok(Some(Frame { id, kind, group, body })) => {
                let mut written = Vec::new();
                let fill = |out: &mut Vec<u8>| {
                    out.extend_from_slice(&body);
                    Ok(())
                };
                assert!(Frame::write_with(&mut written, id, kind, group, fill).is_ok());
                frames.push(written);
            }
        }
    }
    let taken = frames.iter().map(Vec::len).sum();
    (frames, taken)
}

/// What a peer says of itself while it proves the key.
pub fn hello(bytes: &[u8]) -> bool {
    let ours = Hello::new(ClusterId([9; 16]), Role::Client);
    let Ok(theirs) = ours.check(bytes) else { return false };
    assert_eq!(ours.check(&theirs.to_bytes()).as_ref(), Ok(&theirs));
    assert_eq!((theirs.protocol, theirs.cluster), (ours.protocol, ours.cluster));
    true
}

/// Bodies of frames, rows of the log, and what a log entry carries; the first byte says which.
pub fn messages(bytes: &[u8]) -> bool {
    let kinds: [fn(&[u8]) -> bool; 20] = [
        survives::<Envelope<IndexCommand>>,
        survives::<ClusterEnvelope>,
        survives::<IndexQuery>,
        survives::<ClusterQuery>,
        survives::<IndexAnswerAt>,
        survives::<ClusterAnswer>,
        survives::<IndexReply>,
        survives::<ClusterReply>,
        survives::<Heartbeat>,
        survives::<(Epoch, ConfigVersion)>,
        survives::<Option<(u64, String)>>,
        survives::<ReplicaStatus>,
        survives::<BTreeMap<u64, Replica>>,
        survives::<AppendEntriesRequest<TypeConfig>>,
        survives::<AppendEntriesResponse<u64>>,
        |bytes| survives::<VoteRequest<u64>>(bytes) | survives::<Vote>(bytes),
        survives::<VoteResponse<u64>>,
        survives::<SnapshotBegin>,
        |bytes| survives::<Entry>(bytes) | survives::<StoredMembership>(bytes),
        batch,
    ];
    let Some((kind, body)) = bytes.split_first() else { return false };
    kinds.get(usize::from(*kind)).is_some_and(|check| check(body))
}

/// What decodes encodes, in no more bytes, and to the same again.
fn survives<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok((value, [])) = postcard::take_from_bytes::<T>(bytes) else { return false };
    let name = std::any::type_name::<T>();
    let encode = |value: &T| postcard::to_stdvec(value).unwrap_or_else(|error| panic!("{name}: {error}"));
    let encoded = encode(&value);
    assert!(encoded.len() <= bytes.len(), "{name} grew");
    let again = postcard::from_bytes(&encoded).map(|value| encode(&value));
    assert_eq!(again.as_ref(), Ok(&encoded), "{name}");
    true
}

/// Envelopes of a log entry: a batch that is read to its end is built again from what was in it.
fn batch(bytes: &[u8]) -> bool {
    let Ok((batch, [])) = postcard::take_from_bytes::<Batch>(bytes) else { return false };
    let envelopes: Result<Vec<_>, _> = batch.envelopes().collect();
    let Ok(envelopes) = envelopes else { return false };
    let mut builder = BatchBuilder::new();
    if envelopes.iter().all(|envelope| builder.push(envelope)) {
        assert_eq!(builder.build(), batch);
    }
    true
}

/// The note of how far the log was durable.
pub fn marks(bytes: &[u8]) -> bool {
    let read = |block: &[u8]| {
        mark::decode(block).is_some_and(|groups| {
            let encoded = postcard::to_stdvec(&groups).unwrap_or_default();
            assert_eq!(postcard::from_bytes(&encoded).as_ref(), Ok(&groups));
            true
        })
    };
    read(&mark::sealed(bytes)) | read(bytes)
}

/// fjall's journal: what is cut off begins at a batch, and nothing more is cut off what was kept.
pub fn journal(bytes: &[u8]) -> bool {
    let intact = |bytes: &[u8]| intact_bytes(bytes).ok().and_then(|intact| usize::try_from(intact).ok());
    let kept = intact(bytes).unwrap_or(usize::MAX);
    assert!(kept <= bytes.len());
    assert_eq!(intact(bytes.get(..kept).unwrap_or_default()), Some(kept));
    kept > 0
}

/// A snapshot on its way in: as it is, and as the rows of a stream that is otherwise good.
pub fn snapshot(bytes: &[u8]) -> bool {
    installs(&snapshot_of_rows(bytes)) | installs(bytes)
}

fn installs(stream: &[u8]) -> bool {
    let store = MemoryStore::new();
    let Ok(summary) = store.install(&mut &stream[..]) else {
        assert_eq!(count(&store), 0, "a refused snapshot left something");
        return false;
    };
    assert_eq!((summary.rows, summary.bytes), (count(&store), stream_bytes(stream)));
    let again = MemoryStore::new();
    let mut written = Vec::new();
    let copied = store.read(|table| write_snapshot(table, &mut written));
    let installed = again.install(&mut &written[..]);
    assert!(installed.is_ok_and(|installed| copied.is_ok_and(|copied| copied == installed)));
    let mut twice = Vec::new();
    assert!(again.read(|table| write_snapshot(table, &mut twice)).is_ok());
    assert_eq!(written, twice);
    true
}

/// Bytes of a stream up to its end: what follows is not looked at.
fn stream_bytes(stream: &[u8]) -> u64 {
    let mut at = 16;
    loop {
        let length =
            stream.get(at..at + 4).and_then(|length| length.try_into().ok()).map_or(0, u32::from_le_bytes);
        at += if length == 0 { 4 + 8 + 16 } else { 4 + length as usize + 16 };
        if length == 0 {
            return at as u64;
        }
    }
}

fn count(store: &MemoryStore) -> u64 {
    let mut rows = 0;
    let counted = store.read(|table: &dyn Table| {
        Space::ALL.into_iter().try_for_each(|space| {
            table.scan(space, &[], &mut |_, _| {
                rows += 1;
                Ok(Scan::On)
            })
        })
    });
    assert!(counted.is_ok());
    rows
}

/// A stream with one chunk of these bytes, whatever they are.
fn snapshot_of_rows(chunk: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    let mut out = Vec::new();
    let mut emit = |out: &mut Vec<u8>, bytes: &[u8], ends: bool| {
        hasher.update(bytes);
        out.extend_from_slice(bytes);
        if ends {
            out.extend_from_slice(&hasher.finalize().as_bytes()[..16]);
        }
    };
    emit(&mut out, b"10-4snap\x01\0\0\0\0\0\0\0", false);
    if !chunk.is_empty() {
        emit(&mut out, &(chunk.len() as u32).to_le_bytes(), false);
        emit(&mut out, chunk, true);
    }
    emit(&mut out, &[0; 4], false);
    emit(&mut out, &rows_in(chunk).to_le_bytes(), true);
    out
}

/// The rows of a chunk, as far as their lengths make sense.
fn rows_in(mut chunk: &[u8]) -> u64 {
    let mut rows = 0;
    while let Some((head, rest)) = chunk.split_first_chunk::<9>() {
        let [_, k0, k1, k2, k3, v0, v1, v2, v3] = *head;
        let bytes =
            u64::from(u32::from_le_bytes([k0, k1, k2, k3])) + u64::from(u32::from_le_bytes([v0, v1, v2, v3]));
        let Some(next) = usize::try_from(bytes).ok().and_then(|bytes| rest.get(bytes..)) else { break };
        (chunk, rows) = (next, rows + 1);
    }
    rows
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
pub(crate) mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;
    use super::*;
    use crate::api::index::{IndexAnswer, IndexDone, IndexRefusal, ListPage, Precondition};
    use crate::client::GroupStatus;
    use crate::net::Kind;
    use crate::table::{MemoryTable, TableMut};
    use openraft::{EntryPayload, LeaderId, Membership};
    use tenfour_types::{BucketId, CommandId, LeaseId, MetaGroupId, NodeId, ObjectKey, TargetId};
    use xxhash_rust::xxh3::xxh3_64;

    type LogId = openraft::LogId<u64>;

    fn log_id(index: u64) -> LogId {
        LogId::new(LeaderId::new(4, 2), index)
    }

    fn membership() -> StoredMembership {
        let replica =
            |id: u64| (id, Replica { address: format!("127.0.0.1:{}", 7100 + id), incarnation: u128::MAX });
        let nodes: BTreeMap<u64, Replica> = (1..=3).map(replica).collect();
        let voters = nodes.keys().copied().collect();
        StoredMembership::new(Some(log_id(1)), Membership::new(vec![voters], nodes))
    }

    fn envelope() -> Envelope<IndexCommand> {
        let id = CommandId { lease: LeaseId(70_000), sequence: 12 };
        let (bucket, key) = (BucketId(3), ObjectKey::new("photos/ä").unwrap());
        let command = IndexCommand::DeleteObject { bucket, key, precondition: Precondition::Version(id) };
        Envelope { id, config: ConfigVersion(300), command }
    }

    fn batch_of(envelopes: usize) -> Batch {
        let mut builder = BatchBuilder::new();
        for _ in 0..envelopes {
            assert!(builder.push(&postcard::to_stdvec(&envelope()).unwrap()));
        }
        builder.build()
    }

    #[test]
    fn frames_come_the_same_however_they_are_cut() {
        let mut stream = vec![20];
        Frame::write(&mut stream, 300, Kind::Commit, 1, &envelope()).unwrap();
        Frame::write(&mut stream, u64::MAX, Kind::Busy, 0, &()).unwrap();
        let mut one = vec![0];
        Frame::write(&mut one, 1, Kind::Refused, u16::MAX, &"why").unwrap();
        replay("metadata_frames", frames, &[("two", stream), ("one", one)]);
    }

    #[test]
    fn hellos_survive() {
        let hello_of = |role| Hello::new(ClusterId([9; 16]), role).to_bytes();
        let replica = Role::Replica { id: 3, incarnation: u128::MAX };
        replay(
            "metadata_hello",
            hello,
            &[("client", hello_of(Role::Client)), ("replica", hello_of(replica))],
        );
    }

    #[test]
    fn messages_survive() {
        fn of<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
            postcard::to_extend(value, vec![kind]).unwrap()
        }
        let vote = Vote::new_committed(4, 2);
        let entry = |payload| Entry { log_id: log_id(9), payload };
        let append = AppendEntriesRequest::<TypeConfig> {
            vote,
            prev_log_id: Some(log_id(8)),
            entries: vec![entry(EntryPayload::Normal(batch_of(2))), entry(EntryPayload::Blank)],
            leader_commit: Some(log_id(7)),
        };
        let group = GroupStatus {
            group: MetaGroupId(1),
            leader: Some(2),
            term: 4,
            voters: vec![1, 2, 3],
            learners: vec![4],
            last_log_index: 300,
            applied_index: 299,
            purged_index: 0,
        };
        let meta = crate::raft::SnapshotMeta {
            last_log_id: Some(log_id(9)),
            last_membership: membership(),
            snapshot_id: "9".into(),
        };
        let page = IndexAnswer::List(ListPage { entries: Vec::new(), more: true });
        let answer = IndexAnswerAt { config: ConfigVersion(3), applied: 300, answer: page };
        let register = crate::api::ClusterCommand::RegisterNode {
            node: NodeId(3),
            endpoints: vec!["tcp:127.0.0.1:7001".into()],
            rack: "r1".into(),
            targets: vec![(TargetId(7), 300)],
        };
        let repair = RepairProgress { shards_left: 300, bytes_rebuilt: 1 << 33, ..RepairProgress::default() };
        let heartbeat = Heartbeat { node: NodeId(3), epoch: Epoch(8), poisoned: vec![TargetId(7)], repair };
        let nodes: BTreeMap<u64, Replica> = [(1, Replica { address: "a:1".into(), incarnation: 5 })].into();
        let reply: IndexReply = Ok(IndexDone::Deleted { existed: true });
        let refused: IndexReply = Err(IndexRefusal::Malformed("what".into()));
        let seeds = [
            ("envelope", of(0, &envelope())),
            ("cluster-envelope", of(1, &ClusterEnvelope { id: None, command: register })),
            ("query", of(2, &IndexQuery::IsEmpty { bucket: BucketId(3) })),
            ("cluster-query", of(3, &ClusterQuery::Map { known: Epoch(8) })),
            ("cluster-query-since", of(3, &ClusterQuery::ConfigSince { known: ConfigVersion(5) })),
            ("answer", of(4, &answer)),
            ("cluster-answer", of(5, &ClusterAnswer::Map(None))),
            ("cluster-answer-newest", of(5, &ClusterAnswer::ConfigIsNewest)),
            ("reply", of(6, &reply)),
            ("refusal", of(6, &refused)),
            ("cluster-reply", of(7, &ClusterReply::Ok(crate::api::cluster::ClusterDone::Epoch(Epoch(9))))),
            ("heartbeat", of(8, &heartbeat)),
            ("watch", of(9, &(Epoch(8), ConfigVersion(3)))),
            ("not-leader", of(10, &Some((2u64, "127.0.0.1:7102")))),
            ("status", of(11, &ReplicaStatus { replica: 1, groups: vec![group] })),
            ("plan", of(12, &nodes)),
            ("append", of(13, &append)),
            ("appended", of(14, &AppendEntriesResponse::<u64>::PartialSuccess(Some(log_id(9))))),
            ("ask-vote", of(15, &VoteRequest::new(vote, Some(log_id(9))))),
            ("vote", of(15, &vote)),
            ("voted", of(16, &VoteResponse::new(vote, Some(log_id(9)), true))),
            ("snapshot", of(17, &SnapshotBegin { vote, meta })),
            ("entry", of(18, &entry(EntryPayload::Membership(membership().membership().clone())))),
            ("membership", of(18, &membership())),
            ("batch", of(19, &batch_of(3))),
        ];
        replay("metadata_messages", messages, &seeds);
    }

    #[test]
    fn marks_survive() {
        let groups: BTreeMap<u16, mark::Mark> = [
            (0, mark::Mark { vote: Some(Vote::new(4, 2)), last: Some(300) }),
            (7, mark::Mark { vote: None, last: None }),
        ]
        .into();
        let block = mark::sealed(&postcard::to_extend(&groups, vec![0; 4]).unwrap());
        replay("metadata_marks", marks, &[("two-groups", block)]);
    }

    #[test]
    fn a_journal_is_cut_behind_its_last_intact_batch() {
        let batch = |items: &[Vec<u8>]| {
            let body = items.concat();
            let mut out = vec![1];
            out.extend_from_slice(&(items.len() as u32).to_le_bytes());
            out.extend_from_slice(&77u64.to_le_bytes());
            out.extend_from_slice(&body);
            out.push(3);
            out.extend_from_slice(&xxh3_64(&body).to_le_bytes());
            out.extend_from_slice(b"FJL\x03");
            out
        };
        let item = |key: &[u8], value: &[u8]| {
            let mut out = vec![2, 0, 0];
            out.extend_from_slice(&5u64.to_le_bytes());
            out.extend_from_slice(&(key.len() as u16).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value);
            out
        };
        let clear = || [&[4][..], &5u64.to_le_bytes()].concat();
        let whole = batch(&[item(b"key", b"value"), clear(), item(b"k", b"")]);
        let torn = [&whole[..], &batch(&[item(b"key", b"value")])[..30], &[0; 40]].concat();
        let seeds = [("empty-batch", batch(&[])), ("batch", whole.clone()), ("torn", torn)];
        replay("metadata_journal", journal, &seeds);
        assert!(!journal(&[0; 100]));
    }

    #[test]
    fn snapshots_survive() {
        let mut table = MemoryTable::default();
        table.put(Space::State, b"a".to_vec(), b"one".to_vec());
        table.put(Space::Objects, b"b".to_vec(), Vec::new());
        table.put(Space::Objects, vec![0xff; 300], vec![7; 500]);
        let mut stream = Vec::new();
        write_snapshot(&table, &mut stream).unwrap();
        let mut empty = Vec::new();
        write_snapshot(&MemoryTable::default(), &mut empty).unwrap();
        assert_eq!(snapshot_of_rows(b""), empty);
        let rows = [&[1, 1, 0, 0, 0, 3, 0, 0, 0][..], b"aone", &[3, 1, 0, 0, 0, 0, 0, 0, 0], b"b"].concat();
        replay(
            "metadata_snapshot",
            snapshot,
            &[("three-rows", stream), ("empty", empty), ("rows-alone", rows)],
        );
    }
}
