//! Who takes part with our own code: every codec, the plain matrix product of its kernel, and the checksum that was not chosen.

use std::sync::Arc;

use tenfour_types::limits::{CRC_BLOCK_BYTES, DATA_SHARDS, SHARD_BYTES_MAX, TOTAL_SHARDS};

use crate::bench::Operation;
use crate::bench::stripes::Shards;
use crate::checksum::BlockSums;
use crate::codec::{Codec, Fast};
use crate::kernel::{self, Kernel};
use crate::plan::Plan;

/// Somebody who computes the shards of an operation in place. What cannot be done is refused by [`can`](Contender::can), so that
/// nothing has to be decided while the clock runs.
pub(super) trait Contender {
    fn name(&self) -> &str;

    fn can(&self, operation: Operation) -> bool;

    /// Whether its bytes can be compared. The memory bus has none.
    fn computes(&self) -> bool {
        true
    }

    fn run(&mut self, operation: Operation, shards: &mut Shards<'_>);
}

/// Those of this machine, fastest first.
pub(super) fn ours() -> Vec<Box<dyn Contender>> {
    let mut contenders: Vec<Box<dyn Contender>> = Vec::new();
    for kernel in kernel::all() {
        contenders.push(Box::new(Ours::new(Arc::new(Fast::new(kernel)))));
    }
    contenders.push(Box::new(Matrix::new(kernel::best())));
    #[cfg(target_arch = "x86_64")]
    contenders.extend(
        kernel::peers::Castagnoli::detect().map(|kernel| Box::new(OtherSum(kernel)) as Box<dyn Contender>),
    );
    contenders
}

/// The data to read and the parity to write.
pub(super) fn split<'a>(shards: &'a mut Shards<'_>) -> ([&'a [u8]; DATA_SHARDS], [&'a mut [u8]; 4]) {
    let [d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, p0, p1, p2, p3] = shards;
    ([d0, d1, d2, d3, d4, d5, d6, d7, d8, d9], [p0, p1, p2, p3])
}

/// The ten shards that a plan reads, and those to write.
pub(super) fn sources_and_outputs<'a>(
    shards: &'a mut Shards<'_>,
    sources: &[usize; DATA_SHARDS],
    written: &[usize],
) -> ([&'a [u8]; DATA_SHARDS], Vec<&'a mut [u8]>) {
    let mut read: [&[u8]; DATA_SHARDS] = [&[]; DATA_SHARDS];
    let mut outputs = Vec::with_capacity(written.len());
    for (index, shard) in shards.iter_mut().enumerate() {
        if written.contains(&index) {
            outputs.push(&mut **shard);
        } else if let Some(slot) = sources.iter().position(|source| *source == index) {
            read[slot] = shard;
        }
    }
    (read, outputs)
}

/// How the shards of an operation follow from the others.
pub(super) fn plan(operation: Operation) -> Plan {
    let written = operation.written();
    Plan::new(std::array::from_fn(|index| !written.contains(&index)), written)
}

struct Ours {
    name: String,
    codec: Arc<dyn Codec>,
    sums: [BlockSums; TOTAL_SHARDS],
}

impl Ours {
    fn new(codec: Arc<dyn Codec>) -> Self {
        Self { name: format!("tenfour-{}", codec.name()), codec, sums: Default::default() }
    }

    /// Sums are those of stripes, which have a greatest length: a longer shard is several.
    fn encode_and_sum(&mut self, shards: &mut Shards<'_>) -> bool {
        let (data, mut parity) = split(shards);
        (0..data[0].len()).step_by(SHARD_BYTES_MAX).all(|start| {
            let part = start..data[0].len().min(start + SHARD_BYTES_MAX);
            let mut parity = parity.each_mut().map(|shard| &mut shard[part.clone()]);
            let data = data.map(|shard| &shard[part.clone()]);
            self.codec.encode(&data, &mut parity, Some(&mut self.sums)).is_ok()
        })
    }

    fn reconstruct(&self, written: &[usize], shards: &mut Shards<'_>) -> bool {
        let mut present: [Option<&[u8]>; TOTAL_SHARDS] = [None; TOTAL_SHARDS];
        let mut rebuild = Vec::with_capacity(written.len());
        for (index, (shard, slot)) in shards.iter_mut().zip(&mut present).enumerate() {
            if written.contains(&index) {
                rebuild.push((index, &mut **shard));
            } else {
                *slot = Some(shard);
            }
        }
        self.codec.reconstruct(&present, &mut rebuild).is_ok()
    }
}

impl Contender for Ours {
    fn name(&self) -> &str {
        &self.name
    }

    fn can(&self, _operation: Operation) -> bool {
        true
    }

    fn run(&mut self, operation: Operation, shards: &mut Shards<'_>) {
        let done = match operation {
            Operation::Encode => {
                let (data, mut parity) = split(shards);
                self.codec.encode(&data, &mut parity, None).is_ok()
            }
            Operation::EncodeAndSum => self.encode_and_sum(shards),
            Operation::Reconstruct1 | Operation::Reconstruct4 => {
                self.reconstruct(operation.written(), shards)
            }
        };
        debug_assert!(done, "the stripe is well formed");
    }
}

/// Four losses by forty multiplications instead of twenty-six.
struct Matrix {
    name: String,
    kernel: Box<dyn Kernel>,
}

impl Matrix {
    fn new(kernel: Box<dyn Kernel>) -> Self {
        let name = format!("tenfour-{}-matrix", kernel.name());
        Self { name, kernel }
    }
}

impl Contender for Matrix {
    fn name(&self) -> &str {
        &self.name
    }

    fn can(&self, operation: Operation) -> bool {
        operation == Operation::Reconstruct4
    }

    fn run(&mut self, operation: Operation, shards: &mut Shards<'_>) {
        let plan = plan(operation);
        let (sources, mut outputs) = sources_and_outputs(shards, &plan.sources, operation.written());
        self.kernel.product(&sources, &plan.rows, &mut outputs, false);
    }
}

#[cfg(target_arch = "x86_64")]
struct OtherSum(kernel::peers::Castagnoli);

#[cfg(target_arch = "x86_64")]
impl Contender for OtherSum {
    fn name(&self) -> &str {
        "tenfour-gfni512-crc32c"
    }

    fn can(&self, operation: Operation) -> bool {
        operation == Operation::EncodeAndSum
    }

    fn run(&mut self, _operation: Operation, shards: &mut Shards<'_>) {
        let (data, mut parity) = split(shards);
        let bytes = data[0].len();
        let non_temporal = bytes * TOTAL_SHARDS > kernel::private_cache_bytes();
        for start in (0..bytes).step_by(CRC_BLOCK_BYTES) {
            let block = start..bytes.min(start + CRC_BLOCK_BYTES);
            std::hint::black_box(self.0.encode_block(&data, &mut parity, block, non_temporal));
        }
        self.0.fence();
    }
}
