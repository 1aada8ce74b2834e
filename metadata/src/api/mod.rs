//! What can be asked of the metadata service: commands that change its state, queries that read it, and their answers.
//!
//! Pure data. Group 0 (the *cluster* group) holds the map, buckets, users and leases ([`cluster`]); groups 1..n (the *index*
//! groups) hold objects, uploads and the stripe table of the keys whose slots map to them ([`index`]).

pub mod cluster;
pub mod index;

pub use cluster::{
    Bucket, BucketState, ClusterAnswer, ClusterCommand, ClusterQuery, ClusterRefusal, ClusterReply, Config,
    User,
};
pub use index::{
    Fence, IndexAnswer, IndexCommand, IndexQuery, IndexRefusal, IndexReply, ListEntry, ListPage, ListRequest,
    ObjectView, Part, PartView, Precondition, Segment, UploadView, Watermark,
};

use serde::{Deserialize, Serialize};
use tenfour_types::{CommandId, ConfigVersion};

/// A command under the name that makes it happen once, however often it is sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Envelope<C> {
    /// Its name. The reply is kept under it until the lease's watermark passes it.
    pub id: CommandId,
    /// The version of buckets and users that the sender authorised it by; an index group that was fenced to a later one
    /// refuses it with [`IndexRefusal::StaleConfig`], and the sender looks again.
    pub config: ConfigVersion,
    /// What to do.
    pub command: C,
}
