//! The disk under a target: a folder of files, written in whole blocks, flushed when told.
//!
//! A [`Disk`] knows nothing of shards or segments, retries nothing, and hides no error. "Written" and "flushed" are different
//! words here: what [`Engine::write`] wrote is durable only when a later [`Engine::flush`] of that file returned, and a new
//! file's name only when [`Disk::flush_folder`] did. [`RealDisk`] is the real one; [`FaultyDisk`] keeps everything in memory and
//! loses, tears, delays and refuses on demand.

// Unsafe: io_uring is handed addresses, which it uses until the completion is seen (`ring`), and a block-aligned buffer is
// allocated by hand (`aligned`). Each block says why it holds.
#![allow(unsafe_code)]

mod aligned;
mod faulty;
mod real;
mod ring;

pub use aligned::AlignedBuffer;
pub use faulty::{Call, Faults, FaultyDisk};
pub use real::{RealDisk, RealEngine, RealFile};

use std::io;
use std::path::PathBuf;

/// Offsets, lengths and addresses of every transfer are multiples of this.
pub const BLOCK_BYTES: usize = tenfour_types::limits::RECORD_ALIGN_BYTES;

/// A folder of files on one disk.
pub trait Disk: Send + Sync + 'static {
    /// An open file.
    type File: Send + Sync + 'static;
    /// What one thread does its transfers with.
    type Engine: Engine<File = Self::File>;

    /// Creates a file that must not exist, empty. Its name is durable after [`Disk::flush_folder`].
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Length of a file, bytes.
    fn length(&self, file: &Self::File) -> io::Result<u64>;
    /// Keeps other processes from opening the target that this file belongs to, until it is closed.
    fn lock(&self, file: &Self::File) -> io::Result<()>;
    /// The names in the folder, of files and of folders.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes names that were created, renamed and removed durable (`fsync` of the folder).
    fn flush_folder(&self) -> io::Result<()>;
    /// Which file the name leads to *now*; an error when there is none.
    fn identity(&self, name: &str) -> io::Result<Identity>;
    /// Bytes that can still be allocated.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Where the index, which is no part of what is promised, may keep its own files.
    fn index_folder(&self) -> PathBuf;
    /// An engine for the calling thread.
    fn engine(&self) -> io::Result<Self::Engine>;
    /// How transfers are done, for the log and for `status`.
    fn kind(&self) -> Kind;
}

/// Transfers of one thread.
pub trait Engine: Send {
    /// An open file of the engine's disk.
    type File;
    /// Writes `parts` one after the other from `offset` on; wholly, or an error and nothing known about what is there.
    /// All are multiples of [`BLOCK_BYTES`], lengths, offset and addresses.
    fn write(&mut self, file: &Self::File, offset: u64, parts: &[&[u8]]) -> io::Result<()>;
    /// Reads each range wholly, or says why not; a short file is `UnexpectedEof`.
    fn read(&mut self, reads: &mut [Read<'_, Self::File>]);
    /// Makes what was written to the file durable (`fdatasync`).
    fn flush(&mut self, file: &Self::File) -> io::Result<()>;
}

/// One range to be read.
pub struct Read<'a, File> {
    /// The file.
    pub file: &'a File,
    /// Where the range begins.
    pub offset: u64,
    /// Where it goes; its length is the range's.
    pub into: &'a mut [u8],
    /// What came of it.
    pub result: io::Result<()>,
}

/// Which file a name leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The file system's device.
    pub device: u64,
    /// The inode.
    pub inode: u64,
    /// Names that lead to it.
    pub links: u64,
}

/// How a disk does its transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// Past the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Reads side by side, by `io_uring`.
    pub ring: bool,
}

/// Zeroes that may be written again and again, one part for each of their length.
pub(crate) fn write_zeroes<E: Engine>(
    engine: &mut E,
    file: &E::File,
    zeroes: &AlignedBuffer,
    from: u64,
    to: u64,
) -> io::Result<()> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut left = to.saturating_sub(from);
    while left > 0 {
        let bytes = left.min(zeroes.len() as u64);
        parts.push(zeroes.get(..bytes as usize).unwrap_or_default());
        left -= bytes;
    }
    engine.write(file, from, &parts)
}

/// Reads one range.
pub(crate) fn read_one<E: Engine>(
    engine: &mut E,
    file: &E::File,
    offset: u64,
    into: &mut [u8],
) -> io::Result<()> {
    let mut reads = [Read { file, offset, into, result: Ok(()) }];
    engine.read(&mut reads);
    let [Read { result, .. }] = reads;
    result
}
