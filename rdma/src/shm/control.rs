//! A control block: what one end tells the other about one connection. Written by its owner alone, read by the peer alone.
//!
//! ```text
//! 0    produced    bytes of descriptors ever put into the ring
//! 64   completed   the peer's operations executed, in order
//! 128  status      0, or why the one after `completed` was refused
//! 192  reads done  READs of ours whose bytes we have copied out
//! 256  sleeping    odd while the reactor sleeps; one more at each change
//! 320  wanted      wake us when this operation of ours is completed
//! 384  closed      0, 1: in the error state, 2: and not touching the peer's memory any more
//! 4096 ring        RING_BYTES, a position modulo RING_BYTES
//! ```
//!
//! Every word has a cache line of its own. There is no consumer's index: an entry is free when its operation is completed.

use super::peer::PeerMapping;
use crate::memory::Mapping;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the ring: three of the longest messages, or a send queue full of other descriptors.
pub(super) const RING_BYTES: u64 = 64 << 10;
/// Bytes of a control block.
pub(super) const CONTROL_BYTES: usize = RING_OFFSET + RING_BYTES as usize;
/// `closed` while this end is in the error state.
pub(super) const CLOSING: u64 = 1;
/// `closed` when it does not touch the peer's memory any more.
pub(super) const STOPPED: u64 = 2;

const RING_OFFSET: usize = 4096;

/// A word of the block, by its offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(super) enum Word {
    Produced = 0,
    Completed = 64,
    Status = 128,
    ReadsDone = 192,
    Sleeping = 256,
    Wanted = 320,
    Closed = 384,
}

/// Ours: read and written by us, read by the peer.
pub(super) struct OwnControl {
    mapping: Mapping,
}

impl OwnControl {
    pub(super) fn create() -> io::Result<Self> {
        Ok(Self { mapping: Mapping::create("tenfour-connection", CONTROL_BYTES)? })
    }

    pub(super) fn load(&self, word: Word) -> u64 {
        self.word(word).load(Ordering::Acquire)
    }

    /// Everything written before is seen by whoever sees this value.
    pub(super) fn store(&self, word: Word, value: u64) {
        self.word(word).store(value, Ordering::Release);
    }

    pub(super) fn raise(&self, word: Word, value: u64) {
        self.word(word).fetch_max(value, Ordering::AcqRel);
    }

    /// Copies into the ring. Callers hold the ring's lock and have checked that the peer is done with these bytes.
    pub(super) fn write_ring(&self, position: u64, bytes: &[u8]) {
        let start = (position % RING_BYTES) as usize;
        let (head, tail) = bytes.split_at(bytes.len().min(RING_BYTES as usize - start));
        for (start, part) in [(start, head), (0, &tail[..tail.len().min(start)])] {
            // SAFETY: `start + part.len() <= RING_BYTES` by the split, so that the target lies in our mapping; no Rust
            // reference to ring bytes exists anywhere (the peer copies them out with raw pointers).
            unsafe {
                let target = self.mapping.base().as_ptr().add(RING_OFFSET + start);
                std::ptr::copy_nonoverlapping(part.as_ptr(), target, part.len());
            }
        }
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.mapping.file()
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        // SAFETY: every `Word` is an 8-byte aligned offset inside the mapping, which lives as long as `self`, and these
        // bytes are accessed as atomics only.
        unsafe { AtomicU64::from_ptr(self.mapping.base().as_ptr().add(word as usize).cast()) }
    }
}

/// The peer's: it may change at any time, to anything.
pub(super) struct PeerControl {
    mapping: PeerMapping,
}

impl PeerControl {
    pub(super) fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { mapping: PeerMapping::map(file, CONTROL_BYTES)? })
    }

    pub(super) fn load(&self, word: Word) -> u64 {
        // SAFETY: as in `OwnControl::word`; the memory is mapped read-only, which an atomic load of 8 bytes allows.
        unsafe { AtomicU64::from_ptr(self.mapping.base().as_ptr().add(word as usize).cast()) }
            .load(Ordering::Acquire)
    }

    /// Copies out of the ring, once.
    pub(super) fn read_ring(&self, position: u64, into: &mut [u8]) {
        let start = position % RING_BYTES;
        let (head, tail) = into.split_at_mut(into.len().min((RING_BYTES - start) as usize));
        self.mapping.copy_out(RING_OFFSET as u64 + start, head);
        self.mapping.copy_out(RING_OFFSET as u64, tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_wraps_around_the_ring_arrives_whole(position in any::<u64>(), bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
            let own = OwnControl::create().unwrap();
            let peer = PeerControl::map(own.file()).unwrap();
            own.write_ring(position, &bytes);
            own.store(Word::Produced, 7);
            let mut seen = vec![0; bytes.len()];
            peer.read_ring(position, &mut seen);
            prop_assert_eq!(seen, bytes);
            prop_assert_eq!((peer.load(Word::Produced), peer.load(Word::Completed)), (7, 0));
        }
    }
}
