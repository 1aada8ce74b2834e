//! Memory of a peer, mapped read-only, and copied out of by bounds-checked ranges. Its bytes are never referenced in place.

use crate::memory::SEALS;
use rustix::fs::{fcntl_get_seals, fstat, fstatfs};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

/// `f_type` of a memfd with ordinary pages: others can fault for want of huge pages.
const TMPFS_MAGIC: i128 = 0x0102_1994;
/// After copying so much out of a mapping, its pages are let go: they are the peer's, and would count as ours. Mapping them
/// again costs a few per cent of the copy.
const RESIDENT_BYTES_MAX: usize = 8 << 20;

pub(super) struct PeerMapping {
    base: NonNull<u8>,
    bytes: usize,
    copied: AtomicUsize,
}

// SAFETY: the mapping is valid on every thread until `drop`; it is only read, by raw copies and atomic loads.
unsafe impl Send for PeerMapping {}
// SAFETY: as above.
unsafe impl Sync for PeerMapping {}

impl PeerMapping {
    /// Maps exactly `bytes` of a memfd, if it can never shrink and never fault.
    pub(super) fn map(file: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let refuse = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        if bytes == 0 || i128::from(fstat(file)?.st_size) != bytes as i128 {
            return Err(refuse("shared memory of another size than announced"));
        }
        if !fcntl_get_seals(file)?.contains(SEALS) || i128::from(fstatfs(file)?.f_type) != TMPFS_MAGIC {
            return Err(refuse("shared memory that is not sealed"));
        }
        // SAFETY: a fresh read-only mapping at an address that the kernel chooses.
        let base = unsafe { mmap(null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, file, 0)? };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, bytes, copied: AtomicUsize::new(0) })
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Copies a range out; `false` when it is not inside. What arrives is what the peer had there at some time during the
    /// copy, byte by byte: a peer that writes meanwhile gets a mixture, and loses only its own data.
    pub(super) fn copy_out(&self, offset: u64, into: &mut [u8]) -> bool {
        let Ok(offset) = usize::try_from(offset) else { return false };
        if offset.checked_add(into.len()).is_none_or(|end| end > self.bytes) {
            return false;
        }
        // SAFETY: the source range was just checked to lie in the mapping, which is sealed against shrinking; the target is
        // a unique reference to our own memory, which no peer's file backs, so that they do not overlap. No Rust reference
        // to the source exists; another process may write to it, and any value it takes is acceptable.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.as_ptr().add(offset), into.as_mut_ptr(), into.len());
        };
        let copied = self.copied.fetch_add(into.len(), Ordering::Relaxed);
        if copied >= RESIDENT_BYTES_MAX {
            self.copied.store(0, Ordering::Relaxed);
            self.let_pages_go();
        }
        true
    }

    fn let_pages_go(&self) {
        // SAFETY: the range is this mapping. It is shared and read-only: dropping its pages loses nothing, the next access
        // maps them again.
        let advised = unsafe { madvise(self.base.as_ptr().cast(), self.bytes, Advice::LinuxDontNeed) };
        if let Err(error) = advised {
            tracing::debug!(%error, "cannot let a peer's pages go");
        }
    }
}

impl Drop for PeerMapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this base and length, and unmapped only here.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) } {
            tracing::error!(%error, "cannot unmap a peer's memory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Mapping;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::AsFd;

    #[test]
    fn only_sealed_memory_of_the_announced_size_is_mapped() {
        let sealed = Mapping::create("test", 8192).unwrap();
        assert!(PeerMapping::map(sealed.file(), 8192).is_ok());
        assert!(PeerMapping::map(sealed.file(), 4096).is_err());
        assert!(PeerMapping::map(sealed.file(), 1 << 40).is_err());
        let open = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&open, 8192).unwrap();
        assert!(PeerMapping::map(open.as_fd(), 8192).is_err());
        let file = std::fs::File::open("/dev/zero").unwrap();
        assert!(PeerMapping::map(file.as_fd(), 8192).is_err());
    }

    #[test]
    fn copies_stay_inside() {
        let sealed = Mapping::create("test", 8192).unwrap();
        let peer = PeerMapping::map(sealed.file(), 8192).unwrap();
        assert!(peer.copy_out(8191, &mut [0; 1]) && peer.copy_out(8192, &mut []));
        assert!(!peer.copy_out(8191, &mut [0; 2]) && !peer.copy_out(u64::MAX, &mut [0; 2]));
    }

    /// However much is copied out of a peer's pool, little of it counts as ours.
    #[test]
    fn copied_pages_do_not_stay_resident() {
        const BYTES: usize = 64 << 20;
        let sealed = Mapping::create("test", BYTES).unwrap();
        let peer = PeerMapping::map(sealed.file(), BYTES).unwrap();
        let mut into = vec![0; 1 << 20];
        for offset in (0..BYTES).step_by(into.len()) {
            assert!(peer.copy_out(offset as u64, &mut into));
        }
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let base = format!("{:x}-", peer.base().as_ptr() as usize);
        let mut entry = maps.lines().skip_while(|line| !line.starts_with(&base));
        let resident = entry.find(|line| line.starts_with("Rss:")).unwrap();
        let resident: usize = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(resident << 10 <= RESIDENT_BYTES_MAX + (4 << 20), "{resident} KiB");
    }
}
