//! Tests of the state machine: against a naive model, on all three stores, and case by case.

mod cases;
mod cluster;
mod listing;
mod model;
mod past;
mod repair;
mod stores;

use crate::api::Envelope;
use crate::api::index::{
    Fence, IndexAnswer, IndexCommand, IndexQuery, IndexReply, Part, Precondition, Segment, Watermark,
};
use crate::state::{apply_index, init_index, query_index};
use crate::table::{MemoryTable, Overlay, Space, Table};
use tenfour_types::{
    Body, BucketId, CommandId, ConfigVersion, Digest, ETag, Epoch, Extent, GroupId, Headers, LeaseId,
    Manifest, MetaGroupId, ObjectKey, PartRef, StripeId, StripeRow, UploadId,
};

pub(super) const GROUP: MetaGroupId = MetaGroupId(1);
pub(super) const BUCKET: BucketId = BucketId(1);
pub(super) const MIB: u64 = 1 << 20;

pub(super) fn id(lease: u64, sequence: u64) -> CommandId {
    CommandId { lease: LeaseId(lease), sequence }
}

pub(super) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

pub(super) fn etag(seed: u64) -> ETag {
    ETag { md5: [seed as u8; 16], parts: None }
}

/// A stripe named by a command's id; `number` tells several of one command apart.
pub(super) fn stripe(id: CommandId, number: u64, bytes: u32) -> (StripeRow, Extent) {
    let stripe = StripeId { meta_group: GROUP, lease: id.lease, counter: id.sequence * 1000 + number };
    let row = StripeRow {
        id: stripe,
        group: GroupId(0),
        epoch: Epoch(1),
        data_bytes: bytes,
        live_bytes: 0,
        digests: [Digest([7; 16]); 14],
        overrides: Vec::new(),
    };
    (row, Extent { stripe, offset: 0, bytes })
}

/// Enough stripes for so many bytes.
pub(super) fn stripes(id: CommandId, bytes: u64) -> (Vec<StripeRow>, Vec<Extent>) {
    let full = 10 * MIB;
    let lengths = (0..bytes.div_ceil(full)).map(|at| (bytes - at * full).min(full) as u32);
    lengths.enumerate().map(|(number, bytes)| stripe(id, number as u64, bytes)).unzip()
}

pub(super) fn manifest(id: CommandId, size: u64, tag: ETag, body: Body) -> Manifest {
    let headers = Headers(vec![("content-type".into(), "text/plain".into())]);
    Manifest { version: id, size, etag: tag, modified_ms: id.sequence, checksums: Vec::new(), headers, body }
}

pub(super) fn put_command(
    id: CommandId,
    name: &str,
    size: u64,
    tag: ETag,
    precondition: Precondition,
) -> IndexCommand {
    let (stripes, extents) = stripes(id, size);
    let manifest = manifest(id, size, tag, Body::Extents(extents));
    IndexCommand::PutObject { bucket: BUCKET, key: key(name), precondition, manifest, stripes }
}

pub(super) fn put_envelope(id: CommandId, name: &str, size: u64, tag: ETag) -> Envelope<IndexCommand> {
    envelope(id, put_command(id, name, size, tag, Precondition::None))
}

pub(super) fn part_command(
    id: CommandId,
    name: &str,
    upload: UploadId,
    number: u32,
    size: u64,
) -> IndexCommand {
    let (stripes, extents) = stripes(id, size);
    let part =
        Part { number, version: id, size, etag: etag(0), checksums: Vec::new(), modified_ms: 0, extents };
    IndexCommand::PutPart { bucket: BUCKET, key: key(name), upload, part, stripes }
}

pub(super) fn complete_command(
    id: CommandId,
    name: &str,
    upload: UploadId,
    parts: &[(u32, CommandId, u64)],
) -> IndexCommand {
    let refs = parts.iter().map(|&(number, version, bytes)| PartRef { number, version, bytes }).collect();
    let size = parts.iter().map(|(_, _, bytes)| bytes).sum();
    let tag = ETag { parts: Some(parts.len() as u32), ..etag(id.sequence) };
    let manifest = manifest(id, size, tag, Body::Parts { upload, parts: refs });
    IndexCommand::CompleteUpload {
        bucket: BUCKET,
        key: key(name),
        upload,
        precondition: Precondition::None,
        manifest,
    }
}

pub(super) fn delete_command(name: &str) -> IndexCommand {
    IndexCommand::DeleteObject { bucket: BUCKET, key: key(name), precondition: Precondition::None }
}

pub(super) fn create_command(name: &str) -> IndexCommand {
    let (headers, checksum) = (Headers::default(), None);
    IndexCommand::CreateUpload { bucket: BUCKET, key: key(name), headers, checksum, created_ms: 5 }
}

pub(super) fn envelope(id: CommandId, command: IndexCommand) -> Envelope<IndexCommand> {
    Envelope { id, config: ConfigVersion(0), command }
}

/// One replica of an index group in memory.
pub(super) struct Replica {
    pub(super) table: MemoryTable,
    pub(super) index: u64,
    fences: u64,
}

impl Replica {
    /// With leases 1 and 2.
    pub(super) fn new() -> Self {
        let mut table = MemoryTable::default();
        init_index(&mut table, GROUP).unwrap();
        let mut replica = Self { table, index: 0, fences: 0 };
        replica.fence(Fence::LeaseGranted(LeaseId(1)));
        replica.fence(Fence::LeaseGranted(LeaseId(2)));
        replica
    }

    pub(super) fn apply(&mut self, envelope: &Envelope<IndexCommand>) -> IndexReply {
        self.index += 1;
        let mut overlay = Overlay::new(&self.table);
        let reply = apply_index(&mut overlay, self.index, envelope).unwrap();
        let changes = overlay.into_changes();
        self.table.apply(changes);
        reply
    }

    pub(super) fn run(&mut self, id: CommandId, command: IndexCommand) -> IndexReply {
        self.apply(&envelope(id, command))
    }

    pub(super) fn fence(&mut self, fence: Fence) {
        self.fences += 1;
        let number = self.fences;
        self.run(id(0, 0), IndexCommand::Fence { number, fence }).unwrap();
    }

    pub(super) fn watermark(&mut self, lease: u64, commands_below: u64, reads_below: u64) -> IndexReply {
        let watermark = Watermark { commands_below, stripes_below: commands_below * 1000, reads_below };
        self.run(id(0, 0), IndexCommand::Watermark { lease: LeaseId(lease), watermark })
    }

    pub(super) fn query(&self, query: &IndexQuery) -> IndexAnswer {
        query_index(&self.table, self.index, query).unwrap().answer
    }

    /// Version, size and whether its segments are exactly its bytes.
    pub(super) fn object(&self, name: &str) -> Option<(CommandId, u64)> {
        let query = IndexQuery::Object { bucket: BUCKET, key: key(name), range: Some((0, u64::MAX)) };
        let IndexAnswer::Object(view) = self.query(&query) else { panic!("another answer") };
        let view = view?;
        assert_eq!(covered(&view.segments), view.manifest.size, "{name}: segments without a gap");
        Some((view.manifest.version, view.manifest.size))
    }

    /// How many bytes of a version can be read, if it is known.
    pub(super) fn readable(&self, name: &str, version: CommandId) -> Option<u64> {
        let range = (0, u64::MAX);
        let IndexAnswer::Segments(segments) =
            self.query(&IndexQuery::Segments { bucket: BUCKET, key: key(name), version, range })
        else {
            panic!("another answer")
        };
        segments.map(|segments| covered(&segments))
    }

    pub(super) fn live(&self) -> Vec<(StripeId, u32)> {
        let IndexAnswer::Stripes(rows) = self.query(&IndexQuery::Stripes { after: None, most: u32::MAX })
        else {
            panic!("another answer")
        };
        rows.into_iter().map(|row| (row.id, row.live_bytes)).collect()
    }

    pub(super) fn rows(&self, space: Space) -> usize {
        self.table.len(space)
    }

    /// Lets go of everything that was replaced.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.rows(Space::Released) == 0 {
                return;
            }
            let index = self.index;
            let answered: Vec<bool> = [1, 2].map(|lease| self.watermark(lease, 0, index).is_ok()).to_vec();
            if !answered.contains(&true) {
                // Nobody lives: any fence lets go.
                self.fence(Fence::Epoch(Epoch(1)));
            }
        }
        panic!("never settled");
    }
}

fn covered(segments: &[Segment]) -> u64 {
    let mut at = 0;
    for segment in segments {
        assert_eq!((segment.object_offset, segment.row.id), (at, segment.extent.stripe));
        at += u64::from(segment.extent.bytes);
    }
    at
}
