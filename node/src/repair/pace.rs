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
        if let Some(turn) = self.turn(bytes, Instant::now()) {
            sleep_until(turn).await;
        }
    }

    /// When so many bytes more may be read; those after them have to wait for as long as these take.
    fn turn(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let nanoseconds = (bytes as u64).saturating_mul(1_000_000_000).checked_div(self.bytes_per_second)?;
        let mut next = self.next.lock();
        let turn = (*next).max(now);
        *next = turn + Duration::from_nanos(nanoseconds);
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_at_their_pace_and_rest_is_not_saved_up() {
        let pace = Pace::new(1000);
        let (began, half) = (Instant::now(), Duration::from_millis(500));
        let turns: Vec<_> = (0..5).filter_map(|_| pace.turn(500, began)).collect();
        assert_eq!(turns, (0..5).map(|before| began + half * before).collect::<Vec<_>>());
        let later = began + Duration::from_secs(60);
        let turns: Vec<_> = (0..3).filter_map(|_| pace.turn(1000, later)).collect();
        assert_eq!(turns, (0..3).map(|before| later + 2 * half * before).collect::<Vec<_>>());
        assert_eq!(Pace::new(0).turn(usize::MAX, began), None);
    }
}
