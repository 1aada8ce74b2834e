//! Reads a segment from its beginning, or from a checkpoint, and says which records it holds.
//!
//! A record counts when its stamp is of this life of the segment, its sequence is above those before it, its header agrees with the
//! stamp and its block table with the digest. In the segment that was written last the payload is verified too: its last group
//! commit may have been torn, and what is left of it must be buried, or a later rebuild, for which that segment is no longer the last,
//! would take it for a shard. Past damage the scan goes on block by block, so bit rot in one record costs that record only; no
//! payload can hold what looks like a record, since nobody outside knows the life.
//!
//! Invariant: any bytes are scanned without a panic, and each block is passed over once.

use super::record::{ShardKey, Tombstone, read_tombstones};
use super::segment::{FIRST_RECORD, SegmentHeader};
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Engine, read_one};
use tenfour_erasure::{crc64, verify_blocks};
use tenfour_types::record::{RECORD_BYTES_MAX, ShardHeader, Stamp, header_bytes};

/// What is read at once when only heads matter.
const WINDOW_BYTES: u32 = 64 << 10;
const BLOCK: u32 = BLOCK_BYTES as u32;

/// A record that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) offset: u32,
    pub(super) record_bytes: u32,
    pub(super) sequence: u64,
    pub(super) entry: Entry,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    Shard(ShardHeader),
    Tombstones(Vec<Tombstone>),
    /// The head of a shard's record whose payload is not what it says.
    Torn(ShardKey),
}

pub(super) struct Scan<'a, E: Engine> {
    engine: &'a mut E,
    file: &'a E::File,
    segment: SegmentHeader,
    /// Where the file ends, or the segment if that is sooner.
    end: u32,
    at: u32,
    sequence_above: Option<u64>,
    verify_payloads: bool,
    window: AlignedBuffer,
    window_start: u32,
    window_bytes: u32,
}

impl<'a, E: Engine> Scan<'a, E> {
    pub(super) fn new(
        engine: &'a mut E,
        file: &'a E::File,
        file_bytes: u64,
        segment: SegmentHeader,
        from: u32,
        verify_payloads: bool,
    ) -> Self {
        let end = u32::try_from(file_bytes).unwrap_or(u32::MAX).min(segment.segment_bytes);
        let window = AlignedBuffer::zeroed(RECORD_BYTES_MAX.max(WINDOW_BYTES as usize));
        let at = from.max(FIRST_RECORD);
        let (window_start, window_bytes, sequence_above) = (0, 0, None);
        Self {
            engine,
            file,
            segment,
            end,
            at,
            sequence_above,
            verify_payloads,
            window,
            window_start,
            window_bytes,
        }
    }

    /// The next record, or what is left of one.
    pub(super) fn next_record(&mut self) -> Option<Found> {
        while self.at.checked_add(BLOCK).is_some_and(|end| end <= self.end) {
            match self.try_record() {
                Some(found) if matches!(found.entry, Entry::Torn(_)) => {
                    self.at += BLOCK;
                    return Some(found);
                }
                Some(found) => {
                    self.at = found.offset + found.record_bytes;
                    self.sequence_above = Some(found.sequence);
                    return Some(found);
                }
                None => self.at += BLOCK,
            }
        }
        None
    }

    /// The record that begins here.
    fn try_record(&mut self) -> Option<Found> {
        let offset = self.at;
        let first = self.bytes(offset, BLOCK)?;
        let stamp = Stamp::read(first, crc64).ok()?;
        let tombstones = read_tombstones(first);
        let shard = ShardHeader::read(first, crc64).ok().filter(|shard| shard.read_table(first).is_ok());
        let in_order =
            self.sequence_above.map_or(stamp.sequence >= self.segment.floor, |above| stamp.sequence > above);
        let fits = offset.checked_add(stamp.record_bytes).is_some_and(|end| end <= self.end);
        if stamp.segment != self.segment.life || !in_order || !fits {
            return None;
        }
        let record_bytes = stamp.record_bytes;
        let entry = match (tombstones, shard) {
            (Some(tombstones), _) if record_bytes == BLOCK => Entry::Tombstones(tombstones),
            (_, Some(shard)) if shard.record_bytes() == record_bytes as usize => {
                let is_torn = self.verify_payloads && !self.is_whole(&shard, offset);
                if is_torn { Entry::Torn(ShardKey::from(&shard)) } else { Entry::Shard(shard) }
            }
            _ => return None,
        };
        Some(Found { offset, record_bytes, sequence: stamp.sequence, entry })
    }

    fn is_whole(&mut self, shard: &ShardHeader, offset: u32) -> bool {
        let Some(record) = self.bytes(offset, shard.record_bytes() as u32) else { return false };
        let payload = shard.payload_bytes as usize;
        let start = header_bytes(payload);
        match (shard.read_table(record), record.get(start..start + payload)) {
            (Ok(sums), Some(payload)) => verify_blocks(payload, 0, &sums).is_ok(),
            _ => false,
        }
    }

    /// Bytes of the segment, by way of the window; `None` when they cannot be read.
    fn bytes(&mut self, offset: u32, bytes: u32) -> Option<&[u8]> {
        let inside = offset >= self.window_start && offset + bytes <= self.window_start + self.window_bytes;
        if !inside {
            let wanted = if self.verify_payloads { self.window.len() as u32 } else { WINDOW_BYTES };
            let most = (self.end - offset) / BLOCK * BLOCK;
            let wanted = wanted.max(bytes).min(most);
            self.load(offset, wanted).or_else(|| self.load(offset, bytes))?;
        }
        let start = (offset - self.window_start) as usize;
        self.window.get(start..start + bytes as usize)
    }

    fn load(&mut self, offset: u32, bytes: u32) -> Option<()> {
        self.window_bytes = 0;
        let into = self.window.get_mut(..bytes as usize)?;
        match read_one(self.engine, self.file, u64::from(offset), into) {
            Ok(()) => {
                (self.window_start, self.window_bytes) = (offset, bytes);
                Some(())
            }
            Err(error) => {
                let segment = self.segment.number;
                tracing::warn!(segment, offset, bytes, %error, "a part of a segment cannot be read");
                None
            }
        }
    }
}
