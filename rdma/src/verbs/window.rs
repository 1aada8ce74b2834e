//! Grants on a device: a memory window of type 2, opened onto exactly the range, for one queue pair, with one right.
//!
//! A window is opened by a work request of the connection itself, so that a message posted later cannot arrive before it;
//! whoever tells a peer of a grant by other means gives it a moment. It is closed by giving it back to the device, which waits
//! until no access is in progress: that is what lets `Grant::seal` return memory that no peer can touch. `LOCAL_INV` would be
//! cheaper, and leaves open on Soft-RoCE whether a packet that is being placed has been placed (docs/adr/0003).
//!
//! Invariant: a window is not given back before its opening was executed, flushed or taken back, and its memory is nobody
//! else's before that.

use super::device::Narrowing;
use super::ffi::{Access, MemoryWindow, Region};
use super::host::HostRegistration;
use super::link::VerbsLink;
use crate::engine::grants::{ADDRESS_BASE, Key, Right};
use crate::memory::Host;
use crate::{ConnectionError, GrantError, OperationError};
use parking_lot::Mutex;
use rdma_sys::{ibv_access_flags, ibv_mr, ibv_mw};
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tenfour_types::Scaled;

/// How long `open` looks for its completion: longer than a device needs that has nothing else to do.
const OPENED_SOON: Duration = Duration::from_micros(50);
/// The same where the work is done by a kernel thread.
const OPENED_SOON_SOFTWARE: Duration = Duration::from_millis(5);
/// An opening that is not settled after so long costs the connection.
const SETTLE: Duration = Duration::from_secs(2);

/// A window that is being opened, or is open.
pub(super) struct Opening {
    pub(super) key: u32,
    pub(super) address: u64,
    pub(super) bytes: u32,
    right: Right,
    /// Until it is given back.
    window: Mutex<Option<MemoryWindow>>,
    region: RegionPointer,
    /// Executed, or flushed with its queue pair.
    settled: AtomicBool,
}

struct RegionPointer(*mut ibv_mr);

// SAFETY: only handed to the library, which may be called from every thread.
unsafe impl Send for RegionPointer {}
// SAFETY: as above.
unsafe impl Sync for RegionPointer {}

impl Opening {
    pub(super) fn window_pointer(&self) -> *mut ibv_mw {
        self.window.lock().as_ref().map_or(null_mut(), MemoryWindow::as_ptr)
    }

    pub(super) fn region_pointer(&self) -> *mut ibv_mr {
        self.region.0
    }

    pub(super) fn access(&self) -> u32 {
        match self.right {
            Right::Read => ibv_access_flags::IBV_ACCESS_REMOTE_READ.0,
            Right::Write => ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0,
        }
    }

    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }
}

/// What a device permits a peer. Dropping it ends the permission before it returns.
pub(crate) struct Window {
    link: Weak<VerbsLink>,
    opening: Option<Arc<Opening>>,
    /// Registered for this grant alone, where the device needs it; deregistered after the window is gone.
    region: Option<Region>,
    /// What the window is open onto, if the memory is not the pool's; after the window and before the memory.
    beneath: Option<Arc<HostRegistration>>,
    host: Option<Arc<Host>>,
}

impl VerbsLink {
    /// Permits the peer of this connection one kind of access to exactly this range, of the pool or of a host's memory.
    pub(crate) fn open_window(
        &self,
        address: u64,
        bytes: u32,
        right: Right,
        host: Option<Arc<Host>>,
    ) -> Result<Key, GrantError> {
        if self.pair.error().is_some() {
            return Err(GrantError::Disconnected);
        }
        if bytes == 0 {
            // There is nothing to touch; the device would refuse an empty window.
            return Ok(Key::Random);
        }
        let counted = host.clone();
        let key = self.try_open(address, bytes, right, host).map_err(|error| {
            tracing::warn!(%error, "the device permits no further grant");
            GrantError::NoResources
        })?;
        if let Some(host) = counted {
            host.counts().transfers(bytes as usize);
        }
        Ok(key)
    }

    fn try_open(&self, address: u64, bytes: u32, right: Right, host: Option<Arc<Host>>) -> io::Result<Key> {
        let device = &self.device;
        let mut window = Window { link: self.weak(), opening: None, region: None, beneath: None, host };
        let is_writable = window.host.as_ref().is_none_or(|host| host.is_writable());
        match (device.narrowing, &window.host) {
            (Narrowing::Window, None) => {}
            (Narrowing::Window, Some(host)) => window.beneath = Some(device.host_registration(host)?),
            (Narrowing::WindowOnRegion, _) => {
                let access = if is_writable { Access::LocalAndWindows } else { Access::LocalReadAndWindows };
                window.region = Some(self.register(&window, address, bytes, access)?);
            }
            (Narrowing::Region, _) => {
                let access = match right {
                    Right::Read if is_writable => Access::RemoteRead,
                    Right::Read => Access::RemoteReadOnly,
                    Right::Write => Access::RemoteWrite,
                };
                let region = self.register(&window, address, bytes, access)?;
                let key = u64::from(region.remote_key());
                window.region = Some(region);
                return Ok(Key::Device(key, window));
            }
        }
        let opened = MemoryWindow::allocate(&device.domain)?;
        let shared = window.beneath.as_ref().map_or(&device.region, |beneath| beneath.region());
        let beneath = window.region.as_ref().unwrap_or(shared).as_ptr();
        let opening = Arc::new(Opening {
            key: fresh_key(opened.key()),
            address,
            bytes,
            right,
            window: Mutex::new(Some(opened)),
            region: RegionPointer(beneath),
            settled: AtomicBool::new(false),
        });
        let key = u64::from(opening.key);
        window.opening = Some(opening.clone());
        self.post_opening(opening.clone());
        let soon = if device.is_software { OPENED_SOON_SOFTWARE } else { OPENED_SOON };
        self.await_settled(&opening, soon);
        Ok(Key::Device(key, window))
    }

    /// A registration of exactly this range, which `window` is about to hold with its memory.
    fn register(&self, window: &Window, address: u64, bytes: u32, access: Access) -> io::Result<Region> {
        let device = &self.device;
        let (base, begin) = match &window.host {
            None => (device.pool.mapping().base(), 0),
            Some(host) => (host.start(), host.offset()),
        };
        let memory = base.as_ptr().wrapping_add((address - ADDRESS_BASE) as usize - begin);
        // SAFETY: the range lies in the pool's mapping, which the device keeps, or in memory that the window keeps; grants and
        // windows end before it.
        unsafe { Region::register(&device.domain, memory, bytes as usize, address, access) }
    }

    /// Looks for the completion of an opening itself, so that no task of the runtime has to.
    fn await_settled(&self, opening: &Opening, at_most: Duration) {
        let started = Instant::now();
        while !opening.is_settled() && started.elapsed() < at_most {
            self.room.queue.poll_all();
            std::thread::yield_now();
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let Some(opening) = self.opening.take() else { return };
        if let Some(link) = self.link.upgrade()
            && !opening.is_settled()
            && !link.take_back(&opening)
        {
            link.await_settled(&opening, SETTLE.scaled());
            if !opening.is_settled() {
                // In the error state an opening is flushed, never executed: from then on the window can go.
                link.fail(ConnectionError::PeerGone, OperationError::RetryExceeded);
                link.queue_pair.fail();
                link.await_settled(&opening, SETTLE.scaled());
            }
            if !opening.is_settled() {
                // Somebody may be about to post it: leaked rather than freed under them.
                std::mem::forget((opening, self.region.take(), self.beneath.take(), self.host.take()));
                return;
            }
        }
        drop(opening.window.lock().take());
        // Deregistered after the window that was bound to it.
        drop(self.region.take());
    }
}

/// The last eight bits of a window's key are the user's to choose; they must differ from those that it has.
fn fresh_key(born: u32) -> u32 {
    let step = rand::random_range(1..=255u32);
    (born & !0xff) | (born.wrapping_add(step) & 0xff)
}
