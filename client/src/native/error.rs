//! Why a call failed, and what is known of its outcome.

use crate::ClientError;
use tenfour_rdma::{ConnectError, GrantError, LeaseError};
use tenfour_types::native::{Refusal, Retry};
use thiserror::Error;

/// Why a call failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration makes no sense here.
    #[error("{0}")]
    Config(String),
    /// No gateway could be reached.
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    /// Another end than a gateway that knows this user's secret, or one that breaks the protocol.
    #[error("the other end is not to be trusted: {0}")]
    Untrusted(&'static str),
    /// The gateway said no.
    #[error("{0}")]
    Refused(Refusal),
    /// The connection broke, or no answer came in time, and it is certain that nothing happened.
    #[error("the connection broke: nothing happened")]
    Broken,
    /// The same, and the change was made as a whole or not at all.
    #[error(
        "the connection broke: the change was made as a whole or not at all; read it back, or send it again"
    )]
    OutcomeUnknown,
    /// The condition says that the caller has it already.
    #[error("not modified")]
    NotModified,
    /// The bytes that arrived are not those that the gateway sent.
    #[error("the bytes that arrived are not those that were sent")]
    Corrupt,
    /// No registered memory.
    #[error(transparent)]
    Memory(#[from] LeaseError),
    /// Memory cannot be granted to the gateway now.
    #[error("memory cannot be granted to the gateway: {0}")]
    Grant(GrantError),
    /// A buffer of another client's memory, or an object too large for one call.
    #[error("{0}")]
    Buffer(&'static str),
    /// Over HTTP.
    #[error(transparent)]
    Http(ClientError),
}

impl Error {
    /// Whether the same call can succeed later. Of [`Error::OutcomeUnknown`] it may also have succeeded already.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_retryable(),
            Self::Refused(refusal) => refusal.retry != Retry::Never,
            Self::Memory(error) => error.is_retryable(),
            Self::Grant(error) => error.is_retryable(),
            Self::Broken | Self::OutcomeUnknown | Self::Corrupt => true,
            Self::Http(error) => matches!(
                error,
                ClientError::Unreachable(_) | ClientError::Connection(_) | ClientError::TimedOut
            ),
            Self::Config(_) | Self::Untrusted(_) | Self::NotModified | Self::Buffer(_) => false,
        }
    }

    /// The S3 code, when the gateway said no.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => Some(&refusal.code),
            _ => None,
        }
    }
}

/// A try that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether the change may have been made.
    pub(crate) may_have_happened: bool,
}

impl Failure {
    /// Nothing happened.
    pub(crate) fn before(error: Error) -> Self {
        Self { error, may_have_happened: false }
    }

    /// The request was on its way.
    pub(crate) fn broken(may_have_happened: bool) -> Self {
        let error = if may_have_happened { Error::OutcomeUnknown } else { Error::Broken };
        Self { error, may_have_happened }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let may_have_happened = refusal.retry == Retry::OutcomeUnknown;
        Self { error: Error::Refused(refusal), may_have_happened }
    }
}

impl From<GrantError> for Failure {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::Disconnected => Self::broken(false),
            GrantError::OtherDomain => {
                Self::before(Error::Buffer("the buffer is of another client's memory"))
            }
            error => Self::before(Error::Grant(error)),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::before(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}
