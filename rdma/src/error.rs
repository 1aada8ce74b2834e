//! What can go wrong, one enum for each thing one can ask of the fabric. Each says whether asking again can help.

use crate::{Buffer, HandshakeError, Provider, Unavailable};
use std::io;
use thiserror::Error;

/// Why an operation failed; named after `ibv_wc_status`. Whichever it is, the connection is in its error state afterwards,
/// unless the text says that nothing was posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OperationError {
    /// The peer granted no such access: wrong key, range, right or connection, revoked, sealed or expired.
    #[error("the peer granted no such access")]
    RemoteAccess,
    /// The memory is not of this connection's domain, or shorter than the operation. Nothing was posted.
    #[error("the local memory does not fit the operation")]
    LocalProtection,
    /// An earlier operation failed or the connection was closed: it is not known whether this one was executed.
    #[error("flushed: the connection is in its error state")]
    Flushed,
    /// The peer's receive queue stayed full.
    #[error("the peer's receive queue stayed full")]
    ReceiverNotReady,
    /// The peer died, or did not execute the operation in time.
    #[error("the peer is gone or did not answer in time")]
    RetryExceeded,
    /// Longer than [`crate::MESSAGE_BYTES_MAX`]. Nothing was posted.
    #[error("message longer than a SEND can carry")]
    MessageTooLong,
    /// The peer calls the request malformed, or broke the protocol itself.
    #[error("protocol violation")]
    RemoteOperation,
}

impl OperationError {
    /// Whether the same operation can succeed over a fresh connection.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Flushed | Self::ReceiverNotReady | Self::RetryExceeded)
    }

    /// On the wire; never zero.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::RemoteAccess => 10,
            Self::LocalProtection => 4,
            Self::Flushed => 5,
            Self::ReceiverNotReady => 13,
            Self::RetryExceeded => 12,
            Self::MessageTooLong => 1,
            Self::RemoteOperation => 11,
        }
    }

    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            10 => Self::RemoteAccess,
            4 => Self::LocalProtection,
            5 => Self::Flushed,
            13 => Self::ReceiverNotReady,
            12 => Self::RetryExceeded,
            1 => Self::MessageTooLong,
            _ => Self::RemoteOperation,
        }
    }
}

/// Why a connection is in its error state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConnectionError {
    /// This end closed it.
    #[error("closed by this end")]
    Closed,
    /// The peer closed it in order.
    #[error("closed by the peer")]
    PeerClosed,
    /// The peer's process died or the network to it broke.
    #[error("the peer is gone")]
    PeerGone,
    /// One of this end's operations failed.
    #[error("an operation failed: {0}")]
    Operation(OperationError),
    /// One of the peer's operations was refused here.
    #[error("an operation of the peer was refused: {0}")]
    Refused(OperationError),
}

impl ConnectionError {
    /// Whether connecting again can help: always, but not to what closed it in order on this end.
    pub fn is_retryable(self) -> bool {
        self != Self::Closed
    }
}

/// Why memory could not be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GrantError {
    /// The range is not inside the buffer, or longer than 4 GiB.
    #[error("the range is not inside the buffer")]
    OutOfRange,
    /// The buffer belongs to another domain's pool.
    #[error("the buffer belongs to another domain")]
    OtherDomain,
    /// The connection has as many grants as it may have.
    #[error("too many grants on this connection")]
    TooMany,
    /// The connection is in its error state.
    #[error("the connection is in its error state")]
    Disconnected,
    /// The device gave no window or registration.
    #[error("the device has no room for another grant")]
    NoResources,
}

impl GrantError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::TooMany | Self::NoResources)
    }
}

/// Memory that could not be granted for writing, given back to whoever wanted to grant it.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct NotGranted {
    /// Why.
    pub error: GrantError,
    /// The memory, as it was.
    pub buffer: Buffer,
}

impl NotGranted {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        self.error.is_retryable()
    }
}

/// Why no buffer was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// No wait can help.
    #[error("{bytes} bytes asked of a pool of {capacity_bytes}")]
    LargerThanPool {
        /// What was asked for.
        bytes: usize,
        /// All there is.
        capacity_bytes: usize,
    },
    /// Too many are waiting already.
    #[error("too many wait for memory of this pool")]
    Overloaded,
}

impl LeaseError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(self) -> bool {
        self == Self::Overloaded
    }
}

/// Why a domain could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No provider was named.
    #[error("a domain carries at least one provider")]
    NoProvider,
    /// The pool could not be made.
    #[error("cannot make a pool of {bytes} bytes: {source}")]
    Memory {
        /// What was asked for.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The device does not take the pool.
    #[error(
        "cannot register {bytes} bytes with the RDMA device: {source} (may this process lock so much memory? see ulimit -l)"
    )]
    Device {
        /// What was asked for.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The build lacks the provider, or the machine its device.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl OpenError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        false
    }
}

/// Why a domain does not listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The endpoint is of a provider that the domain does not carry.
    #[error("this domain does not carry {endpoint}: it cannot listen at such an endpoint")]
    WrongProvider {
        /// The endpoint's provider.
        endpoint: Provider,
    },
    /// Someone listens there.
    #[error("{endpoint} is in use by a running process")]
    InUse {
        /// Where.
        endpoint: String,
    },
    /// The system refused.
    #[error("cannot listen at {endpoint}: {source}")]
    Io {
        /// Where.
        endpoint: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ListenError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::InUse { .. })
    }
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The endpoint is of a provider that the domain does not carry.
    #[error("this domain does not carry {endpoint}: it cannot connect to such an endpoint")]
    WrongProvider {
        /// The endpoint's provider.
        endpoint: Provider,
    },
    /// Longer than [`crate::PRIVATE_DATA_BYTES_MAX`].
    #[error("private data longer than 56 bytes")]
    PrivateDataTooLong,
    /// Nobody listens there, or the network is broken.
    #[error("cannot reach the peer: {0}")]
    Io(#[from] io::Error),
    /// The cluster key was not proved, or the peer speaks something else.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The peer said no.
    #[error("the peer rejected the connection")]
    Rejected,
    /// The deadline passed.
    #[error("no connection before the deadline")]
    Timeout,
    /// The peer's set-up is not acceptable: memory that is not sealed, or malformed words.
    #[error("the peer's set-up is not acceptable: {0}")]
    Setup(&'static str),
    /// The domain has as many connections as it may have.
    #[error("too many connections")]
    TooMany,
}

impl ConnectError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Io(_) | Self::Rejected | Self::Timeout | Self::TooMany => true,
            Self::Handshake(error) => error.is_retryable(),
            Self::WrongProvider { .. } | Self::PrivateDataTooLong | Self::Setup(_) => false,
        }
    }
}

/// Why a listener accepts no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AcceptError {
    /// The task that listens has ended, because its runtime did.
    #[error("the listener has ended")]
    Ended,
}

impl AcceptError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(self) -> bool {
        false
    }
}
