//! [`Codec`]: what every encoder of the 10+4 code does, how it fails, and which ones this machine has.
//!
//! Which kernel runs is decided once, when the codec is made, from what the processor says it can do. Nothing is measured here.
//!
//! Invariant: every codec gives the same bytes for the same input, and checks its arguments before it writes the first one.

mod check;
mod fast;
mod reference;

use std::fmt::Debug;
use std::sync::Arc;

use tenfour_types::limits::{CRC_BLOCKS_MAX, DATA_SHARDS, PARITY_SHARDS, SHARD_ALIGN_BYTES, TOTAL_SHARDS};

use crate::checksum::BlockSums;
use crate::codec::fast::Fast;
use crate::codec::reference::Reference;
use crate::kernel;

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
}

/// The fastest codec of this machine.
#[must_use]
pub fn best() -> Arc<dyn Codec> {
    all().into_iter().next().unwrap_or_else(|| Arc::new(Fast(kernel::Scalar)))
}

/// The codec of that name, if this machine can run it: `gfni512`, `gfni256`, `avx2`, `scalar` or `reed-solomon-erasure`.
#[must_use]
pub fn by_name(name: &str) -> Option<Arc<dyn Codec>> {
    all().into_iter().find(|codec| codec.name() == name)
}

/// Every codec that this machine can run, fastest first, the reference implementation last.
#[must_use]
pub fn all() -> Vec<Arc<dyn Codec>> {
    let mut codecs: Vec<Arc<dyn Codec>> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        codecs.extend(kernel::Gfni512::detect().map(|kernel| Arc::new(Fast(kernel)) as Arc<dyn Codec>));
        codecs.extend(kernel::Gfni256::detect().map(|kernel| Arc::new(Fast(kernel)) as Arc<dyn Codec>));
        codecs.extend(kernel::Avx2::detect().map(|kernel| Arc::new(Fast(kernel)) as Arc<dyn Codec>));
    }
    codecs.push(Arc::new(Fast(kernel::Scalar)));
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
