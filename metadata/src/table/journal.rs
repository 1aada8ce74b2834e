//! Cuts fjall's newest journal behind its last intact batch.
//!
//! What was committed since the last checkpoint was never synced, so a power cut may leave any of its pages unwritten, in any order.
//! fjall drops a last batch that is incomplete, but refuses to open when a batch is complete and its checksum is wrong, which
//! a page of zeros in the middle of a value brings about. Everything behind the last intact batch is replayed from the Raft log
//! anyway. Only the newest journal is cut: older ones were synced when they were sealed, so damage to them is no power cut.
//!
//! The format is that of fjall 3 (`journal/entry.rs`); numbers are little-endian:
//! ```text
//! batch    start, (item | clear)*, end
//! start    1 (u8), number of items (u32), sequence number (u64)
//! item     2 (u8), kind (u8), compression (u8), keyspace (u64), key length (u16), value length (u32), stored length (u32), key, stored value
//! clear    4 (u8), keyspace (u64)
//! end      3 (u8), XXH3 of the items and clears (u64), "FJL", 3 (u8)
//! ```

use super::TableError;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: [u8; 4] = [b'F', b'J', b'L', 3];
/// Longest stored value that is believed: far above any row.
const VALUE_BYTES_MAX: u32 = 1 << 28;

/// Cuts the newest journal of the database in this folder; how many bytes of its tail went, trailing zeros included.
pub(super) fn cut_torn_tail(database: &Path) -> Result<u64, TableError> {
    let Some(path) = newest(database)? else { return Ok(0) };
    let intact = intact_bytes(BufReader::new(File::open(&path)?))?;
    let file = OpenOptions::new().write(true).open(&path)?;
    let torn = file.metadata()?.len().saturating_sub(intact);
    if torn > 0 {
        file.set_len(intact)?;
        file.sync_all()?;
    }
    Ok(torn)
}

fn newest(database: &Path) -> Result<Option<PathBuf>, TableError> {
    let mut newest = None;
    for entry in fs::read_dir(database)? {
        let path = entry?.path();
        let number =
            path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, path)));
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the first batch begins that is not intact.
pub(crate) fn intact_bytes(input: impl Read) -> Result<u64, TableError> {
    let mut reader = Counted { input, at: 0 };
    let mut intact = 0;
    while let Some(()) = batch(&mut reader)? {
        intact = reader.at;
    }
    Ok(intact)
}

/// Reads one batch; `None` when there is none that is intact.
fn batch(reader: &mut Counted<impl Read>) -> Result<Option<()>, TableError> {
    let Some([START]) = reader.take()? else { return Ok(None) };
    let Some(count) = reader.take::<4>()?.map(u32::from_le_bytes) else { return Ok(None) };
    let Some(_sequence_number) = reader.take::<8>()? else { return Ok(None) };
    let mut hasher = Xxh3::new();
    for _ in 0..count {
        if item(reader, &mut hasher)?.is_none() {
            return Ok(None);
        }
    }
    let Some([END]) = reader.take()? else { return Ok(None) };
    let (Some(checksum), Some(magic)) = (reader.take::<8>()?, reader.take::<4>()?) else { return Ok(None) };
    let intact = u64::from_le_bytes(checksum) == hasher.digest() && magic == MAGIC;
    Ok(intact.then_some(()))
}

fn item(reader: &mut Counted<impl Read>, hasher: &mut Xxh3) -> Result<Option<()>, TableError> {
    let Some([tag]) = reader.take()? else { return Ok(None) };
    hasher.update(&[tag]);
    if tag == CLEAR {
        let Some(keyspace) = reader.take::<8>()? else { return Ok(None) };
        hasher.update(&keyspace);
        return Ok(Some(()));
    }
    let head = if tag == ITEM { reader.take::<20>()? } else { None };
    let Some(head) = head else { return Ok(None) };
    hasher.update(&head);
    let [.., k0, k1, _, _, _, _, s0, s1, s2, s3] = head;
    let stored = u32::from_le_bytes([s0, s1, s2, s3]);
    if stored > VALUE_BYTES_MAX {
        return Ok(None);
    }
    let mut body = vec![0; usize::from(u16::from_le_bytes([k0, k1])) + stored as usize];
    if !reader.fill(&mut body)? {
        return Ok(None);
    }
    hasher.update(&body);
    Ok(Some(()))
}

/// A reader that knows where it is.
struct Counted<R> {
    input: R,
    at: u64,
}

impl<R: Read> Counted<R> {
    fn take<const N: usize>(&mut self) -> Result<Option<[u8; N]>, TableError> {
        let mut bytes = [0; N];
        Ok(self.fill(&mut bytes)?.then_some(bytes))
    }

    /// Whether the input went so far.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<bool, TableError> {
        match self.input.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
