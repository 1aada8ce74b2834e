//! The asking end: descriptors into our ring, completions out of the peer's counters. Runs on whatever thread posts or waits.

use super::ShmLink;
use super::control::{RING_BYTES, Word};
use super::descriptor::{DESCRIPTOR_BYTES, Descriptor};
use crate::engine::grants::ADDRESS_BASE;
use crate::engine::send_queue::{Done, Operation, Pending, SendState};
use crate::{ConnectionError, OperationError};
use std::sync::atomic::{Ordering, fence};

/// Our ring. Locked only while the send queue is.
#[derive(Default)]
pub(super) struct Ring {
    /// Bytes ever put in, and ever freed.
    produced: u64,
    freed: u64,
    /// The newest operation in it.
    newest: u64,
    /// Operations at the end of the send queue that found no room.
    unplaced: usize,
    reads_done: u64,
}

impl ShmLink {
    /// Posts a chain: into the ring, or behind what waits for room in it. Someone waits for completions when there is no room, in
    /// the ring or in the pool.
    pub(crate) fn post(&self, chain: impl Iterator<Item = (Operation, Done)>) -> Result<u64, OperationError> {
        let mut posted = 0;
        let waits = {
            let mut state = self.pair.sends.lock();
            let mut ring = self.ring.lock();
            for (operation, done) in chain {
                posted = state.push(operation, done)?;
                ring.unplaced += 1;
            }
            self.place(&mut state, &mut ring);
            ring.unplaced > 0 || self.pair.pool.is_short()
        };
        self.doorbell.ring(&self.peer);
        if waits {
            self.want(posted);
        }
        Ok(posted)
    }

    /// Someone waits for this operation (or, with the largest number, for all): the peer shall wake us when it is done.
    pub(crate) fn want(&self, sequence: u64) {
        let sequence = if sequence == u64::MAX { self.pair.sends.lock().posted } else { sequence };
        self.own.raise(Word::Wanted, sequence);
        // Either the peer sees the wish when it has completed, or we see the completion.
        fence(Ordering::SeqCst);
        if self.peer.load(Word::Completed) > self.noticed.load(Ordering::Acquire) {
            self.drain();
        }
    }

    /// Takes note of what the peer has completed or refused.
    pub(super) fn drain(&self) {
        // In this order: once the status is there, the count is final.
        let status = self.peer.load(Word::Status);
        let completed = self.peer.load(Word::Completed);
        let (drained, concerns_peer) = {
            let mut state = self.pair.sends.lock();
            let mut ring = self.ring.lock();
            if state.failed {
                return;
            }
            let before = (ring.produced, ring.reads_done);
            let drained = self.complete(&mut state, &mut ring, completed);
            self.place(&mut state, &mut ring);
            (drained, before != (ring.produced, ring.reads_done))
        };
        match drained {
            Ok(count) => self.pair.sends.release(count),
            Err(error) => self.fail(ConnectionError::Operation(error), error),
        }
        // That we know of its completions is nothing to wake it for.
        if concerns_peer {
            self.doorbell.ring(&self.peer);
        }
        if status != 0 {
            let error = OperationError::from_code(u32::try_from(status).unwrap_or_default());
            self.fail(ConnectionError::Operation(error), error);
        }
    }

    /// Completes what is done, copying the bytes of READs out of the peer's pool.
    fn complete(
        &self,
        state: &mut SendState,
        ring: &mut Ring,
        completed: u64,
    ) -> Result<usize, OperationError> {
        if completed > ring.newest {
            return Err(OperationError::RemoteOperation);
        }
        let mut count = 0;
        while let Some(mut front) = state.pending.pop_front_if(|front| front.sequence <= completed) {
            if let Operation::Read { into, from } = &mut front.operation {
                let into = into.get_mut(..from.bytes as usize).unwrap_or_default();
                let offset = from.address.wrapping_sub(ADDRESS_BASE);
                if !self.peer_pool.copy_out(offset, into) {
                    return Err(OperationError::RemoteOperation);
                }
                ring.reads_done += 1;
                self.own.store(Word::ReadsDone, ring.reads_done);
            }
            ring.freed = front.ring_end.unwrap_or(ring.freed);
            front.succeed();
            count += 1;
        }
        self.noticed.fetch_max(completed, Ordering::AcqRel);
        Ok(count)
    }

    /// Puts into the ring what it has room for, in order.
    fn place(&self, state: &mut SendState, ring: &mut Ring) {
        let first = state.pending.len().saturating_sub(ring.unplaced);
        for entry in state.pending.range_mut(first..) {
            let (descriptor, message) = describe(entry);
            let end = ring.produced + descriptor.ring_bytes();
            if end - ring.freed > RING_BYTES {
                break;
            }
            self.own.write_ring(ring.produced, &descriptor.encode());
            self.own.write_ring(ring.produced + DESCRIPTOR_BYTES as u64, message);
            ring.produced = end;
            ring.newest = entry.sequence;
            ring.unplaced -= 1;
            entry.ring_end = Some(end);
        }
        self.own.store(Word::Produced, ring.produced);
    }
}

fn describe(entry: &Pending) -> (Descriptor, &[u8]) {
    match &entry.operation {
        Operation::Write { source, to, immediate } => {
            let (bytes, offset) = (source.len() as u32, source.pool_offset() as u64);
            let (key, address, immediate) = (to.key, to.address, *immediate);
            (Descriptor::Write { key, address, bytes, offset, immediate }, &[])
        }
        Operation::Read { from, .. } => {
            (Descriptor::Read { key: from.key, address: from.address, bytes: from.bytes }, &[])
        }
        Operation::Send { message } => (Descriptor::Send { bytes: message.len() as u32 }, message),
    }
}
