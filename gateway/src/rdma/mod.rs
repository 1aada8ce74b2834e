//! S3 over RDMA, the native protocol: the door for clients from outside, their sessions, and the operations behind them.
//!
//! What is said on the wire is in `tenfour_types::native` and in `docs/PROTOCOL.md`. A connection passes: [`door`] (limits, memory)
//! → [`login`] (who) → [`session`] (frames, many requests at once) → [`objects`], [`uploads`], [`listing`] → [`crate::ops`] and the
//! pipelines, the same that the HTTP front stands on. [`body`] brings the bytes of a PUT in.
//!
//! [`token`] is another way in: HTTP carries the requests, RDMA their bodies.
//!
//! Invariant: nothing is served before the login, nothing is acted on that a peer can still change, and no client sees or reaches
//! another's memory.

mod body;
mod channel;
mod door;
mod following;
mod listing;
mod login;
mod memory;
mod objects;
mod session;
mod slots;
pub mod token;
mod uploads;
mod users;

pub use door::{DoorError, DoorStatus, RdmaServer};

use std::time::Duration;
use tenfour_rdma::{ListenAt, Tunables};

/// Registered memory for clients from outside, unless said otherwise, bytes: beside what the pipelines have.
pub const DOOR_BYTES_DEFAULT: usize = 256 << 20;
/// The least of it, bytes.
pub const DOOR_BYTES_MIN: usize = 16 << 20;

/// How S3 over RDMA is served.
#[derive(Debug, Clone)]
pub struct RdmaConfig {
    /// Where to listen.
    pub listen: Vec<ListenAt>,
    /// The region that logins must name; `us-east-1` by default.
    pub region: String,
    /// Registered memory for all clients together, bytes; 256 MiB by default.
    pub memory_bytes: usize,
    /// Of that, what each client on `shm` has for itself, bytes: a peer on `shm` can look at the whole pool that it shares, so
    /// that none is shared. 8 MiB by default.
    pub shm_client_bytes: usize,
    /// Connections at once; 512 by default.
    pub connections_max: usize,
    /// Connections at once that have not logged in; 32 by default.
    pub strangers_max: usize,
    /// Longest silence of a client that owes bytes; 15 s by default.
    pub silence_max: Duration,
    /// How long running requests may take to finish after a stop; 20 s by default.
    pub stop_within: Duration,
    /// Times of the fabric.
    pub tunables: Tunables,
}

impl RdmaConfig {
    /// At these endpoints, with defaults for the rest.
    pub fn new(listen: Vec<ListenAt>) -> Self {
        Self {
            listen,
            region: "us-east-1".to_owned(),
            memory_bytes: DOOR_BYTES_DEFAULT,
            shm_client_bytes: 8 << 20,
            connections_max: 512,
            strangers_max: 32,
            silence_max: Duration::from_secs(15),
            stop_within: Duration::from_secs(20),
            tunables: Tunables::default(),
        }
    }
}
