//! S3 over RDMA, steered by HTTP headers: connections to queue pairs of clients that know nothing of tenfour, and the bytes that go over
//! them. What is said in HTTP is in `crate::http`; what is said in a header is in `tenfour_types::rdma_token`.
//!
//! Two shapes. A *connection* (`/.s3rdma-rc/connect`) stands for many transfers: each names the client's memory, which is read or
//! written from here; the client can reach nothing of ours. A *transfer* (`/.hipobj-rc/…`) is agreed on one at a time; for a PUT the client writes
//! into memory that is opened to its queue pair alone, exactly as long as the object, and closed before a byte is looked at.
//!
//! The device is opened, and memory registered, when the first client connects. Both are apart from those of the cluster and of the native
//! protocol.
//!
//! Invariant: bytes are hashed and stored only from memory that the client cannot change; what a request cannot be served with is refused,
//! never replaced by no bytes.

mod incoming;
mod outgoing;
mod sessions;
mod transfers;

pub use incoming::{Checks, TokenSource};
pub use outgoing::DeliverError;
pub use transfers::Agreed;

use super::memory::{Lender, share_of};
use super::users::{Member, Users};
use crate::ops::refusal::{Refusal, slow_down};
use crate::transfer::Sink;
use incoming::Pull;
use parking_lot::Mutex;
use sessions::{Connection, Lent, Sessions};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tenfour_rdma::{
    Admits, ForeignConfig, ForeignDomain, ForeignError, PairAddress, Place, Pool, Provider, Tunables,
};
use tenfour_types::Scaled;
use tenfour_types::native::Retry;
use tenfour_types::rdma_token::control::{Connect, Connected};
use tenfour_types::rdma_token::headers::REPLY;
use tenfour_types::rdma_token::{Psn, QueuePairToken, RcToken, SessionId};
use thiserror::Error;

/// A device that could not be opened is tried again after so long.
const AGAIN: Duration = Duration::from_secs(10);
/// What memory is counted in, bytes.
const UNIT_BYTES: usize = 4096;

/// How transfers that HTTP headers steer are served.
#[derive(Debug, Clone)]
pub struct TokenConfig {
    /// Registered memory for all clients together, bytes. 0, the default: none is served, and every descriptor declined.
    pub memory_bytes: usize,
    /// The address that clients reach the RDMA device by; without one, the first device and its first address that serve.
    pub address: Option<IpAddr>,
    /// A connection that moves nothing for so long ends; 5 minutes by default.
    pub idle: Duration,
    /// A transfer that is agreed on runs within so long, or ends; 10 s by default.
    pub ready_within: Duration,
    /// A client that is to write has written within so long; 30 s by default.
    pub written_within: Duration,
    /// Connections and transfers at once; 1,024 by default, and 256 of one user.
    pub sessions_max: usize,
    /// Times of the device.
    pub tunables: Tunables,
    /// What was done.
    pub counters: Arc<TokenCounters>,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 0,
            address: None,
            idle: Duration::from_secs(300),
            ready_within: Duration::from_secs(10),
            written_within: Duration::from_secs(30),
            sessions_max: 1024,
            tunables: Tunables::default(),
            counters: Arc::default(),
        }
    }
}

/// What became of requests with a descriptor.
#[derive(Debug, Default)]
pub struct TokenCounters {
    /// Objects and parts whose bytes came by RDMA.
    pub puts: AtomicU64,
    /// Objects, or parts of them, whose bytes went by RDMA.
    pub gets: AtomicU64,
    /// Bytes that went either way.
    pub bytes: AtomicU64,
    /// Requests that were answered with 501, or over HTTP.
    pub declined: AtomicU64,
    /// Transfers that broke off.
    pub failed: AtomicU64,
}

/// Why bytes do not go by RDMA. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenRefusal {
    /// The descriptor is none, or names what is not there.
    #[error("{0}")]
    Invalid(String),
    /// It is one that cannot be served here.
    #[error("{0}")]
    NotSupported(String),
    /// The device says that the bytes were not moved.
    #[error("The RDMA transfer failed: {0}. Nothing was stored.")]
    Failed(String),
    /// No registered memory, or too many connections.
    #[error("{0}")]
    Exhausted(&'static str),
    /// More than one transfer of this kind can take.
    #[error(
        "Such a transfer may have {most} bytes here: send the object in parts, or raise rdma_token_memory."
    )]
    TooLarge {
        /// Bytes.
        most: u64,
    },
    /// The transfer was not agreed on, has run, or was given up.
    #[error("No such transfer is agreed on: it may have run, or waited too long.")]
    NoSuchTransfer,
    /// It is not as agreed.
    #[error("The cookie is not the one that was agreed on: the transfer was given up.")]
    WrongCookie,
}

impl From<TokenRefusal> for Refusal {
    fn from(refusal: TokenRefusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            TokenRefusal::Invalid(_) => Refusal::new("InvalidRDMAToken", text).with_status(400),
            TokenRefusal::NotSupported(_) => {
                Refusal::new("RDMANotSupported", text).with_status(501).header(REPLY, "501")
            }
            TokenRefusal::Failed(_) => {
                Refusal::new("RDMATransferFailed", text).with_status(500).with_retry(Retry::Later)
            }
            TokenRefusal::Exhausted(_) => slow_down(),
            TokenRefusal::TooLarge { .. } => Refusal::new("EntityTooLarge", text).with_status(413),
            TokenRefusal::NoSuchTransfer => Refusal::new("NoSuchRDMASession", text).with_status(404),
            TokenRefusal::WrongCookie => Refusal::new("AccessDenied", text),
        }
    }
}

impl From<ForeignError> for TokenRefusal {
    fn from(error: ForeignError) -> Self {
        match error {
            ForeignError::Peer(_) => Self::Invalid(error.to_string()),
            ForeignError::Device(_) => {
                tracing::warn!(%error, "a client cannot be connected to");
                Self::Exhausted("the RDMA device gives no more queue pairs")
            }
            ForeignError::State | ForeignError::OtherDomain => Self::Failed(error.to_string()),
        }
    }
}

/// Serves descriptors. One for a gateway.
pub struct Tokens {
    config: TokenConfig,
    device: tokio::sync::Mutex<Device>,
    sessions: Arc<Sessions>,
    /// The pool, once there is one.
    pool: Mutex<Option<Pool>>,
}

enum Device {
    Closed,
    Failed(Instant, String),
    Open(Arc<Open>),
}

/// The device, and what users have of it.
struct Open {
    domain: ForeignDomain,
    users: Users,
}

impl Tokens {
    /// Opens nothing yet.
    pub fn new(config: TokenConfig) -> Self {
        let sessions = Sessions::new(config.sessions_max, config.idle.scaled());
        Self { config, device: tokio::sync::Mutex::new(Device::Closed), sessions, pool: Mutex::default() }
    }

    /// What was done.
    pub fn counters(&self) -> &TokenCounters {
        &self.config.counters
    }

    /// Connections and transfers that exist.
    pub fn session_count(&self) -> usize {
        self.sessions.count()
    }

    /// Registered memory that clients hold, bytes.
    pub fn used_bytes(&self) -> usize {
        self.pool.lock().as_ref().map_or(0, |pool| pool.capacity_bytes() - pool.free_bytes())
    }

    /// Why none is served, if that is so whatever the descriptor.
    pub fn unavailable(&self) -> Option<String> {
        if self.config.memory_bytes == 0 {
            let text = "This gateway moves no bodies by RDMA (rdma_listen and rdma_token_memory say whether it does): send the body over HTTP.";
            return Some(text.to_owned());
        }
        let reason = Provider::Verbs.available().err()?;
        Some(format!("This gateway cannot move bodies by RDMA, {reason}: send the body over HTTP."))
    }

    /// The device, opened now if it is not yet.
    async fn opened(&self) -> Result<Arc<Open>, TokenRefusal> {
        if let Some(reason) = self.unavailable() {
            return Err(TokenRefusal::NotSupported(reason));
        }
        let mut device = self.device.lock().await;
        match &*device {
            Device::Open(open) => return Ok(open.clone()),
            Device::Failed(at, reason) if at.elapsed() < AGAIN => {
                return Err(TokenRefusal::NotSupported(reason.clone()));
            }
            Device::Failed(..) | Device::Closed => {}
        }
        let config = ForeignConfig {
            name: "tokens".to_owned(),
            pool_bytes: self.config.memory_bytes,
            address: self.config.address,
            tunables: self.config.tunables.clone(),
        };
        // Registering memory takes its time.
        let opening = tokio::task::spawn_blocking(|| ForeignDomain::open(config));
        let opened = opening.await.map_err(|error| error.to_string());
        match opened.and_then(|opened| opened.map_err(|error| error.to_string())) {
            Ok(domain) => {
                *self.pool.lock() = Some(domain.pool().clone());
                let users = Users::new(share_of(domain.pool()));
                let open = Arc::new(Open { domain, users });
                *device = Device::Open(open.clone());
                Ok(open)
            }
            Err(error) => {
                tracing::warn!(error, "no RDMA device for transfers by HTTP headers");
                let reason =
                    format!("This gateway cannot move bodies by RDMA: {error}. Send the body over HTTP.");
                *device = Device::Failed(Instant::now(), reason.clone());
                Err(TokenRefusal::NotSupported(reason))
            }
        }
    }

    /// Connects a client's queue pair, for many transfers of this user.
    pub async fn connect(&self, owner: &str, wanted: &Connect) -> Result<Connected, TokenRefusal> {
        let open = self.opened().await?;
        let (member, place) = (open.join(owner)?, self.sessions.place()?);
        let pair = open.domain.queue_pair(Admits::Nothing, Some(&wanted.pair.gid))?;
        pair.connect(peer(&wanted.pair, wanted.pair.number, wanted.psn)?).await?;
        let (local, lender) = (pair.local(), open.lender(&member));
        let session = self.sessions.connected(Connection::new(owner, pair, lender, member, place));
        Ok(Connected { session, pair: pair_token(&local), psn: Psn::of(local.psn) })
    }

    /// Ends a connection of this user, if there is one.
    pub fn disconnect(&self, owner: &str, session: SessionId) {
        self.sessions.disconnect(owner, session);
    }

    fn lend(&self, owner: &str, token: &RcToken) -> Result<Lent, TokenRefusal> {
        self.sessions.lend(owner, token.session).ok_or_else(|| match self.unavailable() {
            Some(reason) => TokenRefusal::NotSupported(reason),
            None => TokenRefusal::Invalid(
                "The descriptor's connection does not exist, has ended, or is somebody else's: connect by POST /.s3rdma-rc/connect."
                    .to_owned(),
            ),
        })
    }

    /// The bytes in a client's memory, to be stored. Nothing is read before the first is asked for.
    pub fn pull(&self, owner: &str, token: &RcToken, checks: Checks) -> Result<TokenSource, TokenRefusal> {
        let lent = self.lend(owner, token)?;
        let pull = Pull::new(lent, Place { address: token.address, key: token.key }, token.bytes);
        Ok(TokenSource::pull(pull, token.bytes, checks))
    }

    /// Writes `bytes` of an object into a client's memory.
    pub async fn deliver<S: Sink>(
        &self,
        owner: &str,
        token: &RcToken,
        sink: &mut S,
        bytes: u64,
    ) -> Result<(), DeliverError> {
        if bytes > token.bytes {
            let text = format!("The range has {bytes} bytes, the descriptor's buffer {}.", token.bytes);
            return Err(TokenRefusal::Invalid(text).into());
        }
        let lent = self.lend(owner, token)?;
        let place = Place { address: token.address, key: token.key };
        outgoing::deliver(sink, bytes, (lent.pair(), place), lent.lender(), None).await
    }
}

impl Open {
    fn join(&self, owner: &str) -> Result<Member, TokenRefusal> {
        self.users.join(owner).ok_or(TokenRefusal::Exhausted("too many connections of this user"))
    }

    fn lender(&self, member: &Member) -> Lender {
        Lender::new(self.domain.pool().clone(), Some(member.memory.clone()))
    }
}

/// A client's queue pair as this end has to know it.
fn peer(token: &QueuePairToken, number: u32, psn: Psn) -> Result<PairAddress, TokenRefusal> {
    if !(1..1 << 24).contains(&number) {
        return Err(TokenRefusal::Invalid(
            "The descriptor's queue pair number has 24 bits, and is not zero.".to_owned(),
        ));
    }
    Ok(PairAddress { number, gid: token.gid, psn: psn.get(), port: token.port, lid: token.lid })
}

/// This end as a client has to know it.
fn pair_token(local: &PairAddress) -> QueuePairToken {
    QueuePairToken::of(local.number, local.gid, local.port, local.lid)
}
