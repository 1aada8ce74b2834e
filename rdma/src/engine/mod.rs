//! What a NIC would do, for providers without one: grants, queue-pair state, order, receiver-not-ready, flush on error.
//!
//! The engine runs at the responder, so that revocation and death are exact there. It moves no bytes itself.

pub(crate) mod grants;
mod guard;
pub(crate) mod receive_queue;
pub(crate) mod send_queue;

use crate::config::Tunables;
use crate::memory::Pool;
use crate::{ConnectionError, OperationError};
use grants::GrantTable;
use parking_lot::Mutex;
use receive_queue::ReceiveQueue;
use send_queue::SendQueue;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// One end of a connection, whatever carries it.
pub(crate) struct QueuePair {
    pub(crate) id: u64,
    pub(crate) pool: Pool,
    pub(crate) tunables: Tunables,
    /// Once it is known: a queue pair may stand before its set-up is through.
    pub(crate) peer_private_data: OnceLock<Vec<u8>>,
    pub(crate) grants: Arc<GrantTable>,
    pub(crate) receives: ReceiveQueue,
    pub(crate) sends: SendQueue,
    error: Mutex<Option<ConnectionError>>,
    failed: Notify,
}

impl QueuePair {
    pub(crate) fn new(id: u64, pool: Pool, tunables: Tunables) -> Self {
        Self {
            id,
            pool,
            tunables,
            peer_private_data: OnceLock::new(),
            grants: Arc::default(),
            receives: ReceiveQueue::default(),
            sends: SendQueue::default(),
            error: Mutex::new(None),
            failed: Notify::new(),
        }
    }

    /// Moves to the error state, once: `oldest` is what became of the oldest outstanding operation; all later ones are
    /// flushed. Returns what the operations held, for the provider to free when no peer can touch it; `None` if the
    /// state was entered before.
    pub(crate) fn fail(
        &self,
        reason: ConnectionError,
        oldest: OperationError,
    ) -> Option<Vec<send_queue::Operation>> {
        {
            let mut error = self.error.lock();
            if error.is_some() {
                return None;
            }
            *error = Some(reason);
        }
        self.grants.close();
        let held = self.sends.fail(oldest);
        self.receives.close(reason);
        self.failed.notify_waiters();
        if reason == ConnectionError::Closed || reason == ConnectionError::PeerClosed {
            tracing::debug!(connection = self.id, %reason, "fabric connection closed");
        } else {
            tracing::info!(connection = self.id, %reason, "fabric connection failed");
        }
        Some(held)
    }

    pub(crate) fn error(&self) -> Option<ConnectionError> {
        *self.error.lock()
    }

    pub(crate) async fn failed(&self) -> ConnectionError {
        loop {
            let failed = self.failed.notified();
            tokio::pin!(failed);
            failed.as_mut().enable();
            if let Some(error) = self.error() {
                return error;
            }
            failed.await;
        }
    }
}

/// Set once, when a provider's tasks have let go of everything.
#[derive(Default)]
pub(crate) struct Ended {
    ended: std::sync::atomic::AtomicBool,
    told: Notify,
}

impl Ended {
    pub(crate) fn set(&self) {
        self.ended.store(true, std::sync::atomic::Ordering::Release);
        self.told.notify_waiters();
    }

    pub(crate) async fn wait(&self) {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.ended.load(std::sync::atomic::Ordering::Acquire) {
                return;
            }
            told.await;
        }
    }
}
