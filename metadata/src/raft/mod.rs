//! The Raft groups: openraft 0.9, one instance per group in each replica process.
//!
//! A group collects the commands that wait while its last entry is under way and proposes them as one entry; reads that wait
//! share one round of leadership confirmation (`ReadIndex`) and are answered from the local table. Nothing here decides
//! anything by a clock, and nothing here knows what a command means.

mod group;
mod machine;
mod network;
mod snapshot;
mod types;

pub use group::RaftTiming;
pub(crate) use group::{
    AnswerCluster, CheckpointDone, CommandReply, Failure, Group, GroupConfig, Question, ReadReply, ReplyTo,
};
pub(crate) use machine::{Machine, Tables};
pub(crate) use network::{Links, NetworkFactory, SnapshotBegin};
pub use snapshot::SnapshotStream;
pub use types::{Batch, Replica, Replies, TypeConfig};
pub(crate) use types::{
    BatchBuilder, ClusterEnvelope, ENVELOPE_BYTES_MAX, Entry, LogId, Raft, SnapshotMeta, StorageError,
    StoredMembership, Vote,
};
