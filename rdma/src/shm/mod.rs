//! The fabric between processes of one host, over shared memory that each end only exports for reading.
//!
//! For each connection, each end exports a **control block** ([`control`]): a ring of descriptors that it posts, and counters
//! of what it has executed of the peer's ring. For all its connections it exports its **pool**. The peer maps both read-only
//! from sealed memfds: nobody can write to, or take away, what the other relies on. A unix socket passes the descriptors after
//! both ends proved the cluster key, and hangs up when the peer dies, however it dies.
//!
//! - WRITE: the responder checks its grant and copies out of the initiator's pool. One copy, and no revoked initiator, however
//!   late it wakes, can touch the target.
//! - READ: the responder checks its grant and pins the bytes (they are immutable); the initiator copies them out of the
//!   responder's pool and says that it is done, which unpins them. One copy; the pin lasts until then or until the initiator
//!   is dead.
//! - SEND: the message travels in the ring.
//!
//! What it cannot do: keep a peer from *looking* at the rest of the pool. Peers of one pool trust each other with its contents;
//! a client from outside gets a domain of its own. A hostile peer can also make the eventfd that it shares with us block.
//!
//! Nothing in a peer's memory is read twice: a descriptor is copied out, then checked, then used. A lie harms only the liar.
//!
//! Bells (eventfds) are rung only when the other end said that it sleeps, once for each sleep; a completion rings only when
//! someone awaits it.
//!
//! Invariant: memory that the peer may be copying from is not reused before its completion, or before the peer has said that
//! it stopped, or is dead.
#![allow(unsafe_code)] // Mapping and copying from a peer's memory: `control` and `peer`.

mod bell;
mod control;
pub(crate) mod descriptor;
mod initiator;
mod peer;
mod reactor;
mod setup;
mod tests;

use crate::engine::send_queue::Operation;
use crate::engine::{Ended, QueuePair};
use crate::{ConnectionError, OperationError};
use bell::{Bell, Doorbell};
use control::{OwnControl, PeerControl, Word};
use initiator::Ring;
use parking_lot::Mutex;
use peer::PeerMapping;
pub(crate) use setup::{Exports, accept, bind, connect, read_request, write_reject};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// One end of a connection over shared memory.
pub(crate) struct ShmLink {
    pub(crate) pair: QueuePair,
    pub(crate) ended: Ended,
    own: OwnControl,
    peer: PeerControl,
    peer_pool: PeerMapping,
    /// Wakes us.
    bell: Bell,
    /// Wakes the peer.
    doorbell: Doorbell,
    /// Only its end is of interest.
    socket: UnixStream,
    ring: Mutex<Ring>,
    /// Our operations that the peer has completed and that we have taken note of.
    noticed: AtomicU64,
    /// Memory of failed operations that the peer may still be copying from.
    quarantine: Mutex<Vec<Operation>>,
    failed: Notify,
}

impl ShmLink {
    fn start(
        pair: QueuePair,
        own: OwnControl,
        bell: Bell,
        peer: setup::Peer,
        socket: UnixStream,
    ) -> Arc<Self> {
        let setup::Peer { control, pool, doorbell } = peer;
        let link = Arc::new(Self {
            pair,
            ended: Ended::default(),
            own,
            peer: control,
            peer_pool: pool,
            bell,
            doorbell,
            socket,
            ring: Mutex::default(),
            noticed: AtomicU64::new(0),
            quarantine: Mutex::default(),
            failed: Notify::new(),
        });
        tokio::spawn(reactor::run(link.clone()));
        link
    }

    /// Enters the error state. The memory of outstanding WRITEs goes to quarantine until the reactor knows that the peer
    /// has stopped.
    pub(crate) fn fail(&self, reason: ConnectionError, oldest: OperationError) {
        let Some(mut held) = self.pair.fail(reason, oldest) else { return };
        held.retain(|operation| matches!(operation, Operation::Write { .. }));
        self.quarantine.lock().extend(held);
        self.own.store(Word::Closed, control::CLOSING);
        self.doorbell.ring_always();
        self.failed.notify_one();
    }
}

impl Drop for ShmLink {
    /// The reactor empties the quarantine; if the runtime ended before it could, a living peer may still be copying.
    fn drop(&mut self) {
        let held = std::mem::take(self.quarantine.get_mut());
        if !held.is_empty() && self.peer.load(Word::Closed) != control::STOPPED {
            tracing::warn!(operations = held.len(), "memory stays with a peer that has not let go of it");
            std::mem::forget(held);
        }
    }
}
