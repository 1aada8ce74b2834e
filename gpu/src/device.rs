//! [`Device`]: what runs batches of stripes beside the processor. CUDA is one; the tests' other ones are the same kernels compiled
//! for the processor, and that with faults.
//!
//! Memory goes by value: whoever has a job may touch its slot, and while a device has it nobody else does. So a device that never
//! answers keeps what it may still write to, and its caller goes on without.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tenfour_types::limits::DATA_SHARDS;

use crate::host_memory::{Lent, Registrations};
use crate::work::{Stripe, Work};

/// Batches that may be under way at once: one is copied in, one computed, one copied out.
pub(crate) const LANES: usize = 3;

/// Something that runs the kernels. All calls come from the one thread that made it.
pub(crate) trait Device: Sized + Debug + 'static {
    /// Memory for one stripe, on both sides.
    type Slot: Slot;

    /// What it is called.
    fn name(&self) -> String;

    /// Memory for one stripe with shards of up to `SHARD_BYTES_MAX`.
    fn slot(&mut self) -> Result<Self::Slot, DeviceError>;

    /// Host memory that it reads without a copy into a slot.
    fn registrations(&self) -> Registrations;

    /// Begins to copy in, compute and copy out, and returns without waiting for it. The lane is below [`LANES`], and idle.
    fn begin(&mut self, lane: usize, jobs: &mut [Job<Self::Slot>]) -> Result<(), DeviceError>;

    /// Whether all that was begun in the lane is done.
    fn is_done(&mut self, lane: usize) -> Result<bool, DeviceError>;
}

/// The host's side of a stripe's memory.
pub(crate) trait Slot: Send + Debug + 'static {
    /// Where sources are put that the device cannot read where they are.
    fn inputs(&mut self) -> &mut [u8];

    /// What the device has written: the wanted shards, one after the other.
    fn outputs(&self) -> &[u8];
}

/// Work on one stripe, with the memory that it happens in.
#[derive(Debug)]
pub(crate) struct Job<S> {
    pub(crate) work: Work,
    pub(crate) shard_bytes: usize,
    pub(crate) inputs: [Input; DATA_SHARDS],
    pub(crate) slot: S,
}

/// Where a source is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input {
    /// In the slot, at its place.
    Staged,
    /// In registered memory.
    Lent(Lent),
}

/// The stripes of each different work, in the order of its first; `base` is where the memory of that job's slot begins.
pub(crate) fn by_work<S>(jobs: &[Job<S>], base: impl Fn(usize, &S) -> u64) -> Vec<(Work, Vec<Stripe>)> {
    let mut groups: Vec<(Work, Vec<Stripe>)> = Vec::new();
    for (number, job) in jobs.iter().enumerate() {
        let stripe = Stripe::at(base(number, &job.slot), job.shard_bytes, &job.work);
        match groups.iter_mut().find(|(work, _)| *work == job.work) {
            Some((_, stripes)) => stripes.push(stripe),
            None => groups.push((job.work.clone(), vec![stripe])),
        }
    }
    groups
}

/// Why a device is not used, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The driver refused.
    #[error("{call}: {reason}")]
    Driver {
        /// What was called.
        call: &'static str,
        /// What it said.
        reason: String,
    },
    /// A driver too old, or none.
    #[error("the driver lacks what is needed: {0}")]
    Missing(String),
    /// It was waited for long enough.
    #[error("no answer within {} ms", .0.as_millis())]
    Hung(Duration),
    /// Its bytes are not those of the processor.
    #[error("wrong bytes from {kernel}, in a stripe with shards of {shard_bytes} bytes")]
    Wrong {
        /// Of which kernel.
        kernel: &'static str,
        /// Of what size.
        shard_bytes: usize,
    },
    /// What was asked for does not fit the memory that it was asked of.
    #[error("{stripes} stripes of {shard_bytes} byte shards are {} bytes, the memory has {bytes}", .stripes * .shard_bytes * 14)]
    Memory {
        /// How many stripes.
        stripes: usize,
        /// Bytes of a shard.
        shard_bytes: usize,
        /// Bytes that there are.
        bytes: usize,
    },
    /// The operating system gave no thread.
    #[error("no thread: {0}")]
    Thread(String),
}

/// The bindings panic when a driver lacks a symbol; that is a driver that cannot be used, not an end of the process.
pub(crate) fn guarded<T>(ask: impl FnOnce() -> Result<T, DeviceError>) -> Result<T, DeviceError> {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(DeviceError::Missing(text.unwrap_or("no further word").to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_symbol_is_an_answer() {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let literal: Result<(), _> = guarded(|| panic!("no cuFoo"));
        let formatted: Result<(), _> = guarded(|| panic!("no {}", "cuBar"));
        std::panic::set_hook(loud);
        assert_eq!(literal, Err(DeviceError::Missing("no cuFoo".into())));
        assert_eq!(formatted.unwrap_err().to_string(), "the driver lacks what is needed: no cuBar");
    }
}
