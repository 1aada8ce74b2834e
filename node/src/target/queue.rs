//! A bounded queue into a storage thread: many push, one takes all that is there.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;

/// Jobs waiting for one thread.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
    capacity: usize,
}

struct State<T> {
    jobs: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State { jobs: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), arrived: Condvar::new(), capacity }
    }

    /// Adds a job; gives it back when the queue is full or closed.
    pub(super) fn push(&self, job: T) -> Result<(), Refused<T>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Closed(job));
        }
        if state.jobs.len() >= self.capacity {
            return Err(Refused::Full(job));
        }
        state.jobs.push_back(job);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for jobs and moves at most `most` of them to `into`; false when the queue is closed and empty.
    pub(super) fn take(&self, into: &mut Vec<T>, most: usize) -> bool {
        let mut state = self.state.lock();
        while state.jobs.is_empty() {
            if state.closed {
                return false;
            }
            self.arrived.wait(&mut state);
        }
        let count = state.jobs.len().min(most);
        into.extend(state.jobs.drain(..count));
        true
    }

    /// All that wait, for when there is nobody left to take them.
    pub(super) fn drain(&self) -> VecDeque<T> {
        std::mem::take(&mut self.state.lock().jobs)
    }

    /// Takes no more; what is in it is still done.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
    }
}

/// A job that was not taken.
pub(super) enum Refused<T> {
    Full(T),
    Closed(T),
}
