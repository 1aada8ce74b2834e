//! The fabric over RDMA devices: InfiniBand, RoCE v2, iWARP, Soft-RoCE, by libibverbs and librdmacm.
//!
//! Each connection is an RC queue pair that connection management made; one-sided operations are the device's, which also
//! checks every access of a peer ([`window`]). Around them stands what a device does not do: credits, so that no SEND meets a peer
//! without a receive ([`inbound`]); the proof of the cluster key over the new connection, before anybody is handed it ([`stream`]),
//! as nothing protects RoCE; the expiry of grants, deadlines, and the way down in order ([`life`]). [`message`] draws every byte.
//!
//! What it cannot do: tell a paused peer from a working one by a one-sided operation, which the peer's device executes whether or
//! not its process runs; encrypt; use a second path.
//!
//! Invariant: an object of the device is destroyed after everything that was made of it, and memory is let go after the
//! device can no longer touch it.
#![allow(unsafe_code)] // libibverbs and librdmacm.

mod cm;
mod completion;
mod device;
mod ffi;
pub(crate) mod foreign;
mod host;
mod inbound;
mod life;
mod link;
mod message;
mod posting;
mod queue_pair;
mod state;
mod stream;
mod window;

pub(crate) use device::{Devices, available};
pub(crate) use host::Registrations;
pub(crate) use link::VerbsLink;
pub(crate) use window::Window;

use crate::connection::Link;
use crate::domain::Domain;
use crate::handshake::{Session, accept_session};
use crate::setup::{Kind, Role, SETUP_BYTES, Setup};
use crate::{ClusterKey, ConnectError, Connection, ConnectionError, OperationError, Provider};
use cm::{Cm, Event};
use inbound::DATA_RECEIVES;
use message::Greeting;
use queue_pair::{COMPLETIONS, DeviceQueuePair};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use stream::MessageStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GREETING: Greeting = Greeting { receives: DATA_RECEIVES as u16 };

/// A connection that is not handed out yet; dropping it hangs up.
pub(crate) struct Fresh {
    link: Option<Arc<VerbsLink>>,
    stream: MessageStream,
}

impl Fresh {
    fn new(link: Arc<VerbsLink>) -> Self {
        Self { stream: MessageStream::new(link.clone()), link: Some(link) }
    }

    /// Its peer's words are known: from here on it is a connection like any other.
    fn finish(mut self, peer_private_data: Vec<u8>) -> Result<Link, ConnectError> {
        let link = self.link.take().ok_or(ConnectError::Timeout)?;
        // Nobody else sets it.
        let _ = link.pair.peer_private_data.set(peer_private_data);
        Ok(Link::Verbs(link))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.fail(ConnectionError::Closed, OperationError::Flushed);
        }
    }
}

/// The queue pair of an id, with receives and nothing else.
fn make(domain: &Domain, cm: Cm, credits: u16) -> Result<Arc<VerbsLink>, ConnectError> {
    let context = cm.id.context().ok_or(io::Error::from(io::ErrorKind::HostUnreachable))?;
    let device = domain.devices()?.device(context)?;
    let room = device.next_core().ok_or(io::Error::from(io::ErrorKind::OutOfMemory))?.reserve(COMPLETIONS)?;
    let slots = device.slots()?;
    let queue_pair = DeviceQueuePair::create(&device, &cm.id, &room)?;
    let pair = domain.blank_queue_pair();
    let link = VerbsLink::new(pair, &device, cm, room, queue_pair, slots, u32::from(credits));
    link.post_receives()?;
    Ok(link)
}

pub(crate) async fn connect(
    domain: &Domain,
    address: SocketAddr,
    private_data: Vec<u8>,
) -> Result<Connection, ConnectError> {
    let place = domain.reserve_connection()?;
    let cm = Cm::create()?;
    cm.resolve(address).await?;
    let link = make(domain, cm, 0)?;
    link.cm.connect(GREETING, link.device.reads)?;
    let greeting = match link.cm.next().await? {
        Event::Established(greeting) => greeting.ok_or(ConnectError::Setup("no greeting"))?,
        Event::Refused(error) => return Err(error.into()),
        _ => return Err(ConnectError::Setup("an event out of order")),
    };
    link.state.lock().credits += u32::from(greeting.receives);
    link.start();
    let mut fresh = Fresh::new(link);
    let session = domain.prove(&mut fresh.stream).await?;
    let request = domain.setup(Kind::Request, Provider::Verbs, private_data);
    let request = request.encode(&session.key, Role::Initiator).ok_or(ConnectError::PrivateDataTooLong)?;
    fresh.stream.write_all(&request).await?;
    let answer = read_setup(&mut fresh, &session.key, Role::Acceptor).await?;
    match answer.kind {
        Kind::Accept => Ok(place.fill(fresh.finish(answer.private_data)?)),
        Kind::Reject => Err(ConnectError::Rejected),
        Kind::Request => Err(ConnectError::Setup("a request in answer to a request")),
    }
}

/// Listens until it is dropped.
pub(crate) struct VerbsListener {
    cm: Cm,
    address: SocketAddr,
}

impl VerbsListener {
    /// Registers the pool with the address's device first: peers wait meanwhile for nothing.
    pub(crate) fn bind(domain: &Domain, at: SocketAddr, backlog: usize) -> io::Result<Self> {
        let cm = Cm::create()?;
        cm.bind(at)?;
        if let Some(context) = cm.id.context() {
            domain.devices()?.device(context)?;
        }
        cm.set_ack_timeout();
        cm.listen(backlog)?;
        let address = SocketAddr::new(at.ip(), cm.local_port());
        Ok(Self { cm, address })
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// The next request for a connection.
    pub(crate) async fn accept(&self) -> io::Result<Request> {
        loop {
            match self.cm.next().await? {
                // Moved to a channel of its own here, where the listener's still exists.
                Event::Request(id, Some(greeting)) => match Cm::of_request(id) {
                    Ok(cm) => return Ok(Request { cm, greeting }),
                    Err(error) => tracing::warn!(%error, "a connection request cannot be taken"),
                },
                Event::Request(id, None) => id.reject(),
                Event::DeviceRemoved => return Err(io::Error::other("the RDMA device was removed")),
                _ => {}
            }
        }
    }
}

/// A peer that asked for a connection. Dropping it says no.
pub(crate) struct Request {
    cm: Cm,
    greeting: Greeting,
}

/// Takes the connection, and lets its peer prove the key and say what it wants.
pub(crate) async fn greet(
    domain: &Domain,
    request: Request,
    key: &ClusterKey,
) -> Result<(Session, Setup, Fresh), ConnectError> {
    let Request { cm, greeting } = request;
    cm.set_ack_timeout();
    let link = make(domain, cm, greeting.receives)?;
    link.cm.accept(GREETING, link.device.reads)?;
    match link.cm.next().await? {
        Event::Established(_) => {}
        Event::Refused(error) => return Err(error.into()),
        _ => return Err(ConnectError::Setup("an event out of order")),
    }
    link.start();
    let mut fresh = Fresh::new(link);
    let session = accept_session(&mut fresh.stream, key, b"fabric").await?;
    let request = read_setup(&mut fresh, &session.key, Role::Initiator).await?;
    Ok((session, request, fresh))
}

pub(crate) async fn accept(
    domain: &Domain,
    mut fresh: Fresh,
    key: &ClusterKey,
    request: Setup,
    private_data: Vec<u8>,
) -> Result<Connection, ConnectError> {
    let place = match domain.reserve_connection() {
        Ok(place) => place,
        Err(error) => {
            write_setup(&mut fresh, &domain.setup(Kind::Reject, Provider::Verbs, Vec::new()), key).await?;
            return Err(error);
        }
    };
    write_setup(&mut fresh, &domain.setup(Kind::Accept, Provider::Verbs, private_data), key).await?;
    Ok(place.fill(fresh.finish(request.private_data)?))
}

/// Sends the acceptor's words.
pub(crate) async fn write_setup(
    fresh: &mut Fresh,
    setup: &Setup,
    key: &ClusterKey,
) -> Result<(), ConnectError> {
    let bytes = setup.encode(key, Role::Acceptor).ok_or(ConnectError::PrivateDataTooLong)?;
    Ok(fresh.stream.write_all(&bytes).await?)
}

async fn read_setup(fresh: &mut Fresh, key: &ClusterKey, role: Role) -> Result<Setup, ConnectError> {
    let mut bytes = [0; SETUP_BYTES];
    fresh.stream.read_exact(&mut bytes).await?;
    Setup::decode(&bytes, key, role).ok_or(ConnectError::Setup("malformed set-up"))
}
