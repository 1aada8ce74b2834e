//! Memory for the bodies that the library holds whole: XML and forms. Bounded over all requests, taken when the first byte
//! of a body is asked for, which for XML is after the signature was verified.

use std::sync::Arc;
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What memory is counted in, bytes.
const UNIT_BYTES: u64 = 1 << 10;
/// A body waits so long for memory before it is refused.
const WAIT: Duration = Duration::from_secs(5);

/// Memory that bodies share.
#[derive(Clone)]
pub struct Room {
    free: Arc<Semaphore>,
    wait: Duration,
}

impl Room {
    /// So many bytes.
    pub fn new(bytes: u64) -> Self {
        Self {
            free: Arc::new(Semaphore::new(usize::try_from(bytes / UNIT_BYTES).unwrap_or(0))),
            wait: WAIT.scaled(),
        }
    }

    /// What nobody holds.
    #[cfg(test)]
    pub fn free_bytes(&self) -> u64 {
        self.free.available_permits() as u64 * UNIT_BYTES
    }

    /// Memory for a body; `None` when none became free in time.
    pub async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).ok()?;
        timeout(self.wait, self.free.clone().acquire_many_owned(units)).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_shared_by_bytes_and_waited_for_a_bounded_time() {
        let room = Room { wait: Duration::from_millis(30), ..Room::new(10 << 10) };
        let most = room.take((9 << 10) + 1).await.unwrap();
        assert!(room.take(1).await.is_none());
        drop(most);
        assert!(room.take(1).await.is_some());
        assert!(room.take(u64::MAX).await.is_none());
    }
}
