//! What a domain is opened with, and the bounds of the fabric.

use crate::{ClusterKey, Provider};
use std::time::Duration;
use tenfour_types::Scaled;

/// Longest message of one SEND, bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Longest private data of a connection request or its answer, bytes (what RDMA connection management carries).
pub const PRIVATE_DATA_BYTES_MAX: usize = 56;
/// Operations of one connection that may be outstanding; more wait for a place.
pub(crate) const SEND_QUEUE_OPERATIONS: usize = 128;
/// Messages and immediates of one connection that may wait for `recv`; beyond it the receiver is not ready.
pub(crate) const RECEIVE_QUEUE_ENTRIES: usize = 256;
/// Grants of one connection that may exist at once.
pub(crate) const GRANTS_MAX: usize = 4096;
/// Connections of one domain; more are refused.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Connection requests of one listener that may be in their handshake or wait for `accept`.
pub(crate) const INCOMING_MAX: usize = 256;
/// An incoming connection has so long to prove the key and say what it wants.
pub(crate) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// How to open a [`crate::Domain`].
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// What carries its connections: each is made with the provider of its endpoint, and all of them use the one pool. At
    /// least one.
    pub providers: Vec<Provider>,
    /// For log lines and the name of the memory in `/proc`.
    pub name: String,
    /// What peers must prove to have.
    pub cluster_key: ClusterKey,
    /// Registered memory, bytes, rounded up to 4 KiB. Only what is used becomes resident.
    pub pool_bytes: usize,
    /// The rest, with sensible defaults.
    pub tunables: Tunables,
}

impl DomainConfig {
    /// For one provider, with default tunables.
    pub fn new(provider: Provider, name: &str, cluster_key: ClusterKey, pool_bytes: usize) -> Self {
        Self::carrying(vec![provider], name, cluster_key, pool_bytes)
    }

    /// For several providers, with default tunables.
    pub fn carrying(
        providers: Vec<Provider>,
        name: &str,
        cluster_key: ClusterKey,
        pool_bytes: usize,
    ) -> Self {
        Self { providers, name: name.to_owned(), cluster_key, pool_bytes, tunables: Tunables::default() }
    }
}

/// Times of a domain, as on an ordinary machine: all but `spin` are multiplied by the process's [`tenfour_types::TimeScale`] when
/// the domain is opened.
#[derive(Clone, Debug)]
pub struct Tunables {
    /// An operation that its peer has not executed after so long fails with `RetryExceeded`. Default 10 s.
    pub operation_timeout: Duration,
    /// How long a full receive queue is waited for at a time. Default 100 ms.
    pub receiver_not_ready_timer: Duration,
    /// How many such waits end in `ReceiverNotReady`. Default 20.
    pub receiver_not_ready_retries: u32,
    /// `shm` and `verbs`: poll so long before sleeping. Trades a whole core for latency; worth it between two busy processes
    /// that have a core each; on a core that they share, every step takes that much longer. Default zero.
    pub spin: Duration,
}

impl Tunables {
    pub(crate) fn scaled(self) -> Self {
        Self {
            operation_timeout: self.operation_timeout.scaled(),
            receiver_not_ready_timer: self.receiver_not_ready_timer.scaled(),
            ..self
        }
    }
}

impl Default for Tunables {
    fn default() -> Self {
        Self {
            operation_timeout: Duration::from_secs(10),
            receiver_not_ready_timer: Duration::from_millis(100),
            receiver_not_ready_retries: 20,
            spin: Duration::ZERO,
        }
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Told to the acceptor before it decides, at most [`PRIVATE_DATA_BYTES_MAX`] bytes.
    pub private_data: Vec<u8>,
    /// The connection stands after so long, or fails; multiplied by the process's [`tenfour_types::TimeScale`].
    pub deadline: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { private_data: Vec::new(), deadline: Duration::from_secs(10) }
    }
}
