//! `reed-solomon-erasure` behind [`Codec`]: the implementation that all others are held against.
//!
//! It copies and allocates when it reconstructs, since that crate fills in shards that it owns. Tests and comparisons use it,
//! and whoever wants proof that the bytes on disk can be read without our kernels.

use reed_solomon_erasure::galois_8::ReedSolomon;
use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, TOTAL_SHARDS};

use crate::checksum::{BlockSums, block_sums};
use crate::codec::{Codec, CodecError, check};

#[derive(Debug)]
pub(super) struct Reference(ReedSolomon);

impl Reference {
    /// Its C part is compiled for processors with AVX2 and BMI2 and does not look before it runs, so this does.
    pub(super) fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2")) {
            return None;
        }
        ReedSolomon::new(DATA_SHARDS, PARITY_SHARDS).ok().map(Self)
    }
}

impl Codec for Reference {
    fn name(&self) -> &'static str {
        "reed-solomon-erasure"
    }

    fn encode(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
        sums: Option<&mut [BlockSums; TOTAL_SHARDS]>,
    ) -> Result<(), CodecError> {
        check::encode(data, parity, sums.is_some())?;
        self.0.encode_sep(data, parity).map_err(CodecError::Reference)?;
        if let Some(sums) = sums {
            let shards = data.iter().copied().chain(parity.iter().map(|shard| &**shard));
            for (sums, shard) in sums.iter_mut().zip(shards) {
                *sums = block_sums(shard);
            }
        }
        Ok(())
    }

    fn reconstruct(
        &self,
        present: &[Option<&[u8]>; TOTAL_SHARDS],
        rebuild: &mut [(usize, &mut [u8])],
    ) -> Result<(), CodecError> {
        let wanted = rebuild.iter().map(|(index, buffer)| (*index, buffer.len()));
        check::reconstruct(&present.map(|shard| shard.map(<[u8]>::len)), wanted)?;
        let mut shards = present.map(|shard| shard.map(<[u8]>::to_vec));
        self.0.reconstruct(&mut shards).map_err(CodecError::Reference)?;
        for (index, buffer) in rebuild {
            if let Some(Some(shard)) = shards.get(*index) {
                buffer.copy_from_slice(shard);
            }
        }
        Ok(())
    }

    /// Parity is linear: what changes is the parity of the change.
    fn update(
        &self,
        index: usize,
        old: &[u8],
        new: &[u8],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
    ) -> Result<(), CodecError> {
        let shard_bytes = check::update(index, old, new, parity)?;
        let mut data = vec![vec![0; shard_bytes]; DATA_SHARDS];
        data[index] = old.iter().zip(new).map(|(old, new)| old ^ new).collect();
        let mut changes = vec![vec![0; shard_bytes]; PARITY_SHARDS];
        self.0.encode_sep(&data, &mut changes).map_err(CodecError::Reference)?;
        for (shard, change) in parity.iter_mut().zip(&changes) {
            shard.iter_mut().zip(change).for_each(|(byte, change)| *byte ^= change);
        }
        Ok(())
    }
}
