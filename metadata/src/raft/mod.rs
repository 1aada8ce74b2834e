//! The Raft groups: openraft 0.9, one instance per group in each replica process.
//!
//! A group collects the commands that wait while its last entry is under way and proposes them as one entry; reads that wait
//! share one round of leadership confirmation (`ReadIndex`) and are answered from the local table. Nothing here decides
//! anything by a clock, and nothing here knows what a command means.

mod group;
mod machine;
mod network;
mod proposer;
mod reader;
mod reply;
mod snapshot;
mod types;

pub use group::RaftTiming;
pub(crate) use group::{CheckpointDone, Group, GroupConfig};
pub(crate) use machine::{Machine, Tables};
pub(crate) use network::{Links, NetworkFactory, SnapshotBegin};
pub(crate) use reader::{AnswerCluster, Question};
pub(crate) use reply::{CommandReply, Failure, Outcome, ReadReply, ReplyTo, put_done};
pub use snapshot::SnapshotStream;
pub use types::{Batch, Replica, Replies, TypeConfig};
pub(crate) use types::{
    BatchBuilder, ClusterEnvelope, ENVELOPE_BYTES_MAX, Entry, LogId, Raft, SnapshotMeta, StorageError,
    StoredMembership, Vote,
};
