//! Parts of a pool, with their ownership as types.
#![allow(unsafe_code)] // The slices over registered memory are made here and nowhere else.

use super::PAGE_BYTES;
use super::pool::Shared;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

/// A unique, writable part of a pool that begins on a page. Its memory returns to the pool when it is dropped.
///
/// A fresh buffer holds unspecified bytes: zeroes, or what an earlier owner left there.
pub struct Buffer {
    pool: Arc<Shared>,
    first_page: u32,
    pages: u32,
    bytes: usize,
}

impl Buffer {
    /// The caller has just taken these pages off the pool's allocator, and gives them to this buffer alone.
    pub(super) fn new(pool: Arc<Shared>, first_page: u32, pages: u32, bytes: usize) -> Self {
        Self { pool, first_page, pages, bytes }
    }

    /// Gives up writing, so that the bytes can be shared.
    pub fn freeze(self) -> Frozen {
        let range = 0..self.bytes;
        Frozen { buffer: Arc::new(self), range }
    }

    /// Makes it shorter; the pages stay with it. Longer than it is: nothing happens.
    pub fn truncate(&mut self, bytes: usize) {
        self.bytes = self.bytes.min(bytes);
    }

    /// Where it begins in its pool.
    pub(crate) fn pool_offset(&self) -> usize {
        self.first_page as usize * PAGE_BYTES
    }

    pub(super) fn pool(&self) -> &Arc<Shared> {
        &self.pool
    }

    fn first_byte(&self) -> *mut u8 {
        // SAFETY: the pages lie inside the pool's mapping (the allocator was made for exactly its pages).
        unsafe { self.pool.mapping.base().as_ptr().add(self.pool_offset()) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialised memory (a memfd is born zeroed) that stays mapped while `self.pool` lives and that only this
        // buffer owns; a `&self` excludes `&mut self`, and peers can only read it.
        unsafe { std::slice::from_raw_parts(self.first_byte(), self.bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference in this process. A peer that reads meanwhile
        // over its own read-only mapping may see any mixture, and expects to.
        unsafe { std::slice::from_raw_parts_mut(self.first_byte(), self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.release(self.first_page, self.pages);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Buffer({} bytes at {:#x})", self.bytes, self.pool_offset())
    }
}

/// A shared, immutable part of a pool.
#[derive(Clone)]
pub struct Frozen {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl Frozen {
    /// A part of it, sharing the memory; `None` when the range is not inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Frozen> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end)
            .then(|| Self { buffer: self.buffer.clone(), range: start..end })
    }

    /// The buffer it was made of (all of it, whatever slice this is), if nobody else holds a part: no clone, no operation,
    /// no grant.
    pub fn try_unfreeze(self) -> Result<Buffer, Frozen> {
        let range = self.range;
        Arc::try_unwrap(self.buffer).map_err(|buffer| Frozen { buffer, range })
    }

    /// Where it begins in its pool.
    pub(crate) fn pool_offset(&self) -> usize {
        self.buffer.pool_offset() + self.range.start
    }

    pub(super) fn pool(&self) -> &Arc<Shared> {
        &self.buffer.pool
    }
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.get(self.range.clone()).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Frozen({} bytes at {:#x})", self.len(), self.pool_offset())
    }
}
