//! What a gateway answers.
#![allow(clippy::large_enum_variant)] // A message lives from its decoder to whoever takes it apart, and is never kept.

use crate::{Checksum, ChecksumKind, DecodeError, ETag, Headers, Remote, Wire};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A message to a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToClient {
    /// The first after the login.
    Welcome(Welcome),
    /// Memory for the next chunk of a PUT by push. Chunks are numbered from 0 and filled in that order: write all bytes that are left of
    /// the object, or as many as there is room for, to its beginning, and say [`super::ToGateway::Written`].
    WriteHere {
        /// Of the PUT.
        id: u32,
        /// Its number.
        chunk: u32,
        /// Where.
        remote: Remote,
    },
    /// Some of a listing, in order.
    Entries {
        /// Of the request.
        id: u32,
        /// At least one.
        entries: Vec<Entry>,
    },
    /// The answer to a request, the last that is said of it. What was granted for it is the gateway's no more.
    Reply {
        /// Of the request.
        id: u32,
        /// The slot that the request came in, granted anew: a credit. The old grant is dead.
        slot: Option<Slot>,
        /// What carries shards between the gateway and the nodes.
        fabric: String,
        /// What was asked for, or why not.
        result: Result<Answer, Refusal>,
    },
    /// The gateway ends the connection; requests that are not answered may have happened.
    Closing(Refusal),
}

impl Wire for ToClient {
    const NAME: &'static str = "message to a client";
}

/// The message of these bytes.
pub fn decode(bytes: &[u8]) -> Result<ToClient, DecodeError> {
    ToClient::from_bytes(bytes)
}

/// What a client may do, besides what the protocol's limits say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The slots, each good for one request.
    pub slots: Vec<Slot>,
    /// Requests that may be unanswered at once.
    pub requests_max: u32,
    /// What carries this connection: `shm`, `tcp` or `verbs`.
    pub carrier: String,
}

/// Memory that a client may write one request to, with immediate data = `index`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Slot {
    /// Its number.
    pub index: u16,
    /// Where it is.
    pub remote: Remote,
}

/// What was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Of a HEAD.
    Object {
        /// The object.
        object: ObjectInfo,
        /// The range that a GET would bring, first and past the last.
        range: (u64, u64),
    },
    /// Of a GET: the bytes are in the client's memory.
    Read {
        /// The object.
        object: ObjectInfo,
        /// The range, first and past the last: so many bytes were written.
        range: (u64, u64),
        /// BLAKE3 of them.
        digest: [u8; 32],
    },
    /// Of a GET or HEAD: a condition says that the client has it already.
    NotModified {
        /// The object.
        object: ObjectInfo,
    },
    /// Of a PUT or a part: durable, and visible.
    Stored {
        /// Its ETag.
        etag: ETag,
        /// Its checksums, verified or computed.
        checksums: Vec<Checksum>,
    },
    /// Gone, or was not there.
    Deleted,
    /// Of a listing, after its entries.
    Listed {
        /// Keys and common prefixes that were sent.
        entries: u64,
        /// Where to go on, when there is more.
        next: Option<String>,
    },
    /// The upload is open.
    UploadCreated {
        /// Its id.
        upload: String,
    },
    /// The parts are an object.
    Completed {
        /// Its ETag.
        etag: ETag,
        /// Its checksum; not told when it had been completed before.
        checksum: Option<Checksum>,
    },
    /// The upload is gone.
    Aborted,
}

/// What is known of an object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// Its size, bytes.
    pub size: u64,
    /// Its ETag.
    pub etag: ETag,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
    /// What was stored beside it.
    pub headers: Headers,
    /// What is known of its bytes.
    pub checksums: Vec<Checksum>,
    /// The number of its parts, where a part was asked for.
    pub parts: Option<u32>,
}

/// One line of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
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
    /// What several keys have in common, up to the delimiter and with it.
    CommonPrefix(String),
}

/// Why not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// S3's error code, as over HTTP.
    pub code: String,
    /// The text, as over HTTP.
    pub message: String,
    /// Whether it helps to ask again.
    pub retry: Retry,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Whether it helps to ask again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Retry {
    /// No: the same request gets the same answer.
    Never,
    /// Nothing happened; later it may go well.
    Later,
    /// It happened as a whole or not at all, and the gateway does not know which.
    OutcomeUnknown,
}
