//! A codec around one of our own kernels: checks, tiles for the cache, chooses the form of the arithmetic.
//!
//! Invariant: a kernel only ever sees slices of one length, a positive multiple of `SHARD_ALIGN_BYTES`.

use tenfour_types::limits::{CRC_BLOCK_BYTES, DATA_SHARDS, PARITY_SHARDS, TOTAL_SHARDS};

use crate::checksum::BlockSums;
use crate::codec::{Codec, CodecError, check};
use crate::kernel::Kernel;
use crate::plan::Plan;

/// From this stripe size on (14 shards, bytes) parity goes around the cache: the stripe would not stay in a second-level cache
/// anyway, and reading the lines before overwriting them costs a fifth of the bandwidth. Smaller, it costs more than it saves.
const NON_TEMPORAL_FROM_BYTES: usize = 4 << 20;

/// Up to so many rebuilt shards a plain matrix product needs no more multiplications than the syndrome form.
const PLAIN_PRODUCT_ROWS: usize = 2;

/// Lost shards read as zeros in the syndrome form; this many at a time, so that the zeros stay in the first-level cache.
const ZERO_TILE_BYTES: usize = 8 << 10;
static ZEROS: [u8; ZERO_TILE_BYTES] = [0; ZERO_TILE_BYTES];

#[derive(Debug)]
pub(super) struct Fast<K>(pub(super) K);

impl<K: Kernel> Codec for Fast<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn encode(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
        sums: Option<&mut [BlockSums; TOTAL_SHARDS]>,
    ) -> Result<(), CodecError> {
        let shard_bytes = check::encode(data, parity, sums.is_some())?;
        let non_temporal = shard_bytes.saturating_mul(TOTAL_SHARDS) >= NON_TEMPORAL_FROM_BYTES;
        let Some(sums) = sums else {
            self.0.encode(data, parity.each_mut().map(|shard| &mut **shard), non_temporal);
            return Ok(());
        };
        sums.iter_mut().for_each(BlockSums::clear);
        for start in (0..shard_bytes).step_by(CRC_BLOCK_BYTES) {
            let block = start..shard_bytes.min(start + CRC_BLOCK_BYTES);
            let found = self.0.encode_and_sum(
                &data.map(|shard| &shard[block.clone()]),
                parity.each_mut().map(|shard| &mut shard[block.clone()]),
                non_temporal,
            );
            for (sums, sum) in sums.iter_mut().zip(found) {
                let had_room = sums.push(sum);
                debug_assert!(had_room, "the length was checked");
            }
        }
        Ok(())
    }

    fn reconstruct(
        &self,
        present: &[Option<&[u8]>; TOTAL_SHARDS],
        rebuild: &mut [(usize, &mut [u8])],
    ) -> Result<(), CodecError> {
        let shard_bytes = check::reconstruct(present, rebuild)?;
        let mut outputs: [&mut [u8]; PARITY_SHARDS] = Default::default();
        let mut wanted = [0; PARITY_SHARDS];
        let rows = rebuild.len();
        for ((output, want), (index, buffer)) in outputs.iter_mut().zip(&mut wanted).zip(rebuild) {
            *want = *index;
            *output = buffer;
        }
        let plan = Plan::new(present.each_ref().map(Option::is_some), &wanted[..rows]);
        if rows <= PLAIN_PRODUCT_ROWS {
            let sources = plan.sources.map(|index| present[index].unwrap_or_default());
            self.0.product(&sources, &plan.rows[..rows], &mut outputs[..rows]);
            return Ok(());
        }
        for start in (0..shard_bytes).step_by(ZERO_TILE_BYTES) {
            self.syndrome_tile(
                present,
                &plan,
                start..shard_bytes.min(start + ZERO_TILE_BYTES),
                &mut outputs[..rows],
            );
        }
        Ok(())
    }
}

impl<K: Kernel> Fast<K> {
    fn syndrome_tile(
        &self,
        present: &[Option<&[u8]>; TOTAL_SHARDS],
        plan: &Plan,
        tile: std::ops::Range<usize>,
        outputs: &mut [&mut [u8]],
    ) {
        let zeros = &ZEROS[..tile.len()];
        let part = |index: usize| present[index].map_or(zeros, |shard| &shard[tile.clone()]);
        let data = std::array::from_fn(part);
        let stored = std::array::from_fn(|row| if plan.used[row] { part(DATA_SHARDS + row) } else { zeros });
        let mut tiles: [&mut [u8]; PARITY_SHARDS] = Default::default();
        let rows = outputs.len();
        for (part, output) in tiles.iter_mut().zip(outputs) {
            *part = &mut output[tile.clone()];
        }
        self.0.syndrome(&data, &stored, &plan.combine[..rows], &mut tiles[..rows]);
    }
}
