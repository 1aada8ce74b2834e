//! What has arrived and waits for `recv`: bounded, in order, with receiver-not-ready when it stays full.
//!
//! Invariant: whatever arrived before the error state is still delivered, then the error.

use crate::config::{RECEIVE_QUEUE_ENTRIES, Tunables};
use crate::connection::Received;
use crate::{ConnectionError, OperationError};
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::Notify;
use tokio::time::timeout;

#[derive(Default)]
pub(crate) struct ReceiveQueue {
    state: Mutex<State>,
    arrived: Notify,
    room: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Received>,
    closed: Option<ConnectionError>,
    room_wanted: bool,
}

impl ReceiveQueue {
    /// The oldest entry, when there is one.
    pub(crate) async fn receive(&self) -> Result<Received, ConnectionError> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = self.state.lock();
                if let Some(received) = state.queue.pop_front() {
                    if std::mem::take(&mut state.room_wanted) {
                        self.room.notify_one();
                    }
                    return Ok(received);
                }
                if let Some(error) = state.closed {
                    return Err(error);
                }
            }
            arrived.await;
        }
    }

    /// Waits for room for one entry, so long and so often as the domain says. Only the engine pushes, one operation at a
    /// time, so that the room is still there when it does.
    pub(crate) async fn wait_for_room(&self, tunables: &Tunables) -> Result<(), OperationError> {
        for _ in 0..=tunables.receiver_not_ready_retries {
            {
                let mut state = self.state.lock();
                if state.closed.is_some() {
                    return Err(OperationError::Flushed);
                }
                if state.queue.len() < RECEIVE_QUEUE_ENTRIES {
                    return Ok(());
                }
                state.room_wanted = true;
            }
            // Elapsed: the next round counts as a retry.
            let _ = timeout(tunables.receiver_not_ready_timer, self.room.notified()).await;
        }
        Err(OperationError::ReceiverNotReady)
    }

    /// Waits until there is room, or nothing to have room for any more.
    #[cfg(feature = "verbs")]
    pub(crate) async fn room(&self) {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.state.lock();
                if state.closed.is_some() || state.queue.len() < RECEIVE_QUEUE_ENTRIES {
                    return;
                }
                state.room_wanted = true;
            }
            room.await;
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.state.lock().queue.len() < RECEIVE_QUEUE_ENTRIES
    }

    /// Adds an entry that `wait_for_room` made room for.
    pub(crate) fn push(&self, received: Received) {
        self.state.lock().queue.push_back(received);
        self.arrived.notify_one();
    }

    pub(crate) fn close(&self, error: ConnectionError) {
        self.state.lock().closed.get_or_insert(error);
        self.arrived.notify_waiters();
        self.arrived.notify_one();
        self.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_queue_that_stays_full_is_not_ready() {
        let tunables = Tunables {
            receiver_not_ready_timer: Duration::from_millis(1),
            receiver_not_ready_retries: 3,
            ..Tunables::default()
        };
        let queue = ReceiveQueue::default();
        for value in 0..RECEIVE_QUEUE_ENTRIES as u32 {
            queue.wait_for_room(&tunables).await.unwrap();
            queue.push(Received::Immediate { value, bytes: 0 });
        }
        assert_eq!(queue.wait_for_room(&tunables).await, Err(OperationError::ReceiverNotReady));
        assert_eq!(queue.receive().await, Ok(Received::Immediate { value: 0, bytes: 0 }));
        queue.wait_for_room(&tunables).await.unwrap();
        queue.close(ConnectionError::PeerGone);
        for _ in 1..RECEIVE_QUEUE_ENTRIES {
            queue.receive().await.unwrap();
        }
        assert_eq!(queue.receive().await, Err(ConnectionError::PeerGone));
        assert_eq!(queue.wait_for_room(&tunables).await, Err(OperationError::Flushed));
    }
}
