//! What repair has done and what is left: for heartbeats, and so for `status`.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tenfour_metadata::api::cluster::RepairProgress;

#[derive(Default)]
pub(super) struct Counters {
    left: AtomicU64,
    shards_rebuilt: AtomicU64,
    bytes_rebuilt: AtomicU64,
    bytes_read: AtomicU64,
    /// While a round makes shards anew: since when, and what had been made before it.
    round: Mutex<Option<(Instant, u64)>>,
}

impl Counters {
    /// A round begins that has so many shards to look after.
    pub(super) fn begin(&self, shards: u64) {
        self.left.store(shards, Ordering::Relaxed);
        *self.round.lock() = Some((Instant::now(), self.bytes_rebuilt.load(Ordering::Relaxed)));
    }

    /// No round is running.
    pub(super) fn rest(&self) {
        *self.round.lock() = None;
    }

    /// What is left after all.
    pub(super) fn set_left(&self, shards: u64) {
        self.left.store(shards, Ordering::Relaxed);
    }

    /// So many shards are where they belong.
    pub(super) fn found(&self, shards: usize) {
        let less = |left: u64| Some(left.saturating_sub(shards as u64));
        // It never fails: `less` always gives a number.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// A shard of so many bytes was made anew.
    pub(super) fn rebuilt(&self, bytes: usize) {
        self.shards_rebuilt.fetch_add(1, Ordering::Relaxed);
        self.bytes_rebuilt.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So many bytes were read for it.
    pub(super) fn read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn progress(&self) -> RepairProgress {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let bytes_rebuilt = of(&self.bytes_rebuilt);
        let bytes_per_second = self.round.lock().map_or(0, |(began, before)| {
            let milliseconds = (began.elapsed().as_millis() as u64).max(1);
            (bytes_rebuilt - before.min(bytes_rebuilt)).saturating_mul(1000) / milliseconds
        });
        RepairProgress {
            shards_left: of(&self.left),
            shards_rebuilt: of(&self.shards_rebuilt),
            bytes_rebuilt,
            bytes_read: of(&self.bytes_read),
            bytes_per_second,
        }
    }
}
