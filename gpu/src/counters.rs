//! What the device did, and what it did not. Plain atomics: nothing here decides anything.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Stripes encoded or rebuilt on the device.
    pub(crate) stripes: AtomicU64,
    /// Bytes of their data.
    pub(crate) bytes: AtomicU64,
    /// Stripes that the processor computed again in whole.
    pub(crate) checked: AtomicU64,
    /// Stripes that were meant for the device, and found no room there or no device any more.
    pub(crate) declined: AtomicU64,
    /// Stripes that the processor took over from a device that failed with them.
    pub(crate) taken_over: AtomicU64,
    /// Stripes that were not meant for the device.
    pub(crate) on_cpu: AtomicU64,
}

impl Counters {
    /// Each with its name.
    pub(crate) fn all(&self) -> [(&'static str, u64); 6] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("gpu_stripes", of(&self.stripes)),
            ("gpu_bytes", of(&self.bytes)),
            ("gpu_checked", of(&self.checked)),
            ("gpu_declined", of(&self.declined)),
            ("gpu_taken_over", of(&self.taken_over)),
            ("gpu_not_chosen", of(&self.on_cpu)),
        ]
    }
}
