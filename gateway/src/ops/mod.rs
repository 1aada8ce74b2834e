//! What clients ask of buckets, listings, copies and uploads, in no protocol's terms. The bytes of objects go through the
//! pipelines `put` and `get`; everything here is metadata around them.
//!
//! Invariant: nothing is answered by a version of buckets and users that is older than the answer's own: every command and
//! query is authorised again when a newer version turns up ([`Backend`] does so for what goes to the index groups).

pub mod buckets;
pub mod checksum;
pub mod conditions;
pub mod copy;
pub mod delete;
mod gateway;
pub mod headers;
pub mod listing;
pub mod pace;
pub mod reading;
pub mod refusal;
pub mod requester;
pub mod upload;
pub mod upload_listing;
pub mod users;

use crate::transfer::{
    AccessError, Authorise, Destination, ReadError, Reading, Sink, Source, Stored, Wanted, WriteError,
};
use std::future::Future;
use std::sync::Arc;
use tenfour_metadata::api::index::IndexDone;
use tenfour_metadata::api::{
    Bucket, ClusterCommand, ClusterRefusal, Config, IndexAnswer, IndexCommand, IndexQuery, ListPage,
    ListRequest,
};
use tenfour_types::{CommandId, ConfigVersion, MetaGroupId, ObjectKey};
use thiserror::Error;

/// What the operations stand on: the pipelines and the metadata service. [`crate::Gateway`] is one; a reference model in
/// the tests is another.
pub trait Backend: Clone + Send + Sync + 'static {
    /// The bytes of an object that is being read.
    type Body: Sink + 'static;

    /// Memory of the pipelines that nobody holds now, bytes: asked at the start, when that is all of it.
    fn memory_bytes(&self) -> usize {
        usize::MAX
    }
    /// Buckets and users as they are cached.
    fn config(&self) -> Arc<Config>;
    /// Buckets and users as they are now, linearizably.
    fn refresh_config(&self) -> impl Future<Output = Result<Arc<Config>, OpError>> + Send;
    /// Stores an object or a part.
    fn put<S: Source>(
        &self,
        who: &dyn Authorise,
        to: Destination,
        source: &mut S,
    ) -> impl Future<Output = Result<Stored, WriteError>> + Send;
    /// Reads an object.
    fn get(
        &self,
        who: &dyn Authorise,
        key: &ObjectKey,
        wanted: Wanted,
    ) -> impl Future<Output = Result<Reading<Self::Body>, ReadError>> + Send;
    /// Commits one command to the index group of a key. `command` is asked again, with a new id, when the authorisation
    /// turned out to be old.
    fn commit<F>(
        &self,
        who: &dyn Authorise,
        key: &ObjectKey,
        command: F,
    ) -> impl Future<Output = Result<IndexDone, OpError>> + Send
    where
        F: Fn(&Bucket, CommandId) -> IndexCommand + Send + Sync;
    /// Asks an index group; the answer was authorised by a version not older than its own.
    fn query<F>(
        &self,
        who: &dyn Authorise,
        place: Place<'_>,
        query: F,
    ) -> impl Future<Output = Result<IndexAnswer, OpError>> + Send
    where
        F: Fn(&Bucket) -> IndexQuery + Send + Sync;
    /// One page of a listing over all groups, and the newest version of buckets and users that they knew.
    fn list(
        &self,
        request: ListRequest,
    ) -> impl Future<Output = Result<(ConfigVersion, ListPage), OpError>> + Send;
    /// Changes group 0; answered when its fences are committed everywhere.
    fn cluster(
        &self,
        command: ClusterCommand,
    ) -> impl Future<Output = Result<tenfour_metadata::api::cluster::ClusterDone, OpError>> + Send;
    /// The index groups.
    fn index_groups(&self) -> Vec<MetaGroupId>;
}

/// Which index group a query is for.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// That of a key, in the bucket that the request is authorised for.
    Key(&'a ObjectKey),
    /// This one.
    Group(MetaGroupId),
}

/// Why an operation failed. Nothing happened, unless it says that the outcome is unknown.
#[derive(Debug, Clone, Error)]
pub enum OpError {
    /// May not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Reading an object failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing an object failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Group 0 refused.
    #[error(transparent)]
    Cluster(#[from] ClusterRefusal),
    /// There are objects or uploads in it.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// It is being removed.
    #[error("the bucket is being removed")]
    BucketClosing,
    /// No such object.
    #[error("no such key")]
    NoSuchKey,
    /// No such upload.
    #[error("no such upload")]
    NoSuchUpload,
    /// A precondition does not hold.
    #[error("the precondition does not hold")]
    PreconditionFailed,
    /// A part that Complete names is not there, or is another.
    #[error("part {0} is not what was uploaded")]
    InvalidPart(u32),
    /// Parts are not in ascending order.
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// A part that is not the last is too small.
    #[error("part {0} is too small")]
    PartTooSmall(u32),
    /// The object would be too large.
    #[error("too large")]
    TooLarge,
    /// The checksum of the whole is another.
    #[error("the object's {0} is not the one given")]
    ChecksumMismatch(&'static str),
    /// The request contradicts itself or asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Metadata cannot be reached; nothing was changed.
    #[error("metadata cannot be reached: {0}")]
    Metadata(String),
    /// No answer came: done wholly or not at all.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
}

impl OpError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Metadata(_) | Self::OutcomeUnknown | Self::BucketClosing => true,
            Self::Read(error) => {
                matches!(error, ReadError::Unavailable(_) | ReadError::Overloaded | ReadError::Metadata(_))
            }
            Self::Write(error) => matches!(
                error,
                WriteError::Unavailable(_)
                    | WriteError::Overloaded
                    | WriteError::Metadata(_)
                    | WriteError::OutcomeUnknown
            ),
            _ => false,
        }
    }

    /// Metadata answered with what it cannot have been asked.
    pub(crate) fn unexpected(what: &str) -> Self {
        Self::Metadata(format!("an unexpected answer to {what}"))
    }
}

/// Now, milliseconds since 1970: for listings and `Last-Modified`; nothing is decided by it.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
