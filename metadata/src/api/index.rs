//! Groups 1..n: objects, uploads and the stripe table.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tenfour_types::{
    BucketId, Checksum, ChecksumKind, CommandId, ConfigVersion, ETag, Epoch, Extent, GroupId, Headers,
    LeaseId, Manifest, MetaGroupId, ObjectKey, ShardIndex, StripeId, StripeRow, TargetId, UploadId,
};
use thiserror::Error;

/// A change to an index group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IndexCommand {
    /// Makes `manifest` the object, its stripes known, in one step. The manifest's body is extents of `stripes`.
    PutObject {
        /// Its bucket.
        bucket: BucketId,
        /// Its key.
        key: ObjectKey,
        /// What must hold of the object that is there.
        precondition: Precondition,
        /// The new version; its `version` is the command's id.
        manifest: Manifest,
        /// The stripes that its extents name.
        stripes: Vec<StripeRow>,
    },
    /// Removes the object, if there is one (S3: deleting what is not there succeeds).
    DeleteObject {
        /// Its bucket.
        bucket: BucketId,
        /// Its key.
        key: ObjectKey,
        /// What must hold of the object that is there.
        precondition: Precondition,
    },
    /// Begins a multipart upload; its id is the command's.
    CreateUpload {
        /// Its bucket.
        bucket: BucketId,
        /// Its key.
        key: ObjectKey,
        /// What the object will carry.
        headers: Headers,
        /// The checksum that the client announced: its kind and whether it is of the whole object.
        checksum: Option<(ChecksumKind, bool)>,
        /// For listings, milliseconds since 1970.
        created_ms: u64,
    },
    /// A part has arrived, in place of an earlier one of its number.
    PutPart {
        /// Its bucket.
        bucket: BucketId,
        /// Its key.
        key: ObjectKey,
        /// Its upload.
        upload: UploadId,
        /// The part; its `version` is the command's id.
        part: Part,
        /// The stripes that its extents name.
        stripes: Vec<StripeRow>,
    },
    /// Makes the upload's parts the object. The manifest's body names parts by number and version, all of which must be the
    /// upload's current ones; the upload's other parts are let go. Completing again what was completed returns the first reply.
    CompleteUpload {
        /// Its bucket.
        bucket: BucketId,
        /// Its key.
        key: ObjectKey,
        /// The upload.
        upload: UploadId,
        /// What must hold of the object that is there.
        precondition: Precondition,
        /// The new version; its `version` is the command's id.
        manifest: Manifest,
    },
    /// Lets the upload and its parts go.
    AbortUpload {
        /// Its bucket.
        bucket: BucketId,
        /// Its key.
        key: ObjectKey,
        /// The upload.
        upload: UploadId,
    },
    /// A decision of group 0 reaches this group (internal: sent by the fence driver). Fences are numbered; one that was
    /// committed already changes nothing.
    Fence {
        /// Its number in group 0.
        number: u64,
        /// What was decided.
        fence: Fence,
    },
    /// A gateway's progress: replies below it are forgotten, and what was replaced before every reader's floor is let go.
    Watermark {
        /// Whose.
        lease: LeaseId,
        /// How far.
        watermark: Watermark,
    },
    /// Repair has stored shards at home that were elsewhere, or lost: their overrides go. Sent by a node under no lease, and not
    /// recorded: a shard whose override is another one by now, or whose slot has moved since, is left as it is.
    BringHome {
        /// The epoch of the map that says where home is: no later than the one that this group was fenced to.
        epoch: Epoch,
        /// The shards.
        shards: Vec<ShardAway>,
    },
}

/// A shard that has an override.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardAway {
    /// Its stripe.
    pub stripe: StripeId,
    /// Which of the 14.
    pub index: ShardIndex,
    /// The target that its override names.
    pub target: TargetId,
}

/// A decision of group 0.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Fence {
    /// Buckets or users changed: commands authorised by an earlier version are looked at again.
    Config(ConfigVersion),
    /// A new map: shards written by an earlier one whose slot moved become overrides. Its moves came in `Moves` before it.
    Epoch(Epoch),
    /// Some of the slots that move with an epoch; its `Epoch` follows.
    Moves {
        /// The epoch.
        epoch: Epoch,
        /// At most [`MOVES_MAX`] of its moves.
        moves: Vec<SlotMove>,
    },
    /// The metadata group of each of the 1,024 key slots.
    Slots(Vec<MetaGroupId>),
    /// A lease began.
    LeaseGranted(LeaseId),
    /// A lease is dead: commits under it are refused.
    LeaseEnded(LeaseId),
    /// A bucket's incarnation is closing: commits into it are refused.
    BucketClosed(BucketId),
    /// It was not empty: commits are taken again.
    BucketReopened(BucketId),
    /// It is removed for ever.
    BucketRemoved(BucketId),
}

/// Most moves of one fence: a Raft entry with them stays far below its limit.
pub const MOVES_MAX: usize = 16 << 10;

/// A slot of a placement group that has another target from some epoch on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotMove {
    /// The placement group.
    pub group: GroupId,
    /// Its slot.
    pub index: ShardIndex,
    /// The target before the epoch.
    pub from: TargetId,
    /// The target since.
    pub to: TargetId,
}

/// How far a gateway is, in one index group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Watermark {
    /// Every command of the lease below this sequence is decided, and its reply was seen.
    pub commands_below: u64,
    /// Every stripe of the lease below this counter is committed or given up.
    pub stripes_below: u64,
    /// Every read of the lease that saw this group at a log index below this one has ended.
    pub reads_below: u64,
}

/// What must hold of the object that is there when a write is applied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Precondition {
    /// Anything.
    #[default]
    None,
    /// `If-None-Match: *`: there is none.
    Absent,
    /// `If-Match`: it has one of these ETags.
    Match(Vec<ETag>),
    /// `If-Match: *`: there is one.
    Present,
    /// It is exactly this version.
    Version(CommandId),
}

/// The reply to an [`IndexCommand`]; kept for a repeated command.
pub type IndexReply = Result<IndexDone, IndexRefusal>;

/// A change that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IndexDone {
    /// Nothing more to say.
    Done,
    /// `DeleteObject`: whether there was one.
    Deleted {
        /// Whether there was one.
        existed: bool,
    },
    /// `CompleteUpload`: the version that the object has (the first one, if it was completed before).
    Completed {
        /// The version.
        version: CommandId,
        /// Its ETag.
        etag: ETag,
    },
}

/// A change that was refused; nothing happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Error)]
pub enum IndexRefusal {
    /// The precondition does not hold.
    #[error("the precondition does not hold")]
    PreconditionFailed,
    /// `If-Match` on an object that is not there.
    #[error("no such key")]
    NoSuchKey,
    /// No such upload, or it was aborted.
    #[error("no such upload")]
    NoSuchUpload,
    /// A part that Complete names is not there, or is another version.
    #[error("part {0} is not what was uploaded")]
    InvalidPart(u32),
    /// The parts that Complete names are not in ascending order.
    #[error("parts have to be named in ascending order")]
    InvalidPartOrder,
    /// A part that is not the last is smaller than `PART_BYTES_MIN`.
    #[error("part {0} is too small")]
    PartTooSmall(u32),
    /// The shards were written by a map so old that where they are is no longer known: write them again.
    #[error("written by a map older than epoch {oldest}")]
    StaleEpoch {
        /// The oldest epoch that is taken.
        oldest: Epoch,
    },
    /// Buckets or users changed since the command was authorised: refresh the config, authorise again, send under a new id.
    #[error("authorised by an old version of buckets and users")]
    StaleConfig {
        /// The group's version.
        current: ConfigVersion,
    },
    /// The bucket's incarnation is closed.
    #[error("the bucket was removed")]
    BucketClosed,
    /// The lease is dead or unknown. When the command was sent before, that earlier sending may have happened.
    #[error("the lease has ended")]
    LeaseEnded,
    /// The command is below its lease's watermark: its reply is no longer known.
    #[error("the command was decided long ago")]
    BelowWatermark,
    /// The key does not belong to this group, or the command contradicts itself.
    #[error("malformed command: {0}")]
    Malformed(String),
}

/// One part of an upload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u32,
    /// The command that committed it.
    pub version: CommandId,
    /// Its length.
    pub size: u64,
    /// The MD5 of its bytes.
    pub etag: ETag,
    /// What was verified or computed on the way in.
    pub checksums: Vec<Checksum>,
    /// For listings, milliseconds since 1970.
    pub modified_ms: u64,
    /// Where its bytes are.
    pub extents: Vec<Extent>,
}

/// A linearizable read of an index group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IndexQuery {
    /// An object's manifest, and where the bytes of a range are.
    Object {
        /// Its bucket.
        bucket: BucketId,
        /// Its key.
        key: ObjectKey,
        /// Segments that overlap this range of object bytes (first, past the last) are wanted; `None` for HEAD.
        range: Option<(u64, u64)>,
    },
    /// More segments of a version that was read before, also when it has been replaced since (until the reader's watermark passes).
    Segments {
        /// Its bucket.
        bucket: BucketId,
        /// Its key.
        key: ObjectKey,
        /// Which version.
        version: CommandId,
        /// The range, first and past the last.
        range: (u64, u64),
    },
    /// One page of a listing, of this group's keys only.
    List(ListRequest),
    /// Uploads in progress, of this group's keys only: those after (key, upload), at most `most` and `LIST_KEYS_MAX`, without
    /// their headers.
    Uploads {
        /// The bucket.
        bucket: BucketId,
        /// Keys that begin with this.
        prefix: String,
        /// After this one.
        after: Option<(String, Option<UploadId>)>,
        /// At most.
        most: u32,
    },
    /// One upload with its parts after a number, at most `most`.
    Parts {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: ObjectKey,
        /// The upload.
        upload: UploadId,
        /// After this number.
        after: u32,
        /// At most.
        most: u32,
    },
    /// Whether the bucket holds no object and no upload in this group.
    IsEmpty {
        /// The bucket.
        bucket: BucketId,
    },
    /// Stripe rows in the order of their ids, for checks and repair. There are no more when fewer come than `most` and
    /// [`STRIPES_MAX`].
    Stripes {
        /// After this one.
        after: Option<StripeId>,
        /// At most.
        most: u32,
    },
    /// An object's manifest, and where the bytes of one of its parts are. The manifest's body names this part
    /// alone, or none when there is no such part; of an object that was not uploaded in parts it is left out as ever, and
    /// the segments are those of all its bytes.
    ObjectPart {
        /// Its bucket.
        bucket: BucketId,
        /// Its key.
        key: ObjectKey,
        /// Which of its parts, in their order, from 1 on.
        number: u32,
    },
    /// As `Stripes`, those rows alone that have overrides.
    StripesAway {
        /// After this one.
        after: Option<StripeId>,
        /// At most.
        most: u32,
    },
}

/// The answer to an [`IndexQuery`], and when it was true.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IndexAnswerAt {
    /// The group's fenced version of buckets and users: when it is above the asker's, the asker authorises again.
    pub config: ConfigVersion,
    /// The log index of the state that was read (what a reader's floor is counted in).
    pub applied: u64,
    /// The answer.
    pub answer: IndexAnswer,
}

/// The answer to an [`IndexQuery`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IndexAnswer {
    /// To `Object`: `None` when there is none.
    Object(Option<ObjectView>),
    /// To `Segments`: `None` when the version is no longer known. At most `SEGMENTS_MAX` of them, from the range's first byte on.
    Segments(Option<Vec<Segment>>),
    /// To `List`.
    List(ListPage),
    /// To `Uploads`.
    Uploads(Vec<UploadView>),
    /// To `Parts`: `None` when there is no such upload.
    Parts(Option<PartView>),
    /// To `IsEmpty`.
    IsEmpty(bool),
    /// To `Stripes` and `StripesAway`.
    Stripes(Vec<StripeRow>),
}

/// Most segments of one answer; the reader asks for the rest as it comes to them.
pub const SEGMENTS_MAX: usize = 256;

/// Most stripe rows of one answer.
pub const STRIPES_MAX: usize = 4096;

/// An object as a reader needs it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ObjectView {
    /// The manifest. Its body is left out (`Body::Extents` of none): `segments` say where the bytes are.
    pub manifest: Manifest,
    /// Number of parts, for a multipart object.
    pub parts: Option<u32>,
    /// The first `SEGMENTS_MAX` segments that overlap the range asked for.
    pub segments: Vec<Segment>,
}

/// A run of object bytes in one stripe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Segment {
    /// The first object byte of it.
    pub object_offset: u64,
    /// Where in the stripe.
    pub extent: Extent,
    /// The stripe.
    pub row: Arc<StripeRow>,
}

/// One page of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListRequest {
    /// The bucket.
    pub bucket: BucketId,
    /// Keys that begin with this.
    pub prefix: String,
    /// Keys that contain it after the prefix are rolled up into common prefixes.
    pub delimiter: Option<String>,
    /// Entries after this key; an entry that is a common prefix of it is left out as well when it is not above it.
    pub after: Option<String>,
    /// At most so many keys and common prefixes together, and at most `LIST_KEYS_MAX`.
    pub most: u32,
}

/// One page of a listing, in the order of keys.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ListPage {
    /// Keys and common prefixes.
    pub entries: Vec<ListEntry>,
    /// Whether there are more after the last entry.
    pub more: bool,
}

/// One line of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ListEntry {
    /// An object.
    Object {
        /// Its key.
        key: String,
        /// Its size, bytes.
        size: u64,
        /// Its ETag.
        etag: ETag,
        /// Milliseconds since 1970.
        modified_ms: u64,
        /// The kinds of its checksums.
        checksums: Vec<ChecksumKind>,
    },
    /// What several keys have in common up to the delimiter, with it.
    CommonPrefix(String),
}

impl ListEntry {
    /// What it is sorted by.
    pub fn sort_key(&self) -> &str {
        match self {
            Self::Object { key, .. } => key,
            Self::CommonPrefix(prefix) => prefix,
        }
    }
}

/// An upload in progress.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UploadView {
    /// Its key.
    pub key: String,
    /// Its id.
    pub upload: UploadId,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// The checksum that was announced.
    pub checksum: Option<(ChecksumKind, bool)>,
    /// What the object will carry.
    pub headers: Headers,
}

/// An upload and some of its parts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartView {
    /// The upload.
    pub upload: UploadView,
    /// Its parts, by number, without their extents.
    pub parts: Vec<Part>,
    /// Whether there are more.
    pub more: bool,
}
