//! Where the answers of one fan-out or one gather arrive.
//!
//! Fourteen answers wake their waiter once, not fourteen times: it says how many it wants, and only a failure wakes it before.
//! Invariant: nothing that was delivered is lost, also when a wait is given up.

use parking_lot::Mutex;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    arrived: Vec<T>,
    urgent: bool,
    wanted: usize,
    waker: Option<Waker>,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Arc<Self> {
        let state = State { arrived: Vec::new(), urgent: false, wanted: 1, waker: None };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// An answer; an urgent one does not wait for the others.
    pub(crate) fn deliver(&self, answer: T, urgent: bool) {
        let waker = {
            let mut state = self.state.lock();
            state.arrived.push(answer);
            state.urgent |= urgent;
            if state.is_due() { state.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Everything that arrived, when it is at least so much or something of it is urgent.
    pub(crate) async fn take(&self, at_least: usize) -> Vec<T> {
        poll_fn(|context| {
            let mut state = self.state.lock();
            state.wanted = at_least.max(1);
            if state.is_due() {
                state.urgent = false;
                return Poll::Ready(std::mem::take(&mut state.arrived));
            }
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                state.waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Everything that arrived so far.
    pub(crate) fn take_now(&self) -> Vec<T> {
        let mut state = self.state.lock();
        state.urgent = false;
        std::mem::take(&mut state.arrived)
    }
}

impl<T> State<T> {
    fn is_due(&self) -> bool {
        self.arrived.len() >= self.wanted || (self.urgent && !self.arrived.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn the_waiter_gets_all_at_once_or_what_is_urgent_at_once() {
        let inbox = Inbox::new();
        let mut waiting = Box::pin(inbox.take(3));
        for number in 0..2 {
            inbox.deliver(number, false);
            assert!((&mut waiting).now_or_never().is_none());
        }
        inbox.deliver(2, false);
        assert_eq!(waiting.await, [0, 1, 2]);
        inbox.deliver(3, true);
        assert_eq!(inbox.take(3).await, [3]);
        inbox.deliver(4, false);
        assert!(inbox.take(2).now_or_never().is_none(), "urgency ended with what was urgent");
        assert_eq!(inbox.take_now(), [4]);
    }
}
