//! Eventfds: the bell that wakes us, and the doorbell of the peer.

use super::control::{PeerControl, Word};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Wakes the reactor of this end.
pub(super) struct Bell {
    event: AsyncFd<OwnedFd>,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // SAFETY: the eventfd is owned by the `AsyncFd` from here on, and nothing closes or replaces it before that does.
        Ok(Self { event: unsafe { AsyncFd::register_with_interest(event, Interest::READABLE)? } })
    }

    /// Until it is rung; may be early. Every ring is a new edge for epoll, so that the counter never has to be read: one
    /// system call less for each wake-up, and it cannot overflow in 500 years.
    pub(super) async fn rung(&self) {
        if let Ok(mut ready) = self.event.readable().await {
            ready.clear_ready();
        }
    }

    /// To pass to the peer.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Wakes the reactor of the other end.
pub(super) struct Doorbell {
    event: OwnedFd,
    /// The sleep that was rung for last.
    rung: AtomicU64,
}

impl Doorbell {
    pub(super) fn new(event: OwnedFd) -> Self {
        Self { event, rung: AtomicU64::new(0) }
    }

    /// Wakes the peer if it sleeps and nobody has rung for this sleep. Whatever was published before is seen by the peer,
    /// asleep or not: it looks once more after it said that it goes to sleep (both sides store, fence, load).
    pub(super) fn ring(&self, peer: &PeerControl) {
        fence(Ordering::SeqCst);
        let sleep = peer.load(Word::Sleeping);
        if sleep & 1 == 1 && self.rung.swap(sleep, Ordering::Relaxed) != sleep {
            self.ring_always();
        }
    }

    pub(super) fn ring_always(&self) {
        // Full or not an eventfd at all: the peer's own loss.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}
