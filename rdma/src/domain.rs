//! A domain: one registered pool, the providers that carry its connections, and the clock that watches these.
//!
//! Memory of the pool can go over any of the connections, whichever provider carries each: a fan-out may go to some peers through
//! shared memory and to others over TCP. What peers of one domain can see of its pool is told in `shm`: whoever must not is
//! given a domain of its own.

use crate::config::{CONNECTIONS_MAX, ConnectOptions, DomainConfig, PRIVATE_DATA_BYTES_MAX};
use crate::connection::{Link, WeakLink};
use crate::engine::QueuePair;
use crate::handshake::{Session, initiate_session};
use crate::memory::Pool;
use crate::setup::{Kind, Setup};
#[cfg(feature = "verbs")]
use crate::verbs;
use crate::{
    ConnectError, Connection, ConnectionError, Endpoint, ListenError, Listener, OpenError, OperationError,
    Provider, shm, tcp,
};
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// How often outstanding operations are looked at; a timeout is late by at most this.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// Clones share the domain; it ends with the last of its clones, listeners and connections.
#[derive(Clone)]
pub struct Domain {
    shared: Arc<Shared>,
}

struct Shared {
    config: DomainConfig,
    /// Before the pool, whose registrations they hold.
    #[cfg(feature = "verbs")]
    devices: Option<Arc<verbs::Devices>>,
    pool: Pool,
    links: Mutex<Links>,
}

#[derive(Default)]
struct Links {
    all: Vec<WeakLink>,
    /// Connections that are being made.
    reserved: usize,
    watched: bool,
}

impl Domain {
    /// Registers the pool. Neither listens nor connects, and needs no runtime.
    pub fn open(mut config: DomainConfig) -> Result<Domain, OpenError> {
        if config.providers.is_empty() {
            return Err(OpenError::NoProvider);
        }
        config.providers.iter().try_for_each(|provider| provider.available())?;
        config.tunables = config.tunables.scaled();
        let pool = Pool::create(&format!("tenfour-{}", config.name), config.pool_bytes)
            .map_err(|source| OpenError::Memory { bytes: config.pool_bytes, source })?;
        let shared = Arc::new(Shared {
            #[cfg(feature = "verbs")]
            devices: devices(&config, &pool)?,
            config,
            pool,
            links: Mutex::default(),
        });
        let weak = Arc::downgrade(&shared);
        shared.pool.on_shortage(move || {
            let shared = weak.upgrade();
            let links =
                shared.map(|shared| shared.links.lock().all.iter().flat_map(WeakLink::upgrade).collect());
            let links: Vec<Link> = links.unwrap_or_default();
            links.iter().for_each(|link| link.want(u64::MAX));
        });
        Ok(Self { shared })
    }

    /// As [`Domain::open`]; when that fails, without the providers that are `optional`, which is logged.
    pub fn open_without(config: DomainConfig, optional: &[Provider]) -> Result<Domain, OpenError> {
        let mut rest = config.clone();
        rest.providers.retain(|provider| !optional.contains(provider));
        match Self::open(config) {
            Err(error) if !rest.providers.is_empty() => {
                tracing::warn!(%error, without = ?optional, "the fabric goes on without a provider");
                Self::open(rest)
            }
            opened => opened,
        }
    }

    /// The registered memory of this domain.
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// What carries its connections.
    pub fn providers(&self) -> &[Provider] {
        &self.shared.config.providers
    }

    /// Whether it can listen at, and connect to, endpoints of this provider.
    pub fn carries(&self, provider: Provider) -> bool {
        self.providers().contains(&provider)
    }

    /// Accepts connections there.
    pub async fn listen(&self, at: &Endpoint) -> Result<Listener, ListenError> {
        Listener::bind(self.clone(), at).await
    }

    /// Connects, proves the key, and waits for the peer's decision.
    pub async fn connect(&self, to: &Endpoint, options: ConnectOptions) -> Result<Connection, ConnectError> {
        if options.private_data.len() > PRIVATE_DATA_BYTES_MAX {
            return Err(ConnectError::PrivateDataTooLong);
        }
        if !self.carries(to.provider()) {
            return Err(ConnectError::WrongProvider { endpoint: to.provider() });
        }
        let connected = timeout(options.deadline.scaled(), async {
            match to {
                Endpoint::Shm(path) => shm::connect(self, path, options.private_data).await,
                Endpoint::Tcp(address) => tcp::connect(self, *address, options.private_data).await,
                #[cfg(feature = "verbs")]
                Endpoint::Verbs(address) => verbs::connect(self, *address, options.private_data).await,
                // No domain carries what its build lacks.
                #[cfg(not(feature = "verbs"))]
                Endpoint::Verbs(_) => Err(ConnectError::WrongProvider { endpoint: to.provider() }),
            }
        });
        connected.await.map_err(|_| ConnectError::Timeout)?
    }

    pub(crate) fn config(&self) -> &DomainConfig {
        &self.shared.config
    }

    pub(crate) async fn prove<S>(&self, stream: &mut S) -> Result<Session, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Ok(initiate_session(stream, &self.config().cluster_key, b"fabric").await?)
    }

    /// The RDMA devices of a domain that uses them.
    #[cfg(feature = "verbs")]
    pub(crate) fn devices(&self) -> std::io::Result<&verbs::Devices> {
        self.shared.devices.as_deref().ok_or_else(|| std::io::ErrorKind::Unsupported.into())
    }

    /// Our words of a set-up.
    pub(crate) fn setup(&self, kind: Kind, provider: Provider, private_data: Vec<u8>) -> Setup {
        Setup { kind, provider, private_data, pool_bytes: self.pool().capacity_bytes() as u64 }
    }

    /// A place among the connections of this domain; it goes back when it is dropped unused.
    pub(crate) fn reserve_connection(&self) -> Result<Place, ConnectError> {
        let mut links = self.shared.links.lock();
        if links.all.len() + links.reserved >= CONNECTIONS_MAX {
            links.all.retain(|link| link.upgrade().is_some());
        }
        if links.all.len() + links.reserved >= CONNECTIONS_MAX {
            return Err(ConnectError::TooMany);
        }
        links.reserved += 1;
        Ok(Place { domain: self.clone() })
    }

    /// The engine of a new connection, before its peer's words are known.
    pub(crate) fn blank_queue_pair(&self) -> QueuePair {
        let id = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
        QueuePair::new(id, self.pool().clone(), self.config().tunables.clone())
    }

    /// The engine of a new connection.
    pub(crate) fn queue_pair(&self, peer_private_data: Vec<u8>) -> QueuePair {
        let pair = self.blank_queue_pair();
        // A blank one has none yet.
        let _ = pair.peer_private_data.set(peer_private_data);
        pair
    }
}

/// Registers the pool with the machine's device.
#[cfg(feature = "verbs")]
fn devices(config: &DomainConfig, pool: &Pool) -> Result<Option<Arc<verbs::Devices>>, OpenError> {
    if !config.providers.contains(&Provider::Verbs) {
        return Ok(None);
    }
    let devices = verbs::Devices::open(pool, config.tunables.spin);
    devices.map(Some).map_err(|source| OpenError::Device { bytes: config.pool_bytes, source })
}

/// See [`Domain::reserve_connection`].
pub(crate) struct Place {
    domain: Domain,
}

impl Place {
    /// Takes a connection under the domain's watch.
    pub(crate) fn fill(self, link: Link) -> Connection {
        let shared = &self.domain.shared;
        let mut links = shared.links.lock();
        links.all.push(link.downgrade());
        if !std::mem::replace(&mut links.watched, true) {
            let every = WATCH_INTERVAL.min(shared.config.tunables.operation_timeout / 2);
            tokio::spawn(watch(Arc::downgrade(shared), every.max(Duration::from_millis(10))));
        }
        Connection::new(link, self.domain.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.domain.shared.links.lock().reserved -= 1;
    }
}

/// Fails connections whose peer does not execute operations any more; ends when there are none to watch.
async fn watch(shared: Weak<Shared>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut late = Vec::new();
        {
            let mut links = shared.links.lock();
            links.all.retain(|weak| {
                let Some(link) = weak.upgrade() else { return false };
                // Looks for completions that nobody has noticed yet, so that none of them counts as late.
                link.want(0);
                if link.pair().sends.oldest_age() > Some(shared.config.tunables.operation_timeout) {
                    late.push(link);
                }
                true
            });
            if links.all.is_empty() {
                links.watched = false;
                return;
            }
        }
        for link in late {
            let error = OperationError::RetryExceeded;
            link.fail(ConnectionError::Operation(error), error);
        }
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Domain({}, {:?}, {:?})", self.shared.config.name, self.providers(), self.pool())
    }
}
