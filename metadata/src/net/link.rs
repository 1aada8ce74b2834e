//! The asking side: one pipelined connection to one replica, made when it is needed and again after it broke.
//!
//! Many requests are under way at once; answers come in any order and are matched by id. An answer that never comes is the
//! caller's business (its deadline); a connection on which several requests were given up while nothing was heard is given up
//! itself, so that a peer that vanished without a word does not hold what comes after.

use crate::net::{Frame, FrameReader, Hello, Kind, Outbox, Role};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tenfour_rdma::{ClusterKey, handshake};
use tenfour_types::Scaled;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Connecting and proving the key take at most this long.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
/// After a connection attempt failed, the next one waits at least this long.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
/// So many requests in a row given up without an answer, and nothing heard for [`SILENT_AFTER`]: the connection is given up.
const UNANSWERED_MAX: u64 = 4;
/// See [`UNANSWERED_MAX`].
const SILENT_AFTER: Duration = Duration::from_millis(800);
/// Most requests under way on one connection; more are refused as busy.
const PENDING_MAX: usize = 16 << 10;

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum LinkError {
    /// Not sent: no connection.
    #[error("cannot reach {0}: {1}")]
    Unreachable(SocketAddr, String),
    /// Not sent: the other side is not who it should be.
    #[error("{0} refused, or is not who it should be: {1}")]
    Stranger(SocketAddr, String),
    /// Not sent: too large or too many.
    #[error("the request is too large, or too many are under way")]
    NotSent,
    /// Sent, perhaps: the connection broke before the answer.
    #[error("the connection broke")]
    Broken,
}

/// Whom this process is on every connection.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) key: ClusterKey,
    pub(crate) hello: Hello,
}

/// Whom to find at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expect {
    /// Any replica of the cluster.
    AnyReplica,
    /// This one, in this life of its store.
    Replica { id: u64, incarnation: u128 },
}

/// A connection to an address, made on demand.
pub(crate) struct Link {
    address: SocketAddr,
    identity: Identity,
    expect: Expect,
    current: Mutex<Option<Arc<Pipe>>>,
    /// Held while connecting; remembers the last failure.
    connecting: tokio::sync::Mutex<Option<(Instant, LinkError)>>,
}

impl Link {
    pub(crate) fn new(address: SocketAddr, identity: Identity, expect: Expect) -> Self {
        Self {
            address,
            identity,
            expect,
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(None),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The live connection, if there is one.
    pub(crate) fn connected(&self) -> Option<Arc<Pipe>> {
        self.current.lock().as_ref().filter(|pipe| pipe.is_open()).cloned()
    }

    /// The live connection, made now if there is none. One caller connects while others wait; a failure is remembered for a moment.
    pub(crate) async fn pipe(&self) -> Result<Arc<Pipe>, LinkError> {
        if let Some(pipe) = self.connected() {
            return Ok(pipe);
        }
        let mut failed = self.connecting.lock().await;
        if let Some(pipe) = self.connected() {
            return Ok(pipe);
        }
        if let Some((when, error)) = failed.as_ref()
            && when.elapsed() < RECONNECT_AFTER.scaled()
        {
            return Err(error.clone());
        }
        let connected = tokio::time::timeout(CONNECT_TIMEOUT.scaled(), self.connect()).await;
        match connected
            .unwrap_or_else(|_| Err(LinkError::Unreachable(self.address, "no answer in time".to_owned())))
        {
            Ok(pipe) => {
                *failed = None;
                *self.current.lock() = Some(Arc::clone(&pipe));
                Ok(pipe)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Arc<Pipe>, LinkError> {
        let unreachable = |error: io::Error| LinkError::Unreachable(self.address, error.to_string());
        let stranger = |text: String| LinkError::Stranger(self.address, text);
        let mut stream = TcpStream::connect(self.address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let Identity { key, hello } = &self.identity;
        let proved = handshake::initiate(&mut stream, key, &hello.to_bytes()).await;
        let theirs = proved.map_err(|error| match error.is_retryable() {
            true => LinkError::Unreachable(self.address, error.to_string()),
            false => stranger(error.to_string()),
        })?;
        let theirs = hello.check(&theirs).map_err(stranger)?;
        let Role::Replica { id, incarnation } = theirs.role else {
            return Err(stranger("it is no replica of the metadata service".to_owned()));
        };
        match self.expect {
            Expect::Replica { id: wanted, .. } if wanted != id => {
                Err(stranger(format!("replica {id} answers where replica {wanted} should be")))
            }
            Expect::Replica { incarnation: wanted, .. } if wanted != incarnation => Err(stranger(format!(
                "replica {id} has lost its store and begun a new one; it must not come back under its old id"
            ))),
            _ => Ok(Pipe::start(stream, id, incarnation)),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(pipe) = self.current.get_mut().take() {
            pipe.close();
        }
    }
}

type Answer = oneshot::Sender<Frame>;

/// One live connection.
pub(crate) struct Pipe {
    pub(crate) replica: u64,
    pub(crate) incarnation: u128,
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    /// `None` once the connection is over.
    pending: Mutex<Option<HashMap<u64, Answer>>>,
    next_id: AtomicU64,
    started: Instant,
    /// When something was last heard, milliseconds since `started`.
    heard_ms: AtomicU64,
    /// Requests given up since.
    unanswered: AtomicU64,
}

impl Pipe {
    fn start(stream: TcpStream, replica: u64, incarnation: u128) -> Arc<Self> {
        let (read, write) = stream.into_split();
        let outbox = Arc::new(Outbox::new(write));
        let shared = Arc::new(Shared {
            pending: Mutex::new(Some(HashMap::new())),
            next_id: AtomicU64::new(1),
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
        });
        let writer = tokio::spawn({
            let (outbox, shared) = (Arc::clone(&outbox), Arc::clone(&shared));
            async move {
                outbox.run().await;
                shared.end();
            }
        });
        let reader = tokio::spawn({
            let (outbox, shared) = (Arc::clone(&outbox), Arc::clone(&shared));
            async move {
                shared.read(FrameReader::new(read)).await;
                shared.end();
                outbox.close();
            }
        });
        Arc::new(Self { replica, incarnation, outbox, shared, tasks: Mutex::new(vec![writer, reader]) })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.shared.pending.lock().is_some()
    }

    /// Ends the connection; everything that waits for an answer learns that it broke.
    pub(crate) fn close(&self) {
        self.shared.end();
        self.outbox.close();
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }

    /// Sends a request. The future resolves to its answer; dropping it forgets the request.
    pub(crate) fn ask(
        &self,
        kind: Kind,
        group: u16,
        fill: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> Result<Asked, LinkError> {
        if self.shared.is_silent() {
            self.close();
            return Err(LinkError::Broken);
        }
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, receiver) = oneshot::channel();
        match self.shared.pending.lock().as_mut() {
            Some(pending) if pending.len() < PENDING_MAX => pending.insert(id, answer),
            Some(_) => return Err(LinkError::NotSent),
            None => return Err(LinkError::Broken),
        };
        let asked = Asked { id, receiver, shared: Arc::clone(&self.shared) };
        if !self.outbox.put(|out| Frame::write_with(out, id, kind, group, fill)) {
            // The outbox may have been closed a moment before the connection counts as over.
            return Err(if self.outbox.is_closed() { LinkError::Broken } else { LinkError::NotSent });
        }
        self.outbox.send_soon();
        Ok(asked)
    }

    /// [`Pipe::ask`] and its answer, within a bound.
    pub(crate) async fn ask_within(
        &self,
        wait: Duration,
        kind: Kind,
        group: u16,
        fill: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> Result<Frame, LinkError> {
        let asked = self.ask(kind, group, fill)?;
        tokio::time::timeout(wait, asked.answer()).await.unwrap_or(Err(LinkError::Broken))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.close();
    }
}

/// A request under way.
pub(crate) struct Asked {
    id: u64,
    receiver: oneshot::Receiver<Frame>,
    shared: Arc<Shared>,
}

impl Asked {
    /// Waits for the answer.
    pub(crate) async fn answer(mut self) -> Result<Frame, LinkError> {
        (&mut self.receiver).await.map_err(|_| LinkError::Broken)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(pending) = self.shared.pending.lock().as_mut()
            && pending.remove(&self.id).is_some()
        {
            self.shared.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    async fn read(&self, mut frames: FrameReader) {
        while let Ok(Some(frame)) = frames.next().await {
            self.heard_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
            self.unanswered.store(0, Ordering::Relaxed);
            let waiting = match self.pending.lock().as_mut() {
                Some(pending) => pending.remove(&frame.id),
                None => return,
            };
            if let Some(answer) = waiting {
                let _ = answer.send(frame);
            }
        }
    }

    fn is_silent(&self) -> bool {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.unanswered.load(Ordering::Relaxed) >= UNANSWERED_MAX
            && self.started.elapsed() > heard + SILENT_AFTER.scaled()
    }

    fn end(&self) {
        drop(self.pending.lock().take());
    }
}
