//! What is appended to a segment: shard records (`tenfour_types::record`), verified before they come near the disk, and tombstones.
//!
//! ```text
//! a tombstone record, 4096 bytes
//!      0  stamp, as of every record
//!     64  magic "10-4gone" | 72 version u16 | 74 entries u16 | 76 zero [4] | 80 0xff (no shard has that index) | 81 zero [7] |
//!         88 crc64 of the entries | 96 zero [24] | 120 crc64 of bytes 64..120
//!    128  entries of 56 bytes: stripe [16] | index u8 | zero [7] | digest [16] | life of the copy's segment u64 | copy's sequence u64
//! ```
//!
//! A tombstone names the copy it buries by life and sequence, so that a later copy of the same shard is not buried with it, and so
//! that it can itself be forgotten when that life has ended. Invariant: a [`Verified`] holds a record whose header, table and
//! payload belong together.

use super::superblock::Fields;
use crate::disk::{AlignedBuffer, BLOCK_BYTES};
use std::ops::DerefMut;
use tenfour_erasure::{crc64, verify_blocks};
use tenfour_types::record::{ShardHeader, Stamp, TABLE_OFFSET, header_bytes};
use tenfour_types::shard_service::{ShardError, ShardRef};
use tenfour_types::{Digest, ShardIndex, StripeId};

/// Memory that a record can be written from as it lies: aligned to blocks. A pool's buffer is one.
pub trait RecordMemory: DerefMut<Target = [u8]> + Send + 'static {}
impl<M: DerefMut<Target = [u8]> + Send + 'static> RecordMemory for M {}

/// The name a copy is found by on its target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardKey {
    /// The stripe.
    pub stripe: StripeId,
    /// Which of the 14.
    pub index: ShardIndex,
    /// The digest.
    pub digest: Digest,
}

impl ShardKey {
    /// Length of [`ShardKey::to_bytes`].
    pub const BYTES: usize = 33;

    /// Stripe, index, digest: the order of bytes is the order of stripes.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        let (stripe, rest) = out.split_at_mut(StripeId::BYTES);
        let (index, digest) = rest.split_at_mut(1);
        stripe.copy_from_slice(&self.stripe.to_bytes());
        index.fill(u8::from(self.index));
        digest.copy_from_slice(&self.digest.0);
        out
    }
}

impl From<&ShardHeader> for ShardKey {
    fn from(header: &ShardHeader) -> Self {
        Self { stripe: header.stripe, index: header.index, digest: header.digest }
    }
}
impl From<&ShardRef> for ShardKey {
    fn from(shard: &ShardRef) -> Self {
        Self { stripe: shard.stripe, index: shard.index, digest: shard.digest }
    }
}

/// A record in memory that was verified, its padding zeroed, ready to be stamped and written.
pub struct Verified<M> {
    memory: M,
    header: ShardHeader,
}

impl<M: RecordMemory> Verified<M> {
    /// Verifies the record at the beginning of `memory`, of which `bytes` arrived. Nobody else may be able to change the memory.
    pub fn verify(mut memory: M, bytes: usize) -> Result<Self, (M, ShardError)> {
        match check(&memory, bytes) {
            Ok(header) => {
                let (used, record_bytes) = (payload_end(&header), header.record_bytes());
                if let Some(padding) = memory.get_mut(used..record_bytes) {
                    padding.fill(0);
                }
                Ok(Self { memory, header })
            }
            Err(error) => Err((memory, error)),
        }
    }

    /// What the record says about itself.
    pub fn header(&self) -> &ShardHeader {
        &self.header
    }

    pub(super) fn key(&self) -> ShardKey {
        ShardKey::from(&self.header)
    }

    /// Writes the stamp; false, and the record must not be written, when there is no room for it.
    pub(super) fn stamp(&mut self, stamp: Stamp) -> bool {
        stamp.write(crc64, &mut self.memory)
    }

    /// The whole record.
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.get(..self.header.record_bytes()).unwrap_or_default()
    }

    /// The memory back.
    pub fn into_memory(self) -> M {
        self.memory
    }
}

fn payload_end(header: &ShardHeader) -> usize {
    header_bytes(header.payload_bytes as usize) + header.payload_bytes as usize
}

fn check(memory: &[u8], bytes: usize) -> Result<ShardHeader, ShardError> {
    let record = memory.get(..bytes).ok_or(ShardError::Malformed)?;
    let header = ShardHeader::read(record, crc64).map_err(|_| ShardError::Malformed)?;
    let end = payload_end(&header);
    if (bytes != end && bytes != header.record_bytes()) || memory.len() < header.record_bytes() {
        return Err(ShardError::Malformed);
    }
    let sums = header.read_table(record).map_err(|_| ShardError::ChecksumMismatch)?;
    let payload =
        record.get(header_bytes(header.payload_bytes as usize)..end).ok_or(ShardError::Malformed)?;
    verify_blocks(payload, 0, &sums).map_err(|_| ShardError::ChecksumMismatch)?;
    Ok(header)
}

/// A buried copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tombstone {
    /// Its name.
    pub key: ShardKey,
    /// The life of the segment it lies in.
    pub life: u64,
    /// Its sequence.
    pub sequence: u64,
}

const MAGIC: [u8; 8] = *b"10-4gone";
const VERSION: u16 = 1;
const HEAD: std::ops::Range<usize> = 64..TABLE_OFFSET;
const ENTRY_BYTES: usize = 56;
/// Most entries of one tombstone record.
pub const TOMBSTONES_MAX: usize = (BLOCK_BYTES - TABLE_OFFSET) / ENTRY_BYTES;

impl Tombstone {
    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut entry = Vec::with_capacity(ENTRY_BYTES);
        entry.extend_from_slice(&self.key.stripe.to_bytes());
        entry.extend_from_slice(&[u8::from(self.key.index), 0, 0, 0, 0, 0, 0, 0]);
        entry.extend_from_slice(&self.key.digest.0);
        entry.extend_from_slice(&self.life.to_le_bytes());
        entry.extend_from_slice(&self.sequence.to_le_bytes());
        entry.try_into().unwrap_or([0; ENTRY_BYTES])
    }

    fn from_bytes(entry: &[u8]) -> Option<Self> {
        let mut fields = Fields(entry);
        let stripe = StripeId::from_bytes(fields.take()?);
        let [index, ..] = fields.take::<8>()?;
        let key =
            ShardKey { stripe, index: ShardIndex::new(usize::from(index))?, digest: Digest(fields.take()?) };
        let (life, sequence) = (u64::from_le_bytes(fields.take()?), u64::from_le_bytes(fields.take()?));
        Some(Self { key, life, sequence })
    }
}

/// A tombstone record of at most [`TOMBSTONES_MAX`] entries (more are left out), without its stamp.
pub fn write_tombstones(entries: &[Tombstone]) -> AlignedBuffer {
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    let entries = entries.get(..TOMBSTONES_MAX).unwrap_or(entries);
    let body: Vec<u8> = entries.iter().flat_map(|entry| entry.to_bytes()).collect();
    let mut head = Vec::with_capacity(64);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    head.extend_from_slice(&[0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0]);
    head.extend_from_slice(&crc64(&body).to_le_bytes());
    head.extend_from_slice(&[0; 24]);
    head.extend_from_slice(&crc64(&head).to_le_bytes());
    for (place, byte) in block.iter_mut().skip(HEAD.start).zip(head.into_iter().chain(body)) {
        *place = byte;
    }
    block
}

/// The entries of a tombstone record; `None` when the record is none.
pub fn read_tombstones(record: &[u8]) -> Option<Vec<Tombstone>> {
    let (head, crc) = record.get(HEAD)?.split_at_checked(56)?;
    if crc64(head).to_le_bytes() != crc {
        return None;
    }
    let mut fields = Fields(head);
    let magic: [u8; 8] = fields.take()?;
    let version = u16::from_le_bytes(fields.take()?);
    let count = usize::from(u16::from_le_bytes(fields.take()?));
    fields.take::<12>()?;
    let entries_crc = u64::from_le_bytes(fields.take()?);
    let body = record.get(TABLE_OFFSET..TABLE_OFFSET.checked_add(count.checked_mul(ENTRY_BYTES)?)?)?;
    if (magic, version) != (MAGIC, VERSION) || crc64(body) != entries_crc {
        return None;
    }
    body.chunks(ENTRY_BYTES).map(Tombstone::from_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tenfour_types::{LeaseId, MetaGroupId};

    fn tombstone(number: u64) -> Tombstone {
        let stripe = StripeId { meta_group: MetaGroupId(1), lease: LeaseId(2), counter: number };
        let index = ShardIndex::new((number % 14) as usize).unwrap();
        let key = ShardKey { stripe, index, digest: Digest([number as u8; 16]) };
        Tombstone { key, life: number * 3, sequence: number * 5 }
    }

    proptest! {
        #[test]
        fn tombstones_survive_and_any_damage_is_seen(count in 0..=TOMBSTONES_MAX, at: usize, bit in 0..8u32) {
            let entries: Vec<_> = (0..count as u64).map(tombstone).collect();
            let mut block = write_tombstones(&entries);
            prop_assert_eq!(read_tombstones(&block), Some(entries));
            prop_assert!(ShardHeader::read(&block, crc64).is_err(), "a tombstone is no shard");
            let at = 64 + at % (64 + count * ENTRY_BYTES);
            block[at] ^= 1 << bit;
            prop_assert_eq!(read_tombstones(&block), None);
        }

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000), claimed: usize) {
            let _ = read_tombstones(&bytes);
            let _ = Verified::verify(bytes, claimed % 6000);
        }
    }
}
