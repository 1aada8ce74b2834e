//! The newest entries of a group's log, in memory.
//!
//! Invariant: without gaps, and within a bound of bytes after each [`Newest::shrink`], the newest entry apart.

use crate::raft::Entry;
use std::collections::VecDeque;

/// Entries kept in memory, bytes of one group; the newest is kept always.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// Entries with their sizes in bytes.
#[derive(Default)]
pub(crate) struct Newest {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Newest {
    /// The index of the oldest of them.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.log_id.index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Entry, usize)> {
        self.entries.iter()
    }

    pub(super) fn push(&mut self, entry: Entry, bytes: usize) {
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
    }

    pub(super) fn shrink(&mut self) {
        while self.bytes > KEPT_BYTES_MAX && self.entries.len() > 1 {
            self.bytes -= self.entries.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    pub(super) fn drop_before(&mut self, index: u64) {
        while self.first().is_some_and(|from| from < index) {
            self.bytes -= self.entries.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    pub(super) fn drop_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.log_id.index >= index) {
            self.bytes -= self.entries.pop_back().map_or(0, |(_, bytes)| bytes);
        }
    }
}
