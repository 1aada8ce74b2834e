//! What a client asks.
#![allow(clippy::large_enum_variant)] // A message lives from its decoder to whoever takes it apart, and is never kept.

use crate::{Checksum, ChecksumKind, DecodeError, ETag, Headers, Remote, Wire};
use serde::{Deserialize, Serialize};

/// A message to a gateway.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToGateway {
    /// Do this. As a SEND, or at the beginning of a slot with the bytes of a small object behind it.
    Request {
        /// Of no other request of this connection that is unanswered.
        id: u32,
        /// What.
        request: Request,
    },
    /// The bytes of a chunk that was granted are written.
    Written {
        /// Of the PUT.
        id: u32,
        /// As the grant numbered it.
        chunk: u32,
    },
    /// More of the list of parts that a [`Operation::CompleteUpload`] announced.
    MoreParts {
        /// Of the request.
        id: u32,
        /// At most [`super::PARTS_PER_MESSAGE_MAX`].
        parts: Vec<NamedPart>,
    },
    /// The gateway may send so many more messages with entries of a listing.
    MoreEntries {
        /// Of the request.
        id: u32,
        /// How many more.
        messages: u32,
    },
}

impl Wire for ToGateway {
    const NAME: &'static str = "message to a gateway";
}

/// The message of these bytes.
pub fn decode(bytes: &[u8]) -> Result<ToGateway, DecodeError> {
    ToGateway::from_bytes(bytes)
}

/// One request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The bucket.
    pub bucket: String,
    /// The key; empty in a listing.
    pub key: String,
    /// The bucket's owner, when the client insists (`x-amz-expected-bucket-owner`).
    pub expected_owner: Option<String>,
    /// What to do.
    pub operation: Operation,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// What is known of an object.
    Head(Read),
    /// Write an object's bytes into the client's memory.
    Get {
        /// What of it.
        read: Read,
        /// Where to; the bytes begin at its beginning. `None`: no bytes are expected, as of an empty object.
        into: Option<Remote>,
    },
    /// Store an object.
    Put {
        /// Standard headers and user metadata, lower-case names.
        headers: Headers,
        /// What must hold of the object there.
        precondition: Precondition,
        /// Its bytes.
        content: Content,
    },
    /// Remove an object.
    Delete {
        /// What must hold of the object there.
        precondition: Precondition,
    },
    /// List keys.
    List {
        /// Keys that begin with this.
        prefix: String,
        /// Rolled up at this; empty: not.
        delimiter: String,
        /// Where to begin.
        from: From,
        /// At most so many keys and common prefixes.
        most: u64,
        /// The gateway may send so many messages with entries before it is told to go on.
        window: u32,
    },
    /// Begin an upload.
    CreateUpload {
        /// As of a PUT.
        headers: Headers,
        /// The kind of checksum, and whether it is one of the whole object.
        checksum: Option<(ChecksumKind, bool)>,
    },
    /// Store a part.
    UploadPart {
        /// As the answer to `CreateUpload` has it.
        upload: String,
        /// 1 to 10,000.
        number: u32,
        /// Its bytes.
        content: Content,
    },
    /// Make the parts the object.
    CompleteUpload {
        /// The upload.
        upload: String,
        /// How many parts it has, the first of them in `parts`; the rest comes as [`ToGateway::MoreParts`].
        count: u32,
        /// The first of them, ascending.
        parts: Vec<NamedPart>,
        /// What must hold of the object there.
        precondition: Precondition,
        /// The checksum of the whole.
        checksum: Option<Checksum>,
        /// Whether that is one of all bytes.
        full_object: Option<bool>,
        /// The size of the whole.
        size: Option<u64>,
    },
    /// Let an upload go.
    AbortUpload {
        /// The upload.
        upload: String,
    },
}

/// What of an object is wanted, and on which conditions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Read {
    /// Which bytes.
    pub range: Range,
    /// What must hold of it.
    pub conditions: Conditions,
    /// Of another object than this, all is wanted.
    pub if_range: Option<IfRange>,
}

/// Which bytes of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Range {
    /// All.
    #[default]
    All,
    /// From the first, to before the second or to the end.
    From(u64, Option<u64>),
    /// The last so many.
    Last(u64),
    /// A part of a multipart object, 1 to 10,000.
    Part(u32),
}

/// As HTTP's conditional headers (RFC 9110, section 13).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Conditions {
    /// `If-Match`
    pub matches: Option<Tag>,
    /// `If-None-Match`
    pub none_matches: Option<Tag>,
    /// `If-Modified-Since`, seconds since 1970.
    pub modified_since: Option<i64>,
    /// `If-Unmodified-Since`, seconds since 1970.
    pub unmodified_since: Option<i64>,
}

/// ETags, or any.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Tag {
    /// `*`
    Any,
    /// One of these.
    OneOf(Vec<ETag>),
}

/// What a range is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IfRange {
    /// This ETag.
    Is(ETag),
    /// Modified exactly then, seconds since 1970.
    Date(i64),
}

/// What must hold of the object that is there when a write is applied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Precondition {
    /// Anything.
    #[default]
    None,
    /// There is none (`If-None-Match: *`).
    Absent,
    /// There is one (`If-Match: *`).
    Present,
    /// It has one of these ETags (`If-Match`).
    Match(Vec<ETag>),
}

/// The bytes of an object or a part, and what the client says of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Content {
    /// How many.
    pub size: u64,
    /// BLAKE3 of all of them: what binds them to this message's MAC.
    pub digest: [u8; 32],
    /// Their MD5 (`Content-MD5`).
    pub md5: Option<[u8; 16]>,
    /// A checksum, verified and kept.
    pub checksum: Option<Checksum>,
    /// The kind of checksum to compute and keep when none is given; `None` leaves it to the gateway (CRC-64/NVME).
    pub keep: Option<ChecksumKind>,
    /// How they come.
    pub how: How,
}

/// How the bytes of a PUT come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum How {
    /// In the slot that this request lies in, after it.
    Here,
    /// Push: the gateway grants memory chunk by chunk ([`super::ToClient::WriteHere`]), the client writes there.
    Push,
    /// Pull: the gateway reads them from these ranges, in order, all bytes of each.
    Pull(Vec<Remote>),
}

/// Where a listing begins.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum From {
    /// At the beginning.
    #[default]
    Start,
    /// After this key or common prefix.
    After(String),
    /// Where an earlier one ended ([`super::Answer::Listed`]).
    Token(String),
}

/// A part as the client names it to complete an upload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamedPart {
    /// 1 to 10,000.
    pub number: u32,
    /// Its ETag.
    pub etag: ETag,
    /// Its checksum, where the client gives it.
    pub checksum: Option<Checksum>,
}
