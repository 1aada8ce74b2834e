//! A device's part in a grant: where the device checks accesses itself, what has to be told before memory is anybody else's.
//!
//! Invariant: after `end` returned, the device refuses the key, whoever ended it.

use parking_lot::Mutex;
use std::sync::Arc;

/// Ends a device's permission when it is dropped.
#[cfg(feature = "verbs")]
pub(crate) use crate::verbs::Window as DeviceGuard;
/// A build without devices has no guards.
#[cfg(not(feature = "verbs"))]
pub(crate) enum DeviceGuard {}
#[cfg(not(feature = "verbs"))]
impl Drop for DeviceGuard {
    fn drop(&mut self) {
        match *self {}
    }
}

/// A device's permission, in reach of all who may have to end it.
pub(super) struct Guard(Arc<Mutex<Option<DeviceGuard>>>);

impl Guard {
    pub(super) fn new(guard: DeviceGuard) -> Self {
        Self(Arc::new(Mutex::new(Some(guard))))
    }

    /// When it returns, the device refuses the key. Whoever is at it already is waited for.
    pub(super) fn end(&self) {
        let mut guard = self.0.lock();
        drop(guard.take());
    }

    #[cfg(feature = "verbs")]
    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// Whether nobody has begun to end it.
    #[cfg(feature = "verbs")]
    pub(super) fn is_open(&self) -> bool {
        self.0.try_lock().is_some_and(|guard| guard.is_some())
    }
}
