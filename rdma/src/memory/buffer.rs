//! Parts of a pool, or of memory that somebody else owns, with their ownership as types.
#![allow(unsafe_code)] // The slices over registered memory are made here and nowhere else.

use super::PAGE_BYTES;
use super::host::Host;
use super::pool::Shared;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

/// A unique, writable part of a pool that begins on a page, whose memory returns to the pool when it is dropped; or a part of
/// memory that somebody else owns ([`super::HostRegion`]).
///
/// A fresh buffer of a pool holds unspecified bytes: zeroes, or what an earlier owner left there.
pub struct Buffer {
    place: Place,
    bytes: usize,
}

enum Place {
    Pool {
        pool: Arc<Shared>,
        first_page: u32,
        pages: u32,
    },
    /// `is_writable`: it may be a `Buffer` outside this module, and not only the inside of a `Frozen`.
    Host {
        host: Arc<Host>,
        start: usize,
        is_writable: bool,
    },
}

impl Buffer {
    /// The caller has just taken these pages off the pool's allocator, and gives them to this buffer alone.
    pub(super) fn new(pool: Arc<Shared>, first_page: u32, pages: u32, bytes: usize) -> Self {
        Self { place: Place::Pool { pool, first_page, pages }, bytes }
    }

    /// The caller vouches that the range is inside, that nobody else touches it, and if it is not writable freezes it at once.
    pub(super) fn of_host(host: Arc<Host>, start: usize, bytes: usize, is_writable: bool) -> Self {
        Self { place: Place::Host { host, start, is_writable }, bytes }
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

    /// Where it begins in its pool; memory of others lies behind every pool.
    pub(crate) fn pool_offset(&self) -> usize {
        match &self.place {
            Place::Pool { first_page, .. } => *first_page as usize * PAGE_BYTES,
            Place::Host { host, start, .. } => host.offset() + start,
        }
    }

    /// Whose memory it is, if not the pool's.
    pub(crate) fn host(&self) -> Option<&Arc<Host>> {
        match &self.place {
            Place::Pool { .. } => None,
            Place::Host { host, .. } => Some(host),
        }
    }

    /// Whether it is memory that somebody else owns.
    pub fn is_host(&self) -> bool {
        self.host().is_some()
    }

    /// Its domain's, whosever the memory is.
    pub(super) fn pool(&self) -> &Arc<Shared> {
        match &self.place {
            Place::Pool { pool, .. } => pool,
            Place::Host { host, .. } => &host.pool,
        }
    }

    fn first_byte(&self) -> *mut u8 {
        match &self.place {
            // SAFETY: the pages lie inside the pool's mapping (the allocator was made for exactly its pages).
            Place::Pool { pool, .. } => unsafe { pool.mapping.base().as_ptr().add(self.pool_offset()) },
            // SAFETY: the range lies inside the owner's memory.
            Place::Host { host, start, .. } => unsafe { host.start().as_ptr().add(*start) },
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialised memory (a memfd is born zeroed, an owner vouches for its own) that stays mapped while `self.place`
        // lives and that only this buffer owns; a `&self` excludes `&mut self`, and peers can only read it.
        unsafe { std::slice::from_raw_parts(self.first_byte(), self.bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference in this process. A peer that reads meanwhile
        // over its own read-only mapping may see any mixture, and expects to. What is not writable is never a `Buffer` outside
        // this module (`try_unfreeze`).
        unsafe { std::slice::from_raw_parts_mut(self.first_byte(), self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Place::Pool { pool, first_page, pages } = &self.place {
            pool.release(*first_page, *pages);
        }
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
    /// no grant. Memory of others that was taken for reading stays what it is.
    pub fn try_unfreeze(self) -> Result<Buffer, Frozen> {
        if matches!(self.buffer.place, Place::Host { is_writable: false, .. }) {
            return Err(self);
        }
        let range = self.range;
        Arc::try_unwrap(self.buffer).map_err(|buffer| Frozen { buffer, range })
    }

    /// Where it begins in its pool; memory of others lies behind every pool.
    pub(crate) fn pool_offset(&self) -> usize {
        self.buffer.pool_offset() + self.range.start
    }

    /// Whose memory it is, if not the pool's.
    pub(crate) fn host(&self) -> Option<&Arc<Host>> {
        self.buffer.host()
    }

    /// Whether it is memory that somebody else owns.
    pub fn is_host(&self) -> bool {
        self.buffer.is_host()
    }

    pub(super) fn pool(&self) -> &Arc<Shared> {
        self.buffer.pool()
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
