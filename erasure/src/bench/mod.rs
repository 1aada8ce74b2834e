//! The encoders beside each other and beside the memory bus: what `tenfour bench encode` and `cargo bench -p tenfour-erasure` run.
//!
//! All who take part run in one process on the same buffers and take turns in every round; a ratio is the median of the rounds'
//! ratios. That is why ratios can be trusted on a busy machine, and absolute rates only on an idle one.
//!
//! Not here: printing and files. Invariant: nobody is timed whose bytes were not compared with those of `reed-solomon-erasure`
//! first.

mod contender;
mod machine;
mod peers;
mod report;
mod rounds;
mod stripes;

use std::path::PathBuf;
use std::time::Duration;

pub use machine::machine;
pub use report::{Report, Row};
pub use rounds::measure;

/// What to measure, and for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// Payloads of one shard, bytes: positive multiples of 64.
    pub shard_bytes: Vec<usize>,
    /// ISA-L's library, when there is one to compare with.
    pub isa_l: Option<PathBuf>,
    /// Rounds of which the median counts.
    pub rounds: usize,
    /// How long each runs in each round, at least.
    pub slice: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shard_bytes: vec![4 << 10, 64 << 10, 1 << 20, 8 << 20],
            isa_l: None,
            rounds: 9,
            slice: Duration::from_millis(8),
        }
    }
}

/// What is done to a stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Parity from data.
    Encode,
    /// The same, and the CRCs of all blocks of all 14 shards.
    EncodeAndSum,
    /// One data shard from the others.
    Reconstruct1,
    /// Four data shards from the others.
    Reconstruct4,
}

impl Operation {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 4] = [Self::Encode, Self::EncodeAndSum, Self::Reconstruct1, Self::Reconstruct4];

    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::EncodeAndSum => "encode+crc",
            Self::Reconstruct1 => "reconstruct1",
            Self::Reconstruct4 => "reconstruct4",
        }
    }

    /// The shards that are computed.
    const fn written(self) -> &'static [usize] {
        match self {
            Self::Encode | Self::EncodeAndSum => &[10, 11, 12, 13],
            Self::Reconstruct1 => &[3],
            Self::Reconstruct4 => &[0, 3, 6, 9],
        }
    }
}

/// Where the stripe is when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// In the caches, as far as it fits: the same stripe again and again.
    Warm,
    /// In memory: the next of more stripes than the last-level cache holds.
    Cold,
}

impl Residency {
    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A length that no codec takes.
    #[error("shards of {0} bytes: their length must be a positive multiple of 64, at most 16 MiB")]
    ShardBytes(usize),
    /// ISA-L was asked for and cannot be used.
    #[error("{0}")]
    IsaL(String),
    /// No memory to measure on.
    #[error("no memory to measure on: {0}")]
    Memory(#[from] std::io::Error),
    /// Somebody's bytes are wrong.
    #[error("{kernel} computes other bytes than reed-solomon-erasure ({operation} of {shard_bytes} bytes)")]
    OtherBytes {
        /// Who.
        kernel: String,
        /// At what.
        operation: &'static str,
        /// Payload of one shard.
        shard_bytes: usize,
    },
    /// There is no reference on this machine.
    #[error("reed-solomon-erasure does not run on this processor: there is nothing to compare with")]
    NoReference,
}
