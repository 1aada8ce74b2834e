//! The metadata service: Raft groups (openraft), their pure state machine and its stores, leases, fences, and the handle others use.

pub mod api;
pub mod client;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod net;
mod raft;
pub mod server;
pub mod state;
mod store;
pub mod table;

pub use client::{
    CommandTicket, GroupStatus, Lease, Metadata, MetadataConfig, MetadataError, MetadataStatus, ReadTicket,
    ReplicaStatus, StripeTicket,
};
pub use raft::RaftTiming;
pub use server::{MetadataServer, MetadataServerConfig, StartError};
