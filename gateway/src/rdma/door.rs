//! The listening end: lets so many in, gives each its memory, and sees the sessions to their end.

use super::login::{LoginError, Logins};
use super::memory::{Memory, Room, share_of};
use super::session::{Session, Shared};
use super::users::{Users, follow};
use super::{DOOR_BYTES_MIN, RdmaConfig};
use crate::ops::Backend;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tenfour_rdma::{Connection, Endpoint, Incoming, ListenError, Listener, OpenError};
use tenfour_types::native::Greeting;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// Why there is no door.
#[derive(Debug, Error)]
pub enum DoorError {
    /// The configuration makes no sense.
    #[error("S3 over RDMA: {0}")]
    Config(&'static str),
    /// Memory cannot be registered.
    #[error("memory for S3 over RDMA: {0}")]
    Memory(#[from] OpenError),
    /// An endpoint cannot be listened on.
    #[error("S3 over RDMA: {0}")]
    Listen(#[from] ListenError),
}

impl DoorError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Listen(error) if error.is_retryable())
    }
}

/// Serves S3 over RDMA.
pub struct RdmaServer<B> {
    shared: Arc<Shared<B>>,
    logins: Arc<Logins<B>>,
    memory: Arc<Memory>,
    listeners: Vec<Listener>,
    config: RdmaConfig,
    connections: Arc<Semaphore>,
}

/// What a door holds; for tests and `status`.
#[derive(Clone)]
pub struct DoorStatus {
    memory: Arc<Memory>,
    connections: Arc<Semaphore>,
    connections_max: usize,
}

impl DoorStatus {
    /// Registered memory that clients hold now, bytes.
    pub fn used_bytes(&self) -> usize {
        self.memory.used_bytes()
    }

    /// Connections, those included that have not logged in.
    pub fn connections(&self) -> usize {
        self.connections_max - self.connections.available_permits()
    }
}

impl<B: Backend> RdmaServer<B> {
    /// Listens; nobody is served before [`RdmaServer::run`].
    pub async fn bind(backend: B, config: RdmaConfig) -> Result<Self, DoorError> {
        if config.memory_bytes < DOOR_BYTES_MIN {
            return Err(DoorError::Config("its memory is too small: 16 MiB or more"));
        }
        if !(2 << 20..=config.memory_bytes / 2).contains(&config.shm_client_bytes) {
            let text =
                "the memory of a client on shm is out of bounds: 2 MiB or more, and half of all at most";
            return Err(DoorError::Config(text));
        }
        let memory = Arc::new(Memory::open(&config)?);
        let mut listeners = Vec::new();
        for at in &config.listen {
            match memory.shared.listen(&at.endpoint).await {
                Ok(listener) => listeners.push(listener),
                Err(error) if !at.required => {
                    tracing::info!(endpoint = %at.endpoint, %error, "S3 over RDMA is not served there");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let logins = Arc::new(Logins::new(backend.clone(), &config.region));
        let shared = Arc::new(Shared {
            backend,
            users: Users::new(share_of(memory.shared.pool())),
            silence_max: config.silence_max,
            stop_within: config.stop_within,
        });
        let connections = Arc::new(Semaphore::new(config.connections_max));
        Ok(Self { shared, logins, memory, listeners, config, connections })
    }

    /// Where it listens, with the ports that were chosen.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.listeners.iter().map(Listener::local_endpoint).collect()
    }

    /// What it holds, also later.
    pub fn status(&self) -> DoorStatus {
        DoorStatus {
            memory: self.memory.clone(),
            connections: self.connections.clone(),
            connections_max: self.config.connections_max,
        }
    }

    /// Serves until `shutdown` resolves, and then lets the requests that run finish.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { shared, logins, memory, listeners, config, connections } = self;
        let (stop, stopped) = watch::channel(false);
        let (newest, config_now) = watch::channel(shared.backend.config());
        let following = tokio::spawn(follow(shared.backend.clone(), newest));
        let (deliver, mut arriving) = mpsc::channel(1);
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(listener, deliver.clone()));
        }
        let strangers = Arc::new(Semaphore::new(config.strangers_max));
        let mut sessions = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let incoming = tokio::select! {
                () = &mut shutdown => break,
                incoming = arriving.recv() => incoming,
                Some(_) = sessions.join_next() => continue,
            };
            let Some(incoming) = incoming else { break };
            let places = connections.clone().try_acquire_owned().ok();
            let places = places.zip(strangers.clone().try_acquire_owned().ok());
            let room = places.and_then(|places| Some((places, memory.room(incoming.provider())?)));
            let Some((places, room)) = room else {
                tracing::debug!("a client was rejected: too many, or no memory");
                sessions.spawn(incoming.reject());
                continue;
            };
            let entering = Entering { shared: shared.clone(), logins: logins.clone(), room, places };
            sessions.spawn(entering.run(incoming, stopped.clone(), config_now.clone()));
        }
        accepting.abort_all();
        let _ = stop.send(true);
        while sessions.join_next().await.is_some() {}
        following.abort();
    }
}

async fn accept(mut listener: Listener, deliver: mpsc::Sender<Incoming>) {
    while let Ok(incoming) = listener.accept().await {
        if deliver.send(incoming).await.is_err() {
            return;
        }
    }
}

/// Returns when the door is told to stop, or is gone.
pub(super) async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// A client on its way in.
struct Entering<B> {
    shared: Arc<Shared<B>>,
    logins: Arc<Logins<B>>,
    room: Room,
    /// Among all, and among those that have not logged in.
    places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl<B: Backend> Entering<B> {
    async fn run(
        self,
        incoming: Incoming,
        mut stopped: watch::Receiver<bool>,
        config: watch::Receiver<Arc<tenfour_metadata::api::Config>>,
    ) {
        let Ok(theirs) = Greeting::decode(incoming.private_data()) else {
            tracing::debug!("a client of another protocol or version was rejected");
            return incoming.reject().await;
        };
        let ours = Greeting::new(rand::random());
        let connection = match incoming.accept_into(&self.room.domain, ours.encode().to_vec()).await {
            Ok(connection) => connection,
            Err(error) => return tracing::debug!(%error, "a client was not connected"),
        };
        let is_authenticated = AtomicBool::new(false);
        let session = self.admit(&connection, (&theirs, &ours), &is_authenticated);
        let session = tokio::select! {
            session = session => session,
            () = told_to_stop(&mut stopped) => None,
        };
        let Self { room, places: (place, stranger), .. } = self;
        drop(stranger);
        if let Some(session) = session {
            session.run(stopped, config).await;
        }
        connection.close().await;
        drop(connection);
        // The connection's memory first, then the place of the next one.
        drop((room, place));
        tracing::debug!(authenticated = is_authenticated.load(Ordering::Relaxed), "a client has gone");
    }

    async fn admit(
        &self,
        connection: &Connection,
        greetings: (&Greeting, &Greeting),
        is_authenticated: &AtomicBool,
    ) -> Option<Session<B>> {
        let (requester, keys) = match self.logins.admit(connection, greetings).await {
            Ok(admitted) => admitted,
            Err(LoginError::Refused) => {
                tracing::info!(connection = connection.id(), "a login was refused");
                return None;
            }
            Err(error) => {
                tracing::debug!(connection = connection.id(), %error, "no login");
                return None;
            }
        };
        is_authenticated.store(true, Ordering::Relaxed);
        Session::begin(self.shared.clone(), connection.clone(), requester, keys, &self.room).await
    }
}
