//! What `crate::foreign` promises, on a device.
//!
//! A domain is one device, one protection domain and one pool, which is registered there for our own operations only. Each queue pair has a
//! completion queue of its own, so that none can starve another; they ring one channel, which a task waits on ([`link`] handles what
//! comes). [`port`] says which GID a queue pair speaks from, [`pair`] brings it up.
//!
//! Invariant: whatever the device could still touch is alive: a queue pair goes before what its operations hold, and before its
//! completion queue and its protection domain. What cannot be taken from the device is leaked rather than freed.

mod link;
mod pair;
mod port;

use super::completion::Ringing;
use super::device::{SYSFS, contexts};
use super::ffi::{Access, CompletionChannel, CompletionQueue, Context, ProtectionDomain, Region};
use crate::engine::grants::ADDRESS_BASE;
use crate::foreign::{Admits, Arrival, ForeignConfig, ForeignError, PairAddress, Place};
use crate::memory::Pool;
use crate::{Buffer, Frozen, OpenError, OperationError, Provider};
use link::{Held, Link, Waiting};
use pair::{HandmadePair, RECEIVES, SENDS};
use parking_lot::{Mutex, RwLock};
use port::Port;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// One device with a pool, for queue pairs that are connected by hand. Clones share it.
#[derive(Clone)]
pub struct ForeignDomain(Arc<Shared>);

/// Fields that hold what was made of others come first.
pub(super) struct Shared {
    context: Context,
    port: Port,
    region: Region,
    domain: Arc<ProtectionDomain>,
    links: RwLock<HashMap<usize, Weak<Link>>>,
    next: AtomicUsize,
    task: Mutex<Option<JoinHandle<()>>>,
    channel: Arc<CompletionChannel>,
    /// Sends are executed by the thread that posts them.
    is_software: bool,
    operation_timeout: Duration,
    pool: Pool,
}

impl ForeignDomain {
    /// Finds the device, and registers the pool with it.
    pub fn open(config: ForeignConfig) -> Result<Self, OpenError> {
        Provider::Verbs.available()?;
        let bytes = config.pool_bytes;
        let failed = |source| OpenError::Device { bytes, source };
        let (context, port) = device(&config).map_err(failed)?;
        let pool = Pool::create(&format!("tenfour-{}", config.name), bytes)
            .map_err(|source| OpenError::Memory { bytes, source })?;
        let domain = Arc::new(ProtectionDomain::allocate(context).map_err(failed)?);
        let memory = pool.mapping().base().as_ptr();
        // SAFETY: the pool's mapping outlives the region by the order of the fields.
        let region =
            unsafe { Region::register(&domain, memory, pool.capacity_bytes(), ADDRESS_BASE, Access::Local) };
        let channel = Arc::new(CompletionChannel::create(context).map_err(failed)?);
        let is_software = !Path::new(SYSFS).join(context.name()).join("device").exists();
        tracing::info!(device = context.name(), ?port, is_software, "RDMA device in use for foreign ends");
        Ok(Self(Arc::new(Shared {
            context,
            port,
            region: region.map_err(failed)?,
            domain,
            links: RwLock::default(),
            next: AtomicUsize::new(1),
            task: Mutex::default(),
            channel,
            is_software,
            operation_timeout: config.tunables.operation_timeout.scaled(),
            pool,
        })))
    }

    /// Its memory.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// A queue pair that is not connected yet, of an end that speaks to a GID like `peer`'s where that is known. Needs a runtime.
    pub fn queue_pair(&self, admits: Admits, peer: Option<&[u8; 16]>) -> Result<ForeignPair, ForeignError> {
        let shared = &self.0;
        shared.ensure_task().map_err(ForeignError::Device)?;
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let made = || {
            let gid = shared.port.gid_for(peer).ok_or(io::ErrorKind::AddrNotAvailable)?;
            let domain = match admits {
                Admits::WritesOnly => Arc::new(ProtectionDomain::allocate(shared.context)?),
                Admits::Nothing | Admits::Everything => shared.domain.clone(),
            };
            let queue =
                CompletionQueue::create(shared.context, SENDS + RECEIVES, &shared.channel, number, 0)?;
            queue.arm()?;
            let pair = HandmadePair::create(&domain, &queue, &shared.port, admits)?;
            io::Result::Ok(Arc::new(Link::new(number, shared.clone(), (pair, queue, domain), gid)))
        };
        let link = made().map_err(ForeignError::Device)?;
        shared.links.write().insert(number, Arc::downgrade(&link));
        Ok(ForeignPair(Arc::new(Owner(link))))
    }
}

impl fmt::Debug for ForeignDomain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ForeignDomain({}, {:?})", self.0.context.name(), self.0.pool)
    }
}

/// The device that has the address, or the first that serves.
fn device(config: &ForeignConfig) -> io::Result<(Context, Port)> {
    for context in contexts()? {
        if let Some(port) = Port::find(context, config.address)? {
            return Ok((context, port));
        }
    }
    Err(io::Error::other(match config.address {
        Some(address) => format!("no active RDMA device has the address {address}"),
        None => "no RDMA device of this machine has an active port with an address".to_owned(),
    }))
}

impl Shared {
    /// Starts the task that handles completions, anew if the runtime that had it is gone.
    fn ensure_task(self: &Arc<Self>) -> io::Result<()> {
        let mut task = self.task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            // SAFETY: the descriptor is open for as long as the channel, which the result owns a share of.
            let ringing = unsafe { AsyncFd::register(Ringing(self.channel.clone()))? };
            *task = Some(tokio::spawn(run(Arc::downgrade(self), ringing)));
        }
        Ok(())
    }

    fn forget(&self, number: usize) {
        self.links.write().remove(&number);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

async fn run(shared: Weak<Shared>, ringing: AsyncFd<Ringing>) {
    loop {
        let Ok(mut ready) = ringing.readable().await else { return };
        let Some(number) = ringing.get_ref().0.take() else {
            ready.clear_ready();
            continue;
        };
        let Some(shared) = shared.upgrade() else { return };
        let link = shared.links.read().get(&number).and_then(Weak::upgrade);
        if let Some(link) = link {
            link.rung();
        }
        tokio::task::yield_now().await;
    }
}

/// The last handle of a queue pair ends it.
struct Owner(Arc<Link>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.fail(None, OperationError::Flushed);
    }
}

/// One queue pair, connected by hand. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct ForeignPair(Arc<Owner>);

impl ForeignPair {
    fn link(&self) -> &Arc<Link> {
        &self.0.0
    }

    /// This end, for the other to connect to.
    pub fn local(&self) -> PairAddress {
        self.link().local()
    }

    /// Connects it, once. The other end need not be ready yet: what is sent too early is sent again.
    pub async fn connect(&self, peer: PairAddress) -> Result<(), ForeignError> {
        let link = self.link().clone();
        // The kernel may have to ask the network where the other end is.
        let connected = tokio::task::spawn_blocking(move || link.connect(&peer));
        connected.await.map_err(|_| ForeignError::State)?
    }

    /// Posts a READ of so many bytes from the other end's memory to the beginning of a buffer.
    pub async fn post_read(
        &self,
        into: Buffer,
        bytes: usize,
        from: Place,
    ) -> Result<ForeignCompletion<Buffer>, OperationError> {
        let (told, outcome) = tokio::sync::oneshot::channel();
        self.link().post(Held::Buffer(into), Waiting::Buffer(told), bytes, from, None).await?;
        Ok(ForeignCompletion { outcome, pair: self.clone() })
    }

    /// Posts a WRITE into the other end's memory, which also tells it `immediate` if there is one.
    pub async fn post_write(
        &self,
        source: Frozen,
        to: Place,
        immediate: Option<u32>,
    ) -> Result<ForeignCompletion<()>, OperationError> {
        let (told, outcome) = tokio::sync::oneshot::channel();
        let bytes = source.len();
        self.link().post(Held::Frozen(source), Waiting::Unit(told), bytes, to, immediate).await?;
        Ok(ForeignCompletion { outcome, pair: self.clone() })
    }

    /// Readies one receive: one WRITE of the other end with immediate data can arrive.
    pub fn post_receive(&self) -> Result<(), OperationError> {
        self.link().post_receive()
    }

    /// The next WRITE with immediate data that has arrived.
    pub async fn arrival(&self) -> Result<Arrival, OperationError> {
        self.link().arrival().await
    }

    /// Lets the other end write to exactly these bytes, until the result ends. Of a queue pair that admits writes.
    pub fn expose_to_write(&self, memory: Buffer) -> Result<Exposed<Buffer>, ForeignError> {
        let (offset, bytes) = (memory.pool_offset(), memory.len());
        if !self.link().pool().owns(&memory) {
            return Err(ForeignError::OtherDomain);
        }
        self.expose(memory, offset, bytes, Access::RemoteWrite)
    }

    /// Lets the other end read exactly these bytes, until the result ends. Of a queue pair that admits everything.
    pub fn expose_to_read(&self, memory: Frozen) -> Result<Exposed<Frozen>, ForeignError> {
        let (offset, bytes) = (memory.pool_offset(), memory.len());
        if !self.link().pool().owns_frozen(&memory) {
            return Err(ForeignError::OtherDomain);
        }
        self.expose(memory, offset, bytes, Access::RemoteRead)
    }

    fn expose<M>(
        &self,
        memory: M,
        offset: usize,
        bytes: usize,
        access: Access,
    ) -> Result<Exposed<M>, ForeignError> {
        let region = self.link().register(offset, bytes, access).map_err(ForeignError::Device)?;
        let place = Place { address: ADDRESS_BASE + offset as u64, key: region.remote_key() };
        Ok(Exposed { region: Some(region), memory: Some(memory), place, pair: self.clone() })
    }

    /// Whether nothing can be moved over it any more.
    pub fn is_broken(&self) -> bool {
        self.link().is_broken()
    }

    /// Ends it: what is outstanding is flushed. When it returns, nothing is moved any more.
    pub fn close(&self) {
        self.link().fail(None, OperationError::Flushed);
    }
}

impl fmt::Debug for ForeignPair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ForeignPair({})", self.local().number)
    }
}

/// Memory that one other end may reach, as long as this lives.
pub struct Exposed<M> {
    /// Goes before the memory does.
    region: Option<Region>,
    memory: Option<M>,
    place: Place,
    pair: ForeignPair,
}

impl<M> Exposed<M> {
    /// Where it is, for the other end.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Takes the memory back. When it returns, the other end can neither read nor write it; `None` when the device did not let go of it,
    /// which costs the connection, and the memory.
    pub fn end(mut self) -> Option<M> {
        if self.withdraw() { self.memory.take() } else { None }
    }

    fn withdraw(&mut self) -> bool {
        let Some(region) = self.region.take() else { return true };
        let Err((region, error)) = region.deregister() else { return true };
        tracing::warn!(%error, "memory that is exposed is still in use: its queue pair ends");
        self.pair.close();
        match region.deregister() {
            Ok(()) => true,
            Err((region, error)) => {
                tracing::error!(%error, "memory is leaked: the device does not let go of it");
                std::mem::forget((region, self.memory.take()));
                false
            }
        }
    }
}

impl<M> Drop for Exposed<M> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl<M> fmt::Debug for Exposed<M> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Exposed({:?})", self.place)
    }
}

/// What becomes of a posted operation. Dropping it stops nothing.
pub struct ForeignCompletion<T> {
    outcome: tokio::sync::oneshot::Receiver<Result<T, OperationError>>,
    pair: ForeignPair,
}

impl<T> ForeignCompletion<T> {
    /// Waits until the device says that it is done. An operation that takes too long ends its queue pair.
    pub async fn done(mut self) -> Result<T, OperationError> {
        let link = self.pair.link();
        let within = link.operation_timeout();
        match timeout(within, &mut self.outcome).await {
            Ok(outcome) => outcome.unwrap_or(Err(OperationError::Flushed)),
            Err(_) => {
                link.fail(None, OperationError::RetryExceeded);
                Err(OperationError::RetryExceeded)
            }
        }
    }
}

impl<T> fmt::Debug for ForeignCompletion<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ForeignCompletion({:?})", self.pair)
    }
}
