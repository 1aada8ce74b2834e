//! Who is connected, how much each user may have, and the watch that ends the sessions of those who may nothing any more.

use crate::ops::Backend;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tenfour_metadata::api::Config;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

/// Connections of one user.
const CONNECTIONS_MAX: usize = 256;
/// Unanswered requests of one user, over all its connections.
const REQUESTS_MAX: usize = 1024;
/// How often the cached users are looked at, and asked for anew: both together are well within the second that a revocation may take.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const REFRESH_EVERY: Duration = Duration::from_millis(400);

/// One user's part of everything.
pub(super) struct Share {
    /// Memory of the shared pool.
    pub(super) memory: Arc<Semaphore>,
    /// Requests.
    pub(super) requests: Arc<Semaphore>,
    connections: AtomicUsize,
}

/// The users that are connected.
pub(super) struct Users {
    shares: Mutex<HashMap<String, Weak<Share>>>,
    memory_units: usize,
}

/// A connection of a user, counted while it lives.
pub(super) struct Member(Arc<Share>);

impl std::ops::Deref for Member {
    type Target = Share;

    fn deref(&self) -> &Share {
        &self.0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Users {
    pub(super) fn new(memory_units: usize) -> Self {
        Self { shares: Mutex::default(), memory_units }
    }

    /// One more connection of a user; `None` when that is too many.
    pub(super) fn join(&self, access_key: &str) -> Option<Member> {
        let mut shares = self.shares.lock();
        let share = match shares.get(access_key).and_then(Weak::upgrade) {
            Some(share) => share,
            None => {
                shares.retain(|_, share| share.strong_count() > 0);
                let share = Arc::new(Share {
                    memory: Arc::new(Semaphore::new(self.memory_units)),
                    requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
                    connections: AtomicUsize::new(0),
                });
                shares.insert(access_key.to_owned(), Arc::downgrade(&share));
                share
            }
        };
        if share.connections.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            return None;
        }
        share.connections.fetch_add(1, Ordering::Relaxed);
        Some(Member(share))
    }
}

/// Tells sessions of every newer version of buckets and users. The gateway's cache follows the metadata service by itself, as a rule
/// within milliseconds; while somebody is connected it is asked for anew as well, since a replica that is cut off tells nothing.
pub(super) async fn follow<B: Backend>(backend: B, newest: watch::Sender<Arc<Config>>) {
    let mut asked = Instant::now();
    while !newest.is_closed() {
        sleep(LOOK_EVERY).await;
        // The server's own receiver is one.
        if newest.receiver_count() > 1 && asked.elapsed() >= REFRESH_EVERY {
            asked = Instant::now();
            // Not waited for longer than until the next: what the cache hears by itself must be told meanwhile.
            match timeout(REFRESH_EVERY, backend.refresh_config()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "users could not be asked for"),
                Err(_) => tracing::debug!("users could not be asked for in time"),
            }
        }
        let config = backend.config();
        newest.send_if_modified(|known| {
            let is_newer = config.version != known.version;
            *known = config;
            is_newer
        });
    }
}
