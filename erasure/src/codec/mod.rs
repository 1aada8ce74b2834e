//! [`Codec`]: what every encoder of the 10+4 code does, how it fails, and which ones this machine has.
//!
//! Which kernel runs is decided once, when the codec is made, from what the processor says it can do. Nothing is measured here.
//!
//! Invariant: every codec gives the same bytes for the same input, and checks its arguments before it writes the first one. Only
//! what the bytes themselves show ([`CodecError::BadShard`]) is found while writing.

mod check;
mod fast;
mod reference;

use std::fmt::Debug;
use std::sync::Arc;

use tenfour_types::limits::{CRC_BLOCKS_MAX, DATA_SHARDS, PARITY_SHARDS, SHARD_ALIGN_BYTES, TOTAL_SHARDS};

use crate::checksum::{BadBlock, BlockSums, block_sums, verify_blocks};
use crate::codec::reference::Reference;
use crate::kernel;
use crate::plan::Plan;

pub(crate) use crate::codec::fast::Fast;

/// An encoder and decoder of the 10+4 code. One call uses the calling thread alone and allocates nothing (the reference
/// implementation excepted).
pub trait Codec: Send + Sync + Debug {
    /// The name by which [`by_name`] finds it.
    fn name(&self) -> &'static str;

    /// Fills the 4 `parity` shards from the 10 `data` shards, all of one length: a positive multiple of `SHARD_ALIGN_BYTES`.
    ///
    /// With `sums`, also replaces each of the 14 shards' sums by the CRCs of its blocks, computed while the bytes are in cache;
    /// the shards are then at most `SHARD_BYTES_MAX` long.
    fn encode(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
        sums: Option<&mut [BlockSums; TOTAL_SHARDS]>,
    ) -> Result<(), CodecError>;

    /// Computes the shards that `rebuild` names, each into its buffer, from those that are `present`: any 10 or more of the 14.
    ///
    /// Lost shards that are not asked for cost nothing. All slices are of one length, as in [`encode`](Codec::encode).
    fn reconstruct(
        &self,
        present: &[Option<&[u8]>; TOTAL_SHARDS],
        rebuild: &mut [(usize, &mut [u8])],
    ) -> Result<(), CodecError>;

    /// [`reconstruct`](Codec::reconstruct) from shards that may have been damaged: the ten that are read are held against their sums
    /// in the same pass, and the sums of what is rebuilt come along. The shards are at most `SHARD_BYTES_MAX` long.
    ///
    /// After [`CodecError::BadShard`] the buffers hold nothing of use: leave that shard out, and ask again.
    fn reconstruct_verified(
        &self,
        present: &[Option<Source<'_>>; TOTAL_SHARDS],
        rebuild: &mut [Rebuilt<'_>],
    ) -> Result<(), CodecError> {
        check::verified(present, rebuild)?;
        let wanted: Vec<usize> = rebuild.iter().map(|shard| shard.index).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        for index in Plan::new(present.each_ref().map(Option::is_some), &wanted).sources {
            let Source { bytes, sums } = present[index].unwrap_or_default();
            verify_blocks(bytes, 0, sums)
                .map_err(|BadBlock { block }| CodecError::BadShard { index, block })?;
        }
        let mut buffers: Vec<(usize, &mut [u8])> =
            rebuild.iter_mut().map(|shard| (shard.index, &mut *shard.bytes)).collect();
        self.reconstruct(&present.map(|source| source.map(|source| source.bytes)), &mut buffers)?;
        rebuild.iter_mut().for_each(|shard| shard.sums = block_sums(shard.bytes));
        Ok(())
    }

    /// Makes `parity` follow data shard `index`, which was `old` and becomes `new`, without the other nine. All slices are of one
    /// length, as in [`encode`](Codec::encode).
    fn update(
        &self,
        index: usize,
        old: &[u8],
        new: &[u8],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
    ) -> Result<(), CodecError>;
}

/// A shard to reconstruct from, and the CRCs that its blocks must have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Source<'a> {
    /// Its payload.
    pub bytes: &'a [u8],
    /// The CRC of each of its blocks.
    pub sums: &'a [u64],
}

/// A shard to reconstruct, and the CRCs of its blocks when that is done.
#[derive(Debug)]
pub struct Rebuilt<'a> {
    /// Which shard.
    pub index: usize,
    /// Its payload.
    pub bytes: &'a mut [u8],
    /// Whatever it held is replaced.
    pub sums: BlockSums,
}

/// The fastest codec of this machine.
#[must_use]
pub fn best() -> Arc<dyn Codec> {
    Arc::new(Fast::new(kernel::best()))
}

/// The codec of that name, if this machine can run it: `gfni512`, `gfni256`, `avx2`, `ssse3`, `neon`, `scalar` or
/// `reed-solomon-erasure`.
#[must_use]
pub fn by_name(name: &str) -> Option<Arc<dyn Codec>> {
    all().into_iter().find(|codec| codec.name() == name)
}

/// Every codec that this machine can run, fastest first, the reference implementation last.
#[must_use]
pub fn all() -> Vec<Arc<dyn Codec>> {
    let mut codecs: Vec<Arc<dyn Codec>> =
        kernel::all().into_iter().map(|kernel| Arc::new(Fast::new(kernel)) as Arc<dyn Codec>).collect();
    codecs.extend(Reference::detect().map(|codec| Arc::new(codec) as Arc<dyn Codec>));
    codecs
}

/// Why a call did nothing.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum CodecError {
    /// The first shard's length is not a positive multiple of `SHARD_ALIGN_BYTES`.
    #[error("a shard has {shard_bytes} bytes, not a positive multiple of {SHARD_ALIGN_BYTES}")]
    ShardBytes {
        /// Its length.
        shard_bytes: usize,
    },
    /// A shard is not as long as the others.
    #[error("shard {index} has {found_bytes} bytes, the others have {expected_bytes}")]
    UnequalShards {
        /// Which shard.
        index: usize,
        /// The others' length.
        expected_bytes: usize,
        /// Its length.
        found_bytes: usize,
    },
    /// Checksums were asked for shards that have more blocks than [`BlockSums`] can hold.
    #[error("a shard of {shard_bytes} bytes has more than {CRC_BLOCKS_MAX} blocks")]
    TooManyBlocks {
        /// The shards' length.
        shard_bytes: usize,
    },
    /// Fewer than 10 shards are present.
    #[error("{present} shards are present, {DATA_SHARDS} are needed")]
    TooFewShards {
        /// How many are.
        present: usize,
    },
    /// A shard was asked for that does not exist.
    #[error("there is no shard {index}")]
    NoSuchShard {
        /// The number asked for.
        index: usize,
    },
    /// A shard was asked for that is present.
    #[error("shard {index} is present, it needs no rebuilding")]
    NotMissing {
        /// Which shard.
        index: usize,
    },
    /// A shard was asked for twice.
    #[error("shard {index} was asked for twice")]
    AskedTwice {
        /// Which shard.
        index: usize,
    },
    /// A parity shard was given as the data shard that changes.
    #[error("shard {index} is not a data shard, parity cannot follow it")]
    NotData {
        /// Which shard.
        index: usize,
    },
    /// A shard's bytes are not those that were summed, or the number of its sums is not that of its blocks. Go on without it.
    #[error("block {block} of shard {index} does not match its checksum")]
    BadShard {
        /// Which shard.
        index: usize,
        /// The block, from 0.
        block: usize,
    },
    /// The reference implementation refused what passed all checks.
    #[error("reed-solomon-erasure: {0}")]
    Reference(reed_solomon_erasure::Error),
}

impl CodecError {
    /// Whether the same call can succeed later: only with more shards.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::TooFewShards { .. })
    }
}
