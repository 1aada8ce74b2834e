//! How slowly a client may send: a silence has a limit, and so has a trickle.
//!
//! Only the time that was spent waiting for the client counts: a request that waits for the storage is not its fault.

use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Longest silence in a request's body.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Waiting in all that is granted before the rate is looked at.
const GRACE: Duration = Duration::from_secs(30);
/// Slowest average rate, bytes a second of waiting.
const RATE_MIN: u64 = 8 << 10;

/// Watches one body.
pub struct Pace {
    silence_max: Duration,
    grace: Duration,
    waited: Duration,
    bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(SILENCE_MAX, GRACE)
    }
}

impl Pace {
    /// With limits of its own.
    pub fn new(silence_max: Duration, grace: Duration) -> Self {
        Self { silence_max, grace, waited: Duration::ZERO, bytes: 0 }
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

    fn is_trickle(&self) -> bool {
        let counted = u64::try_from(self.waited.saturating_sub(self.grace).as_millis()).unwrap_or(u64::MAX);
        self.bytes < counted.saturating_mul(RATE_MIN) / 1000
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
    async fn time_that_is_not_waited_for_the_client_does_not_count() {
        let mut pace = Pace::new(MOMENT, Duration::ZERO);
        for _ in 0..10 {
            tokio::time::sleep(MOMENT).await;
            assert!(pace.wait(async {}).await.is_some());
        }
    }
}
