//! Accepting connections. Each one proves the cluster key in a task of its own, so that a slow or silent one keeps nobody
//! waiting, and is handed to `accept` with its private data only then.

use crate::config::{HANDSHAKE_DEADLINE, INCOMING_MAX, PRIVATE_DATA_BYTES_MAX};
use crate::domain::Domain;
use crate::handshake::{Session, accept_session};
use crate::setup::{Kind, Setup};
#[cfg(feature = "verbs")]
use crate::verbs;
use crate::{
    AcceptError, ConnectError, Connection, Endpoint, HandshakeError, ListenError, Provider, shm, tcp,
};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// After a failed `accept(2)` (no descriptors left), so long until the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens until it is dropped.
pub struct Listener {
    endpoint: Endpoint,
    incoming: mpsc::Receiver<Incoming>,
    task: JoinHandle<()>,
}

impl Listener {
    pub(crate) async fn bind(domain: Domain, at: &Endpoint) -> Result<Self, ListenError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { endpoint: at.to_string() },
            _ => ListenError::Io { endpoint: at.to_string(), source },
        };
        if !domain.carries(at.provider()) {
            return Err(ListenError::WrongProvider { endpoint: at.provider() });
        }
        let socket = match at {
            Endpoint::Shm(path) => Socket::Shm(shm::bind(path).map_err(failed)?, path.clone()),
            Endpoint::Tcp(address) => Socket::Tcp(TcpListener::bind(address).await.map_err(failed)?),
            #[cfg(feature = "verbs")]
            Endpoint::Verbs(address) => {
                Socket::Verbs(verbs::VerbsListener::bind(&domain, *address, INCOMING_MAX).map_err(failed)?)
            }
            // No domain carries what its build lacks.
            #[cfg(not(feature = "verbs"))]
            Endpoint::Verbs(_) => return Err(ListenError::WrongProvider { endpoint: at.provider() }),
        };
        let endpoint = match &socket {
            Socket::Tcp(listener) => Endpoint::Tcp(listener.local_addr().map_err(failed)?),
            Socket::Shm(..) => at.clone(),
            #[cfg(feature = "verbs")]
            Socket::Verbs(listener) => Endpoint::Verbs(listener.local_address()),
        };
        let (deliver, incoming) = mpsc::channel(INCOMING_MAX);
        let task = tokio::spawn(accept_all(domain, socket, deliver));
        Ok(Self { endpoint, incoming, task })
    }

    /// The next peer that proved the key, for the caller to accept or reject.
    pub async fn accept(&mut self) -> Result<Incoming, AcceptError> {
        self.incoming.recv().await.ok_or(AcceptError::Ended)
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Listener({})", self.endpoint)
    }
}

enum Socket {
    Shm(UnixListener, PathBuf),
    Tcp(TcpListener),
    #[cfg(feature = "verbs")]
    Verbs(verbs::VerbsListener),
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Shm(_, path) = self {
            // Best effort: a stale file is taken over by the next listener.
            let _ = std::fs::remove_file(path);
        }
    }
}

enum Stream {
    Shm(UnixStream),
    Tcp(TcpStream),
    #[cfg(feature = "verbs")]
    Verbs(verbs::Request),
}

impl Stream {
    fn provider(&self) -> Provider {
        match self {
            Self::Shm(_) => Provider::Shm,
            Self::Tcp(_) => Provider::Tcp,
            #[cfg(feature = "verbs")]
            Self::Verbs(_) => Provider::Verbs,
        }
    }
}

async fn accept_all(domain: Domain, socket: Socket, deliver: mpsc::Sender<Incoming>) {
    let places = Arc::new(Semaphore::new(INCOMING_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = match &socket {
            Socket::Shm(listener, _) => listener.accept().await.map(|(stream, _)| Stream::Shm(stream)),
            Socket::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            #[cfg(feature = "verbs")]
            Socket::Verbs(listener) => listener.accept().await.map(Stream::Verbs),
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a fabric connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (domain, deliver) = (domain.clone(), deliver.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE_DEADLINE.scaled(), greet(domain, stream)).await {
                Ok(Ok(incoming)) => drop(deliver.send(incoming).await),
                Ok(Err(error)) => tracing::warn!(%error, "refused a fabric connection"),
                Err(_) => tracing::warn!("a fabric connection did not prove the key in time"),
            }
            drop(place);
        });
    }
}

/// The handshake, and what the initiator asks for.
async fn greet(domain: Domain, stream: Stream) -> Result<Incoming, ConnectError> {
    let key = domain.config().cluster_key.clone();
    let provider = stream.provider();
    let (session, request, stream) = match stream {
        Stream::Tcp(mut stream) => {
            tcp::prepare(&stream)?;
            let session = accept_session(&mut stream, &key, b"fabric").await?;
            let request = tcp::read_request(&mut stream, &session.key).await?;
            (session, request, Proved::Tcp(stream))
        }
        Stream::Shm(mut stream) => {
            let session = accept_session(&mut stream, &key, b"fabric").await?;
            let (request, exports) = shm::read_request(&stream, &session.key).await?;
            (session, request, Proved::Shm(stream, exports))
        }
        #[cfg(feature = "verbs")]
        Stream::Verbs(request) => {
            let (session, request, fresh) = verbs::greet(&domain, request, &key).await?;
            (session, request, Proved::Verbs(fresh))
        }
    };
    if session.peer_hello != b"fabric" {
        return Err(HandshakeError::Protocol.into());
    }
    if request.kind != Kind::Request || request.provider != provider {
        return Err(ConnectError::Setup("not a request for this provider"));
    }
    Ok(Incoming { domain, session, request, stream })
}

enum Proved {
    Shm(UnixStream, shm::Exports),
    Tcp(TcpStream),
    #[cfg(feature = "verbs")]
    Verbs(verbs::Fresh),
}

/// A peer that proved the key and waits for an answer. Dropping it hangs up.
pub struct Incoming {
    domain: Domain,
    session: Session,
    request: Setup,
    stream: Proved,
}

impl Incoming {
    /// What would carry the connection.
    pub fn provider(&self) -> Provider {
        self.request.provider
    }

    /// What the peer sent along.
    pub fn private_data(&self) -> &[u8] {
        &self.request.private_data
    }

    /// Takes the connection; `private_data` is for the peer, at most 56 bytes.
    pub async fn accept(self, private_data: Vec<u8>) -> Result<Connection, ConnectError> {
        let domain = self.domain.clone();
        self.accept_into(&domain, private_data).await
    }

    /// Takes it into another domain than the one that listens: its memory is that one's alone. For peers
    /// that must not see each other's memory where a provider cannot keep them from looking (`shm`). A `verbs` connection stays in
    /// the protection domain that it was asked for in: give the domain that listens.
    pub async fn accept_into(
        self,
        domain: &Domain,
        private_data: Vec<u8>,
    ) -> Result<Connection, ConnectError> {
        if private_data.len() > PRIVATE_DATA_BYTES_MAX {
            return Err(ConnectError::PrivateDataTooLong);
        }
        if !domain.carries(self.provider()) {
            return Err(ConnectError::WrongProvider { endpoint: self.provider() });
        }
        let Self { session, request, stream, .. } = self;
        let accepted = timeout(HANDSHAKE_DEADLINE.scaled(), async move {
            match stream {
                Proved::Tcp(stream) => tcp::accept(domain, stream, &session.key, request, private_data).await,
                Proved::Shm(stream, exports) => {
                    shm::accept(domain, stream, exports, &session.key, request, private_data).await
                }
                #[cfg(feature = "verbs")]
                Proved::Verbs(fresh) => {
                    verbs::accept(domain, fresh, &session.key, request, private_data).await
                }
            }
        });
        accepted.await.map_err(|_| ConnectError::Timeout)?
    }

    /// Says no.
    pub async fn reject(self) {
        let setup = self.domain.setup(Kind::Reject, self.provider(), Vec::new());
        let told = timeout(HANDSHAKE_DEADLINE.scaled(), async move {
            match self.stream {
                Proved::Tcp(mut stream) => tcp::write_setup(&mut stream, &setup, &self.session.key).await,
                Proved::Shm(stream, _) => shm::write_reject(&stream, &setup, &self.session.key).await,
                #[cfg(feature = "verbs")]
                Proved::Verbs(mut fresh) => verbs::write_setup(&mut fresh, &setup, &self.session.key).await,
            }
        });
        if let Ok(Err(error)) = told.await {
            tracing::debug!(%error, "could not tell a peer that it was rejected");
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Incoming({} bytes of private data)", self.request.private_data.len())
    }
}
