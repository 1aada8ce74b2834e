//! The answering end, one task for each connection: executes the peer's ring, notices its completions, sleeps between.
//!
//! Invariant: `closed` says STOPPED only when nothing on this end copies from the peer's memory any more.

use super::ShmLink;
use super::control::{CLOSING, RING_BYTES, STOPPED, Word};
use super::descriptor::{DESCRIPTOR_BYTES, Descriptor};
use crate::config::{MESSAGE_BYTES_MAX, SEND_QUEUE_OPERATIONS};
use crate::connection::Received;
use crate::memory::Frozen;
use crate::{ConnectionError, OperationError};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

/// After copying so much, completions are announced and other tasks get their turn.
const TURN_BYTES: usize = 512 << 10;
/// What an operation without bytes counts as, so that a stream of them ends a turn too.
const OPERATION_BYTES: usize = 4 << 10;
/// While polling, other tasks get their turn after so many looks.
const LOOKS_A_TURN: u32 = 8;

pub(super) async fn run(link: Arc<ShmLink>) {
    let mut reactor = Reactor::new(&link);
    while !reactor.turn().await {
        reactor.sleep().await;
    }
    reactor.stop().await;
    link.ended.set();
}

struct Reactor<'a> {
    link: &'a ShmLink,
    /// Bytes of the peer's ring that were executed, and operations in them.
    consumed: u64,
    completed: u64,
    /// What was completed when the peer was last considered for a wake-up.
    announced: u64,
    /// Bytes that the peer may be copying, oldest first, and how many it had copied before them.
    pinned: VecDeque<Frozen>,
    unpinned: u64,
    sleeps: u64,
    copied: usize,
    peer_gone: bool,
}

impl<'a> Reactor<'a> {
    fn new(link: &'a ShmLink) -> Self {
        let pinned = VecDeque::new();
        let (consumed, completed, announced, unpinned, sleeps, copied) = (0, 0, 0, 0, 0, 0);
        Self { link, consumed, completed, announced, pinned, unpinned, sleeps, copied, peer_gone: false }
    }

    /// Does all there is to do; `true` when it was the last time.
    async fn turn(&mut self) -> bool {
        let link = self.link;
        // Before the ring is read: all that the peer posted before it closed or died is executed.
        let closed = link.peer.load(Word::Closed);
        let gone = self.peer_gone;
        let incoming = self.incoming().await;
        self.announce();
        if let Err(error) = incoming
            && error != OperationError::Flushed
        {
            link.own.store(Word::Status, u64::from(error.code()));
            link.fail(ConnectionError::Refused(error), OperationError::Flushed);
        }
        link.drain();
        self.unpin();
        if closed != 0 {
            link.fail(ConnectionError::PeerClosed, OperationError::Flushed);
        } else if gone {
            link.fail(ConnectionError::PeerGone, OperationError::RetryExceeded);
        }
        // Not before `fail` is through, whoever called it: until then a READ may be copying on another thread.
        link.own.load(Word::Closed) >= CLOSING
    }

    /// Executes the peer's ring up to its end.
    async fn incoming(&mut self) -> Result<(), OperationError> {
        loop {
            let produced = self.link.peer.load(Word::Produced);
            if produced == self.consumed {
                return Ok(());
            }
            if produced.wrapping_sub(self.consumed) > RING_BYTES {
                return Err(OperationError::RemoteOperation);
            }
            while self.consumed != produced {
                if self.link.pair.error().is_some() {
                    return Ok(());
                }
                self.next(produced - self.consumed).await?;
                self.completed += 1;
                self.link.own.store(Word::Completed, self.completed);
                self.copied += OPERATION_BYTES;
                if self.copied >= TURN_BYTES {
                    self.copied = 0;
                    self.announce();
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Executes one operation, of which `available` bytes are in the ring.
    async fn next(&mut self, available: u64) -> Result<(), OperationError> {
        let malformed = OperationError::RemoteOperation;
        let mut encoded = [0; DESCRIPTOR_BYTES];
        if available < DESCRIPTOR_BYTES as u64 {
            return Err(malformed);
        }
        self.link.peer.read_ring(self.consumed, &mut encoded);
        let descriptor = Descriptor::decode(&encoded).ok_or(malformed)?;
        if descriptor.ring_bytes() > available {
            return Err(malformed);
        }
        match descriptor {
            Descriptor::Write { key, address, bytes, offset, immediate } => {
                if immediate.is_some() {
                    self.room().await?;
                }
                self.write((key, address, bytes), offset)?;
                if let Some(value) = immediate {
                    self.link.pair.receives.push(Received::Immediate { value, bytes });
                }
            }
            Descriptor::Read { key, address, bytes } => {
                if self.pinned.len() >= SEND_QUEUE_OPERATIONS {
                    self.unpin();
                }
                if self.pinned.len() >= SEND_QUEUE_OPERATIONS {
                    return Err(malformed);
                }
                self.pinned.push_back(self.link.pair.grants.begin_read(key, address, bytes)?);
            }
            Descriptor::Send { bytes } => self.message(bytes as usize).await?,
        }
        self.consumed += descriptor.ring_bytes();
        Ok(())
    }

    /// Copies out of the peer's pool into what it was granted.
    fn write(&mut self, (key, address, bytes): (u64, u64, u32), offset: u64) -> Result<(), OperationError> {
        if bytes == 0 {
            return Ok(());
        }
        let mut landing = self.link.pair.grants.begin_write(key, address, bytes)?;
        if !self.link.peer_pool.copy_out(offset, landing.bytes()) {
            return Err(OperationError::RemoteOperation);
        }
        self.copied += bytes as usize;
        Ok(())
    }

    async fn message(&mut self, bytes: usize) -> Result<(), OperationError> {
        if bytes > MESSAGE_BYTES_MAX {
            return Err(OperationError::MessageTooLong);
        }
        self.room().await?;
        let mut message = vec![0; bytes];
        self.link.peer.read_ring(self.consumed + DESCRIPTOR_BYTES as u64, &mut message);
        self.link.pair.receives.push(Received::Message(message.into()));
        Ok(())
    }

    /// Room in the receive queue. Our own completions are noticed while it is waited for: whoever should take from the
    /// queue may be waiting for one.
    async fn room(&mut self) -> Result<(), OperationError> {
        let link = self.link;
        if link.pair.receives.has_room() {
            return Ok(());
        }
        self.announce();
        let room = link.pair.receives.wait_for_room(&link.pair.tunables);
        tokio::pin!(room);
        loop {
            self.sleeps += 2;
            link.own.store(Word::Sleeping, self.sleeps - 1);
            fence(Ordering::SeqCst);
            link.drain();
            self.unpin();
            tokio::select! {
                room = &mut room => {
                    link.own.store(Word::Sleeping, self.sleeps);
                    return room;
                }
                () = link.bell.rung() => {}
            }
        }
    }

    /// Wakes the peer if it sleeps and one of the operations completed since last time is awaited.
    fn announce(&mut self) {
        if self.completed == self.announced {
            return;
        }
        fence(Ordering::SeqCst);
        if self.link.peer.load(Word::Wanted) > self.announced {
            self.link.doorbell.ring(&self.link.peer);
        }
        self.announced = self.completed;
    }

    /// Lets go of what the peer has copied.
    fn unpin(&mut self) {
        let done = self.link.peer.load(Word::ReadsDone);
        while self.unpinned < done && self.pinned.pop_front().is_some() {
            self.unpinned += 1;
        }
    }

    /// Only what a turn can act upon counts, or a peer whose counters run backwards would keep us awake for ever.
    fn has_work(&self) -> bool {
        let peer = &self.link.peer;
        peer.load(Word::Produced) != self.consumed
            || peer.load(Word::Completed) > self.link.noticed.load(Ordering::Acquire)
            || (!self.pinned.is_empty() && peer.load(Word::ReadsDone) > self.unpinned)
            || peer.load(Word::Closed) != 0
            || peer.load(Word::Status) != 0
    }

    async fn sleep(&mut self) {
        let link = self.link;
        if self.poll().await {
            return;
        }
        self.sleeps += 2;
        link.own.store(Word::Sleeping, self.sleeps - 1);
        fence(Ordering::SeqCst);
        if !self.has_work() {
            tokio::select! {
                () = link.bell.rung() => {}
                () = link.failed.notified() => {}
                () = hung_up(link) => self.peer_gone = true,
            }
        }
        link.own.store(Word::Sleeping, self.sleeps);
    }

    /// Looks for work for as long as the domain is configured to, without sleeping.
    async fn poll(&self) -> bool {
        let spin = self.link.pair.tunables.spin;
        if spin.is_zero() {
            return false;
        }
        let started = Instant::now();
        while started.elapsed() < spin {
            for _ in 0..LOOKS_A_TURN {
                if self.has_work() {
                    return true;
                }
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
        false
    }

    /// In the error state: says that we have stopped, and keeps the quarantine until the peer has, or is dead.
    async fn stop(&mut self) {
        let link = self.link;
        link.own.store(Word::Closed, STOPPED);
        // The rings from here on are few: no sleep is announced, none is saved.
        link.doorbell.ring_always();
        while !self.peer_gone && link.peer.load(Word::Closed) != STOPPED {
            tokio::select! {
                () = link.bell.rung() => {}
                () = hung_up(link) => self.peer_gone = true,
            }
        }
        link.quarantine.lock().clear();
        self.pinned.clear();
    }
}

/// The peer's process is dead (or has dropped the connection): the kernel closes its end of the socket only after its memory
/// is gone. Nothing else is ever said on the socket after the set-up; what is, is ignored.
async fn hung_up(link: &ShmLink) {
    let mut byte = [0; 64];
    loop {
        if link.socket.readable().await.is_err() {
            return;
        }
        match link.socket.try_read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
