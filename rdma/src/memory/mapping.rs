//! A memfd of our own, mapped writable once and then sealed: nobody can shrink, grow or map it writable again.
//!
//! Peers of the `shm` provider map the same file, so they can neither take a page away under us nor write to one.
#![allow(unsafe_code)] // mmap and the slices of what it returned: this is where registered memory comes from.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

/// Seals that a peer asks for before it maps our memory.
pub(crate) const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// Shared memory that only this process can write to.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    file: OwnedFd,
}

// SAFETY: the mapping is plain memory, valid on every thread until it is unmapped in `drop`; who may touch which byte is
// decided by the owners of its parts (`Buffer`, `shm::Control`).
unsafe impl Send for Mapping {}
// SAFETY: as above; `Mapping` itself hands out only the base address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed memory of `bytes` (a positive multiple of the page size), named in `/proc/PID/maps`. Pages become resident
    /// when they are first touched.
    pub(crate) fn create(name: &str, bytes: usize) -> io::Result<Self> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, bytes as u64)?;
        // SAFETY: a fresh mapping at an address that the kernel chooses; nothing is overlaid.
        let base = unsafe {
            mmap(null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Self { base, bytes, file };
        fcntl_add_seals(&mapping.file, SEALS)?;
        Ok(mapping)
    }

    /// Asks for huge pages; a host that grants none is as correct, only slower.
    pub(crate) fn advise_huge_pages(&self) {
        // SAFETY: the range is this mapping, and the advice changes no contents.
        let advised = unsafe { madvise(self.base.as_ptr().cast(), self.bytes, Advice::LinuxHugepage) };
        if let Err(error) = advised {
            tracing::debug!(%error, "no huge pages for registered memory");
        }
    }

    /// Prefers this NUMA node for pages that are not resident yet; pages of another are as correct, only slower.
    #[cfg(feature = "verbs")]
    pub(crate) fn prefer_node(&self, node: usize) {
        const PREFERRED: libc::c_long = 1; // MPOL_PREFERRED of linux/mempolicy.h
        let mut nodes = [0u64; 16];
        let Some(word) = nodes.get_mut(node / 64) else { return };
        *word = 1 << (node % 64);
        let bits = nodes.len() * 64 + 1;
        // SAFETY: the range is this mapping, the mask as long as it is said to be; a policy changes no contents.
        let set = unsafe {
            libc::syscall(libc::SYS_mbind, self.base.as_ptr(), self.bytes, PREFERRED, nodes.as_ptr(), bits, 0)
        };
        if set != 0 {
            tracing::debug!(node, error = %io::Error::last_os_error(), "no choice of memory node");
        }
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The file, to pass to a peer.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `create` with this base and length, and unmapped only here, when no owner of a part is left.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) } {
            tracing::error!(%error, "cannot unmap registered memory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_memory_can_be_neither_truncated_nor_written_through_the_file() {
        let mapping = Mapping::create("tenfour-test", 8192).unwrap();
        assert!(ftruncate(mapping.file(), 4096).is_err());
        assert!(ftruncate(mapping.file(), 16384).is_err());
        assert!(rustix::io::pwrite(mapping.file(), b"x", 0).is_err());
        // SAFETY: a fresh mapping, if the kernel wrongly granted it; it is never touched.
        let writable = unsafe {
            mmap(null_mut(), 8192, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, mapping.file(), 0)
        };
        assert!(writable.is_err());
    }
}
