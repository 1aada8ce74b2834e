//! How long answers usually take, and so when one is late.
//!
//! A histogram with four buckets an octave, whose old entries fade. The delay after which a request is hedged is half as long
//! again as what 99 of 100 answers needed, within bounds: long enough that a busy cluster does not double its own load, short enough that a dead
//! node is a pause and not an outage.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const BUCKETS: usize = 96;
/// Entries after which all buckets are halved.
const FADE_EVERY: u32 = 1024;
/// The delay is computed anew after so many entries.
const COMPUTE_EVERY: u32 = 32;

pub(crate) struct Latency {
    buckets: [AtomicU32; BUCKETS],
    entries: AtomicU32,
    delay_micros: AtomicU64,
    least: Duration,
    most: Duration,
}

impl Latency {
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
            entries: AtomicU32::new(0),
            delay_micros: AtomicU64::new(least.as_micros() as u64),
            least,
            most: most.max(least),
        }
    }

    /// An answer took so long.
    pub(crate) fn record(&self, took: Duration) {
        if let Some(bucket) = self.buckets.get(bucket_of(took)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let entries = self.entries.fetch_add(1, Ordering::Relaxed) + 1;
        if entries.is_multiple_of(COMPUTE_EVERY) {
            self.compute();
        }
        if entries >= FADE_EVERY {
            self.entries.store(0, Ordering::Relaxed);
            for bucket in &self.buckets {
                bucket.store(bucket.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            }
        }
    }

    /// An answer that takes longer is late.
    pub(crate) fn hedge_delay(&self) -> Duration {
        Duration::from_micros(self.delay_micros.load(Ordering::Relaxed))
    }

    fn compute(&self) {
        let counts: Vec<u64> =
            self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed).into()).collect();
        let total: u64 = counts.iter().sum();
        let mut above = total / 100;
        let mut slowest = 0;
        for (number, count) in counts.iter().enumerate().rev() {
            slowest = number;
            if *count > above {
                break;
            }
            above -= count;
        }
        let delay = (end_of(slowest) * 3 / 2).clamp(self.least, self.most);
        self.delay_micros.store(delay.as_micros() as u64, Ordering::Relaxed);
    }
}

/// Four buckets an octave of microseconds.
fn bucket_of(took: Duration) -> usize {
    let micros = (took.as_micros() as u64).max(4);
    let octave = micros.ilog2();
    let quarter = (micros >> (octave - 2)) & 3;
    ((octave - 2) as usize * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The least time above a bucket.
fn end_of(bucket: usize) -> Duration {
    let (octave, quarter) = (bucket / 4, bucket as u64 % 4);
    Duration::from_micros((5 + quarter) << octave)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_contains_what_falls_into_it() {
        for micros in (0..2000).chain([10_000, 1_000_000, 3_333_333]) {
            let took = Duration::from_micros(micros);
            let bucket = bucket_of(took);
            assert!(took < end_of(bucket), "{micros}");
            assert!(bucket == 0 || took >= end_of(bucket - 1), "{micros}");
        }
        assert_eq!(bucket_of(Duration::from_secs(1 << 40)), BUCKETS - 1);
    }

    #[test]
    fn the_delay_follows_the_slowest_of_a_hundred_within_its_bounds() {
        let (least, most) = (Duration::from_millis(50), Duration::from_secs(1));
        let latency = Latency::new(least, most);
        assert_eq!(latency.hedge_delay(), least);
        for _ in 0..320 {
            latency.record(Duration::from_millis(1));
        }
        assert_eq!(latency.hedge_delay(), least);
        for _ in 0..64 {
            latency.record(Duration::from_millis(200));
        }
        let delay = latency.hedge_delay();
        assert!(delay > Duration::from_millis(300) && delay < Duration::from_millis(400), "{delay:?}");
        for _ in 0..64 {
            latency.record(Duration::from_secs(5));
        }
        assert_eq!(latency.hedge_delay(), most);
        for _ in 0..20_000 {
            latency.record(Duration::from_millis(1));
        }
        assert_eq!(latency.hedge_delay(), least);
    }
}
