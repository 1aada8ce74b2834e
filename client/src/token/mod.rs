//! A client of S3 over RDMA by HTTP headers: requests go over HTTP, bodies between registered memory of ours and the gateway, which
//! reads and writes it, over a reliable connection.
//!
//! Two shapes: a [`TokenConnection`] for many requests (`/.s3rdma-rc/connect`), and transfers that are agreed on one by one (`hipobj-rc-v2`,
//! [`TokenClient::put_agreed`], [`TokenClient::get_agreed`]). They are what other vendors' clients speak, and are here to be tried and tested against;
//! programs of ours have [`crate::native`], which needs no HTTP, authenticates every message, and runs over `shm` and `tcp` too.
//!
//! It never retries, and never falls back to a body in HTTP: who asked for RDMA is told when there is none. In a build without the feature
//! `verbs` of `tenfour-rdma`, [`TokenClient::open`] says so.

mod agreed;
mod connection;

pub use connection::TokenConnection;

use crate::signed::{Access, Call, Service};
use crate::{ANSWER_DEADLINE, CONNECT_DEADLINE, ClientError};
use http::{HeaderMap, Method, StatusCode};
use std::net::IpAddr;
use tenfour_rdma::{
    Buffer, ForeignConfig, ForeignDomain, ForeignError, LeaseError, OpenError, OperationError, PairAddress,
    Tunables,
};
use tenfour_types::NameError;
use tenfour_types::rdma_token::control::{ControlError, Lookup, Words};
use tenfour_types::rdma_token::{Psn, QueuePairToken};
use thiserror::Error;

/// What a client is made with.
#[derive(Clone)]
pub struct TokenClientConfig {
    /// The gateway's S3 port, such as `http://10.0.0.4:9000`.
    pub endpoint: String,
    /// The user.
    pub access_key: String,
    /// The user's secret. It never travels.
    pub secret_key: String,
    /// The region of the cluster; `us-east-1` by default.
    pub region: String,
    /// Registered memory, bytes; 64 MiB by default.
    pub pool_bytes: usize,
    /// The address of the RDMA device; the first device by default.
    pub address: Option<IpAddr>,
    /// Times of the device.
    pub tunables: Tunables,
}

impl TokenClientConfig {
    /// For a user of a gateway, with defaults for the rest.
    pub fn new(endpoint: &str, access_key: &str, secret_key: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            region: "us-east-1".to_owned(),
            pool_bytes: 64 << 20,
            address: None,
            tunables: Tunables::default(),
        }
    }
}

impl std::fmt::Debug for TokenClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("TokenClientConfig");
        out.field("endpoint", &self.endpoint).field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum TokenCallError {
    /// No RDMA here.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No registered memory.
    #[error(transparent)]
    Memory(#[from] LeaseError),
    /// No queue pair, no connection, or memory of another client.
    #[error(transparent)]
    Device(#[from] ForeignError),
    /// The gateway said no, or could not be asked.
    #[error(transparent)]
    Http(#[from] ClientError),
    /// The gateway does not move bodies by RDMA, or not this one. Nothing was stored.
    #[error("not by RDMA: {0}")]
    Declined(String),
    /// The gateway's words mean nothing.
    #[error("a malformed answer: {0}")]
    Malformed(String),
    /// The transfer broke off.
    #[error("the transfer failed: {0}")]
    Transfer(#[from] OperationError),
    /// Other bytes were moved than were asked for.
    #[error("{moved} bytes were moved instead of {wanted}")]
    Length {
        /// Moved, as the gateway says.
        moved: u64,
        /// Asked for.
        wanted: u64,
    },
}

impl TokenCallError {
    /// Whether the same call can succeed later. After a transfer that failed, over a new connection.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Memory(error) => error.is_retryable(),
            Self::Device(error) => error.is_retryable(),
            Self::Http(error) => {
                let busy = |status: &StatusCode| status.is_server_error();
                matches!(error, ClientError::Status { status, .. } if busy(status))
                    || matches!(
                        error,
                        ClientError::Unreachable(_) | ClientError::Connection(_) | ClientError::TimedOut
                    )
            }
            Self::Transfer(_) => true,
            Self::Open(_) | Self::Declined(_) | Self::Malformed(_) | Self::Length { .. } => false,
        }
    }
}

impl From<NameError> for TokenCallError {
    fn from(error: NameError) -> Self {
        Self::Http(error.into())
    }
}

impl From<ControlError> for TokenCallError {
    fn from(error: ControlError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// What was stored.
#[derive(Debug, Clone)]
pub struct TokenStored {
    /// Its ETag, without quotes.
    pub etag: String,
    /// All headers of the answer.
    pub headers: HeaderMap,
}

/// What was read.
#[derive(Debug)]
pub struct TokenRead {
    /// The memory; what was read is at its beginning.
    pub buffer: Buffer,
    /// How much that is.
    pub bytes: usize,
    /// All headers of the answer.
    pub headers: HeaderMap,
}

/// A client of one gateway, with registered memory of its own.
pub struct TokenClient {
    domain: ForeignDomain,
    http: Service,
}

impl TokenClient {
    /// Opens the RDMA device. Nothing is sent yet.
    pub fn open(config: TokenClientConfig) -> Result<Self, TokenCallError> {
        let TokenClientConfig { endpoint, access_key, secret_key, region, .. } = &config;
        let access = Access { endpoint, region, access_key, secret_key };
        let http = Service::new(&access, CONNECT_DEADLINE, ANSWER_DEADLINE)?;
        let domain = ForeignDomain::open(ForeignConfig {
            name: "client-tokens".to_owned(),
            pool_bytes: config.pool_bytes,
            address: config.address,
            tunables: config.tunables,
        })?;
        Ok(Self { domain, http })
    }

    /// Registered memory of `bytes`, as soon as there is so much.
    pub async fn buffer(&self, bytes: usize) -> Result<Buffer, TokenCallError> {
        Ok(self.domain.pool().lease(bytes).await?)
    }

    /// Registered memory that nobody holds now, bytes.
    pub fn free_bytes(&self) -> usize {
        self.domain.pool().free_bytes()
    }

    /// Sends a request without a body; the answer's headers.
    async fn call(
        &self,
        method: Method,
        path: String,
        query: Vec<(&str, String)>,
        words: &[(&str, String)],
    ) -> Result<HeaderMap, TokenCallError> {
        let headers = words.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        match self.http.send(Call { query, headers, ..Call::new(method, path) }).await {
            Ok(answer) => Ok(answer.headers().clone()),
            Err(ClientError::Status { status: StatusCode::NOT_IMPLEMENTED, text }) => {
                Err(TokenCallError::Declined(text))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn control(&self, path: &str, words: &Words) -> Result<HeaderMap, TokenCallError> {
        self.call(Method::POST, path.to_owned(), Vec::new(), words).await
    }
}

/// A gateway's headers.
struct Answer<'a>(&'a HeaderMap);

impl Lookup for Answer<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str().ok())
    }
}

fn pair_token(local: &PairAddress) -> QueuePairToken {
    QueuePairToken::of(local.number, local.gid, local.port, local.lid)
}

fn pair_address(token: &QueuePairToken, psn: Psn) -> PairAddress {
    PairAddress { number: token.number, gid: token.gid, psn: psn.get(), port: token.port, lid: token.lid }
}

/// How many bytes were moved, as the gateway says.
fn moved(headers: &HeaderMap) -> Result<u64, TokenCallError> {
    let name = tenfour_types::rdma_token::headers::BYTES_TRANSFERRED;
    let number = Answer(headers).header(name).and_then(|text| text.parse().ok());
    number.ok_or_else(|| TokenCallError::Malformed(format!("{name} is missing")))
}

fn unquoted(headers: &HeaderMap, name: &str) -> Result<String, TokenCallError> {
    let etag = Answer(headers).header(name).map(|etag| etag.trim_matches('"').to_owned());
    etag.ok_or_else(|| TokenCallError::Malformed(format!("{name} is missing")))
}
