//! What a kernel is to do with one stripe, and the parameters that say so: the structures of `kernel/code.cu`, word for word.
//!
//! Invariant: a stripe's memory is fourteen places of one length, the ten sources in the order of [`Work::sources`] and then the
//! wanted shards, so that a kernel never needs another place, and what it writes is one piece.

use tenfour_erasure::Plan;
use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, TOTAL_SHARDS};

/// Stripes that one launch takes.
pub(crate) const STRIPES_MAX: usize = 24;
/// Threads of a block.
pub(crate) const THREADS: u32 = 256;
/// What a thread takes of each shard, bytes.
const VECTOR_BYTES: usize = 16;
/// Up to so many rebuilt shards the plain product moves no more and multiplies less than the syndrome form.
const PLAIN_PRODUCT_ROWS: usize = 2;

/// The functions of `kernel/code.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    Encode,
    Product1,
    Product2,
    Syndrome3,
    Syndrome4,
}

impl Kernel {
    pub(crate) const ALL: [Self; 5] =
        [Self::Encode, Self::Product1, Self::Product2, Self::Syndrome3, Self::Syndrome4];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Product1 => "product1",
            Self::Product2 => "product2",
            Self::Syndrome3 => "syndrome3",
            Self::Syndrome4 => "syndrome4",
        }
    }
}

/// One stripe's work; stripes of equal work share a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) kernel: Kernel,
    /// The shards that are read.
    pub(crate) sources: [usize; DATA_SHARDS],
    /// The shards that are written.
    wanted: [usize; PARITY_SHARDS],
    rows: usize,
    /// A row for each wanted shard: over the sources, or over the four syndromes.
    coefficients: [[u8; DATA_SHARDS]; PARITY_SHARDS],
}

impl Work {
    /// Parity from data.
    pub(crate) fn encode() -> Self {
        Self {
            kernel: Kernel::Encode,
            sources: std::array::from_fn(|shard| shard),
            wanted: std::array::from_fn(|row| DATA_SHARDS + row),
            rows: PARITY_SHARDS,
            coefficients: [[0; DATA_SHARDS]; PARITY_SHARDS],
        }
    }

    /// One to four `wanted` shards from those that are present, at least ten; `None` for any other number of them.
    pub(crate) fn rebuild(present: [bool; TOTAL_SHARDS], wanted: &[usize]) -> Option<Self> {
        let kernel = match wanted.len() {
            1 => Kernel::Product1,
            2 => Kernel::Product2,
            3 => Kernel::Syndrome3,
            4 => Kernel::Syndrome4,
            _ => return None,
        };
        let plan = Plan::new(present, wanted);
        let mut coefficients = plan.rows;
        if wanted.len() > PLAIN_PRODUCT_ROWS {
            for (row, combine) in coefficients.iter_mut().zip(plan.combine) {
                *row = [0; DATA_SHARDS];
                row[..PARITY_SHARDS].copy_from_slice(&combine);
            }
        }
        let mut places = [0; PARITY_SHARDS];
        places[..wanted.len()].copy_from_slice(wanted);
        Some(Self { kernel, sources: plan.sources, wanted: places, rows: wanted.len(), coefficients })
    }

    /// The shards that are written, in the order in which they lie behind the sources.
    pub(crate) fn wanted(&self) -> &[usize] {
        &self.wanted[..self.rows]
    }

    /// The kernel's second parameter. `Product` and `Syndrome` have no member but 32-bit words, so neither has a gap.
    pub(crate) fn plan(&self) -> Vec<u32> {
        let terms = match self.kernel {
            Kernel::Encode => return Vec::new(),
            Kernel::Product1 | Kernel::Product2 => DATA_SHARDS,
            Kernel::Syndrome3 | Kernel::Syndrome4 => PARITY_SHARDS,
        };
        let mut words = Vec::new();
        for row in &self.coefficients[..self.rows] {
            for bit in 0..8 {
                let mask = |coefficient: &u8| if coefficient >> bit & 1 == 1 { u32::MAX } else { 0 };
                words.extend(row[..terms].iter().map(mask));
            }
        }
        let wanted = self.wanted().iter().map(|shard| *shard as u32);
        if terms == DATA_SHARDS {
            words.extend(self.sources.iter().map(|shard| *shard as u32).chain(wanted));
        } else {
            words.extend(wanted);
            words.push(self.sources.iter().fold(0, |used, shard| used | 1 << shard));
        }
        words
    }
}

/// The kernels' `Stripe`: addresses in the device's memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stripe {
    shards: [u64; TOTAL_SHARDS],
    vectors: u64,
}

impl Stripe {
    /// The places of a stripe's memory that begins at `base`.
    pub(crate) fn at(base: u64, shard_bytes: usize, work: &Work) -> Self {
        let mut shards = [0; TOTAL_SHARDS];
        for (place, shard) in work.sources.iter().chain(work.wanted()).enumerate() {
            shards[*shard] = base + (place * shard_bytes) as u64;
        }
        Self { shards, vectors: (shard_bytes / VECTOR_BYTES) as u64 }
    }

    /// Fourteen shards one after the other, in their order.
    pub(crate) fn in_order(base: u64, shard_bytes: usize) -> Self {
        let shards = std::array::from_fn(|shard| base + (shard * shard_bytes) as u64);
        Self { shards, vectors: (shard_bytes / VECTOR_BYTES) as u64 }
    }

    /// Blocks of threads that it takes.
    fn blocks(&self) -> u32 {
        self.vectors.div_ceil(u64::from(THREADS)) as u32
    }
}

/// The kernels' first parameter.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Batch([Stripe; STRIPES_MAX]);

#[cfg(test)]
impl Batch {
    /// As it lies in memory.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let words = self.0.iter().flat_map(|stripe| stripe.shards.into_iter().chain([stripe.vectors]));
        words.flat_map(u64::to_le_bytes).collect()
    }
}

/// A launch: its grid, and what it works on.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) blocks: u32,
    pub(crate) stripes: u32,
    pub(crate) batch: Box<Batch>,
}

/// As few launches as the stripes need.
pub(crate) fn launches(stripes: &[Stripe]) -> impl Iterator<Item = Launch> {
    stripes.chunks(STRIPES_MAX).map(|some| {
        let mut batch = Box::new(Batch([Stripe::default(); STRIPES_MAX]));
        batch.0[..some.len()].copy_from_slice(some);
        Launch {
            blocks: some.iter().map(Stripe::blocks).max().unwrap_or(0),
            stripes: some.len() as u32,
            batch,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver takes at most 4 KiB of parameters.
    #[test]
    fn the_parameters_fit_a_launch() {
        let present = std::array::from_fn(|shard| shard >= 4);
        for wanted in 1..=4 {
            let lost: Vec<usize> = (0..wanted).collect();
            let work = Work::rebuild(present, &lost).unwrap();
            assert!(size_of::<Batch>() + 4 * work.plan().len() <= 4096, "{wanted}");
        }
        assert_eq!(Work::rebuild(present, &[]), None);
        assert_eq!(Work::rebuild(present, &[0, 1, 2, 3, 4]), None);
    }

    #[test]
    fn a_launch_is_as_wide_as_its_longest_stripe() {
        let work = Work::encode();
        let stripes: Vec<Stripe> =
            (1..=30).map(|number| Stripe::at(4096, number * 64 * 100, &work)).collect();
        let launches: Vec<Launch> = launches(&stripes).collect();
        assert_eq!(launches.len(), 2);
        assert_eq!((launches[0].stripes, launches[1].stripes), (24, 6));
        assert_eq!(
            (launches[0].blocks, launches[1].blocks),
            ((24 * 400_u32).div_ceil(256), 30 * 400 / 256 + 1)
        );
        assert_eq!(stripes[0].shards[13], 4096 + 13 * 6400);
    }
}
