//! One thread's `io_uring`: a batch of reads side by side, waited for as a whole.
//!
//! Not an event loop, and not for writes: a group commit is one contiguous range, which a single vectored write hands to the
//! device just as wide, for half the CPU (the kernel gives large direct writes of a ring to worker threads). Invariant: `read` does
//! not return, and none of the memory it was lent is free, before every transfer that was submitted has completed.

use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Transfers in flight at once.
const DEPTH: u32 = 64;

pub(super) struct Ring(IoUring);

/// One range to be read.
pub(super) struct Range<'a> {
    pub(super) file: &'a File,
    pub(super) offset: u64,
    pub(super) into: &'a mut [u8],
    pub(super) result: &'a mut io::Result<()>,
}

impl Ring {
    /// A ring, when the kernel has them and lets us.
    pub(super) fn new() -> Option<Self> {
        IoUring::new(DEPTH).ok().map(Self)
    }

    /// Reads all ranges; each has its own result.
    pub(super) fn read(&mut self, ranges: &mut [Range<'_>]) {
        let mut results = vec![0; ranges.len()];
        let entries: Vec<_> = ranges
            .iter_mut()
            .map(|range| {
                let (address, bytes) = (range.into.as_mut_ptr(), range.into.len() as u32);
                opcode::Read::new(types::Fd(range.file.as_raw_fd()), address, bytes)
                    .offset(range.offset)
                    .build()
            })
            .collect();
        // SAFETY: the ranges' memory is borrowed exclusively until `run` returns, which is after the last completion.
        unsafe { self.run(entries.into_iter(), &mut results) };
        for (range, result) in ranges.iter_mut().zip(results) {
            *range.result = match usize::try_from(result) {
                Ok(read) if read == range.into.len() => Ok(()),
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => range.file.read_exact_at(range.into, range.offset),
                Err(_) if is_passing(result) => range.file.read_exact_at(range.into, range.offset),
                Err(_) => Err(io::Error::from_raw_os_error(-result)),
            };
        }
    }

    /// Submits all entries and waits for all; `results[i]` is what entry *i* returned.
    ///
    /// # Safety
    /// What the entries point to stays valid, and what they write to is touched by nobody, until this returns.
    unsafe fn run(
        &mut self,
        mut entries: impl Iterator<Item = io_uring::squeue::Entry>,
        results: &mut [i32],
    ) {
        let total = results.len();
        let (mut submitted, mut done) = (0, 0);
        while done < total {
            while submitted < total && submitted - done < DEPTH as usize {
                let Some(entry) = entries.next() else { break };
                // SAFETY: the caller vouches for what the entry points to; there is room, since at most `DEPTH` are in flight.
                if unsafe { self.0.submission().push(&entry.user_data(submitted as u64)) }.is_err() {
                    abandon("the submission queue is full");
                }
                submitted += 1;
            }
            match self.0.submit_and_wait(1) {
                Ok(_) => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(error) => abandon(&error.to_string()),
            }
            for completion in self.0.completion() {
                if let Some(result) = results.get_mut(completion.user_data() as usize) {
                    *result = completion.result();
                }
                done += 1;
            }
        }
    }
}

/// The kernel may still use memory that we could not go on to keep: ending the process is the only safe way out.
fn abandon(why: &str) -> ! {
    tracing::error!(why, "io_uring failed with transfers in flight");
    std::process::abort()
}

fn is_passing(result: i32) -> bool {
    matches!(-result, libc::EINTR | libc::EAGAIN)
}
