//! Commands in any order, repeated and reordered, against a model that is nothing but maps.

use super::*;
use crate::api::index::{IndexDone, IndexRefusal};
use proptest::prelude::*;
use std::collections::BTreeMap;

const NAMES: [&str; 4] = ["a", "a/b", "b", "ü"];

#[derive(Clone, Debug)]
pub(super) enum Op {
    Put { lease: u64, name: usize, tag: u64, precondition: usize },
    Delete { lease: u64, name: usize, tag: u64, precondition: usize },
    Create { lease: u64, name: usize },
    Part { lease: u64, upload: usize, number: u32, bytes: u64 },
    Complete { lease: u64, upload: usize, skip: usize },
    Abort { lease: u64, upload: usize },
    Again { which: usize },
    Watermark { lease: u64, commands: bool, reads: bool },
    EndLease,
    Close,
    Reopen,
    Config,
}

pub(super) fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    let (lease, name, tag, precondition) = (1..3u64, 0..NAMES.len(), 0..3u64, 0..5usize);
    let upload = 0..4usize;
    let op = prop_oneof![
        8 => (lease.clone(), name.clone(), tag.clone(), precondition.clone())
            .prop_map(|(lease, name, tag, precondition)| Op::Put { lease, name, tag, precondition }),
        4 => (lease.clone(), name.clone(), tag, precondition)
            .prop_map(|(lease, name, tag, precondition)| Op::Delete { lease, name, tag, precondition }),
        2 => (lease.clone(), name).prop_map(|(lease, name)| Op::Create { lease, name }),
        6 => (lease.clone(), upload.clone(), 1..4u32, prop_oneof![Just(3), Just(6 * MIB), Just(23 * MIB)])
            .prop_map(|(lease, upload, number, bytes)| Op::Part { lease, upload, number, bytes }),
        3 => (lease.clone(), upload.clone(), 0..3usize)
            .prop_map(|(lease, upload, skip)| Op::Complete { lease, upload, skip }),
        1 => (lease.clone(), upload).prop_map(|(lease, upload)| Op::Abort { lease, upload }),
        8 => (0..64usize).prop_map(|which| Op::Again { which }),
        4 => (lease, any::<bool>(), any::<bool>())
            .prop_map(|(lease, commands, reads)| Op::Watermark { lease, commands, reads }),
        1 => prop_oneof![4 => Just(Op::Close), 8 => Just(Op::Reopen), 4 => Just(Op::Config), 1 => Just(Op::EndLease)],
    ];
    prop::collection::vec(op, 1..most)
}

type Parts = BTreeMap<u32, (CommandId, u64)>;

/// What a client may expect, said as plainly as can be.
#[derive(Default)]
struct Model {
    objects: BTreeMap<String, (CommandId, u64, ETag)>,
    uploads: BTreeMap<UploadId, (String, Parts)>,
    completed: BTreeMap<UploadId, (CommandId, ETag)>,
    replies: BTreeMap<CommandId, IndexReply>,
    below: BTreeMap<u64, u64>,
    ended: bool,
    closed: bool,
    config: u64,
}

impl Model {
    fn apply(&mut self, envelope: &Envelope<IndexCommand>) -> IndexReply {
        let lease = envelope.id.lease.0;
        if let Some(reply) = self.replies.get(&envelope.id) {
            return reply.clone();
        }
        if self.ended && lease == 2 {
            return Err(IndexRefusal::LeaseEnded);
        }
        if envelope.id.sequence < self.below.get(&lease).copied().unwrap_or(0) {
            return Err(IndexRefusal::BelowWatermark);
        }
        if envelope.config.0 < self.config {
            return Err(IndexRefusal::StaleConfig { current: ConfigVersion(self.config) });
        }
        let reply = if self.closed { Err(IndexRefusal::BucketClosed) } else { self.run(envelope) };
        self.replies.insert(envelope.id, reply.clone());
        reply
    }

    fn run(&mut self, envelope: &Envelope<IndexCommand>) -> IndexReply {
        match &envelope.command {
            IndexCommand::PutObject { key, precondition, manifest, .. } => {
                self.check(key, precondition)?;
                self.put(key, manifest);
                Ok(IndexDone::Done)
            }
            IndexCommand::DeleteObject { key, precondition, .. } => {
                self.check(key, precondition)?;
                Ok(IndexDone::Deleted { existed: self.objects.remove(key.as_str()).is_some() })
            }
            IndexCommand::CreateUpload { key, .. } => {
                self.uploads.insert(UploadId(envelope.id), (key.as_str().to_owned(), Parts::new()));
                Ok(IndexDone::Done)
            }
            IndexCommand::PutPart { upload, part, .. } => {
                let (_, parts) = self.uploads.get_mut(upload).ok_or(IndexRefusal::NoSuchUpload)?;
                parts.insert(part.number, (part.version, part.size));
                Ok(IndexDone::Done)
            }
            IndexCommand::AbortUpload { upload, .. } => {
                self.uploads.remove(upload).ok_or(IndexRefusal::NoSuchUpload)?;
                Ok(IndexDone::Done)
            }
            IndexCommand::CompleteUpload { key, upload, precondition, manifest, .. } => {
                if let Some(&(version, etag)) = self.completed.get(upload) {
                    return Ok(IndexDone::Completed { version, etag });
                }
                let (_, there) = self.uploads.get(upload).ok_or(IndexRefusal::NoSuchUpload)?;
                let Body::Parts { parts, .. } = &manifest.body else { panic!("not what was sent") };
                if parts.is_empty() {
                    return Err(IndexRefusal::Malformed(
                        "a completed object consists of its upload's parts, and its version is the command's id".into(),
                    ));
                }
                for (at, part) in parts.iter().enumerate() {
                    if there.get(&part.number) != Some(&(part.version, part.bytes)) {
                        return Err(IndexRefusal::InvalidPart(part.number));
                    }
                    if at + 1 < parts.len() && part.bytes < 5 * MIB {
                        return Err(IndexRefusal::PartTooSmall(part.number));
                    }
                }
                self.check(key, precondition)?;
                self.uploads.remove(upload);
                self.completed.insert(*upload, (manifest.version, manifest.etag));
                self.put(key, manifest);
                Ok(IndexDone::Completed { version: manifest.version, etag: manifest.etag })
            }
            IndexCommand::Fence { .. } | IndexCommand::Watermark { .. } | IndexCommand::BringHome { .. } => {
                panic!("not sent by clients")
            }
        }
    }

    fn put(&mut self, key: &ObjectKey, manifest: &Manifest) {
        self.objects.insert(key.as_str().to_owned(), (manifest.version, manifest.size, manifest.etag));
    }

    fn check(&self, key: &ObjectKey, precondition: &Precondition) -> Result<(), IndexRefusal> {
        let there = self.objects.get(key.as_str());
        let (holds, needs_one) = match precondition {
            Precondition::None => (true, false),
            Precondition::Absent => (there.is_none(), false),
            Precondition::Present => (there.is_some(), true),
            Precondition::Match(tags) => (there.is_some_and(|(_, _, tag)| tags.contains(tag)), true),
            Precondition::Version(version) => (there.is_some_and(|(known, _, _)| known == version), false),
        };
        match (holds, there) {
            (true, _) => Ok(()),
            (false, None) if needs_one => Err(IndexRefusal::NoSuchKey),
            (false, _) => Err(IndexRefusal::PreconditionFailed),
        }
    }
}

/// A replica, its model, and what was sent so far.
struct Trial {
    replica: Replica,
    model: Model,
    sent: Vec<Envelope<IndexCommand>>,
    uploads: Vec<(UploadId, &'static str)>,
    next: u64,
}

impl Trial {
    fn step(&mut self, op: &Op) {
        match *op {
            Op::Again { which } => {
                if let Some(envelope) =
                    self.sent.len().checked_sub(1 + which).and_then(|at| self.sent.get(at)).cloned()
                {
                    self.compare(&envelope);
                }
            }
            Op::Watermark { lease, commands, reads } => self.watermark(lease, commands, reads),
            Op::EndLease => {
                self.replica.fence(Fence::LeaseEnded(LeaseId(2)));
                self.model.ended = true;
            }
            Op::Close => {
                self.replica.fence(Fence::BucketClosed(BUCKET));
                self.model.closed = true;
            }
            Op::Reopen => {
                self.replica.fence(Fence::BucketReopened(BUCKET));
                self.model.closed = false;
            }
            Op::Config => {
                self.model.config += 1;
                self.replica.fence(Fence::Config(ConfigVersion(self.model.config)));
            }
            ref client => {
                if let Some((id, command)) = self.command(client) {
                    // Every seventh is authorised by the version before.
                    let old = u64::from(id.sequence.is_multiple_of(7));
                    let config = ConfigVersion(self.model.config.saturating_sub(old));
                    let envelope = Envelope { id, config, command };
                    self.sent.push(envelope.clone());
                    self.compare(&envelope);
                }
            }
        }
    }

    fn compare(&mut self, envelope: &Envelope<IndexCommand>) {
        let reply = self.replica.apply(envelope);
        let expected = self.model.apply(envelope);
        if reply != expected {
            // A completed upload is forgotten when its object was replaced and let go.
            let forgotten = matches!(expected, Ok(IndexDone::Completed { version, .. })
                if self.model.objects.values().all(|(known, _, _)| *known != version));
            assert!(
                forgotten && reply == Err(IndexRefusal::NoSuchUpload),
                "{envelope:?}: {reply:?}, not {expected:?}"
            );
            self.model.replies.insert(envelope.id, reply);
        }
    }

    fn watermark(&mut self, lease: u64, commands: bool, reads: bool) {
        let below = if commands { self.next.saturating_sub(5) } else { 0 };
        let reads_below = if reads { self.replica.index } else { 0 };
        let reply = self.replica.watermark(lease, below, reads_below);
        assert_eq!(reply.is_err(), self.model.ended && lease == 2);
        if reply.is_ok() {
            let known = self.model.below.entry(lease).or_default();
            *known = (*known).max(below);
            let known = *known;
            self.model.replies.retain(|id, _| id.lease.0 != lease || id.sequence >= known);
        }
    }

    fn command(&mut self, op: &Op) -> Option<(CommandId, IndexCommand)> {
        self.next += 1;
        let sequence = self.next;
        let precondition = |name: usize, tag, which| match which {
            1 => Precondition::Absent,
            2 => Precondition::Present,
            3 => Precondition::Match(vec![etag(tag)]),
            4 => Precondition::Version(
                self.model.objects.get(NAMES[name]).map_or(id(9, 9), |(version, _, _)| *version),
            ),
            _ => Precondition::None,
        };
        Some(match *op {
            Op::Put { lease, name, tag, precondition: which } => {
                let size = [0, 1, 13 * MIB][sequence as usize % 3];
                let id = id(lease, sequence);
                (id, put_command(id, NAMES[name], size, etag(tag), precondition(name, tag, which)))
            }
            Op::Delete { lease, name, tag, precondition: which } => {
                let precondition = precondition(name, tag, which);
                (
                    id(lease, sequence),
                    IndexCommand::DeleteObject { bucket: BUCKET, key: key(NAMES[name]), precondition },
                )
            }
            Op::Create { lease, name } => {
                let id = id(lease, sequence);
                self.uploads.push((UploadId(id), NAMES[name]));
                (id, create_command(NAMES[name]))
            }
            Op::Part { lease, upload, number, bytes } => {
                let (upload, name) = self.upload(upload)?;
                let id = id(lease, sequence);
                (id, part_command(id, name, upload, number, bytes))
            }
            Op::Complete { lease, upload, skip } => {
                let (upload, name) = self.upload(upload)?;
                let there =
                    self.model.uploads.get(&upload).map(|(_, parts)| parts.clone()).unwrap_or_default();
                let parts: Vec<_> = there
                    .into_iter()
                    .skip(skip)
                    .map(|(number, (version, bytes))| (number, version, bytes))
                    .collect();
                let id = id(lease, sequence);
                (id, complete_command(id, name, upload, &parts))
            }
            Op::Abort { lease, upload } => {
                let (upload, name) = self.upload(upload)?;
                (id(lease, sequence), IndexCommand::AbortUpload { bucket: BUCKET, key: key(name), upload })
            }
            _ => return None,
        })
    }

    /// One of the newest uploads.
    fn upload(&self, back: usize) -> Option<(UploadId, &'static str)> {
        self.uploads.len().checked_sub(1 + back).and_then(|at| self.uploads.get(at)).copied()
    }

    fn same_objects(&self) {
        for name in NAMES {
            let expected = self.model.objects.get(name).map(|(version, size, _)| (*version, *size));
            assert_eq!(self.replica.object(name), expected, "{name}");
        }
    }

    /// When all readers have gone on, the stripe table holds exactly the bytes of objects and open uploads.
    fn settle(&mut self) {
        self.replica.settle();
        self.same_objects();
        let objects: u64 = self.model.objects.values().map(|(_, size, _)| size).sum();
        let parts: u64 =
            self.model.uploads.values().flat_map(|(_, parts)| parts.values()).map(|(_, bytes)| bytes).sum();
        let live: u64 = self.replica.live().iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        assert_eq!(live, objects + parts);
        assert_eq!(self.replica.rows(Space::Past), 0);
        assert_eq!(self.replica.rows(Space::Objects), self.model.objects.len());
    }
}

/// The envelopes that a run of operations sends, in order, with the fences and watermarks between them.
pub(super) fn replay(ops: &[Op]) -> Replica {
    let (replica, model) = (Replica::new(), Model::default());
    let mut trial = Trial { replica, model, sent: Vec::new(), uploads: Vec::new(), next: 0 };
    for op in ops {
        trial.step(op);
    }
    trial.same_objects();
    trial.settle();
    trial.replica
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_state_machine_does_what_the_model_does(ops in ops(120)) {
        let once = replay(&ops);
        let again = replay(&ops);
        prop_assert!(once.table == again.table, "the same commands, the same rows");
    }
}
