//! What the data path did, and where its time went. Plain atomics: nothing here decides anything.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

/// Counters of one gateway since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes from the front into registered memory, with the checksums that the client gave.
    pub receive: Stage,
    /// Encoding and checksums.
    pub encode: Stage,
    /// MD5, mostly on threads of its own: each turn of some streams side by side.
    pub hash: Stage,
    /// Bytes that went through the MD5 there.
    pub hash_bytes: AtomicU64,
    /// How far the streams went, bytes: `hash_bytes` divided by this says how many went side by side.
    pub hash_step_bytes: AtomicU64,
    /// From the encoded stripe to 14 durable shards, and to the MD5 of its bytes.
    pub fanout: Stage,
    /// The commit at the metadata service.
    pub commit: Stage,
    /// The read of a manifest.
    pub lookup: Stage,
    /// From the manifest to verified bytes of a stripe.
    pub gather: Stage,
    /// Objects and parts stored.
    pub puts: AtomicU64,
    /// Objects read, or parts of them.
    pub gets: AtomicU64,
    /// Stripes that became durable.
    pub stripes: AtomicU64,
    /// Shards that were written a second time because the first target did not answer soon.
    pub write_hedges: AtomicU64,
    /// Shards that went to a substitute: absent, failed or late targets.
    pub substitutes: AtomicU64,
    /// Shards asked for because another did not come soon.
    pub read_hedges: AtomicU64,
    /// Stripes read with a data shard computed from the others.
    pub reconstructions: AtomicU64,
    /// Shards found missing, damaged or different from their digest.
    pub bad_shards: AtomicU64,
    /// Requests given up because no memory came in time.
    pub overloads: AtomicU64,
}

/// One stage of a pipeline.
#[derive(Debug, Default)]
pub struct Stage {
    /// How often.
    pub times: AtomicU64,
    /// From its begin to its end, nanoseconds.
    pub wall_nanos: AtomicU64,
    /// Running, not waiting, nanoseconds.
    pub busy_nanos: AtomicU64,
}

impl Stage {
    /// Runs what does not wait.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let done = work();
        let nanos = begin.elapsed().as_nanos() as u64;
        self.add(nanos, nanos);
        done
    }

    /// Runs what waits.
    pub(crate) fn measure<F: Future>(&self, work: F) -> Measured<'_, F> {
        Measured { stage: self, begin: None, busy_nanos: 0, work: Box::pin(work) }
    }

    pub(crate) fn add(&self, wall_nanos: u64, busy_nanos: u64) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.wall_nanos.fetch_add(wall_nanos, Ordering::Relaxed);
        self.busy_nanos.fetch_add(busy_nanos, Ordering::Relaxed);
    }
}

/// A future that is measured: only finished ones count.
pub(crate) struct Measured<'a, F> {
    stage: &'a Stage,
    begin: Option<Instant>,
    busy_nanos: u64,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Measured<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let now = Instant::now();
        let begin = *self.begin.get_or_insert(now);
        let polled = self.work.as_mut().poll(context);
        self.busy_nanos += now.elapsed().as_nanos() as u64;
        if polled.is_ready() {
            self.stage.add(begin.elapsed().as_nanos() as u64, self.busy_nanos);
        }
        polled
    }
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
