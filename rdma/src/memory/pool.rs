//! One registered region, leased in order of arrival.
//!
//! Fair on purpose: a large lease that waits is served before any smaller one that came later, so that nobody starves.
//!
//! Invariant: while someone waits, nobody who came later gets memory.

use super::allocator::Allocator;
use super::host::HostCounts;
use super::{Buffer, Frozen, Mapping, PAGE_BYTES};
use crate::LeaseError;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::oneshot;

/// Leases of one pool that may wait.
const WAITERS_MAX: usize = 65_536;

/// One big registered region, handed out in buffers that begin on a 4 KiB boundary. Clones share it.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    pub(crate) fn create(name: &str, bytes: usize) -> io::Result<Self> {
        let pages = bytes.div_ceil(PAGE_BYTES).max(1);
        let count = u32::try_from(pages).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = pages.checked_mul(PAGE_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        let mapping = Mapping::create(name, bytes)?;
        mapping.advise_huge_pages();
        let state = State { allocator: Allocator::new(count), waiters: VecDeque::new() };
        let (short, reclaim) = (AtomicBool::new(false), OnceLock::new());
        let shared =
            Shared { mapping, state: Mutex::new(state), short, reclaim, host: HostCounts::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A buffer of `bytes`, unless there is no room now or someone waits.
    pub fn try_lease(&self, bytes: usize) -> Option<Buffer> {
        let pages = pages_of(bytes).filter(|_| bytes <= self.capacity_bytes())?;
        self.try_lease_pages(pages, bytes).or_else(|| {
            self.shared.reclaim();
            self.try_lease_pages(pages, bytes)
        })
    }

    fn try_lease_pages(&self, pages: u32, bytes: usize) -> Option<Buffer> {
        let mut state = self.shared.state.lock();
        if !state.waiters.is_empty() {
            return None;
        }
        let first = state.allocator.allocate(pages)?;
        Some(Buffer::new(self.shared.clone(), first, pages, bytes))
    }

    /// A buffer of `bytes`, when its turn comes. Dropping the future gives up the turn.
    pub async fn lease(&self, bytes: usize) -> Result<Buffer, LeaseError> {
        let capacity_bytes = self.capacity_bytes();
        let too_large = LeaseError::LargerThanPool { bytes, capacity_bytes };
        let pages = pages_of(bytes).filter(|_| bytes <= capacity_bytes).ok_or(too_large)?;
        let granted = {
            let mut state = self.shared.state.lock();
            if state.waiters.is_empty()
                && let Some(first) = state.allocator.allocate(pages)
            {
                return Ok(Buffer::new(self.shared.clone(), first, pages, bytes));
            }
            if state.waiters.len() >= WAITERS_MAX {
                return Err(LeaseError::Overloaded);
            }
            let (grant, granted) = oneshot::channel();
            state.waiters.push_back(Waiter { pages, bytes, grant });
            self.shared.short.store(true, Ordering::Release);
            granted
        };
        let mut turn = Turn { shared: &self.shared, granted: Some(granted) };
        self.shared.reclaim();
        match turn.granted.as_mut() {
            // The sender lives in the queue of a pool that `self` keeps alive, until it is used.
            Some(granted) => granted.await.map_err(|_| LeaseError::Overloaded),
            None => Err(LeaseError::Overloaded),
        }
    }

    /// Where it lies in this process's memory, as long as a clone of it exists.
    pub fn addresses(&self) -> Range<usize> {
        let start = self.shared.mapping.base().addr().get();
        start..start + self.capacity_bytes()
    }

    /// All there is.
    pub fn capacity_bytes(&self) -> usize {
        self.shared.mapping.bytes()
    }

    /// What nobody owns now; not necessarily in one piece.
    pub fn free_bytes(&self) -> usize {
        self.shared.state.lock().allocator.free_pages() as usize * PAGE_BYTES
    }

    /// Whether someone waits.
    pub(crate) fn is_short(&self) -> bool {
        self.shared.short.load(Ordering::Acquire)
    }

    /// What to do when there is no room: it may make finished operations let go of their memory. Set once.
    pub(crate) fn on_shortage(&self, reclaim: impl Fn() + Send + Sync + 'static) {
        // A second one would be a second domain with this pool, and there is none.
        let _ = self.shared.reclaim.set(Box::new(reclaim));
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.shared.mapping
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn owns(&self, buffer: &Buffer) -> bool {
        Arc::ptr_eq(&self.shared, buffer.pool())
    }

    pub(crate) fn owns_frozen(&self, frozen: &Frozen) -> bool {
        Arc::ptr_eq(&self.shared, frozen.pool())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Pool({} of {} bytes free)", self.free_bytes(), self.capacity_bytes())
    }
}

fn pages_of(bytes: usize) -> Option<u32> {
    u32::try_from(bytes.div_ceil(PAGE_BYTES).max(1)).ok()
}

pub(super) struct Shared {
    pub(super) mapping: Mapping,
    state: Mutex<State>,
    /// Whether `state.waiters` has anyone, to be read without the lock.
    short: AtomicBool,
    reclaim: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Of memory that is not in the pool.
    pub(super) host: HostCounts,
}

struct State {
    allocator: Allocator,
    waiters: VecDeque<Waiter>,
}

struct Waiter {
    pages: u32,
    bytes: usize,
    grant: oneshot::Sender<Buffer>,
}

impl Shared {
    /// Called without any lock: what it frees comes back through `release`.
    fn reclaim(&self) {
        if let Some(reclaim) = self.reclaim.get() {
            reclaim();
        }
    }

    pub(super) fn release(self: &Arc<Self>, first_page: u32, pages: u32) {
        let served = {
            let mut state = self.state.lock();
            state.allocator.release(first_page, pages);
            self.take_served(&mut state)
        };
        hand_out(served);
    }

    fn take_served(self: &Arc<Self>, state: &mut State) -> Vec<(oneshot::Sender<Buffer>, Buffer)> {
        let mut served = Vec::new();
        while let Some(waiter) = state.waiters.pop_front() {
            if waiter.grant.is_closed() {
                continue;
            }
            match state.allocator.allocate(waiter.pages) {
                Some(first) => {
                    let buffer = Buffer::new(self.clone(), first, waiter.pages, waiter.bytes);
                    served.push((waiter.grant, buffer));
                }
                None => {
                    state.waiters.push_front(waiter);
                    break;
                }
            }
        }
        self.short.store(!state.waiters.is_empty(), Ordering::Release);
        served
    }
}

/// Outside the lock: a waiter that has just gone returns its buffer by dropping it, which takes the lock again.
fn hand_out(served: Vec<(oneshot::Sender<Buffer>, Buffer)>) {
    for (grant, buffer) in served {
        drop(grant.send(buffer));
    }
}

/// A place in the queue; when it is given up, those behind it may be servable.
struct Turn<'a> {
    shared: &'a Arc<Shared>,
    granted: Option<oneshot::Receiver<Buffer>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.granted.take());
        let served = self.shared.take_served(&mut self.shared.state.lock());
        hand_out(served);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn leases_are_served_in_order_of_arrival() {
        let pool = Pool::create("test", 4 * PAGE_BYTES).unwrap();
        let first = pool.lease(3 * PAGE_BYTES).await.unwrap();
        let mut large = Box::pin(pool.lease(4 * PAGE_BYTES));
        assert!(timeout(SOON, &mut large).await.is_err());
        assert!(pool.try_lease(1).is_none(), "a page is free, but someone waits");
        let mut small = Box::pin(pool.lease(1));
        assert!(timeout(SOON, &mut small).await.is_err());
        drop(first);
        let large = timeout(SOON, large).await.unwrap().unwrap();
        assert_eq!(large.len(), 4 * PAGE_BYTES);
        assert!(timeout(SOON, &mut small).await.is_err());
        drop(large);
        drop(timeout(SOON, small).await.unwrap().unwrap());
        assert_eq!(pool.free_bytes(), pool.capacity_bytes());
    }

    #[tokio::test]
    async fn giving_up_a_turn_serves_those_behind() {
        let pool = Pool::create("test", 2 * PAGE_BYTES).unwrap();
        let held = pool.lease(1).await.unwrap();
        let mut large = Box::pin(pool.lease(2 * PAGE_BYTES));
        assert!(timeout(SOON, &mut large).await.is_err());
        let mut small = Box::pin(pool.lease(1));
        assert!(timeout(SOON, &mut small).await.is_err());
        drop(large);
        drop(timeout(SOON, small).await.unwrap().unwrap());
        drop(held);
        assert_eq!(pool.free_bytes(), pool.capacity_bytes());
    }

    #[tokio::test]
    async fn more_than_the_pool_is_refused_at_once() {
        let pool = Pool::create("test", 1).unwrap();
        assert_eq!(pool.capacity_bytes(), PAGE_BYTES);
        let refused = pool.lease(PAGE_BYTES + 1).await.unwrap_err();
        assert!(matches!(refused, LeaseError::LargerThanPool { .. }) && !refused.is_retryable());
    }

    #[tokio::test]
    async fn frozen_memory_comes_back_with_its_last_owner() {
        let pool = Pool::create("test", PAGE_BYTES).unwrap();
        let mut buffer = pool.lease(100).await.unwrap();
        buffer.fill(7);
        let whole = buffer.freeze();
        let part = whole.slice(10..20).unwrap();
        assert_eq!(&part[..], &[7; 10]);
        assert!(part.slice(0..11).is_none() && part.slice(usize::MAX..usize::MAX).is_none());
        let whole = whole.try_unfreeze().unwrap_err();
        drop(whole);
        assert_eq!(part.try_unfreeze().unwrap().len(), 100);
        assert_eq!(pool.free_bytes(), PAGE_BYTES);
    }

    /// Resident bytes of shared memory of this process, from the kernel.
    fn resident_of(pool: &Pool) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let base = format!("{:x}-", pool.mapping().base().as_ptr() as usize);
        let entry = maps.lines().skip_while(|line| !line.starts_with(&base));
        let rss = entry.skip(1).find(|line| line.starts_with("Rss:")).unwrap();
        rss.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }

    #[tokio::test]
    async fn only_what_is_used_is_resident() {
        let pool = Pool::create("test-resident", 256 << 20).unwrap();
        for _ in 0..64 {
            let mut buffer = pool.lease(8 << 20).await.unwrap();
            buffer.fill(1);
            let mut small = pool.lease(4096).await.unwrap();
            small.fill(1);
        }
        let resident = resident_of(&pool);
        assert!((8 << 20..24 << 20).contains(&resident), "{resident} bytes resident");
    }
}
