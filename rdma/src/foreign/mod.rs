//! Queue pairs that are connected by hand to ends that are none of ours: numbers, GIDs and sequence numbers are exchanged by other
//! means (S3 over RDMA by HTTP headers), without connection management, without a handshake, and without any word of ours on the
//! wire.
//!
//! Such a domain has a protection domain and a pool of its own: no foreign end shares anything with the cluster's connections. It
//! permits nothing by itself: reads and writes are *posted here*, into the other end's memory. Memory of ours is opened to one other
//! end only ([`ForeignPair::expose_to_write`], [`ForeignPair::expose_to_read`]), exactly as long as the value lives; a queue pair that is made for
//! that has a protection domain to itself, so that its key opens nothing to anybody else.
//!
//! What it does not do on purpose: prove who the other end is (whoever agreed on the numbers did), flow control, messages, retries.
//!
//! Invariant: memory is the operation's until the device can no longer touch it; dropping a future stops a wait, never a transfer.
//!
//! Every build has these names; without the feature `verbs`, [`ForeignDomain::open`] says that there is no such thing.

#[cfg(not(feature = "verbs"))]
mod absent;

#[cfg(feature = "verbs")]
pub use crate::verbs::foreign::{Exposed, ForeignCompletion, ForeignDomain, ForeignPair};
#[cfg(not(feature = "verbs"))]
pub use absent::{Exposed, ForeignCompletion, ForeignDomain, ForeignPair};

use crate::Tunables;
use std::io;
use std::net::IpAddr;
use thiserror::Error;

/// How to open a [`ForeignDomain`].
#[derive(Debug, Clone)]
pub struct ForeignConfig {
    /// For log lines and the name of the memory in `/proc`.
    pub name: String,
    /// Registered memory, bytes, rounded up to 4 KiB; all of it is resident.
    pub pool_bytes: usize,
    /// The address that others reach the device by; without one, the first device and its first address that serve.
    pub address: Option<IpAddr>,
    /// Times; `operation_timeout` is that of each operation.
    pub tunables: Tunables,
}

/// One end of a connection, as the other has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairAddress {
    /// The queue pair's number: 24 bits.
    pub number: u32,
    /// The GID of its port; all zeros stand for this end's own.
    pub gid: [u8; 16],
    /// The first packet sequence number that it sends: 24 bits.
    pub psn: u32,
    /// Its device's port.
    pub port: u8,
    /// The port's local identifier; zero on Ethernet.
    pub lid: u16,
}

/// Memory of the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where it begins.
    pub address: u64,
    /// Its key.
    pub key: u32,
}

impl Place {
    /// So many bytes further on; `None` beyond the address space.
    pub fn after(self, bytes: u64) -> Option<Self> {
        Some(Self { address: self.address.checked_add(bytes)?, ..self })
    }
}

/// What the other end may do with memory of ours that is exposed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admits {
    /// Nothing: only this end posts.
    Nothing,
    /// Write to what is exposed; the queue pair has a protection domain of its own, in which nothing can be posted but receives.
    WritesOnly,
    /// Read and write what is exposed: for an end that trusts the other.
    Everything,
}

/// A WRITE of the other end with immediate data has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The immediate data.
    pub value: u32,
    /// How many bytes that WRITE has placed.
    pub bytes: u32,
}

/// Why there is no queue pair, no connection, or no exposed memory.
#[derive(Debug, Error)]
pub enum ForeignError {
    /// The device gives no more.
    #[error("the RDMA device gives no more: {0}")]
    Device(io::Error),
    /// The other end cannot be connected to.
    #[error("no connection to the other end's queue pair: {0}")]
    Peer(io::Error),
    /// This end is connected already, or broken.
    #[error("the queue pair was connected before, or is broken")]
    State,
    /// The memory is of another domain.
    #[error("the memory belongs to another domain")]
    OtherDomain,
}

impl ForeignError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Device(_))
    }
}
