//! The one binary's parts: configuration, wiring, supervision, operator commands. No protocol logic.

pub mod addresses;
pub mod admin;
pub mod bench;
pub mod cluster;
pub mod config;
pub mod counters;
pub mod demo;
pub mod layout;
pub mod process;
pub mod program;
pub mod rdma_places;
pub mod status;
pub mod stripes;
pub mod supervisor;
pub mod table;
pub mod units;
pub mod up;
