//! The shard record: how a shard lies in a staging slot and, byte for byte the same, on a disk.
//!
//! ```text
//!      0  stamp, 64 bytes, written by the node that stores it
//!         0 magic "10-4" | 4 version u16 | 6 zero u16 | 8 segment u64 | 16 sequence u64 | 24 record bytes u32 | 28 zero [28] | 56 crc64
//!     64  header, 64 bytes, written by whoever encoded the stripe
//!         0 stripe id [16] | 16 index u8 | 17 version u8 | 18 zero u16 | 20 payload bytes u32 | 24 epoch u64 | 32 target u32 |
//!         36 zero u32 | 40 digest [16] | 56 crc64
//!    128  block table, 8 bytes for each CRC_BLOCK_BYTES of payload: CRC-64/NVME, little-endian
//!         zeros up to a multiple of 64
//!      H  payload, a multiple of 64 bytes
//!         zeros up to a multiple of RECORD_ALIGN_BYTES
//! ```
//!
//! All numbers are little-endian; a crc64 (CRC-64/NVME) covers the 56 bytes before it. The gateway leaves the stamp zero and
//! writes header, table and payload as one RDMA WRITE; the node seals the slot, verifies, stamps and appends it as it stands.
//! The digest is over the stripe's id, the index, the length and the block table, so it stays when a shard is copied to
//! another target; header and stamp say where *this* copy belongs, so a misdirected or stale one gives itself away.

use crate::codec::{DecodeError, Fields};
use crate::limits::{
    CRC_BLOCK_BYTES, CRC_BLOCKS_MAX, RECORD_ALIGN_BYTES, SHARD_ALIGN_BYTES, SHARD_BYTES_MAX,
};
use crate::{Digest, Epoch, ShardIndex, StripeId, TargetId};

/// Length of the node's stamp.
pub const STAMP_BYTES: usize = 64;
/// Where the block table begins.
pub const TABLE_OFFSET: usize = 128;
/// The longest header (stamp, header and block table, padded).
pub const HEADER_BYTES_MAX: usize = header_bytes(SHARD_BYTES_MAX);
/// The longest record.
pub const RECORD_BYTES_MAX: usize = record_bytes(SHARD_BYTES_MAX);

const STAMP_MAGIC: [u8; 4] = *b"10-4";
const VERSION: u8 = 1;
const CRC_AT: usize = 56;
const DIGEST_CONTEXT: &str = "tenfour 2026 shard digest v1";

/// Where the payload of a shard of so many bytes begins in its record.
pub const fn header_bytes(payload_bytes: usize) -> usize {
    (TABLE_OFFSET + 8 * payload_bytes.div_ceil(CRC_BLOCK_BYTES)).next_multiple_of(SHARD_ALIGN_BYTES)
}

/// The length of a whole record on disk.
pub const fn record_bytes(payload_bytes: usize) -> usize {
    (header_bytes(payload_bytes) + payload_bytes).next_multiple_of(RECORD_ALIGN_BYTES)
}

/// What the encoder writes about a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardHeader {
    /// The stripe.
    pub stripe: StripeId,
    /// Which of the 14.
    pub index: ShardIndex,
    /// Payload length.
    pub payload_bytes: u32,
    /// The epoch of the map that chose the target.
    pub epoch: Epoch,
    /// The target this copy is for.
    pub target: TargetId,
    /// [`shard_digest`] of stripe, index, length and table.
    pub digest: Digest,
}

/// What a node writes in front of a record when it stores it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The life of the segment that holds it (a recycled segment has a new one).
    pub segment: u64,
    /// Counts up over all records of the target.
    pub sequence: u64,
    /// Length of the whole record.
    pub record_bytes: u32,
}

/// The digest by which a shard is found: over stripe, index, payload length and the table of block CRCs.
pub fn shard_digest(stripe: StripeId, index: ShardIndex, payload_bytes: u32, block_sums: &[u64]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(DIGEST_CONTEXT);
    hasher.update(&stripe.to_bytes());
    hasher.update(&[u8::from(index)]);
    hasher.update(&payload_bytes.to_le_bytes());
    for sum in block_sums {
        hasher.update(&sum.to_le_bytes());
    }
    Digest::finalize(&hasher)
}

impl ShardHeader {
    /// Writes stamp (zeros), header and block table into `out`, which is exactly [`header_bytes`] long.
    ///
    /// `crc64` is CRC-64/NVME, given by the caller, since this crate computes nothing over bulk data.
    /// Returns `false`, with nothing promised about `out`, when the lengths do not fit each other.
    #[must_use]
    pub fn write(&self, block_sums: &[u64], crc64: impl Fn(&[u8]) -> u64, out: &mut [u8]) -> bool {
        let payload = self.payload_bytes as usize;
        if out.len() != header_bytes(payload) || block_sums.len() != payload.div_ceil(CRC_BLOCK_BYTES) {
            return false;
        }
        out.fill(0);
        let mut header = [0; 64];
        put(&mut header, 0, &self.stripe.to_bytes());
        put(&mut header, 16, &[u8::from(self.index), VERSION]);
        put(&mut header, 20, &self.payload_bytes.to_le_bytes());
        put(&mut header, 24, &self.epoch.0.to_le_bytes());
        put(&mut header, 32, &self.target.0.to_le_bytes());
        put(&mut header, 40, &self.digest.0);
        close(&mut header, crc64);
        put(out, STAMP_BYTES, &header);
        let (_, table) = out.split_at_mut(TABLE_OFFSET);
        for (entry, sum) in table.as_chunks_mut::<8>().0.iter_mut().zip(block_sums) {
            *entry = sum.to_le_bytes();
        }
        true
    }

    /// Reads and checks the header of a record whose first bytes these are.
    pub fn read(record: &[u8], crc64: impl Fn(&[u8]) -> u64) -> Result<Self, DecodeError> {
        const NAME: &str = "shard header";
        let malformed = DecodeError::Malformed { name: NAME };
        let header = open(record.get(STAMP_BYTES..TABLE_OFFSET), crc64).ok_or(malformed.clone())?;
        let mut fields = Fields(header);
        let mut parse = || {
            let stripe = StripeId::from_bytes(fields.take()?);
            let index = ShardIndex::new(usize::from(fields.u8()?))?;
            let version = fields.u8()?;
            fields.u16()?;
            let payload_bytes = fields.u32()?;
            let epoch = Epoch(fields.u64()?);
            let target = TargetId(fields.u32()?);
            fields.u32()?;
            let digest = Digest(fields.take()?);
            Some((version, Self { stripe, index, payload_bytes, epoch, target, digest }))
        };
        let (version, header) = parse().ok_or(malformed.clone())?;
        if version != VERSION {
            return Err(DecodeError::Version { name: NAME, found: version, newest: VERSION });
        }
        let payload = header.payload_bytes as usize;
        let valid = (1..=SHARD_BYTES_MAX).contains(&payload) && payload.is_multiple_of(SHARD_ALIGN_BYTES);
        if valid { Ok(header) } else { Err(malformed) }
    }

    /// The block table of a record whose first bytes these are, when it matches this header's digest.
    pub fn read_table(&self, record: &[u8]) -> Result<Vec<u64>, DecodeError> {
        let malformed = DecodeError::Malformed { name: "shard block table" };
        let blocks = (self.payload_bytes as usize).div_ceil(CRC_BLOCK_BYTES);
        let table = record.get(TABLE_OFFSET..TABLE_OFFSET + 8 * blocks).ok_or(malformed.clone())?;
        let sums: Vec<u64> =
            table.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect();
        let valid = blocks <= CRC_BLOCKS_MAX
            && shard_digest(self.stripe, self.index, self.payload_bytes, &sums) == self.digest;
        if valid { Ok(sums) } else { Err(malformed) }
    }

    /// Length of the whole record on disk.
    pub fn record_bytes(&self) -> usize {
        record_bytes(self.payload_bytes as usize)
    }
}

impl Stamp {
    /// Writes the stamp over the first bytes of a record; `false` when there are fewer than [`STAMP_BYTES`].
    #[must_use]
    pub fn write(&self, crc64: impl Fn(&[u8]) -> u64, record: &mut [u8]) -> bool {
        let Some(place) = record.first_chunk_mut::<STAMP_BYTES>() else { return false };
        let mut stamp = [0; STAMP_BYTES];
        put(&mut stamp, 0, &STAMP_MAGIC);
        put(&mut stamp, 4, &u16::from(VERSION).to_le_bytes());
        put(&mut stamp, 8, &self.segment.to_le_bytes());
        put(&mut stamp, 16, &self.sequence.to_le_bytes());
        put(&mut stamp, 24, &self.record_bytes.to_le_bytes());
        close(&mut stamp, crc64);
        *place = stamp;
        true
    }

    /// Reads the stamp of a record whose first bytes these are; an error for space that holds no record.
    pub fn read(record: &[u8], crc64: impl Fn(&[u8]) -> u64) -> Result<Self, DecodeError> {
        const NAME: &str = "shard stamp";
        let malformed = DecodeError::Malformed { name: NAME };
        let stamp = open(record.get(..STAMP_BYTES), crc64).ok_or(malformed.clone())?;
        let mut fields = Fields(stamp);
        let mut parse = || {
            let magic: [u8; 4] = fields.take()?;
            let version = fields.u16()?;
            fields.u16()?;
            let stamp = Self { segment: fields.u64()?, sequence: fields.u64()?, record_bytes: fields.u32()? };
            Some((magic, version, stamp))
        };
        match parse() {
            Some((STAMP_MAGIC, version, stamp)) if version == u16::from(VERSION) => Ok(stamp),
            Some((STAMP_MAGIC, version, _)) => {
                Err(DecodeError::Version { name: NAME, found: version.min(255) as u8, newest: VERSION })
            }
            _ => Err(malformed),
        }
    }
}

/// Copies `bytes` to `out[at..]`; what does not fit is dropped, which the callers' fixed offsets rule out.
fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in out.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

fn close(block: &mut [u8; 64], crc64: impl Fn(&[u8]) -> u64) {
    let (body, crc) = block.split_at_mut(CRC_AT);
    crc.copy_from_slice(&crc64(body).to_le_bytes());
}

fn open(block: Option<&[u8]>, crc64: impl Fn(&[u8]) -> u64) -> Option<&[u8]> {
    let (body, crc) = block?.split_at_checked(CRC_AT)?;
    (crc64(body).to_le_bytes() == crc).then_some(body)
}
