//! The real disk: files of one folder, `O_DIRECT` where the file system takes it, reads by `io_uring` where the kernel has it.
//!
//! Both are found out when the folder is opened, and never change while it is open. Invariant: no error is swallowed, and no
//! flush is repeated after it failed (the kernel forgets what it could not write, so a second flush would lie).

use super::ring::Ring;
use super::{BLOCK_BYTES, Disk, Engine, Identity, Kind, Read};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Most parts of one vectored write (`IOV_MAX` is 1024).
const PARTS_PER_CALL_MAX: usize = 512;
const INDEX_FOLDER: &str = "index";
const PROBE: &str = ".probe";

/// A folder on a real file system.
pub struct RealDisk {
    folder: PathBuf,
    kind: Kind,
}

/// An open file of a [`RealDisk`].
pub struct RealFile(File);

/// What one thread transfers with.
pub struct RealEngine {
    ring: Option<Ring>,
    direct: bool,
}

impl RealDisk {
    /// Opens the folder and finds out how it can be written.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let kind = Kind { direct: takes_direct(folder)?, ring: Ring::new().is_some() };
        Ok(Self { folder: folder.to_owned(), kind })
    }

    /// The same folder by plain calls, whatever the kernel and the file system could do.
    pub fn open_plain(folder: &Path) -> io::Result<Self> {
        folder.read_dir()?;
        Ok(Self { folder: folder.to_owned(), kind: Kind { direct: false, ring: false } })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<RealFile> {
        let direct = if self.kind.direct { OFlags::DIRECT } else { OFlags::empty() };
        open_at(&self.folder.join(name), flags | direct).map(RealFile)
    }
}

impl Disk for RealDisk {
    type File = RealFile;
    type Engine = RealEngine;

    fn create(&self, name: &str) -> io::Result<RealFile> {
        self.open_file(name, OFlags::CREATE | OFlags::EXCL)
    }
    fn open(&self, name: &str) -> io::Result<RealFile> {
        self.open_file(name, OFlags::empty())
    }
    fn length(&self, file: &RealFile) -> io::Result<u64> {
        Ok(file.0.metadata()?.len())
    }
    fn lock(&self, file: &RealFile) -> io::Result<()> {
        file.0.try_lock().map_err(io::Error::from)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        let name =
            |entry: io::Result<std::fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        self.folder.read_dir()?.map(name).collect()
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to))
    }
    fn flush_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
    fn identity(&self, name: &str) -> io::Result<Identity> {
        let found = std::fs::metadata(self.folder.join(name))?;
        Ok(Identity { device: found.dev(), inode: found.ino(), links: found.nlink() })
    }
    fn free_bytes(&self) -> io::Result<u64> {
        let system = rustix::fs::statvfs(&self.folder)?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }
    fn index_folder(&self) -> PathBuf {
        self.folder.join(INDEX_FOLDER)
    }
    fn engine(&self) -> io::Result<RealEngine> {
        let ring = if self.kind.ring { Ring::new() } else { None };
        Ok(RealEngine { ring, direct: self.kind.direct })
    }
    fn kind(&self) -> Kind {
        self.kind
    }
}

impl Engine for RealEngine {
    type File = RealFile;

    fn write(&mut self, file: &RealFile, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let aligned = |part: &&[u8]| {
            part.len().is_multiple_of(BLOCK_BYTES) && part.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
        };
        if self.direct && !(offset.is_multiple_of(BLOCK_BYTES as u64) && parts.iter().all(aligned)) {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "a direct write that is not aligned to blocks",
            ));
        }
        write_all_at(&file.0, offset, parts)
    }

    fn read(&mut self, reads: &mut [Read<'_, RealFile>]) {
        match (&mut self.ring, reads) {
            (Some(ring), reads) if reads.len() > 1 => {
                let mut ranges: Vec<_> = reads
                    .iter_mut()
                    .map(|read| super::ring::Range {
                        file: &read.file.0,
                        offset: read.offset,
                        into: &mut *read.into,
                        result: &mut read.result,
                    })
                    .collect();
                ring.read(&mut ranges);
            }
            (_, reads) => {
                for read in reads {
                    read.result = read.file.0.read_exact_at(read.into, read.offset);
                }
            }
        }
    }

    fn flush(&mut self, file: &RealFile) -> io::Result<()> {
        file.0.sync_data()
    }
}

/// Writes all parts, whatever the kernel takes at once.
fn write_all_at(file: &File, mut offset: u64, mut parts: &[&[u8]]) -> io::Result<()> {
    let mut skip = 0;
    while let Some(first) = parts.first() {
        let mut slices = vec![IoSlice::new(first.get(skip..).unwrap_or_default())];
        slices.extend(parts.iter().skip(1).take(PARTS_PER_CALL_MAX - 1).map(|part| IoSlice::new(part)));
        let mut written = match rustix::io::pwritev(file, &slices, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        offset += written as u64;
        written += skip;
        skip = 0;
        while let Some(first) = parts.first() {
            if written < first.len() {
                skip = written;
                break;
            }
            written -= first.len();
            parts = parts.split_first().map_or(&[], |(_, rest)| rest);
        }
    }
    Ok(())
}

fn open_at(path: &Path, flags: OFlags) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(rustix::fs::open(path, flags | OFlags::RDWR | OFlags::CLOEXEC, mode)?.into())
}

/// Whether files of the folder can be opened with `O_DIRECT` and written by whole blocks.
fn takes_direct(folder: &Path) -> io::Result<bool> {
    let path = folder.join(PROBE);
    let taken = open_at(&path, OFlags::CREATE | OFlags::DIRECT)
        .and_then(|file| write_all_at(&file, 0, &[&super::AlignedBuffer::zeroed(BLOCK_BYTES)]));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match taken {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}
