//! The pace of repair: so many bytes a second, evenly.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A bound on bytes a second. What was not used is not saved up.
pub(super) struct Pace {
    bytes_per_second: u64,
    next: Mutex<Instant>,
}

impl Pace {
    /// 0: as fast as it goes.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, next: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes more may be read.
    pub(super) async fn take(&self, bytes: usize) {
        let Some(nanoseconds) =
            (bytes as u64).saturating_mul(1_000_000_000).checked_div(self.bytes_per_second)
        else {
            return;
        };
        let start = {
            let mut next = self.next.lock();
            let start = (*next).max(Instant::now());
            *next = start + Duration::from_nanos(nanoseconds);
            start
        };
        sleep_until(start).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_go_at_their_pace_and_rest_is_not_saved_up() {
        let began = Instant::now();
        let pace = Pace::new(1000);
        for _ in 0..5 {
            pace.take(500).await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(2), "the last one is on its way");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        for _ in 0..3 {
            pace.take(1000).await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        Pace::new(0).take(usize::MAX).await;
    }
}
