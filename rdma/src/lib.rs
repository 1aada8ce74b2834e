//! tenfour: the fabric: registered memory, grants, connections, one-sided operations.
//!
//! A [`Domain`] owns one registered [`Pool`] and the connections made with it, by any of the providers that it carries. A [`Connection`] behaves as an RC queue pair
//! does: operations are executed in the order they were posted, the responder checks every access against what was granted
//! over this very connection (key, exact range, one right, expiry), and the first operation that fails moves both ends
//! into the error state, where everything else is flushed. An operation owns its memory until it completes: dropping a
//! future stops a wait, never a transfer.
//!
//! Two providers share one engine and one conformance suite (`tests/conformance.rs`): `shm` for processes of one host and
//! `tcp` for everything else. The heads of their modules draw every byte that they exchange, and tell what each can and cannot
//! enforce.
//!
//! A [`ForeignDomain`] is apart from all that: queue pairs that are connected by hand to ends that are none of ours.
//!
//! This crate knows nothing of objects, shards or S3, and never retries an operation: who posted it decides.

mod advertised;
mod choice;
mod completion;
mod config;
mod connection;
#[path = "../../types/src/native/document.rs"]
mod document;
mod domain;
mod endpoint;
mod engine;
mod error;
mod foreign;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod handshake;
mod key;
mod listener;
mod memory;
mod setup;
mod shm;
mod tcp;
#[cfg(feature = "verbs")]
mod verbs;

pub use advertised::{Advertised, HostId};
pub use choice::{ChoiceError, Fabric, ListenAt};
pub use completion::Completion;
pub use config::{ConnectOptions, DomainConfig, MESSAGE_BYTES_MAX, PRIVATE_DATA_BYTES_MAX, Tunables};
pub use connection::{Connection, Received};
pub use domain::Domain;
pub use endpoint::{Endpoint, EndpointError, Provider, Unavailable};
pub use engine::grants::{Grant, Open, ReadGrant, Sealed};
pub use error::{
    AcceptError, ConnectError, ConnectionError, GrantError, LeaseError, ListenError, NotGranted, OpenError,
    OperationError,
};
pub use foreign::{
    Admits, Arrival, Exposed, ForeignCompletion, ForeignConfig, ForeignDomain, ForeignError, ForeignPair,
    PairAddress, Place,
};
pub use handshake::HandshakeError;
pub use key::{ClusterKey, KeyError};
pub use listener::{Incoming, Listener};
pub use memory::{Buffer, Frozen, HostCounters, HostMemory, HostRegion, Pool};
pub use tenfour_types::Remote;
