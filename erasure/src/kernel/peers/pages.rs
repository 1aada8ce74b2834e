//! Anonymous memory on huge pages where the kernel has them: with pages of 4 KiB, translation would be measured too.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A mapping that belongs to nobody else.
#[derive(Debug)]
pub(crate) struct Pages {
    mapping: *mut u8,
    mapping_bytes: usize,
    /// Where the first huge page begins, bytes into the mapping.
    start: usize,
    bytes: usize,
}

impl Pages {
    /// So many zeros, at an address that is a multiple of 2 MiB.
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let mapping_bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES) + HUGE_PAGE_BYTES;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let mapping = unsafe { mmap_anonymous(ptr::null_mut(), mapping_bytes, access, MapFlags::PRIVATE) }?;
        // SAFETY: the range is the mapping. Advice that the kernel does not take costs speed only.
        let _ = unsafe { madvise(mapping, mapping_bytes, Advice::LinuxHugepage) };
        let mapping = mapping.cast::<u8>();
        Ok(Self { mapping, mapping_bytes, start: mapping.align_offset(HUGE_PAGE_BYTES), bytes })
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: start and length lie in the mapping, which lives as long as `self` and is initialised with zeros.
        unsafe { std::slice::from_raw_parts(self.mapping.add(self.start), self.bytes) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.add(self.start), self.bytes) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no borrow of it outlives `self`.
        let _ = unsafe { munmap(self.mapping.cast(), self.mapping_bytes) };
    }
}
