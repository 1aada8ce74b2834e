//! Block checksums: one CRC-64/NVME per `CRC_BLOCK_BYTES` of a shard's payload.
//!
//! CRC-64/NVME because it is the checksum that S3 clients send by default: those of the blocks combine into the object's, with
//! no second pass over the bytes. It finds accidents, not malice: what must resist an adversary is BLAKE3 over these sums.
//!
//! Invariant: a [`BlockSums`] never allocates and never holds more than `CRC_BLOCKS_MAX` values.

use std::fmt;
use std::ops::Deref;

use crc_fast::CrcAlgorithm::Crc64Nvme;
use tenfour_types::limits::{CRC_BLOCK_BYTES, CRC_BLOCKS_MAX};

/// CRC-64/NVME's polynomial, its highest power in the lowest bit.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;

/// The CRC-64/NVME of `bytes` (reflected polynomial 0x9a6c9329ac4bc9b5, initial value and final xor all ones).
#[must_use]
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64Nvme, bytes)
}

/// The CRC of `a ++ b` from the CRC of `a`, the CRC of `b` and the length of `b` in bytes.
#[must_use]
pub const fn crc64_combine(a: u64, b: u64, b_bytes: u64) -> u64 {
    multiply(a, shift_of(b_bytes)) ^ b
}

/// The product modulo the polynomial. Bit 63 is the coefficient of `x^0`.
const fn multiply(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    let mut bit = 64;
    while bit > 0 {
        bit -= 1;
        product ^= b & 0_u64.wrapping_sub(a >> bit & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0_u64.wrapping_sub(b & 1));
    }
    product
}

/// What a CRC is multiplied by when so many bytes follow: `x^(8 · bytes)`, by squaring.
const fn shift_of(mut bytes: u64) -> u64 {
    let (mut shift, mut square) = (1 << 63, 1 << (63 - 8));
    while bytes > 0 {
        if bytes & 1 == 1 {
            shift = multiply(shift, square);
        }
        square = multiply(square, square);
        bytes >>= 1;
    }
    shift
}

/// The CRCs of the blocks of a shard's payload. Blocks beyond `CRC_BLOCKS_MAX` (a payload longer than `SHARD_BYTES_MAX`) are
/// not looked at: ask [`BlockSums::fits`] first.
#[must_use]
pub fn block_sums(bytes: &[u8]) -> BlockSums {
    let mut sums = BlockSums::new();
    for block in bytes.chunks(CRC_BLOCK_BYTES).take(CRC_BLOCKS_MAX) {
        sums.push(crc64(block));
    }
    sums
}

/// Checks `bytes`, which begin with block `first_block` of a payload, against the sums of that payload's blocks. Every block
/// that `bytes` begins is checked over what `bytes` holds of it: pass whole blocks
/// ([`geometry::whole_blocks`](crate::geometry::whole_blocks)), the payload's last one may be shorter.
pub fn verify_blocks(bytes: &[u8], first_block: usize, sums: &[u64]) -> Result<(), BadBlock> {
    for (position, block) in bytes.chunks(CRC_BLOCK_BYTES).enumerate() {
        let number = first_block.saturating_add(position);
        if sums.get(number) != Some(&crc64(block)) {
            return Err(BadBlock { block: number });
        }
    }
    Ok(())
}

/// The CRC of a whole payload of `payload_bytes` from the CRCs of its blocks; `None` when their number does not fit the length.
#[must_use]
pub fn crc64_of_blocks(sums: &[u64], payload_bytes: usize) -> Option<u64> {
    if sums.len() != payload_bytes.div_ceil(CRC_BLOCK_BYTES) {
        return None;
    }
    const BLOCK: u64 = shift_of(CRC_BLOCK_BYTES as u64);
    let (blocks, rest) = sums.split_at(payload_bytes / CRC_BLOCK_BYTES);
    let whole = blocks.iter().fold(0, |whole, sum| multiply(whole, BLOCK) ^ sum);
    let rest_bytes = (payload_bytes % CRC_BLOCK_BYTES) as u64;
    Some(rest.first().map_or(whole, |sum| crc64_combine(whole, *sum, rest_bytes)))
}

/// A block whose bytes are not those that were summed. Reading the same copy again seldom helps: read another shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("block {block} does not match its checksum")]
pub struct BadBlock {
    /// Number of the block in the payload, from 0.
    pub block: usize,
}

/// More sums than a shard can have blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{blocks} block checksums, a shard has at most {CRC_BLOCKS_MAX}")]
pub struct TooManyBlocks {
    /// How many there were.
    pub blocks: usize,
}

/// The CRCs of a shard's blocks, in order; room for `CRC_BLOCKS_MAX`, no allocation. Reads as a slice.
#[derive(Clone)]
pub struct BlockSums {
    sums: [u64; CRC_BLOCKS_MAX],
    blocks: usize,
}

impl BlockSums {
    /// No sums yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { sums: [0; CRC_BLOCKS_MAX], blocks: 0 }
    }

    /// Whether the sums of a payload of that length fit.
    #[must_use]
    pub const fn fits(payload_bytes: usize) -> bool {
        payload_bytes.div_ceil(CRC_BLOCK_BYTES) <= CRC_BLOCKS_MAX
    }

    /// Adds the sum of the next block; false, and nothing changed, when there is no room.
    pub fn push(&mut self, sum: u64) -> bool {
        let Some(slot) = self.sums.get_mut(self.blocks) else { return false };
        *slot = sum;
        self.blocks += 1;
        true
    }

    /// Forgets all sums.
    pub fn clear(&mut self) {
        self.blocks = 0;
    }
}

impl Default for BlockSums {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for BlockSums {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.sums[..self.blocks]
    }
}

impl TryFrom<&[u64]> for BlockSums {
    type Error = TooManyBlocks;

    fn try_from(values: &[u64]) -> Result<Self, TooManyBlocks> {
        let mut sums = Self::new();
        let room = sums.sums.get_mut(..values.len()).ok_or(TooManyBlocks { blocks: values.len() })?;
        room.copy_from_slice(values);
        sums.blocks = values.len();
        Ok(sums)
    }
}

impl PartialEq for BlockSums {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for BlockSums {}

impl fmt::Debug for BlockSums {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter().map(|sum| format_args!("{sum:016x}").to_string())).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, from the polynomial alone.
    fn crc64_by_definition(bytes: &[u8]) -> u64 {
        let mut crc = !0_u64;
        for byte in bytes {
            crc ^= u64::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x9a6c_9329_ac4b_c9b5 * (crc & 1));
            }
        }
        !crc
    }

    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(crc64_by_definition(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(crc64(b""), 0);
    }

    proptest! {
        #[test]
        fn equals_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(crc64(&bytes), crc64_by_definition(&bytes));
        }

        #[test]
        fn combines(bytes in prop::collection::vec(any::<u8>(), 0..5000), cut in any::<prop::sample::Index>()) {
            let (a, b) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(crc64_combine(crc64(a), crc64(b), b.len() as u64), crc64(&bytes));
        }

        #[test]
        fn combines_over_any_length(a in any::<u64>(), b in any::<u64>(), bytes in 0..1_u64 << 45) {
            prop_assert_eq!(crc64_combine(a, b, bytes), crc_fast::checksum_combine(Crc64Nvme, a, b, bytes));
        }

        #[test]
        fn blocks_combine_to_the_whole(bytes in 0..70_000_usize, seed in any::<u64>()) {
            let payload: Vec<u8> = (0..bytes as u64).map(|i| (i.wrapping_mul(seed | 1) >> 23) as u8).collect();
            let sums = block_sums(&payload);
            prop_assert_eq!(sums.len(), bytes.div_ceil(CRC_BLOCK_BYTES));
            prop_assert_eq!(crc64_of_blocks(&sums, bytes), Some(crc64(&payload)));
            prop_assert_eq!(crc64_of_blocks(&sums, bytes + CRC_BLOCK_BYTES), None);
        }
    }

    #[test]
    fn names_the_bad_block() {
        let mut payload = vec![7_u8; 3 * CRC_BLOCK_BYTES + 640];
        let sums = block_sums(&payload);
        assert_eq!(sums.len(), 4);
        assert_eq!(verify_blocks(&payload, 0, &sums), Ok(()));
        assert_eq!(verify_blocks(&payload[2 * CRC_BLOCK_BYTES..], 2, &sums), Ok(()));
        assert_eq!(verify_blocks(&[0; 64], 4, &sums), Err(BadBlock { block: 4 }));
        assert_eq!(verify_blocks(&payload, usize::MAX, &sums), Err(BadBlock { block: usize::MAX }));
        payload[3 * CRC_BLOCK_BYTES + 5] ^= 1;
        assert_eq!(verify_blocks(&payload, 0, &sums), Err(BadBlock { block: 3 }));
        assert_eq!(verify_blocks(&payload[CRC_BLOCK_BYTES..2 * CRC_BLOCK_BYTES], 1, &sums), Ok(()));
    }

    #[test]
    fn the_room_has_an_end() {
        let mut sums = BlockSums::new();
        for number in 0..CRC_BLOCKS_MAX as u64 {
            assert!(sums.push(number));
        }
        assert!(!sums.push(1));
        assert_eq!(sums.len(), CRC_BLOCKS_MAX);
        assert_eq!(BlockSums::try_from(&sums[..]), Ok(sums.clone()));
        assert_eq!(
            BlockSums::try_from(&[0; CRC_BLOCKS_MAX + 1][..]),
            Err(TooManyBlocks { blocks: CRC_BLOCKS_MAX + 1 })
        );
        assert_eq!(block_sums(&vec![0; (CRC_BLOCKS_MAX + 2) * CRC_BLOCK_BYTES]).len(), CRC_BLOCKS_MAX);
        assert!(
            BlockSums::fits(CRC_BLOCKS_MAX * CRC_BLOCK_BYTES)
                && !BlockSums::fits(CRC_BLOCKS_MAX * CRC_BLOCK_BYTES + 1)
        );
        sums.clear();
        assert!(sums.is_empty());
    }
}
