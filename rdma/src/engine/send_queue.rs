//! What this end has posted and the peer has not completed: in order, bounded, each entry owning its memory.
//!
//! Invariant: an entry leaves only by its completion or by `fail`, never because somebody stopped waiting for it.

use crate::config::SEND_QUEUE_OPERATIONS;
use crate::memory::{Buffer, Frozen};
use crate::{OperationError, Remote};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// What is asked of the peer, and the memory that it needs until it is done.
#[derive(Debug)]
pub(crate) enum Operation {
    Write { source: Frozen, to: Remote, immediate: Option<u32> },
    Read { into: Buffer, from: Remote },
    Send { message: Bytes },
}

/// Where the result goes.
#[derive(Debug)]
pub(crate) enum Done {
    /// Reported by the operation posted after it (one chain, one completion).
    ByNext,
    Unit(oneshot::Sender<Result<(), OperationError>>),
    Buffer(oneshot::Sender<Result<Buffer, OperationError>>),
}

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) sequence: u64,
    pub(crate) operation: Operation,
    pub(crate) done: Done,
    /// Where its descriptor ends in the provider's ring, once it has been placed there.
    pub(crate) ring_end: Option<u64>,
    posted: Instant,
}

impl Pending {
    /// Reports success, handing a READ's buffer back. Whoever learns of it finds that the operation has let go of its memory.
    pub(crate) fn succeed(self) {
        // A receiver that is gone has stopped waiting: a buffer returns to its pool right here.
        match (self.done, self.operation) {
            (Done::Unit(done), operation) => {
                drop(operation);
                let _ = done.send(Ok(()));
            }
            (Done::Buffer(done), Operation::Read { into, .. }) => drop(done.send(Ok(into))),
            (Done::ByNext | Done::Buffer(_), _) => {}
        }
    }

    fn fail(self, error: OperationError) -> Operation {
        match self.done {
            Done::Unit(done) => drop(done.send(Err(error))),
            Done::Buffer(done) => drop(done.send(Err(error))),
            Done::ByNext => {}
        }
        self.operation
    }
}

pub(crate) struct SendQueue {
    places: Semaphore,
    state: Mutex<SendState>,
}

pub(crate) struct SendState {
    /// Oldest first.
    pub(crate) pending: VecDeque<Pending>,
    /// The sequence of the newest operation posted; the first is 1.
    pub(crate) posted: u64,
    pub(crate) failed: bool,
}

impl Default for SendQueue {
    fn default() -> Self {
        let state = SendState { pending: VecDeque::new(), posted: 0, failed: false };
        Self { places: Semaphore::new(SEND_QUEUE_OPERATIONS), state: Mutex::new(state) }
    }
}

impl SendQueue {
    /// Takes places if there are any now and nobody waits.
    pub(crate) fn try_reserve(&self, operations: u32) -> Result<bool, OperationError> {
        match self.places.try_acquire_many(operations) {
            Ok(places) => {
                places.forget();
                Ok(true)
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => Ok(false),
            Err(tokio::sync::TryAcquireError::Closed) => Err(OperationError::Flushed),
        }
    }

    /// Waits for places, in order of arrival.
    pub(crate) async fn reserve(&self, operations: u32) -> Result<Reserved<'_>, OperationError> {
        self.places.acquire_many(operations).await.map_err(|_| OperationError::Flushed)?.forget();
        Ok(Reserved { queue: self, operations: operations as usize })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SendState> {
        self.state.lock()
    }

    /// Gives places back: once for each entry that left `pending`.
    pub(crate) fn release(&self, operations: usize) {
        if operations > 0 {
            self.places.add_permits(operations);
        }
    }

    /// Completes everything up to `sequence`, for providers whose completions carry no data.
    pub(crate) fn complete_through(&self, sequence: u64) -> Result<(), OperationError> {
        let mut completed = 0;
        let mut state = self.state.lock();
        if sequence > state.posted {
            return Err(OperationError::RemoteOperation);
        }
        while let Some(front) = state.pending.front()
            && front.sequence <= sequence
        {
            if matches!(front.operation, Operation::Read { .. }) {
                return Err(OperationError::RemoteOperation);
            }
            if let Some(front) = state.pending.pop_front() {
                front.succeed();
                completed += 1;
            }
        }
        drop(state);
        self.release(completed);
        Ok(())
    }

    /// Completes everything up to `sequence`, READs too, for a device that has placed their bytes.
    #[cfg(feature = "verbs")]
    pub(crate) fn complete_placed_through(&self, sequence: u64) {
        let completed = {
            let mut state = self.state.lock();
            let count = state.pending.iter().take_while(|entry| entry.sequence <= sequence).count();
            state.pending.drain(..count).collect::<Vec<_>>()
        };
        let count = completed.len();
        completed.into_iter().for_each(Pending::succeed);
        self.release(count);
    }

    /// The oldest gets `oldest`, the others are flushed; what they held is returned.
    pub(crate) fn fail(&self, oldest: OperationError) -> Vec<Operation> {
        let pending = {
            let mut state = self.state.lock();
            state.failed = true;
            std::mem::take(&mut state.pending)
        };
        self.places.close();
        let mut error = oldest;
        let mut held = Vec::with_capacity(pending.len());
        for entry in pending {
            let reported = !matches!(entry.done, Done::ByNext);
            held.push(entry.fail(error));
            if reported {
                error = OperationError::Flushed;
            }
        }
        held
    }

    /// Since when the oldest operation has been waiting.
    pub(crate) fn oldest_age(&self) -> Option<Duration> {
        self.state.lock().pending.front().map(|entry| entry.posted.elapsed())
    }
}

/// Places that were waited for; they go back if the caller is dropped before it posts.
pub(crate) struct Reserved<'a> {
    queue: &'a SendQueue,
    operations: usize,
}

impl Reserved<'_> {
    /// From here on the posted entries hold the places.
    pub(crate) fn used(mut self) {
        self.operations = 0;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.queue.release(self.operations);
    }
}

impl SendState {
    /// Adds an operation whose place was reserved. The provider sees to it that the peer learns of it in this order.
    pub(crate) fn push(&mut self, operation: Operation, done: Done) -> Result<u64, OperationError> {
        if self.failed {
            return Err(OperationError::Flushed);
        }
        self.posted += 1;
        let sequence = self.posted;
        self.pending.push_back(Pending { sequence, operation, done, ring_end: None, posted: Instant::now() });
        Ok(sequence)
    }
}
