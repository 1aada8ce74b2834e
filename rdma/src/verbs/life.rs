//! How a connection lives and ends: its task waits for what neither an operation nor a completion tells, and takes it down in
//! order.
//!
//! Down goes: the last word and what was posted before it, for a moment; the disconnect, which moves the queue pair to its error
//! state; the flush of all that the device still has; the windows of grants; the queue pair; then what operations held, and the
//! id. A flush that does not end is cut short by destroying the queue pair, after which the device touches nothing either.
//!
//! Invariant: memory of operations is let go only after the queue pair is gone.

use super::cm::Event;
use super::link::VerbsLink;
use super::message::Bye;
use super::state::{ByeState, Phase};
use crate::{ConnectionError, OperationError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_types::Scaled;
use tokio::time::{sleep_until, timeout};

/// The last word, and what was posted before it, get so long to leave.
const LAST_WORD: Duration = Duration::from_secs(2);
/// The flush gets so long.
const DRAIN: Duration = Duration::from_secs(5);
/// Later than any grant expires.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often the drain is looked at when nothing tells of it.
const LOOK: Duration = Duration::from_millis(20);

impl VerbsLink {
    /// Starts the connection's task; it ends with the connection.
    pub(super) fn start(self: &Arc<Self>) {
        tokio::spawn(run(self.clone()));
    }

    /// Enters the error state, once. The peer is told, unless it is why; the task does the rest.
    pub(crate) fn fail(&self, reason: ConnectionError, oldest: OperationError) {
        let Some(held) = self.pair.fail(reason, oldest) else { return };
        let bye = match reason {
            ConnectionError::Closed => Some(Bye::Closed),
            ConnectionError::Operation(error @ OperationError::ReceiverNotReady) => Some(Bye::Mine(error)),
            ConnectionError::Refused(error @ OperationError::RemoteOperation) => Some(Bye::Yours(error)),
            // The queue pair is in its error state, or the peer does not listen.
            ConnectionError::PeerClosed
            | ConnectionError::PeerGone
            | ConnectionError::Operation(_)
            | ConnectionError::Refused(_) => None,
        };
        self.begin_closing(held, bye);
        self.pump();
        self.work.notify_one();
    }

    /// A grant was made that expires after so long.
    pub(crate) fn granted(&self, expires: Duration) {
        let is_sooner = Instant::now().checked_add(expires).is_some_and(|at| at < *self.alarm.lock());
        if is_sooner {
            self.work.notify_one();
        }
    }

    /// Connection management says that the peer is gone; completions may know better, and come first.
    fn disconnected(&self) {
        self.room.queue.poll_all();
        if self.pair.error().is_some() {
            return;
        }
        if self.queue_pair.is_in_error() {
            self.fail(ConnectionError::Refused(OperationError::RemoteAccess), OperationError::Flushed);
        } else {
            self.fail(ConnectionError::PeerGone, OperationError::RetryExceeded);
        }
    }

    /// When the oldest operation has waited long enough for a credit.
    fn not_ready_deadline(&self) -> Option<Instant> {
        let tunables = &self.pair.tunables;
        let patience = tunables.receiver_not_ready_timer * (tunables.receiver_not_ready_retries + 1);
        self.state.lock().blocked_since.map(|since| since + patience)
    }

    /// Fails the connection if it has waited long enough; an operation before it that is still with the device comes first.
    fn check_not_ready(&self) {
        if self.not_ready_deadline().is_none_or(|deadline| Instant::now() < deadline) {
            return;
        }
        let mut state = self.state.lock();
        if state.has_posted_data() {
            state.blocked_since = Some(Instant::now());
            return;
        }
        drop(state);
        let error = OperationError::ReceiverNotReady;
        self.fail(ConnectionError::Operation(error), error);
    }

    /// The device lets go of everything.
    fn destroy(&self) {
        self.queue_pair.fail();
        self.pair.grants.drop_guards();
        self.queue_pair.destroy();
        self.device.links.remove(self.number);
        let held = std::mem::take(&mut self.state.lock().held);
        drop(held);
    }
}

async fn run(link: Arc<VerbsLink>) {
    while link.pair.error().is_none() {
        // Whatever is granted from here on makes this look again, if it expires before the alarm that is set below.
        *link.alarm.lock() = Instant::now() + FAR;
        let expiry = link.pair.grants.expire_guards();
        link.check_not_ready();
        if link.owes_credits() && link.pair.receives.has_room() {
            link.queue_credits();
        }
        let alarm = [expiry, link.not_ready_deadline()].into_iter().flatten().min();
        let alarm = alarm.unwrap_or_else(|| Instant::now() + FAR);
        *link.alarm.lock() = alarm;
        tokio::select! {
            event = link.cm.next() => match event {
                Ok(Event::Disconnected) => link.disconnected(),
                Ok(Event::DeviceRemoved) | Err(_) => {
                    link.fail(ConnectionError::PeerGone, OperationError::RetryExceeded);
                }
                Ok(_) => {}
            },
            () = link.work.notified() => {}
            () = sleep_until(alarm.into()) => {}
            () = link.pair.receives.room(), if link.owes_credits() => {}
        }
    }
    take_down(&link).await;
}

async fn take_down(link: &Arc<VerbsLink>) {
    // Elapsed: the peer does not take it in; it learns from the disconnect.
    let _ = timeout(LAST_WORD.scaled(), until(link, || link.state.lock().bye != ByeState::Pending)).await;
    link.state.lock().phase = Phase::Silent;
    let _ = timeout(DRAIN.scaled(), until(link, || !link.state.lock().posting)).await;
    link.cm.disconnect();
    link.queue_pair.fail();
    if timeout(DRAIN.scaled(), until(link, || link.state.lock().is_drained())).await.is_err() {
        tracing::debug!(connection = link.pair.id, "a queue pair was not flushed in time");
    }
    link.destroy();
    link.ended.set();
}

/// Until it holds. Looks for completions itself, so that nobody else has to.
async fn until(link: &VerbsLink, holds: impl Fn() -> bool) {
    loop {
        link.room.queue.poll_all();
        if holds() {
            return;
        }
        // Elapsed: looks again.
        let _ = timeout(LOOK, link.work.notified()).await;
    }
}

impl Drop for VerbsLink {
    fn drop(&mut self) {
        // The runtime ended before the connection's task, or the connection never stood.
        self.pair.fail(ConnectionError::Closed, OperationError::Flushed).into_iter().for_each(|held| {
            self.state.lock().held.extend(held);
        });
        self.destroy();
        self.ended.set();
    }
}
