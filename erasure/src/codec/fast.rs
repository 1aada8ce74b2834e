//! A codec around one of our own kernels: checks, tiles for the cache, chooses the form of the arithmetic and the kind of store.
//!
//! Invariant: a kernel only ever sees slices of one length, a positive multiple of `SHARD_ALIGN_BYTES`; what was written around
//! the cache is ordered before a call returns.

use std::ops::Range;

use tenfour_types::limits::{CRC_BLOCK_BYTES, DATA_SHARDS, PARITY_SHARDS, TOTAL_SHARDS};

use crate::checksum::BlockSums;
use crate::codec::{Codec, CodecError, Rebuilt, Source, check};
use crate::field::PARITY_MATRIX;
use crate::kernel::{Kernel, private_cache_bytes};
use crate::plan::Plan;

/// From so many rebuilt shards on the syndrome form beats a plain matrix product.
const SYNDROME_FROM_ROWS: usize = 2;

#[derive(Debug)]
pub(crate) struct Fast {
    kernel: Box<dyn Kernel>,
    /// Calls that touch more than this write around the cache: their bytes would not stay in the core's own cache anyway, and
    /// reading the lines before overwriting them costs a fifth of the bandwidth. Smaller, it costs more than it saves.
    non_temporal_above_bytes: usize,
}

impl Fast {
    pub(crate) fn new(kernel: Box<dyn Kernel>) -> Self {
        Self { kernel, non_temporal_above_bytes: private_cache_bytes() }
    }

    /// Whether a call that reads ten shards and writes so many goes around the cache.
    fn non_temporal(&self, shard_bytes: usize, written: usize) -> bool {
        shard_bytes.saturating_mul(DATA_SHARDS + written) > self.non_temporal_above_bytes
    }
}

impl Codec for Fast {
    fn name(&self) -> &'static str {
        self.kernel.name()
    }

    fn encode(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
        sums: Option<&mut [BlockSums; TOTAL_SHARDS]>,
    ) -> Result<(), CodecError> {
        let shard_bytes = check::encode(data, parity, sums.is_some())?;
        let non_temporal = self.non_temporal(shard_bytes, PARITY_SHARDS);
        if let Some(sums) = sums {
            sums.iter_mut().for_each(BlockSums::clear);
            for block in blocks(shard_bytes) {
                let found = self.kernel.encode_block(data, parity, block, non_temporal);
                sums.iter_mut().zip(found).for_each(|(sums, sum)| push(sums, sum));
            }
        } else {
            self.kernel.encode(data, parity, non_temporal);
        }
        self.kernel.fence();
        Ok(())
    }

    fn reconstruct(
        &self,
        present: &[Option<&[u8]>; TOTAL_SHARDS],
        rebuild: &mut [(usize, &mut [u8])],
    ) -> Result<(), CodecError> {
        let wanted = rebuild.iter().map(|(index, buffer)| (*index, buffer.len()));
        let shard_bytes = check::reconstruct(&present.map(|shard| shard.map(<[u8]>::len)), wanted)?;
        let mut outputs = Outputs::default();
        rebuild.iter_mut().for_each(|(index, buffer)| outputs.add(*index, buffer));
        if outputs.count == 0 {
            return Ok(());
        }
        let plan = Plan::new(present.each_ref().map(Option::is_some), outputs.wanted());
        let non_temporal = self.non_temporal(shard_bytes, outputs.count);
        if outputs.count < SYNDROME_FROM_ROWS {
            let sources = plan.sources.map(|index| present[index].unwrap_or_default());
            self.kernel.product(&sources, &plan.rows, outputs.buffers(), non_temporal);
        } else {
            let (data, stored) = plan.filled(present, outputs.wanted());
            self.kernel.syndrome(&data, &stored, &plan.combine, outputs.buffers(), non_temporal);
        }
        self.kernel.fence();
        Ok(())
    }

    fn reconstruct_verified(
        &self,
        present: &[Option<Source<'_>>; TOTAL_SHARDS],
        rebuild: &mut [Rebuilt<'_>],
    ) -> Result<(), CodecError> {
        let shard_bytes = check::verified(present, rebuild)?;
        let (mut outputs, mut sums) = (Outputs::default(), [const { None }; PARITY_SHARDS]);
        for (slot, Rebuilt { index, bytes, sums }) in sums.iter_mut().zip(rebuild) {
            outputs.add(*index, bytes);
            sums.clear();
            *slot = Some(sums);
        }
        if outputs.count == 0 {
            return Ok(());
        }
        let plan = Plan::new(present.each_ref().map(Option::is_some), outputs.wanted());
        let non_temporal = self.non_temporal(shard_bytes, outputs.count);
        let sources = plan.sources.map(|index| present[index].unwrap_or_default());
        let bytes = sources.map(|source| source.bytes);
        for (number, block) in blocks(shard_bytes).enumerate() {
            let found = self.kernel.product_block(&bytes, &plan.rows, outputs.buffers(), block, non_temporal);
            let is_bad = |(source, sum): &(&Source<'_>, &u64)| source.sums.get(number) != Some(sum);
            if let Some(bad) = sources.iter().zip(&found).position(|pair| is_bad(&pair)) {
                self.kernel.fence();
                return Err(CodecError::BadShard { index: plan.sources[bad], block: number });
            }
            sums.iter_mut().flatten().zip(&found[DATA_SHARDS..]).for_each(|(sums, sum)| push(sums, *sum));
        }
        self.kernel.fence();
        Ok(())
    }

    fn update(
        &self,
        index: usize,
        old: &[u8],
        new: &[u8],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
    ) -> Result<(), CodecError> {
        check::update(index, old, new, parity)?;
        self.kernel.update(old, new, PARITY_MATRIX.map(|row| row[index]), parity);
        Ok(())
    }
}

/// Up to four shards to write, in the order asked for.
#[derive(Default)]
struct Outputs<'a> {
    buffers: [&'a mut [u8]; PARITY_SHARDS],
    wanted: [usize; PARITY_SHARDS],
    count: usize,
}

impl<'a> Outputs<'a> {
    fn add(&mut self, index: usize, buffer: &'a mut [u8]) {
        self.wanted[self.count] = index;
        self.buffers[self.count] = buffer;
        self.count += 1;
    }

    fn wanted(&self) -> &[usize] {
        &self.wanted[..self.count]
    }

    fn buffers(&mut self) -> &mut [&'a mut [u8]] {
        &mut self.buffers[..self.count]
    }
}

/// The blocks that are summed, the last one may be shorter.
fn blocks(shard_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    (0..shard_bytes)
        .step_by(CRC_BLOCK_BYTES)
        .map(move |start| start..shard_bytes.min(start + CRC_BLOCK_BYTES))
}

fn push(sums: &mut BlockSums, sum: u64) {
    let had_room = sums.push(sum);
    debug_assert!(had_room, "the length was checked");
}
