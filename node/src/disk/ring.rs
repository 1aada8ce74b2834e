//! One thread's `io_uring`: a batch of transfers side by side, waited for as a whole.
//!
//! Not an event loop: a group commit has nothing to do but wait for its writes. Invariant: no function returns, and none of the
//! memory it was lent is free, before every transfer that was submitted has completed.

use super::real::write_all_at;
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
    /// A large write is cut into pieces of this size, which the device then works on side by side.
    pub(super) const CHUNK_BYTES: usize = 512 << 10;

    /// A ring, when the kernel has them and lets us.
    pub(super) fn new() -> Option<Self> {
        IoUring::new(DEPTH).ok().map(Self)
    }

    /// Writes all parts from `offset` on.
    pub(super) fn write(&mut self, file: &File, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let groups = chunks(offset, parts);
        let vectors: Vec<Vec<libc::iovec>> =
            groups.iter().map(|(_, parts)| parts.iter().map(vector).collect()).collect();
        let mut results = vec![0; groups.len()];
        let entries = groups.iter().zip(&vectors).map(|((offset, _), vector)| {
            let (address, count) = (vector.as_ptr(), vector.len() as u32);
            opcode::Writev::new(types::Fd(file.as_raw_fd()), address, count).offset(*offset).build()
        });
        // SAFETY: `vectors` and the parts they point to are borrowed until `run` returns, which is after the last completion.
        unsafe { self.run(entries, &mut results) };
        for ((offset, parts), result) in groups.iter().zip(results) {
            let wanted: usize = parts.iter().map(|part| part.len()).sum();
            match usize::try_from(result) {
                Ok(written) if written == wanted => {}
                Ok(_) => write_all_at(file, *offset, parts)?,
                Err(_) if is_passing(result) => write_all_at(file, *offset, parts)?,
                Err(_) => return Err(io::Error::from_raw_os_error(-result)),
            }
        }
        Ok(())
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

fn vector(part: &&[u8]) -> libc::iovec {
    libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() }
}

/// Cuts the parts into runs of about `CHUNK_BYTES`, each with its offset; a long part is cut at multiples of it.
fn chunks<'a>(mut offset: u64, parts: &[&'a [u8]]) -> Vec<(u64, Vec<&'a [u8]>)> {
    let mut groups: Vec<(u64, Vec<&[u8]>)> = Vec::new();
    let mut room = 0;
    for piece in parts.iter().flat_map(|part| part.chunks(Ring::CHUNK_BYTES)) {
        match groups.last_mut() {
            Some((_, group)) if piece.len() <= room => group.push(piece),
            _ => {
                groups.push((offset, vec![piece]));
                room = Ring::CHUNK_BYTES;
            }
        }
        room -= piece.len();
        offset += piece.len() as u64;
    }
    groups
}
