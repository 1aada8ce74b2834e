//! Memory that somebody else owns, for the connections of a domain to work in: the buffers of a training job.
//!
//! Nothing of it is in the pool, and nothing is copied there. A [`HostRegion`] gives out the same [`Buffer`]s and [`Frozen`]s as the
//! pool does; they can be granted and posted like any other, over the providers that can reach them:
//!
//! | | `shm` | `tcp` | `verbs` |
//! |---|---|---|---|
//! | granted for writing, target of a READ | yes | yes | yes |
//! | granted for reading, source of a WRITE | no: a peer maps the pool and nothing else | yes | yes |
//!
//! A device gets to know it when it first needs it, once, in the protection domain of the pool and without a right for anybody else;
//! a peer gets at it by grants alone, as at the pool: exact range, one right, one connection.
//!
//! Invariant: the owner is dropped after the last buffer, operation, grant, window and registration that was made of its memory. So
//! a future that is dropped, or a caller that gives up, frees nothing under a transfer.
#![allow(unsafe_code)] // Memory is described by a pointer and a length here.

use super::buffer::{Buffer, Frozen};
use super::pool::{Pool, Shared};
#[cfg(feature = "verbs")]
use crate::verbs::Registrations;
#[cfg(feature = "verbs")]
use parking_lot::Mutex;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where it lies in the address space that peers see: behind every pool, and no real address. A peer tells one from another by the
/// key of its grant.
const OFFSET: usize = 1 << 45;
/// Devices want an address of theirs and the real one to lie alike in a page, huge ones included.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The owner of memory that a domain may work in for as long as the owner lives.
///
/// Dropping it gives the memory back. That happens on any thread, in the middle of a transfer's end: it must not wait for anything.
///
/// # Safety
///
/// - `bytes` bytes from `start` are mapped and initialised, and stay so until the owner is dropped; they can be written to if
///   `is_writable` says so. All three answers never change.
pub unsafe trait HostMemory: Send + Sync + 'static {
    /// The first byte.
    fn start(&self) -> NonNull<u8>;
    /// How many.
    fn bytes(&self) -> usize;
    /// Whether they can be written to.
    fn is_writable(&self) -> bool;
}

/// Memory of a [`HostMemory`] that a domain knows. Clones share it.
#[derive(Clone)]
pub struct HostRegion {
    host: Arc<Host>,
}

/// What buffers made of it hold.
pub(crate) struct Host {
    /// Before the memory.
    #[cfg(feature = "verbs")]
    pub(crate) registered: Mutex<Registrations>,
    /// Its domain's.
    pub(super) pool: Arc<Shared>,
    start: NonNull<u8>,
    bytes: usize,
    is_writable: bool,
    /// Goes last.
    _memory: Box<dyn HostMemory>,
}

// SAFETY: the pointer is the owner's, which is `Send` and `Sync`; who may touch which byte is decided by the owners of its parts.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

/// What a domain has done with memory that others own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostCounters {
    /// What it holds now, bytes.
    pub held_bytes: u64,
    /// Registrations with a device, since the domain was opened.
    pub registrations: u64,
    /// Grants to a device, and WRITEs of one: transfers in which no processor copied.
    pub device_transfers: u64,
    /// Their bytes.
    pub device_bytes: u64,
}

/// The same, as it is counted.
#[derive(Default)]
pub(crate) struct HostCounts {
    held_bytes: AtomicU64,
    registrations: AtomicU64,
    device_transfers: AtomicU64,
    device_bytes: AtomicU64,
}

#[cfg(feature = "verbs")]
impl HostCounts {
    pub(crate) fn registered(&self) {
        self.registrations.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn transfers(&self, bytes: usize) {
        self.device_transfers.fetch_add(1, Ordering::Relaxed);
        self.device_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Pool {
    /// Makes memory of somebody else usable for the connections of this pool's domain. Costs nothing yet.
    pub fn adopt(&self, memory: impl HostMemory) -> HostRegion {
        let (start, bytes, is_writable) = (memory.start(), memory.bytes(), memory.is_writable());
        let pool = self.shared().clone();
        pool.host.held_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let host = Host {
            #[cfg(feature = "verbs")]
            registered: Mutex::default(),
            pool,
            start,
            bytes,
            is_writable,
            _memory: Box::new(memory),
        };
        HostRegion { host: Arc::new(host) }
    }

    /// A buffer of memory that was allocated elsewhere. It is freed, and not kept by the pool, when its last owner is gone.
    pub fn adopt_bytes(&self, bytes: Box<[u8]>) -> Buffer {
        let count = bytes.len();
        let region = self.adopt(Boxed(NonNull::from(Box::leak(bytes))));
        // This is the only buffer of the region, whose memory was the box's alone.
        Buffer::of_host(region.host, 0, count, true)
    }

    /// What was done with memory of others.
    pub fn host_counters(&self) -> HostCounters {
        let counts = &self.shared().host;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        HostCounters {
            held_bytes: get(&counts.held_bytes),
            registrations: get(&counts.registrations),
            device_transfers: get(&counts.device_transfers),
            device_bytes: get(&counts.device_bytes),
        }
    }
}

impl HostRegion {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.host.bytes
    }

    /// Whether buffers can be made of it.
    pub fn is_writable(&self) -> bool {
        self.host.is_writable
    }

    /// Where it begins in this process.
    pub fn start(&self) -> NonNull<u8> {
        self.host.start
    }

    /// Whether a clone, a buffer, an operation or a grant of it exists.
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.host) > 1
    }

    /// A part of it for writing; `None` when it is not inside, or the memory is not writable.
    ///
    /// # Safety
    ///
    /// Until the buffer, and what it was turned into, is dropped nobody else touches these bytes. Where that cannot be kept from
    /// happening, what they then hold is anything; no decision about memory is ever made by them.
    pub unsafe fn buffer(&self, range: Range<usize>) -> Option<Buffer> {
        let bytes = self.part(&range).filter(|_| self.host.is_writable)?;
        Some(Buffer::of_host(self.host.clone(), range.start, bytes, true))
    }

    /// A part of it for reading; `None` when it is not inside.
    ///
    /// # Safety
    ///
    /// As of [`HostRegion::buffer`]: until all of it is dropped nobody writes to these bytes.
    pub unsafe fn frozen(&self, range: Range<usize>) -> Option<Frozen> {
        let bytes = self.part(&range)?;
        Some(Buffer::of_host(self.host.clone(), range.start, bytes, false).freeze())
    }

    fn part(&self, range: &Range<usize>) -> Option<usize> {
        range.end.checked_sub(range.start).filter(|_| range.end <= self.host.bytes)
    }
}

impl fmt::Debug for HostRegion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "HostRegion({} bytes)", self.host.bytes)
    }
}

impl Host {
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Where it begins, as a pool's parts begin somewhere in their pool.
    pub(crate) fn offset(&self) -> usize {
        OFFSET + self.start.as_ptr() as usize % HUGE_PAGE_BYTES
    }

    #[cfg(feature = "verbs")]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(feature = "verbs")]
    pub(crate) fn is_writable(&self) -> bool {
        self.is_writable
    }

    #[cfg(feature = "verbs")]
    pub(crate) fn counts(&self) -> &HostCounts {
        &self.pool.host
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.pool.host.held_bytes.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

/// A box that was leaked, until it is dropped here.
struct Boxed(NonNull<[u8]>);

// SAFETY: it owns its bytes as the box did.
unsafe impl Send for Boxed {}
// SAFETY: as above; it gives out nothing but the address.
unsafe impl Sync for Boxed {}

// SAFETY: the bytes of a box, initialised and writable, mapped until it is dropped.
unsafe impl HostMemory for Boxed {
    fn start(&self) -> NonNull<u8> {
        self.0.cast()
    }

    fn bytes(&self) -> usize {
        self.0.len()
    }

    fn is_writable(&self) -> bool {
        true
    }
}

impl Drop for Boxed {
    fn drop(&mut self) {
        // SAFETY: leaked from a box when this was made, and given back once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Says when it is dropped.
    struct Told {
        bytes: Boxed,
        is_writable: bool,
        gone: Arc<AtomicBool>,
    }

    // SAFETY: as of the box.
    unsafe impl HostMemory for Told {
        fn start(&self) -> NonNull<u8> {
            self.bytes.start()
        }

        fn bytes(&self) -> usize {
            self.bytes.bytes()
        }

        fn is_writable(&self) -> bool {
            self.is_writable
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            self.gone.store(true, Ordering::Release);
        }
    }

    fn told(is_writable: bool) -> (Told, Arc<AtomicBool>) {
        let gone = Arc::new(AtomicBool::new(false));
        let bytes = Boxed(NonNull::from(Box::leak(vec![3u8; 100].into_boxed_slice())));
        (Told { bytes, is_writable, gone: gone.clone() }, gone)
    }

    #[test]
    fn the_owner_goes_with_the_last_part() {
        let pool = Pool::create("test", 4096).unwrap();
        let (memory, gone) = told(true);
        let region = pool.adopt(memory);
        // SAFETY: nobody else touches the memory.
        let mut buffer = unsafe { region.buffer(10..30) }.unwrap();
        assert!(region.is_in_use() && pool.host_counters().held_bytes == 100);
        drop(region);
        buffer.fill(7);
        let frozen = buffer.freeze();
        let part = frozen.slice(5..20).unwrap();
        drop(frozen);
        assert_eq!(&part[..], &[7; 15]);
        assert!(!gone.load(Ordering::Acquire));
        let back = part.try_unfreeze().unwrap();
        assert_eq!(back.len(), 20);
        drop(back);
        assert!(gone.load(Ordering::Acquire) && pool.host_counters().held_bytes == 0);
        assert_eq!(pool.free_bytes(), pool.capacity_bytes());
    }

    #[test]
    fn what_may_only_be_read_cannot_be_written() {
        let pool = Pool::create("test", 4096).unwrap();
        let (memory, _) = told(false);
        let region = pool.adopt(memory);
        // SAFETY: nobody else touches the memory.
        unsafe {
            assert!(region.buffer(0..1).is_none());
            assert!(
                region.frozen(90..101).is_none()
                    && region.frozen(std::ops::Range { start: 9, end: 8 }).is_none()
            );
            let frozen = region.frozen(0..100).unwrap();
            assert_eq!(&frozen[..], &[3; 100]);
            assert!(frozen.try_unfreeze().is_err());
        }
    }

    #[test]
    fn bytes_of_a_box_are_a_buffer_and_of_the_domain() {
        let (pool, other) = (Pool::create("test", 4096).unwrap(), Pool::create("other", 4096).unwrap());
        let buffer = pool.adopt_bytes(Box::from(*b"hello"));
        assert_eq!(&buffer[..], b"hello");
        assert!(pool.owns(&buffer) && !other.owns(&buffer));
        assert!(pool.adopt_bytes(Box::default()).is_empty());
    }
}
