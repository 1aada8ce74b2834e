//! What a front (HTTP now, RDMA later) hands to the pipelines `put` and `get`, and what it gets back. No protocol's types in here.

use crate::transport::Transports;
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use tenfour_metadata::api::{Bucket, Config, Precondition};
use tenfour_types::{Checksum, CommandId, ETag, Headers, Manifest, ObjectKey, UploadId};
use thiserror::Error;

/// Decides, by a given version of buckets and users, whether this request may be done. Asked again whenever that version turns
/// out to be old, so a decision is never acted on after its revocation was acknowledged.
pub trait Authorise: Send + Sync {
    /// The bucket that the request may work on, or why not.
    fn check(&self, config: &Config) -> Result<Bucket, AccessError>;
}

/// A request that may not be done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccessError {
    /// Unknown or disabled user, or somebody else's bucket.
    #[error("access denied")]
    Denied,
    /// No such bucket.
    #[error("the bucket does not exist")]
    NoSuchBucket,
}

/// The bytes of an object on their way in, in order. The checksums that the client gave are computed as they pass; the MD5 is
/// not, since that is better done for many objects side by side.
pub trait Source: Send {
    /// How many there will be.
    fn size(&self) -> u64;
    /// Fills the beginning of `into`: at least one byte unless the end was reached, then 0.
    fn read(&mut self, into: &mut [u8]) -> impl Future<Output = Result<usize, SourceError>> + Send;
    /// Whether the MD5 of the bytes has to be known, whatever the ETag is.
    fn wants_md5(&self) -> bool {
        false
    }
    /// Called once, after exactly [`Source::size`] bytes: verifies what the client said of them (length, Content-MD5,
    /// `x-amz-checksum-*`, signed payload hash, trailers). Nothing is committed when this fails.
    fn finish(&mut self, digested: Digested) -> impl Future<Output = Result<Summary, SourceError>> + Send;
}

/// What whoever took the bytes of a [`Source`] found them to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digested {
    /// Their ETag.
    pub etag: ETag,
    /// Their MD5: always there when [`Source::wants_md5`] says so.
    pub md5: Option<[u8; 16]>,
    /// Their CRC-64/NVME, which the encoder's block checksums give.
    pub crc64: u64,
}

/// What is known of the bytes when all have passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Of all bytes.
    pub etag: ETag,
    /// Verified or computed.
    pub checksums: Vec<Checksum>,
}

/// The client did not send what it said it would.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SourceError {
    /// Fewer bytes than announced, or the connection broke.
    #[error("the request body ended early")]
    Truncated,
    /// More bytes than announced.
    #[error("the request body is longer than announced")]
    TooLong,
    /// Content-MD5 is another.
    #[error("the body's MD5 is not the one given")]
    Md5Mismatch,
    /// A checksum is another.
    #[error("the body's {0} is not the one given")]
    ChecksumMismatch(&'static str),
    /// The signed SHA-256 of the payload, or a chunk's signature, is another.
    #[error("the payload does not match its signature")]
    SignatureMismatch,
    /// Anything else that is wrong with how it was sent.
    #[error("malformed body: {0}")]
    Malformed(String),
    /// No byte for too long.
    #[error("no data came for too long")]
    TimedOut,
    /// No memory to receive it in became free in time.
    #[error("no memory to receive the body in became free in time")]
    NoRoom,
}

/// What to make of the bytes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// An object.
    Object {
        /// Its key.
        key: ObjectKey,
        /// What it carries.
        headers: Headers,
        /// What must hold of the object there.
        precondition: Precondition,
    },
    /// A part of an upload.
    Part {
        /// Its key.
        key: ObjectKey,
        /// The upload.
        upload: UploadId,
        /// 1 to 10,000.
        number: u32,
    },
}

/// Durable and visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The version.
    pub version: CommandId,
    /// As in [`Summary`].
    pub summary: Summary,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
    /// What carried its shards.
    pub transports: Transports,
}

/// What part of an object is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// Only what is known about it (HEAD).
    Head,
    /// All bytes.
    #[default]
    All,
    /// From the first to before the second.
    From(u64, Option<u64>),
    /// The last so many.
    Last(u64),
    /// One part of a multipart object (`partNumber`).
    Part(u32),
}

/// An object being read.
pub struct Reading<B> {
    /// What is known about it.
    pub manifest: Arc<Manifest>,
    /// Number of parts, for a multipart object.
    pub parts: Option<u32>,
    /// The range that `body` yields, first and past the last.
    pub range: (u64, u64),
    /// What carries the shards that will be asked first, as it is known when the object is opened. A reading that has to go to other
    /// nodes may use others as well.
    pub transports: Transports,
    /// Yields verified bytes in order, or breaks off: never a wrong one.
    pub body: B,
}

/// The bytes of an object on their way out.
pub trait Sink: Send {
    /// The next bytes; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Option<Result<Bytes, ReadError>>> + Send;
}

/// Why a write failed. Nothing is visible, unless it says that the outcome is unknown.
#[derive(Debug, Clone, Error)]
pub enum WriteError {
    /// May not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The client's fault.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The precondition does not hold.
    #[error("the precondition does not hold")]
    PreconditionFailed,
    /// `If-Match` on what is not there.
    #[error("no such key")]
    NoSuchKey,
    /// No such upload.
    #[error("no such upload")]
    NoSuchUpload,
    /// Larger than one PUT may be.
    #[error("larger than one PUT may be")]
    TooLarge,
    /// All 14 shards cannot be made durable now.
    #[error("not enough storage targets answer to store all 14 shards: {0}")]
    Unavailable(String),
    /// Every target is full.
    #[error("the storage targets are full")]
    Full,
    /// Too many requests wait for memory.
    #[error("overloaded, try again")]
    Overloaded,
    /// Metadata cannot be reached; nothing was committed.
    #[error("metadata cannot be reached: {0}")]
    Metadata(String),
    /// The commit was sent and no answer came: wholly there or wholly absent.
    #[error("the outcome is unknown: the metadata service did not answer in time")]
    OutcomeUnknown,
}

/// Why a read failed.
#[derive(Debug, Clone, Error)]
pub enum ReadError {
    /// May not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No such object.
    #[error("no such key")]
    NoSuchKey,
    /// The range begins past the end.
    #[error("the range is not satisfiable: the object has {size} bytes")]
    Range {
        /// Its size.
        size: u64,
    },
    /// No such part.
    #[error("no such part")]
    NoSuchPart,
    /// Fewer than 10 good shards can be read now.
    #[error("fewer than 10 of 14 shards can be read now: {0}")]
    Unavailable(String),
    /// Too many requests wait for memory.
    #[error("overloaded, try again")]
    Overloaded,
    /// Metadata cannot be reached.
    #[error("metadata cannot be reached: {0}")]
    Metadata(String),
}
