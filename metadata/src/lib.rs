//! The metadata service: Raft groups (openraft), their pure state machine and its stores, leases, fences, and the handle others use.

pub mod api;
pub mod state;
pub mod table;
