//! The words of tenfour: ids, names, manifests, stripe rows, the shard record, the shard service's messages, and the limits.
//!
//! Everything that is stored or sent has its codec here. This crate never does I/O, never waits and never looks at a clock.

pub mod codec;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod ids;
pub mod limits;
mod manifest;
pub mod native;
mod object;
pub mod rdma_token;
pub mod record;
mod remote;
pub mod shard_service;
mod stripe;
mod time_scale;

pub use codec::{DecodeError, Wire};
pub use ids::key_slot;
pub use ids::{
    BucketId, ClusterId, CommandId, ConfigVersion, Digest, Epoch, GroupId, LeaseId, MetaGroupId, NodeId,
    ShardIndex, StripeId, TargetId, UploadId,
};
pub use manifest::{Body, Extent, Manifest, PartRef};
pub use object::{BucketName, Checksum, ChecksumKind, ETag, Headers, NameError, ObjectKey};
pub use remote::Remote;
pub use stripe::{Override, StripeRow, shard_bytes};
pub use time_scale::{Scaled, TimeScale, TimeScaleError};
