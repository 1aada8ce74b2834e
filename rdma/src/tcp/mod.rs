//! The fabric over a TCP stream, for hosts without a common RDMA device.
//!
//! A stream carries frames in both directions ([`frame`]): this end's requests and, in between, its answers to the peer's.
//! The responder checks every request against its grants before the first payload byte lands, and receives the payload
//! straight into the granted memory. What was executed is acknowledged in order and in batches.
//!
//! What it cannot do: stop a write in the middle of a `read(2)`, so that `seal` waits for one system call; and notice a
//! silent peer faster than the operation timeout and the kernel's keep-alive do.
//!
//! Invariant: the stream is always at a frame boundary or ends: a refused frame is the last one that is read as one.

pub(crate) mod frame;
mod reader;
mod tests;
mod writer;

use crate::config::PRIVATE_DATA_BYTES_MAX;
use crate::connection::Link;
use crate::domain::Domain;
use crate::engine::send_queue::{Done, Operation};
use crate::engine::{Ended, QueuePair};
use crate::setup::{Kind, Role, SETUP_BYTES, Setup};
use crate::{ClusterKey, ConnectError, Connection, ConnectionError, OperationError, Provider};
use frame::Frame;
use rustix::net::sockopt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use writer::{Outbox, Payload};

/// A silent peer is probed after this, and at this interval.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// So many unanswered probes end the connection.
const KEEP_ALIVE_PROBES: u32 = 3;
/// Sent bytes that are not acknowledged by the peer's kernel for so long end the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// One end of a connection over TCP.
pub(crate) struct TcpLink {
    pub(crate) pair: QueuePair,
    pub(crate) ended: Ended,
    stream: TcpStream,
    outbox: Outbox,
}

impl TcpLink {
    fn start(pair: QueuePair, stream: TcpStream) -> Arc<Self> {
        let link = Arc::new(Self { pair, ended: Ended::default(), stream, outbox: Outbox::default() });
        let running = link.clone();
        tokio::spawn(async move {
            tokio::join!(reader::run(&running), writer::run(&running));
            running.ended.set();
        });
        link
    }

    /// Queues a chain of frames in the order of posting, and writes what the socket takes at once.
    pub(crate) fn post(&self, chain: impl Iterator<Item = (Operation, Done)>) -> Result<u64, OperationError> {
        let mut posted = 0;
        {
            let mut state = self.pair.sends.lock();
            for (operation, done) in chain {
                let sequence = state.posted + 1;
                let (frame, payload) = request(sequence, &operation);
                posted = state.push(operation, done)?;
                self.outbox.push(frame, payload);
            }
        }
        self.flush();
        Ok(posted)
    }

    /// Enters the error state, tells the peer with `last` (or a good-bye), and lets the tasks end.
    pub(crate) fn fail(&self, reason: ConnectionError, oldest: OperationError, last: Option<Frame>) {
        // No peer reads our memory over TCP: what the operations held is free at once, but for a frame half written.
        if let Some(held) = self.pair.fail(reason, oldest) {
            drop(held);
            self.outbox.finish(last.unwrap_or(Frame::Bye));
            self.flush();
            self.outbox.wake();
        }
    }

    fn flush(&self) {
        self.outbox.flush(&self.stream);
    }
}

fn request(sequence: u64, operation: &Operation) -> (Frame, Payload) {
    match operation {
        Operation::Write { source, to, immediate } => {
            let (key, address, bytes) = (to.key, to.address, source.len() as u32);
            (
                Frame::Write { sequence, key, address, bytes, immediate: *immediate },
                Payload::Frozen(source.clone()),
            )
        }
        Operation::Read { from, .. } => {
            (Frame::Read { sequence, key: from.key, address: from.address, bytes: from.bytes }, Payload::None)
        }
        Operation::Send { message } => {
            (Frame::Send { sequence, bytes: message.len() as u32 }, Payload::Bytes(message.clone()))
        }
    }
}

/// Socket options of every fabric stream.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE.scaled())?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE.scaled())?;
    sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_PROBES)?;
    let user_timeout_ms = u32::try_from(USER_TIMEOUT.scaled().as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, user_timeout_ms)?;
    Ok(())
}

pub(crate) async fn connect(
    domain: &Domain,
    address: SocketAddr,
    private_data: Vec<u8>,
) -> Result<Connection, ConnectError> {
    let place = domain.reserve_connection()?;
    let mut stream = TcpStream::connect(address).await?;
    prepare(&stream)?;
    let session = domain.prove(&mut stream).await?;
    let request = domain.setup(Kind::Request, Provider::Tcp, private_data);
    let request = request.encode(&session.key, Role::Initiator).ok_or(ConnectError::PrivateDataTooLong)?;
    stream.write_all(&request).await?;
    let answer = read_setup(&mut stream, &session.key, Role::Acceptor).await?;
    match answer.kind {
        Kind::Accept => {
            let link = TcpLink::start(domain.queue_pair(answer.private_data), stream);
            Ok(place.fill(Link::Tcp(link)))
        }
        Kind::Reject => Err(ConnectError::Rejected),
        Kind::Request => Err(ConnectError::Setup("a request in answer to a request")),
    }
}

pub(crate) async fn accept(
    domain: &Domain,
    mut stream: TcpStream,
    key: &ClusterKey,
    request: Setup,
    private_data: Vec<u8>,
) -> Result<Connection, ConnectError> {
    debug_assert!(private_data.len() <= PRIVATE_DATA_BYTES_MAX);
    let place = match domain.reserve_connection() {
        Ok(place) => place,
        Err(error) => {
            write_setup(&mut stream, &domain.setup(Kind::Reject, Provider::Tcp, Vec::new()), key).await?;
            return Err(error);
        }
    };
    write_setup(&mut stream, &domain.setup(Kind::Accept, Provider::Tcp, private_data), key).await?;
    let link = TcpLink::start(domain.queue_pair(request.private_data), stream);
    Ok(place.fill(Link::Tcp(link)))
}

pub(crate) async fn read_request(stream: &mut TcpStream, key: &ClusterKey) -> Result<Setup, ConnectError> {
    read_setup(stream, key, Role::Initiator).await
}

/// Sends the acceptor's words.
pub(crate) async fn write_setup(
    stream: &mut TcpStream,
    setup: &Setup,
    key: &ClusterKey,
) -> Result<(), ConnectError> {
    let bytes = setup.encode(key, Role::Acceptor).ok_or(ConnectError::PrivateDataTooLong)?;
    Ok(stream.write_all(&bytes).await?)
}

async fn read_setup(stream: &mut TcpStream, key: &ClusterKey, role: Role) -> Result<Setup, ConnectError> {
    let mut bytes = [0; SETUP_BYTES];
    stream.read_exact(&mut bytes).await?;
    Setup::decode(&bytes, key, role).ok_or(ConnectError::Setup("malformed set-up"))
}
