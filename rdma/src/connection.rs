//! A connection as its users see it: an RC queue pair with tokio's waiting and Rust's ownership.

use crate::completion::{Completion, Interest};
use crate::config::MESSAGE_BYTES_MAX;
use crate::domain::Domain;
use crate::engine::QueuePair;
use crate::engine::grants::{Grant, Key, Open, ReadGrant, Right, grant_read, grant_write, random_key};
use crate::engine::send_queue::{Done, Operation};
use crate::shm::ShmLink;
use crate::tcp::TcpLink;
#[cfg(feature = "verbs")]
use crate::verbs::VerbsLink;
use crate::{Buffer, ConnectionError, Frozen, GrantError, NotGranted, OperationError, Provider, Remote};
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// `close` waits so long for the peer to let go of our memory; it goes on without anyone waiting for it.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Something that a peer's operation delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// A SEND.
    Message(Bytes),
    /// A WRITE with immediate data; its bytes are placed.
    Immediate {
        /// The immediate data.
        value: u32,
        /// How many bytes were written.
        bytes: u32,
    },
}

/// One end of a reliable, ordered connection. Clones share it; the last one dropped closes it.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

impl Connection {
    pub(crate) fn new(link: Link, domain: Domain) -> Self {
        Self { handle: Arc::new(Handle { link, _domain: domain }) }
    }

    /// The peer may WRITE to exactly this range of the buffer, over this connection. What is not granted comes back.
    pub fn grant_write(
        &self,
        buffer: Buffer,
        range: Range<usize>,
        expires: Duration,
    ) -> Result<Grant<Open>, NotGranted> {
        let pair = self.pair();
        if !pair.pool.owns(&buffer) {
            return Err(NotGranted { error: GrantError::OtherDomain, buffer });
        }
        let link = &self.handle.link;
        let granted = grant_write(&pair.grants, buffer, range, expires, link.keys())?;
        link.granted(expires);
        Ok(granted)
    }

    /// The peer may READ exactly this range, over this connection.
    #[allow(clippy::needless_pass_by_value)] // The grant becomes an owner of the memory; the signature says so.
    pub fn grant_read(
        &self,
        source: Frozen,
        range: Range<usize>,
        expires: Duration,
    ) -> Result<ReadGrant, GrantError> {
        let pair = self.pair();
        if !pair.pool.owns_frozen(&source) {
            return Err(GrantError::OtherDomain);
        }
        let link = &self.handle.link;
        let granted = grant_read(&pair.grants, &source, range, expires, link.keys())?;
        link.granted(expires);
        Ok(granted)
    }

    /// Waits for a place in the send queue and posts a one-sided WRITE of all of `source` to the beginning of `to`; with
    /// immediate data, the peer's [`Connection::recv`] learns of it. An empty WRITE needs no grant.
    pub async fn post_write(
        &self,
        source: Frozen,
        to: Remote,
        immediate: Option<u32>,
    ) -> Result<Completion<()>, OperationError> {
        self.check_write(&source, to)?;
        self.post_unit([], Operation::Write { source, to, immediate }).await
    }

    /// Waits for a place and posts a one-sided READ of all of `from` into the beginning of `into`, which comes back with the
    /// completion.
    pub async fn post_read(&self, into: Buffer, from: Remote) -> Result<Completion<Buffer>, OperationError> {
        if !self.pair().pool.owns(&into) || into.len() < from.bytes as usize {
            return Err(OperationError::LocalProtection);
        }
        let (done, receiver) = oneshot::channel();
        let operations = [(Operation::Read { into, from }, Done::Buffer(done))];
        let sequence = self.post(operations).await?;
        Ok(Completion::new(receiver, self.interest(sequence)))
    }

    /// Waits for a place and posts a message of at most [`MESSAGE_BYTES_MAX`] bytes.
    pub async fn post_send(&self, message: Bytes) -> Result<Completion<()>, OperationError> {
        check_message(&message)?;
        self.post_unit([], Operation::Send { message }).await
    }

    /// A WRITE and then a SEND, with one doorbell and one completion: the WRITE is placed before the message is received.
    pub async fn post_write_then_send(
        &self,
        source: Frozen,
        to: Remote,
        message: Bytes,
    ) -> Result<Completion<()>, OperationError> {
        self.check_write(&source, to)?;
        check_message(&message)?;
        let write = (Operation::Write { source, to, immediate: None }, Done::ByNext);
        self.post_unit([write], Operation::Send { message }).await
    }

    /// [`Connection::post_write`] and its completion.
    pub async fn write(
        &self,
        source: Frozen,
        to: Remote,
        immediate: Option<u32>,
    ) -> Result<(), OperationError> {
        self.post_write(source, to, immediate).await?.await
    }

    /// [`Connection::post_read`] and its completion.
    pub async fn read(&self, into: Buffer, from: Remote) -> Result<Buffer, OperationError> {
        self.post_read(into, from).await?.await
    }

    /// [`Connection::post_send`] and its completion.
    pub async fn send(&self, message: Bytes) -> Result<(), OperationError> {
        self.post_send(message).await?.await
    }

    /// The next message or immediate, in the order of the peer's posts. What arrived before the connection failed is still
    /// delivered. Meant for one consumer: two would share what arrives. Dropping the future loses nothing.
    pub async fn recv(&self) -> Result<Received, ConnectionError> {
        self.pair().receives.receive().await
    }

    /// What the peer said when it connected or accepted.
    pub fn peer_private_data(&self) -> &[u8] {
        self.pair().peer_private_data.get().map_or(&[], Vec::as_slice)
    }

    /// What carries it.
    pub fn provider(&self) -> Provider {
        match self.handle.link {
            Link::Shm(_) => Provider::Shm,
            Link::Tcp(_) => Provider::Tcp,
            #[cfg(feature = "verbs")]
            Link::Verbs(_) => Provider::Verbs,
        }
    }

    /// Unique in this process.
    pub fn id(&self) -> u64 {
        self.pair().id
    }

    /// Whether it is not in its error state. Knows only what the peer, its death or a failed operation has told.
    pub fn is_connected(&self) -> bool {
        self.pair().error().is_none()
    }

    /// Why it is in its error state, if it is.
    pub fn error(&self) -> Option<ConnectionError> {
        self.pair().error()
    }

    /// Waits until it is in its error state.
    pub async fn closed(&self) {
        self.pair().failed().await;
    }

    /// Moves to the error state: everything outstanding is flushed, the peer is told. Waits a moment for the peer to let go
    /// of our memory; what it still holds stays in quarantine.
    pub async fn close(&self) {
        let link = &self.handle.link;
        link.fail(ConnectionError::Closed, OperationError::Flushed);
        // Elapsed: the quarantine goes on without us.
        let _ = timeout(CLOSE_WAIT.scaled(), link.ended()).await;
    }

    fn pair(&self) -> &QueuePair {
        self.handle.link.pair()
    }

    fn interest(&self, sequence: u64) -> Option<Interest> {
        match self.handle.link {
            Link::Shm(_) => Some(Interest { connection: self.handle.clone(), sequence }),
            Link::Tcp(_) => None,
            #[cfg(feature = "verbs")]
            Link::Verbs(_) => None,
        }
    }

    fn check_write(&self, source: &Frozen, to: Remote) -> Result<(), OperationError> {
        if !self.pair().pool.owns_frozen(source) || source.len() > to.bytes as usize {
            return Err(OperationError::LocalProtection);
        }
        Ok(())
    }

    async fn post_unit<const N: usize>(
        &self,
        chain: [(Operation, Done); N],
        last: Operation,
    ) -> Result<Completion<()>, OperationError> {
        let (done, receiver) = oneshot::channel();
        let sequence = self.post(chain.into_iter().chain([(last, Done::Unit(done))])).await?;
        Ok(Completion::new(receiver, self.interest(sequence)))
    }

    /// Posts a chain as one: nothing comes between, and the peer is notified once.
    async fn post(
        &self,
        chain: impl IntoIterator<Item = (Operation, Done), IntoIter: ExactSizeChain>,
    ) -> Result<u64, OperationError> {
        let chain = chain.into_iter();
        let (link, sends) = (&self.handle.link, &self.pair().sends);
        let places = chain.places();
        if !sends.try_reserve(places)? {
            // Whoever waits for a place wants the oldest completions noticed.
            link.want(u64::MAX);
            let reserved = sends.reserve(places).await?;
            let posted = link.post(chain)?;
            reserved.used();
            return Ok(posted);
        }
        link.post(chain)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Connection({} #{}", self.provider(), self.id())?;
        match self.error() {
            Some(error) => write!(out, ", {error})"),
            None => out.write_str(")"),
        }
    }
}

/// A chain of operations that knows its length.
trait ExactSizeChain: Iterator<Item = (Operation, Done)> {
    fn places(&self) -> u32;
}

impl<I: Iterator<Item = (Operation, Done)>> ExactSizeChain for I {
    fn places(&self) -> u32 {
        self.size_hint().0 as u32
    }
}

fn check_message(message: &Bytes) -> Result<(), OperationError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(OperationError::MessageTooLong);
    }
    Ok(())
}

/// What the clones of a connection and its completions share; the last one dropped closes.
pub(crate) struct Handle {
    pub(crate) link: Link,
    /// Keeps the watch over this connection going.
    _domain: Domain,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.link.fail(ConnectionError::Closed, OperationError::Flushed);
    }
}

/// The provider behind a connection.
#[derive(Clone)]
pub(crate) enum Link {
    Shm(Arc<ShmLink>),
    Tcp(Arc<TcpLink>),
    #[cfg(feature = "verbs")]
    Verbs(Arc<VerbsLink>),
}

impl Link {
    pub(crate) fn pair(&self) -> &QueuePair {
        match self {
            Self::Shm(link) => &link.pair,
            Self::Tcp(link) => &link.pair,
            #[cfg(feature = "verbs")]
            Self::Verbs(link) => &link.pair,
        }
    }

    /// Someone waits for the completion of the operation with this sequence (or of as many as there are).
    pub(crate) fn want(&self, sequence: u64) {
        match self {
            Self::Shm(link) => link.want(sequence),
            // Completions on a stream come by themselves.
            Self::Tcp(_) => {}
            // So they do from a device.
            #[cfg(feature = "verbs")]
            Self::Verbs(_) => {}
        }
    }

    fn post(&self, chain: impl Iterator<Item = (Operation, Done)>) -> Result<u64, OperationError> {
        match self {
            Self::Shm(link) => link.post(chain),
            Self::Tcp(link) => link.post(chain),
            #[cfg(feature = "verbs")]
            Self::Verbs(link) => link.post(chain),
        }
    }

    pub(crate) fn fail(&self, reason: ConnectionError, oldest: OperationError) {
        match self {
            Self::Shm(link) => link.fail(reason, oldest),
            Self::Tcp(link) => link.fail(reason, oldest, None),
            #[cfg(feature = "verbs")]
            Self::Verbs(link) => link.fail(reason, oldest),
        }
    }

    /// Who gives a grant its key.
    fn keys(&self) -> impl FnOnce(u64, u32, Right) -> Result<Key, GrantError> {
        move |address, bytes, right| match self {
            #[cfg(feature = "verbs")]
            Self::Verbs(link) => link.open_window(address, bytes, right),
            _ => random_key(address, bytes, right),
        }
    }

    /// A grant expires after so long: where a device checks accesses, somebody here must end it. The others look at the time
    /// themselves at each access.
    #[cfg_attr(not(feature = "verbs"), allow(unused_variables))]
    fn granted(&self, expires: Duration) {
        #[cfg(feature = "verbs")]
        if let Self::Verbs(link) = self {
            link.granted(expires);
        }
    }

    async fn ended(&self) {
        match self {
            Self::Shm(link) => link.ended.wait().await,
            Self::Tcp(link) => link.ended.wait().await,
            #[cfg(feature = "verbs")]
            Self::Verbs(link) => link.ended.wait().await,
        }
    }

    pub(crate) fn downgrade(&self) -> WeakLink {
        match self {
            Self::Shm(link) => WeakLink::Shm(Arc::downgrade(link)),
            Self::Tcp(link) => WeakLink::Tcp(Arc::downgrade(link)),
            #[cfg(feature = "verbs")]
            Self::Verbs(link) => WeakLink::Verbs(Arc::downgrade(link)),
        }
    }
}

/// A link that its domain watches without keeping it.
pub(crate) enum WeakLink {
    Shm(Weak<ShmLink>),
    Tcp(Weak<TcpLink>),
    #[cfg(feature = "verbs")]
    Verbs(Weak<VerbsLink>),
}

impl WeakLink {
    pub(crate) fn upgrade(&self) -> Option<Link> {
        match self {
            Self::Shm(link) => link.upgrade().map(Link::Shm),
            Self::Tcp(link) => link.upgrade().map(Link::Tcp),
            #[cfg(feature = "verbs")]
            Self::Verbs(link) => link.upgrade().map(Link::Verbs),
        }
    }
}
