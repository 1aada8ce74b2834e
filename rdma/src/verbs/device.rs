//! The devices that a domain has come to use: a protection domain of its own on each, its pool registered there once, and the
//! memory that messages travel in.
//!
//! Devices are found by the address that is listened at or connected to; a machine with one device registers the pool when
//! the domain is opened, any other when a device is first used. Each device gives its own keys.
//!
//! Invariant: the pool's registration on its own lets no peer in; only grants do (`window`).

use super::completion::Core;
use super::ffi::{Access, Context, ProtectionDomain, Region, device_names};
use super::link::VerbsLink;
use super::message::SLOT_BYTES;
use crate::Unavailable;
use crate::engine::grants::ADDRESS_BASE;
use crate::memory::{Mapping, PAGE_BYTES, Pool};
use parking_lot::{Mutex, RwLock};
use rdma_sys::{ibv_device_cap_flags, rdma_free_devices, rdma_get_devices};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Slots of one connection: its receives, then its staged sends.
pub(super) const RECEIVE_SLOTS: usize = 72;
pub(super) const SEND_SLOTS: usize = 24;
const CONNECTION_BYTES: usize = ((RECEIVE_SLOTS + SEND_SLOTS) * SLOT_BYTES).next_multiple_of(PAGE_BYTES);
/// Message memory is registered for so many connections at a time.
const CONNECTIONS_A_CHUNK: usize = 8;
/// Outstanding READs of one connection, each way, at most.
const READS_MAX: i32 = 16;
pub(super) const SYSFS: &str = "/sys/class/infiniband";

/// Whether this machine has a device at all; else the reason, in one line.
pub(crate) fn available() -> Result<(), Unavailable> {
    match device_names() {
        Ok(names) if !names.is_empty() => Ok(()),
        Ok(_) => Err(Unavailable::new("this machine has no RDMA device")),
        Err(error) => Err(Unavailable::new(format!("this machine has no RDMA device: {error}"))),
    }
}

/// How a grant is made so narrow that a peer can touch exactly its range, over one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Narrowing {
    /// A window onto the pool's registration: the device holds peers to the window's bounds.
    Window,
    /// A window onto a registration of exactly the range. Soft-RoCE looks at a window's key, right and queue pair, but
    /// then at the bounds of the registration beneath it.
    WindowOnRegion,
    /// A registration of exactly the range, open to every queue pair of the domain: devices without windows.
    Region,
}

/// What a domain knows of devices.
pub(crate) struct Devices {
    pool: Pool,
    spin: Duration,
    opened: Mutex<Vec<Arc<Device>>>,
}

impl Devices {
    /// Registers the pool at once when there is exactly one device.
    pub(crate) fn open(pool: &Pool, spin: Duration) -> io::Result<Arc<Self>> {
        let this = Arc::new(Self { pool: pool.clone(), spin, opened: Mutex::default() });
        if let [only] = contexts()?[..] {
            this.device(only)?;
        }
        Ok(this)
    }

    /// The device of a connection's id.
    pub(super) fn device(&self, context: Context) -> io::Result<Arc<Device>> {
        let mut opened = self.opened.lock();
        if let Some(device) = opened.iter().find(|device| device.context == context) {
            return Ok(device.clone());
        }
        let device = Device::open(context, self.pool.clone(), self.spin)?;
        opened.push(device.clone());
        Ok(device)
    }
}

/// Contexts of all devices that connection management can use.
pub(super) fn contexts() -> io::Result<Vec<Context>> {
    let mut count = 0;
    // SAFETY: the list is read up to its count and freed once; the contexts in it stay open for ever.
    unsafe {
        let list = NonNull::new(rdma_get_devices(&raw mut count)).ok_or_else(io::Error::last_os_error)?;
        let found =
            (0..count as usize).filter_map(|i| NonNull::new(*list.as_ptr().add(i)).map(Context)).collect();
        rdma_free_devices(list.as_ptr());
        Ok(found)
    }
}

/// The NUMA node that a device is plugged into, where there are several.
fn numa_node(device: &str) -> Option<usize> {
    let node = std::fs::read_to_string(Path::new(SYSFS).join(device).join("device/numa_node")).ok()?;
    // -1: there is only one.
    node.trim().parse().ok()
}

/// One device as one domain uses it. Fields that hold what was made of others come first.
pub(super) struct Device {
    pub(super) context: Context,
    pub(super) cores: Vec<Arc<Core>>,
    pub(super) region: Region,
    messages: Mutex<Messages>,
    pub(super) domain: Arc<ProtectionDomain>,
    pub(super) narrowing: Narrowing,
    /// Sends are executed by the thread that posts them.
    pub(super) is_software: bool,
    /// READs of one connection that may be outstanding, each way.
    pub(super) reads: u8,
    pub(super) links: Arc<Links>,
    next_core: AtomicU32,
    pub(super) pool: Pool,
}

impl Device {
    fn open(context: Context, pool: Pool, spin: Duration) -> io::Result<Arc<Self>> {
        let attributes = context.attributes()?;
        let is_software = !Path::new(SYSFS).join(context.name()).join("device").exists();
        let windows = ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2A
            | ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B;
        let narrowing = match attributes.device_cap_flags & windows.0 != 0 {
            false => Narrowing::Region,
            true if is_software => Narrowing::WindowOnRegion,
            true => Narrowing::Window,
        };
        if let Some(node) = numa_node(&context.name()) {
            pool.mapping().prefer_node(node);
        }
        let domain = Arc::new(ProtectionDomain::allocate(context)?);
        let memory = pool.mapping().base().as_ptr();
        // SAFETY: the pool's mapping outlives the region: `pool` is dropped after `region`.
        let region = unsafe {
            Region::register(&domain, memory, pool.capacity_bytes(), ADDRESS_BASE, Access::LocalAndWindows)?
        };
        let links = Arc::new(Links::default());
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let cores = (0..cores.min(context.vectors().max(2)))
            .map(|vector| {
                let vector = vector % context.vectors();
                Core::create(context, vector, attributes.max_cqe.max(1) as u32, links.clone(), spin)
            })
            .collect::<io::Result<Vec<_>>>()?;
        tracing::info!(device = context.name(), ?narrowing, is_software, "RDMA device in use");
        Ok(Arc::new(Self {
            context,
            cores,
            region,
            messages: Mutex::default(),
            domain,
            narrowing,
            is_software,
            reads: attributes.max_qp_rd_atom.min(attributes.max_qp_init_rd_atom).clamp(1, READS_MAX) as u8,
            links,
            next_core: AtomicU32::new(0),
            pool,
        }))
    }

    /// The core whose turn it is to get a connection.
    pub(super) fn next_core(&self) -> Option<&Arc<Core>> {
        let turn = self.next_core.fetch_add(1, Ordering::Relaxed) as usize;
        self.cores.get(turn % self.cores.len().max(1))
    }

    /// Message memory for one connection.
    pub(super) fn slots(self: &Arc<Self>) -> io::Result<Slots> {
        let mut messages = self.messages.lock();
        if messages.free.is_empty() {
            let chunk = Arc::new(Chunk::register(&self.domain)?);
            messages.free.extend((0..CONNECTIONS_A_CHUNK).map(|place| (chunk.clone(), place)));
        }
        let (chunk, place) = messages.free.pop().ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Slots { device: self.clone(), chunk, place })
    }
}

/// Connections of a device by the number in their work requests' ids.
#[derive(Default)]
pub(super) struct Links {
    by_number: RwLock<HashMap<u32, Weak<VerbsLink>>>,
    next: AtomicU32,
}

impl Links {
    /// A number that no other connection has.
    pub(super) fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn insert(&self, number: u32, link: Weak<VerbsLink>) {
        self.by_number.write().insert(number, link);
    }

    pub(super) fn remove(&self, number: u32) {
        self.by_number.write().remove(&number);
    }

    pub(super) fn get(&self, number: u32) -> Option<Arc<VerbsLink>> {
        self.by_number.read().get(&number).and_then(Weak::upgrade)
    }
}

#[derive(Default)]
struct Messages {
    free: Vec<(Arc<Chunk>, usize)>,
}

/// Registered memory for the messages of several connections.
struct Chunk {
    region: Region,
    /// After `region`, which is deregistered first.
    memory: Mapping,
}

impl Chunk {
    fn register(domain: &Arc<ProtectionDomain>) -> io::Result<Self> {
        let memory = Mapping::create("tenfour-messages", CONNECTIONS_A_CHUNK * CONNECTION_BYTES)?;
        let base = memory.base().as_ptr();
        // SAFETY: the mapping outlives the region by the order of the fields.
        let region =
            unsafe { Region::register(domain, base, memory.bytes(), base as u64, Access::LocalAndWindows)? };
        Ok(Self { region, memory })
    }
}

/// The message memory of one connection; returns to its device.
pub(super) struct Slots {
    device: Arc<Device>,
    chunk: Arc<Chunk>,
    place: usize,
}

impl Slots {
    pub(super) fn local_key(&self) -> u32 {
        self.chunk.region.local_key()
    }

    /// Where a slot begins: receives first, then staged sends.
    pub(super) fn address(&self, slot: usize) -> u64 {
        debug_assert!(slot < RECEIVE_SLOTS + SEND_SLOTS);
        self.chunk.memory.base().as_ptr() as u64 + (self.place * CONNECTION_BYTES + slot * SLOT_BYTES) as u64
    }

    /// What the device has put into a slot.
    ///
    /// # Safety
    /// The device does not touch the slot while the bytes are looked at: its receive has completed and was not posted again.
    pub(super) unsafe fn received(&self, slot: usize, bytes: usize) -> &[u8] {
        // SAFETY: inside the chunk's mapping, initialised (a memfd is born zeroed); the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts(self.address(slot) as *const u8, bytes.min(SLOT_BYTES)) }
    }

    /// Fills a slot.
    ///
    /// # Safety
    /// The slot is the caller's: no work request that uses it is outstanding.
    pub(super) unsafe fn fill(&self, slot: usize, parts: [&[u8]; 2]) -> usize {
        let mut at = self.address(slot) as *mut u8;
        let mut filled = 0;
        for part in parts {
            let bytes = part.len().min(SLOT_BYTES - filled);
            // SAFETY: inside the slot, which is the caller's; the source is ordinary memory elsewhere.
            unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), at, bytes);
                at = at.add(bytes);
            }
            filled += bytes;
        }
        filled
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.device.messages.lock().free.push((self.chunk.clone(), self.place));
    }
}
