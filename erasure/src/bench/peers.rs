//! Who takes part besides: `reed-solomon-erasure` as its users call it, ISA-L, and the memory bus.

use reed_solomon_erasure::galois_8::ReedSolomon;
use tenfour_types::limits::CRC_BLOCK_BYTES;

use crate::bench::contender::{Contender, plan, sources_and_outputs, split};
use crate::bench::stripes::Shards;
use crate::bench::{BenchError, Operation, Options};
use crate::checksum::crc64;
use crate::field::PARITY_MATRIX;
use crate::kernel::peers::{IsaL, NoIsaL, Tables};
use crate::plan::Plan;

/// The name of the peer that all are compared with.
pub(super) const REFERENCE: &str = "reed-solomon-erasure";
pub(super) const ISA_L: &str = "isa-l";
pub(super) const ISA_L_AVX2: &str = "isa-l-avx2";
pub(super) const BOUND: &str = "bound";

/// All of them, the reference first. Of the bus there are several, all named [`BOUND`]: the best counts.
pub(super) fn peers(options: &Options) -> Result<Vec<Box<dyn Contender>>, BenchError> {
    let mut peers: Vec<Box<dyn Contender>> = vec![Box::new(reference()?)];
    if let Some(path) = &options.isa_l {
        let failed = |error: NoIsaL| BenchError::IsaL(error.to_string());
        peers.push(Box::new(Isa::new(ISA_L, IsaL::best(path).map_err(failed)?)));
        if cfg!(target_arch = "x86_64") {
            peers.push(Box::new(Isa::new(ISA_L_AVX2, IsaL::avx2(path).map_err(failed)?)));
        }
    }
    #[cfg(target_arch = "x86_64")]
    for traffic in crate::kernel::peers::Traffic::all() {
        for non_temporal in [false, true] {
            peers.push(Box::new(Bus { traffic, non_temporal, plan: plan(Operation::Reconstruct1) }));
        }
    }
    Ok(peers)
}

/// It looks at nothing but its own arithmetic: no copies are made for it.
struct Reference(ReedSolomon);

fn reference() -> Result<Reference, BenchError> {
    if !crate::all().iter().any(|codec| codec.name() == REFERENCE) {
        return Err(BenchError::NoReference);
    }
    ReedSolomon::new(10, 4).map(Reference).map_err(|_| BenchError::NoReference)
}

impl Contender for Reference {
    fn name(&self) -> &str {
        REFERENCE
    }

    fn can(&self, _operation: Operation) -> bool {
        true
    }

    fn run(&mut self, operation: Operation, shards: &mut Shards<'_>) {
        match operation {
            Operation::Encode | Operation::EncodeAndSum => {
                let (data, mut parity) = split(shards);
                let done = self.0.encode_sep(&data, &mut parity);
                debug_assert!(done.is_ok(), "the stripe is well formed");
            }
            Operation::Reconstruct1 | Operation::Reconstruct4 => {
                let written = operation.written();
                let mut index = 0;
                let mut shards = shards.each_mut().map(|shard| {
                    index += 1;
                    (&mut **shard, !written.contains(&(index - 1)))
                });
                let done = self.0.reconstruct(&mut shards);
                debug_assert!(done.is_ok(), "ten shards are present");
            }
        }
        if operation == Operation::EncodeAndSum {
            shards.iter().flat_map(|shard| shard.chunks(CRC_BLOCK_BYTES)).for_each(|block| {
                std::hint::black_box(crc64(block));
            });
        }
    }
}

struct Isa {
    name: &'static str,
    library: IsaL,
    encode: Tables,
    reconstruct: [(Tables, Plan); 2],
}

impl Isa {
    fn new(name: &'static str, library: IsaL) -> Self {
        let reconstruct = [Operation::Reconstruct1, Operation::Reconstruct4].map(|operation| {
            let plan = plan(operation);
            (library.tables(&plan.rows[..operation.written().len()]), plan)
        });
        Self { name, encode: library.tables(&PARITY_MATRIX), reconstruct, library }
    }
}

impl Contender for Isa {
    fn name(&self) -> &str {
        self.name
    }

    /// It has no CRC-64/NVME in the version that Debian 12 has.
    fn can(&self, operation: Operation) -> bool {
        operation != Operation::EncodeAndSum
    }

    fn run(&mut self, operation: Operation, shards: &mut Shards<'_>) {
        let (tables, plan) = match operation {
            Operation::Encode | Operation::EncodeAndSum => {
                let (data, mut parity) = split(shards);
                return self.library.product(&mut self.encode, &data, &mut parity);
            }
            Operation::Reconstruct1 => &mut self.reconstruct[0],
            Operation::Reconstruct4 => &mut self.reconstruct[1],
        };
        let (sources, mut outputs) = sources_and_outputs(shards, &plan.sources, operation.written());
        self.library.product(tables, &sources, &mut outputs);
    }
}

/// Ten reads and one or four writes. What it writes is no parity, so it writes where parity belongs, and the data stays.
#[cfg(target_arch = "x86_64")]
struct Bus {
    traffic: crate::kernel::peers::Traffic,
    non_temporal: bool,
    plan: Plan,
}

#[cfg(target_arch = "x86_64")]
impl Contender for Bus {
    fn name(&self) -> &str {
        BOUND
    }

    fn can(&self, _operation: Operation) -> bool {
        true
    }

    fn computes(&self) -> bool {
        false
    }

    fn run(&mut self, operation: Operation, shards: &mut Shards<'_>) {
        if operation == Operation::Reconstruct1 {
            let (sources, mut outputs) = sources_and_outputs(shards, &self.plan.sources, operation.written());
            self.traffic.run(&sources, &mut outputs, self.non_temporal);
        } else {
            let (data, mut parity) = split(shards);
            self.traffic.run(&data, &mut parity, self.non_temporal);
        }
    }
}
