//! Registered memory for requests, so that none of them waits for ever and none is served twice before another once.
//!
//! **Nobody waits for memory while holding some**, but whoever is at the turnstile, and only one is. So whoever holds memory will
//! finish and return it, and whoever waits is served in the order of arrival. A request that could go faster with more
//! memory takes it only when it is there ([`Memory::try_take`]).
//!
//! The *spares* are set aside at the start, each for one record: a shard that has to be written again, to another target,
//! is copied into one, at a moment when its request holds a whole stripe.

use parking_lot::Mutex;
use std::time::Duration;
use tenfour_rdma::{Buffer, Frozen, Pool};
use tenfour_types::record::RECORD_BYTES_MAX;
use tokio::time::{sleep, timeout};

/// Spares, at most; and the share of the pool that they may take.
const SPARES_MAX: usize = 12;
const SPARES_SHARE: usize = 8;
/// How often a spare is looked for while there is none.
const SPARE_LOOK: Duration = Duration::from_millis(5);

pub(crate) struct Memory {
    pool: Pool,
    turnstile: tokio::sync::Mutex<()>,
    wait: Duration,
    spares: Mutex<Spares>,
}

#[derive(Default)]
struct Spares {
    free: Vec<Buffer>,
    /// Given back, but an operation may still read them.
    lingering: Vec<Frozen>,
}

/// No memory came in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory became free in time")]
pub(crate) struct Exhausted;

impl Memory {
    pub(crate) fn new(pool: Pool, wait: Duration) -> Self {
        let count = (pool.capacity_bytes() / SPARES_SHARE / RECORD_BYTES_MAX).clamp(1, SPARES_MAX);
        let free = (0..count).filter_map(|_| pool.try_lease(RECORD_BYTES_MAX)).collect();
        let spares = Mutex::new(Spares { free, lingering: Vec::new() });
        Self { pool, turnstile: tokio::sync::Mutex::new(()), wait, spares }
    }

    /// One buffer of each length. The caller holds no other memory.
    pub(crate) async fn take(&self, lengths: &[usize]) -> Result<Vec<Buffer>, Exhausted> {
        if let Some(buffers) = self.try_take(lengths) {
            return Ok(buffers);
        }
        let waiting = async {
            let _turn = self.turnstile.lock().await;
            let mut buffers = Vec::with_capacity(lengths.len());
            for length in lengths {
                buffers.push(self.pool.lease(*length).await.map_err(|_| Exhausted)?);
            }
            Ok(buffers)
        };
        timeout(self.wait, waiting).await.map_err(|_| Exhausted)?
    }

    /// The same, if there is so much now and nobody waits.
    pub(crate) fn try_take(&self, lengths: &[usize]) -> Option<Vec<Buffer>> {
        lengths.iter().map(|length| self.pool.try_lease(*length)).collect()
    }

    /// Whether more than half of it is free: who reads ahead then takes it from nobody.
    pub(crate) fn is_plenty(&self) -> bool {
        self.pool.free_bytes() > self.pool.capacity_bytes() / 2
    }

    /// All of it.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What nobody holds, bytes.
    pub(crate) fn free_bytes(&self) -> usize {
        self.pool.free_bytes()
    }

    /// Memory for a copy of one record: of the pool if it has any, else a spare, as soon as there is one.
    pub(crate) async fn spare(&self, bytes: usize) -> Spare<'_> {
        loop {
            if let Some(buffer) = self.pool.try_lease(bytes) {
                return Spare { home: None, buffer: Some(buffer) };
            }
            if let Some(buffer) = self.spares.lock().take() {
                return Spare { home: Some(self), buffer: Some(buffer) };
            }
            sleep(SPARE_LOOK).await;
        }
    }
}

/// Memory for one record, to be written.
pub(crate) struct Spare<'a> {
    /// Where it goes back to; to the pool otherwise.
    home: Option<&'a Memory>,
    buffer: Option<Buffer>,
}

impl<'a> Spare<'a> {
    /// Its bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or_default()
    }

    /// Shares what was written to its beginning.
    pub(crate) fn share(mut self, bytes: usize) -> Option<(Lent<'a>, Frozen)> {
        let whole = self.buffer.take()?.freeze();
        let record = whole.slice(0..bytes);
        let lent = Lent { home: self.home, whole: Some(whole) };
        Some((lent, record?))
    }
}

impl Drop for Spare<'_> {
    fn drop(&mut self) {
        if let (Some(home), Some(buffer)) = (self.home, self.buffer.take()) {
            home.spares.lock().free.push(buffer);
        }
    }
}

/// Memory of a copy that operations read. A spare is one again when this is dropped and the last of them is done.
pub(crate) struct Lent<'a> {
    home: Option<&'a Memory>,
    whole: Option<Frozen>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let (Some(home), Some(whole)) = (self.home, self.whole.take()) {
            home.spares.lock().lingering.push(whole);
        }
    }
}

impl Spares {
    fn take(&mut self) -> Option<Buffer> {
        for spare in std::mem::take(&mut self.lingering) {
            match spare.try_unfreeze() {
                Ok(buffer) => self.free.push(buffer),
                Err(spare) => self.lingering.push(spare),
            }
        }
        self.free.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tenfour_rdma::{ClusterKey, Domain, DomainConfig, Provider};

    fn memory(bytes: usize) -> Memory {
        let config = DomainConfig::new(Provider::Shm, "memory-test", ClusterKey::generate(), bytes);
        Memory::new(Domain::open(config).unwrap().pool().clone(), Duration::from_millis(500))
    }

    #[tokio::test]
    async fn all_or_none_and_in_turn() {
        let memory = Arc::new(memory(16 << 20));
        let spares = memory.pool.capacity_bytes() - memory.pool.free_bytes();
        let most = 12 << 20;
        assert!(spares < 3 << 20);
        let held = memory.take(&[most]).await.unwrap();
        assert!(memory.try_take(&[1 << 20, 1 << 20, 1 << 20]).is_none());
        assert_eq!(
            memory.pool.free_bytes(),
            (16 << 20) - spares - most,
            "nothing is kept of what was not enough"
        );
        let waiting = tokio::spawn({
            let memory = memory.clone();
            async move { memory.take(&[8 << 20, 1 << 20]).await.map(|buffers| buffers.len()) }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(memory.take(&[8 << 20]).await.is_err(), "its turn did not come");
        drop(held);
        assert!(waiting.await.unwrap().is_err() || memory.try_take(&[8 << 20]).is_some());
    }

    #[tokio::test]
    async fn a_spare_comes_back_when_its_last_slice_is_gone() {
        let memory = memory(16 << 20);
        let rest = memory.take(&[12 << 20, memory.pool.free_bytes() - (12 << 20)]).await.unwrap();
        drop(memory.spare(100).await);
        let (lent, slice) = memory.spare(100).await.share(10).unwrap();
        drop(lent);
        assert!(timeout(Duration::from_millis(30), memory.spare(100)).await.is_err());
        drop(slice);
        let mut spare = timeout(Duration::from_secs(1), memory.spare(100)).await.unwrap();
        assert_eq!(spare.bytes().len(), RECORD_BYTES_MAX);
        drop(rest);
        assert_eq!(memory.spare(100).await.bytes().len(), 100, "the pool comes first");
    }
}
