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
#[derive(Default)]
pub struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
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
        let ready = timeout(SILENCE_MAX, next).await.ok();
        self.waited += begun.elapsed();
        ready
    }

    /// So many bytes came.
    pub fn received(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    fn is_trickle(&self) -> bool {
        let counted = self.waited.saturating_sub(GRACE).as_secs();
        counted > 0 && self.bytes < counted.saturating_mul(RATE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait(async { 1 }).await, Some(1));
        assert_eq!(pace.wait(std::future::pending::<()>()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_ends_after_the_grace() {
        let mut pace = Pace::default();
        let mut seconds = 0;
        while pace.wait(tokio::time::sleep(Duration::from_secs(1))).await.is_some() {
            pace.received(1);
            seconds += 1;
            assert!(seconds < 40);
        }
        assert!(seconds >= 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_but_honest_client_goes_on() {
        let mut pace = Pace::default();
        for _ in 0..300 {
            assert!(pace.wait(tokio::time::sleep(Duration::from_secs(1))).await.is_some());
            pace.received(16 << 10);
        }
    }
}
