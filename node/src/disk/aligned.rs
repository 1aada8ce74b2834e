//! A heap buffer whose address is a multiple of a block: for the node's own small reads and for zeroes. Shard bytes never live
//! here, they stay in registered memory.

use super::BLOCK_BYTES;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Zeroed memory, aligned for `O_DIRECT`.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    layout: Layout,
}

impl AlignedBuffer {
    /// A buffer of at least `bytes`, rounded up to whole blocks, at least one.
    ///
    /// # Panics
    /// When `bytes` is beyond the address space.
    pub fn zeroed(bytes: usize) -> Self {
        let bytes = bytes.max(1).next_multiple_of(BLOCK_BYTES);
        #[allow(clippy::expect_used)]
        let layout = Layout::from_size_align(bytes, BLOCK_BYTES).expect("a length within the address space");
        // SAFETY: the layout's size is at least one block, never zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, layout }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is this buffer's own allocation of that size, initialised with zeroes, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, and dropped once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

// SAFETY: the allocation belongs to this value alone; it has no thread of its own and no interior mutability.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above: shared access only reads.
unsafe impl Sync for AlignedBuffer {}
