//! A core for each end: two processes that poll must not share one, and a scheduler that has both on the same core for a moment
//! makes each wait for the other's whole polling time.

use anyhow::Result;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of the two ends; those that this thread had before come back when it is dropped.
pub(super) struct Pinned {
    before: CpuSet,
    /// The peer's.
    pub(super) other: usize,
}

impl Pinned {
    /// Binds this thread to the first core that it may use; `None` when there is no second one.
    pub(super) fn to_a_core() -> Result<Option<Self>> {
        let before = sched_getaffinity(None)?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu));
        let (Some(own), Some(other)) = (usable.next(), usable.next()) else { return Ok(None) };
        bind(own)?;
        Ok(Some(Self { before, other }))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It stays bound: slower, not wrong.
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// Binds this thread to a core.
pub(super) fn bind(cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu);
    Ok(sched_setaffinity(None, &only)?)
}
