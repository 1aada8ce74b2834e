//! Registered memory of clients from outside: one pool for all of them, but a pool of its own for each on `shm`.
//!
//! Over `tcp` and `verbs` a client reaches what it was granted and nothing else. Over `shm` it maps the whole pool and can look at all
//! of it, so nothing in it may be anybody else's. Together they never exceed the budget: half is for `shm`, if both are served.
//!
//! **Nobody waits for memory while holding some** of it that does not come back by itself: whoever holds memory finishes. A user has
//! at most half of the shared pool.

use super::RdmaConfig;
use std::sync::Arc;
use std::time::Duration;
use tenfour_rdma::{Buffer, ClusterKey, Domain, DomainConfig, OpenError, Pool, Provider};
use tenfour_types::Scaled;
use tenfour_types::native::OPEN_DOOR_KEY_IS_PUBLIC;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// A request waits so long for memory before it is refused.
const WAIT: Duration = Duration::from_secs(15);
/// What memory of a user is counted in, bytes.
const UNIT_BYTES: usize = 4096;
/// How often the memory of a client that has gone is looked at, until it let go of all of it.
const LINGER_LOOK: Duration = Duration::from_millis(100);

/// No memory came in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted;

/// The memory of a door.
pub(super) struct Memory {
    /// Where it listens, and the memory of clients that share one.
    pub(super) shared: Domain,
    own_bytes: usize,
    own_max: usize,
    own: Arc<Semaphore>,
    config: DomainConfig,
}

impl Memory {
    pub(super) fn open(config: &RdmaConfig) -> Result<Self, OpenError> {
        let mut providers: Vec<Provider> = Vec::new();
        for provider in config.listen.iter().map(|at| at.endpoint.provider()) {
            if !providers.contains(&provider) {
                providers.push(provider);
            }
        }
        let is_optional = |provider: &Provider| {
            let mut places = config.listen.iter().filter(|at| at.endpoint.provider() == *provider);
            places.all(|at| !at.required)
        };
        let optional: Vec<Provider> = providers.iter().copied().filter(is_optional).collect();
        let serves_shm = providers.contains(&Provider::Shm);
        let shared_bytes = match (serves_shm, providers.len()) {
            (true, 1) => 0,
            (true, _) => config.memory_bytes / 2,
            (false, _) => config.memory_bytes,
        };
        let own_max =
            if serves_shm { (config.memory_bytes - shared_bytes) / config.shm_client_bytes } else { 0 };
        let key = ClusterKey::from_bytes(OPEN_DOOR_KEY_IS_PUBLIC);
        let mut shared = DomainConfig::carrying(providers, "door", key.clone(), shared_bytes.max(UNIT_BYTES));
        shared.tunables = config.tunables.clone();
        let mut own = DomainConfig::new(Provider::Shm, "client", key, config.shm_client_bytes);
        own.tunables = config.tunables.clone();
        Ok(Self {
            shared: Domain::open_without(shared, &optional)?,
            own_bytes: config.shm_client_bytes,
            own_max,
            own: Arc::new(Semaphore::new(own_max)),
            config: own,
        })
    }

    /// Memory for one more client; `None` when the budget is spent.
    pub(super) fn room(&self, provider: Provider) -> Option<Room> {
        if provider != Provider::Shm {
            return Some(Room { domain: self.shared.clone(), own: None });
        }
        let permit = self.own.clone().try_acquire_owned().ok()?;
        let domain = Domain::open(self.config.clone());
        let domain = domain.inspect_err(|error| tracing::warn!(%error, "no memory for a client")).ok()?;
        Some(Room { domain, own: Some(permit) })
    }

    /// What clients hold, bytes.
    pub(super) fn used_bytes(&self) -> usize {
        let shared = self.shared.pool();
        let own = self.own_max - self.own.available_permits();
        shared.capacity_bytes() - shared.free_bytes() + own * self.own_bytes
    }
}

/// The memory of one client.
pub(super) struct Room {
    pub(super) domain: Domain,
    /// A pool of its own.
    own: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn pool(&self) -> &Pool {
        self.domain.pool()
    }
}

impl Drop for Room {
    /// A pool of its own counts until its last byte was let go: a client that is gone without a word may still be reading.
    fn drop(&mut self) {
        let Some(permit) = self.own.take() else { return };
        let pool = self.domain.pool().clone();
        if pool.free_bytes() == pool.capacity_bytes() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                while pool.free_bytes() < pool.capacity_bytes() {
                    sleep(LINGER_LOOK).await;
                }
                drop(permit);
            });
        }
    }
}

/// Lends the memory of a client's room to its requests.
#[derive(Clone)]
pub(super) struct Lender {
    pool: Pool,
    share: Option<Arc<Semaphore>>,
}

/// A user's part of the memory; `None` where it is the client's own.
pub(super) type Permit = Option<OwnedSemaphorePermit>;

/// Units of a pool that one user may have.
pub(super) fn share_of(pool: &Pool) -> usize {
    (pool.capacity_bytes() / UNIT_BYTES / 2).max(1)
}

impl Lender {
    /// `share` is what the user may have of memory that others need too.
    pub(super) fn new(pool: Pool, share: Option<Arc<Semaphore>>) -> Self {
        Self { pool, share }
    }

    /// A buffer, when its turn comes. The caller holds none that others wait for.
    pub(super) async fn lease(&self, bytes: usize) -> Result<(Buffer, Permit), Exhausted> {
        let leasing = async {
            let permit = match self.share.clone() {
                Some(share) => Some(share.acquire_many_owned(units(bytes)).await.map_err(|_| Exhausted)?),
                None => None,
            };
            let buffer = self.pool.lease(bytes).await.map_err(|_| Exhausted)?;
            Ok((buffer, permit))
        };
        timeout(WAIT.scaled(), leasing).await.map_err(|_| Exhausted)?
    }

    /// The same, if there is so much now and nobody waits.
    pub(super) fn try_lease(&self, bytes: usize) -> Option<(Buffer, Permit)> {
        let permit = match self.share.clone() {
            Some(share) => Some(share.try_acquire_many_owned(units(bytes)).ok()?),
            None => None,
        };
        Some((self.pool.try_lease(bytes)?, permit))
    }

    /// Memory for a slot, which a client keeps as long as it stays: only while there is plenty.
    pub(super) fn try_slot(&self, bytes: usize) -> Option<Buffer> {
        let plenty = self.pool.free_bytes() > self.pool.capacity_bytes() / 2;
        plenty.then(|| self.pool.try_lease(bytes)).flatten()
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}
