//! Users as they are now, for those whom the cached version does not know.
//!
//! Anybody can ask for unknown users, so that such questions to the metadata service are gathered.

use super::{Backend, OpError};
use std::sync::Arc;
use std::time::Duration;
use tenfour_metadata::api::Config;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Shortest time between two questions for unknown access keys.
const REFRESH_EVERY: Duration = Duration::from_millis(50);

/// Asks for the newest users, at most so often, and once for all who wait.
pub struct Refresher<B> {
    backend: B,
    begun: Mutex<Option<Instant>>,
}

impl<B: Backend> Refresher<B> {
    /// Over a backend's users.
    pub fn new(backend: B) -> Self {
        Self { backend, begun: Mutex::new(None) }
    }

    /// Users as they were at some moment after this was called.
    pub async fn refreshed(&self) -> Result<Arc<Config>, OpError> {
        let called = Instant::now();
        let mut begun = self.begun.lock().await;
        match *begun {
            Some(last) if last >= called => return Ok(self.backend.config()),
            Some(last) => tokio::time::sleep_until(last + REFRESH_EVERY).await,
            None => {}
        }
        let now = Instant::now();
        let config = self.backend.refresh_config().await?;
        *begun = Some(now);
        Ok(config)
    }
}
