//! A snapshot as a stream: all rows of all spaces, in order, in chunks, each chunk followed by the hash of all before it.
//!
//! ```text
//! header   "10-4snap", version (u16), 0 (6 bytes)
//! chunk    length (u32, not 0), rows, running hash (16)
//! row      space (u8), key length (u32), value length (u32), key, value
//! end      0 (u32), number of rows (u64), running hash (16)
//! ```
//! Numbers are little-endian. The running hash is BLAKE3 over everything before it but the running hashes themselves, cut to 16
//! bytes: a chunk that is altered, missing, repeated or out of place does not pass. The same rows give the same bytes from
//! every store. Memory: one chunk, whatever the number of rows.

use super::{Scan, Space, Table, TableError};
use std::io::{Read, Write};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"10-4snap";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;
const ROW_HEAD_BYTES: usize = 9;
const HASH_BYTES: usize = 16;
/// Longest key of any store, bytes.
const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// A chunk is closed when it has grown to this.
const CHUNK_BYTES: usize = 256 << 10;
/// Largest chunk that is read: one row may exceed `CHUNK_BYTES` by a Raft entry's size many times over, no more.
const CHUNK_BYTES_MAX: usize = 64 << 20;

/// A stream that is no intact snapshot.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SnapshotError {
    /// It does not begin like one, or was written by a newer version.
    #[error("not a snapshot that this build reads")]
    Unknown,
    /// A hash does not match, the rows are out of order, or it is cut off.
    #[error("the snapshot is corrupt or cut off")]
    Corrupt,
}

/// What was in a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotSummary {
    /// Rows.
    pub rows: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// BLAKE3 over its content, cut to 16 bytes: equal tables have equal digests.
    pub digest: [u8; HASH_BYTES],
}

/// Writes all rows of a view.
pub fn write_snapshot(
    table: &(impl Table + ?Sized),
    out: &mut dyn Write,
) -> Result<SnapshotSummary, TableError> {
    let mut writer = Writer { out, hasher: blake3::Hasher::new(), chunk: Vec::new(), rows: 0, bytes: 0 };
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    writer.emit(&header)?;
    for space in Space::ALL {
        table.scan(space, &[], &mut |key, value| {
            writer.row(space, key, value)?;
            Ok(Scan::On)
        })?;
    }
    writer.finish()
}

/// The digest of all rows of a view: replicas at the same log index have the same.
pub fn digest(table: &(impl Table + ?Sized)) -> Result<[u8; HASH_BYTES], TableError> {
    Ok(write_snapshot(table, &mut std::io::sink())?.digest)
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    hasher: blake3::Hasher,
    chunk: Vec<u8>,
    rows: u64,
    bytes: u64,
}

impl Writer<'_> {
    fn row(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        self.chunk.push(space as u8);
        self.chunk.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.chunk.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.chunk.extend_from_slice(key);
        self.chunk.extend_from_slice(value);
        self.rows += 1;
        if self.chunk.len() >= CHUNK_BYTES {
            self.close_chunk()?;
        }
        Ok(())
    }

    fn close_chunk(&mut self) -> Result<(), TableError> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        self.emit(&(chunk.len() as u32).to_le_bytes())?;
        self.emit(&chunk)?;
        self.emit_hash()?;
        self.chunk = chunk;
        self.chunk.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<SnapshotSummary, TableError> {
        self.close_chunk()?;
        self.emit(&0u32.to_le_bytes())?;
        self.emit(&self.rows.to_le_bytes())?;
        let digest = self.emit_hash()?;
        self.out.flush()?;
        Ok(SnapshotSummary { rows: self.rows, bytes: self.bytes, digest })
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<(), TableError> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(self.out.write_all(bytes)?)
    }

    fn emit_hash(&mut self) -> Result<[u8; HASH_BYTES], TableError> {
        let hash = running(&self.hasher);
        self.bytes += HASH_BYTES as u64;
        self.out.write_all(&hash)?;
        Ok(hash)
    }
}

fn running(hasher: &blake3::Hasher) -> [u8; HASH_BYTES] {
    let mut hash = [0; HASH_BYTES];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

/// What takes the rows of a snapshot: space, key, value.
pub(super) type TakeRow<'a> = dyn FnMut(Space, &[u8], &[u8]) -> Result<(), TableError> + 'a;

/// Reads a snapshot, handing over the rows of each chunk once the chunk has proved intact. Only when this returns `Ok` was
/// the whole stream intact: the taker has to be ready to throw everything away.
pub(super) fn read_snapshot(
    input: &mut dyn Read,
    take: &mut TakeRow<'_>,
) -> Result<SnapshotSummary, TableError> {
    let mut reader = Reader { input, hasher: blake3::Hasher::new(), bytes: 0 };
    let mut header = [0; HEADER_BYTES];
    reader.fill(&mut header)?;
    if header[..8] != MAGIC[..] || header[8..10] != VERSION.to_le_bytes() {
        return Err(SnapshotError::Unknown.into());
    }
    let (mut chunk, mut rows, mut last) = (Vec::new(), 0, None);
    loop {
        let mut length = [0; 4];
        reader.fill(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 {
            break;
        }
        if length > CHUNK_BYTES_MAX {
            return Err(SnapshotError::Corrupt.into());
        }
        reader.chunk(length, &mut chunk)?;
        reader.check_hash()?;
        rows += take_chunk(&chunk, &mut last, take)?;
    }
    let mut count = [0; 8];
    reader.fill(&mut count)?;
    let digest = reader.check_hash()?;
    if u64::from_le_bytes(count) != rows {
        return Err(SnapshotError::Corrupt.into());
    }
    Ok(SnapshotSummary { rows, bytes: reader.bytes, digest })
}

struct Reader<'a> {
    input: &'a mut dyn Read,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Reader<'_> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), TableError> {
        self.fill_unhashed(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// The next so many bytes. Memory grows with what comes, whatever was announced.
    fn chunk(&mut self, length: usize, chunk: &mut Vec<u8>) -> Result<(), TableError> {
        chunk.clear();
        let read = Read::take(&mut self.input, length as u64).read_to_end(chunk)?;
        if read < length {
            return Err(SnapshotError::Corrupt.into());
        }
        self.bytes += length as u64;
        self.hasher.update(chunk);
        Ok(())
    }

    fn fill_unhashed(&mut self, bytes: &mut [u8]) -> Result<(), TableError> {
        self.bytes += bytes.len() as u64;
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => SnapshotError::Corrupt.into(),
            _ => TableError::Io(error),
        })
    }

    fn check_hash(&mut self) -> Result<[u8; HASH_BYTES], TableError> {
        let mut found = [0; HASH_BYTES];
        self.fill_unhashed(&mut found)?;
        if found == running(&self.hasher) { Ok(found) } else { Err(SnapshotError::Corrupt.into()) }
    }
}

/// Hands over the rows of a chunk; they have to ascend, over chunks too.
fn take_chunk(
    mut chunk: &[u8],
    last: &mut Option<(Space, Vec<u8>)>,
    take: &mut TakeRow<'_>,
) -> Result<u64, TableError> {
    let mut rows = 0;
    while !chunk.is_empty() {
        let (Row { space, key, value }, rest) = split_row(chunk).ok_or(SnapshotError::Corrupt)?;
        let key_fits = (1..=KEY_BYTES_MAX).contains(&key.len());
        if !key_fits || last.as_ref().is_some_and(|(at, before)| (*at, before.as_slice()) >= (space, key)) {
            return Err(SnapshotError::Corrupt.into());
        }
        let kept = last.get_or_insert_with(|| (space, Vec::new()));
        kept.0 = space;
        kept.1.clear();
        kept.1.extend_from_slice(key);
        take(space, key, value)?;
        rows += 1;
        chunk = rest;
    }
    Ok(rows)
}

/// The first row of a chunk and what follows it.
fn split_row(chunk: &[u8]) -> Option<(Row<'_>, &[u8])> {
    let (head, rest) = chunk.split_first_chunk::<ROW_HEAD_BYTES>()?;
    let [space, k0, k1, k2, k3, v0, v1, v2, v3] = *head;
    let space = *Space::ALL.get(usize::from(space))?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes([k0, k1, k2, k3]) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes([v0, v1, v2, v3]) as usize)?;
    Some((Row { space, key, value }, rest))
}

struct Row<'a> {
    space: Space,
    key: &'a [u8],
    value: &'a [u8],
}
