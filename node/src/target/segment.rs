//! A segment: one file of records, appended to from its beginning to its end, and one life of it.
//!
//! ```text
//!      0  magic "10-4segm" | 8 version u16 | 10 zero [6] | 16 life u64 | 24 order u64 | 32 floor u64 | 40 target's life u64 |
//!     48  segment bytes u32 | 52 number u32 | 56 crc64, zeros up to 4096
//!   4096  the same again
//!   8192  records, one after the other
//! ```
//!
//! A life is a random number that is never told outside: no payload can hold what looks like a record of it. `order` counts the
//! lives of the target; no record of this life has a sequence below `floor`. Invariant: when a segment is recycled its two headers
//! are written and flushed one after the other, so one of them is whole at any time.

use super::superblock::Fields;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Engine, read_one};
use std::io::{self, ErrorKind};
use tenfour_erasure::crc64;

/// Where the first record begins.
pub const FIRST_RECORD: u32 = 2 * BLOCK_BYTES as u32;
const MAGIC: [u8; 8] = *b"10-4segm";
const VERSION: u16 = 1;
const CRC_AT: usize = 56;
const NAME: &str = "segment-";

/// What the head of a segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The life: random.
    pub life: u64,
    /// Counts the lives of all segments of the target.
    pub order: u64,
    /// No record of this life has a lower sequence.
    pub floor: u64,
    /// The life of the target, from its superblock.
    pub target_life: u64,
    /// Length of the segment.
    pub segment_bytes: u32,
    /// The number in the file's name.
    pub number: u32,
}

/// The file's name.
pub fn file_name(number: u32) -> String {
    format!("{NAME}{number:08}")
}

/// The number in a file's name.
pub fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(NAME).filter(|digits| digits.len() == 8)?;
    // The parser of numbers would take a sign.
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Whether the name looks like a segment's.
pub fn is_segment(name: &str) -> bool {
    name.starts_with(NAME)
}

impl SegmentHeader {
    /// One copy, without the padding.
    pub fn to_bytes(self) -> [u8; 64] {
        let mut body = Vec::with_capacity(64);
        body.extend_from_slice(&MAGIC);
        body.extend_from_slice(&VERSION.to_le_bytes());
        body.extend_from_slice(&[0; 6]);
        for number in [self.life, self.order, self.floor, self.target_life] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(&self.segment_bytes.to_le_bytes());
        body.extend_from_slice(&self.number.to_le_bytes());
        body.extend_from_slice(&crc64(&body).to_le_bytes());
        body.try_into().unwrap_or([0; 64])
    }

    /// Reads one copy; `None` when it is damaged, none, or of a version that this build does not read.
    pub fn from_bytes(block: &[u8]) -> Option<Self> {
        let (body, crc) = block.get(..64)?.split_at_checked(CRC_AT)?;
        if crc64(body).to_le_bytes() != crc {
            return None;
        }
        let mut fields = Fields(body);
        let magic: [u8; 8] = fields.take()?;
        let version = u16::from_le_bytes(fields.take()?);
        fields.take::<6>()?;
        let header = Self {
            life: u64::from_le_bytes(fields.take()?),
            order: u64::from_le_bytes(fields.take()?),
            floor: u64::from_le_bytes(fields.take()?),
            target_life: u64::from_le_bytes(fields.take()?),
            segment_bytes: u32::from_le_bytes(fields.take()?),
            number: u32::from_le_bytes(fields.take()?),
        };
        (magic == MAGIC && version == VERSION).then_some(header)
    }

    /// Writes both copies, each flushed before the next: after a crash one of them, old or new, is whole.
    pub(super) fn write<E: Engine>(&self, engine: &mut E, file: &E::File) -> io::Result<()> {
        let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
        for (place, byte) in block.iter_mut().zip(self.to_bytes()) {
            *place = byte;
        }
        for copy in 0..2 {
            engine.write(file, copy * BLOCK_BYTES as u64, &[&block])?;
            engine.flush(file)?;
        }
        Ok(())
    }

    /// The newer of the good copies.
    pub(super) fn read<E: Engine>(engine: &mut E, file: &E::File) -> io::Result<Option<Self>> {
        let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
        let mut newest: Option<Self> = None;
        for copy in 0..2 {
            match read_one(engine, file, copy * BLOCK_BYTES as u64, &mut block) {
                Ok(()) => {
                    let copies = [newest, Self::from_bytes(&block)];
                    newest = copies.into_iter().flatten().max_by_key(|header| header.order);
                }
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
                Err(error) => tracing::warn!(copy, %error, "a copy of a segment's header cannot be read"),
            }
        }
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_and_any_flipped_bit_is_seen() {
        let header =
            SegmentHeader { life: 1, order: 2, floor: 3, target_life: 4, segment_bytes: 5, number: 6 };
        let bytes = header.to_bytes();
        assert_eq!(SegmentHeader::from_bytes(&bytes), Some(header));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::from_bytes(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn only_whole_names_are_numbers() {
        assert_eq!(number_of(&file_name(42)), Some(42));
        assert_eq!(number_of("segment-42"), None);
        assert_eq!(number_of("segment-0000004x"), None);
        assert_eq!(number_of("segment-+0000042"), None);
    }
}
