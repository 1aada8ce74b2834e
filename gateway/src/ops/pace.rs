//! How slowly a client may send: a silence has a limit, and so has a trickle.
//!
//! Only the time that was spent waiting for the client counts: a request that waits for the storage is not its fault.

use std::time::Duration;
use tenfour_types::Scaled;
use tokio::time::{Instant, timeout};

/// Longest silence in a request's body.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// So much waiting is granted at first; after that the rate is looked at every time that so much waiting has passed.
const WINDOW: Duration = Duration::from_secs(10);
/// Slowest average rate in a window, bytes a second of waiting.
const RATE_MIN: u64 = 64 << 10;

/// Watches one body.
pub struct Pace {
    silence_max: Duration,
    window: Duration,
    is_graced: bool,
    waited: Duration,
    bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(SILENCE_MAX.scaled(), WINDOW.scaled())
    }
}

impl Pace {
    /// With limits of its own.
    pub fn new(silence_max: Duration, window: Duration) -> Self {
        Self { silence_max, window, is_graced: true, waited: Duration::ZERO, bytes: 0 }
    }

    /// Waits for what the client sends next; `None` when it is too slow.
    pub async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Option<T> {
        if self.is_trickle() {
            return None;
        }
        let mut next = std::pin::pin!(next);
        if let std::task::Poll::Ready(ready) = futures::poll!(next.as_mut()) {
            return Some(ready);
        }
        let begun = Instant::now();
        let ready = timeout(self.silence_max, next).await.ok();
        self.waited += begun.elapsed();
        ready
    }

    /// So many bytes came.
    pub fn received(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Looks at the rate when a window has passed, and begins the next one.
    fn is_trickle(&mut self) -> bool {
        if self.waited < self.window {
            return false;
        }
        let waited_ms = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        let is_slow = self.bytes < waited_ms.saturating_mul(RATE_MIN) / 1000;
        let is_graced = std::mem::replace(&mut self.is_graced, false);
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_slow && !is_graced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn silence_ends_it() {
        let mut pace = Pace::new(MOMENT, MOMENT);
        assert_eq!(pace.wait(async { 1 }).await, Some(1));
        assert_eq!(pace.wait(std::future::pending::<()>()).await, None);
    }

    #[tokio::test]
    async fn a_trickle_ends_after_the_grace_and_an_honest_client_goes_on() {
        let mut trickle = Pace::new(Duration::from_secs(9), MOMENT * 4);
        let mut honest = Pace::new(Duration::from_secs(9), MOMENT * 4);
        let mut waits = 0;
        while trickle.wait(tokio::time::sleep(MOMENT)).await.is_some() {
            trickle.received(1);
            assert!(honest.wait(tokio::time::sleep(MOMENT)).await.is_some());
            honest.received(1 << 20);
            waits += 1;
            assert!(waits < 100, "the trickle was not noticed");
        }
        assert!(waits >= 2);
    }

    #[tokio::test]
    async fn what_came_fast_at_first_does_not_excuse_a_trickle() {
        let mut pace = Pace::new(Duration::from_secs(9), MOMENT * 4);
        pace.received(1 << 40);
        let mut waits = 0;
        while pace.wait(tokio::time::sleep(MOMENT)).await.is_some() {
            pace.received(1);
            waits += 1;
            assert!(waits < 100, "the trickle was not noticed");
        }
    }

    #[tokio::test]
    async fn time_that_is_not_waited_for_the_client_does_not_count() {
        let mut pace = Pace::new(MOMENT, MOMENT);
        for _ in 0..10 {
            tokio::time::sleep(MOMENT).await;
            assert!(pace.wait(async {}).await.is_some());
        }
    }
}
