//! Our kernels beside `reed-solomon-erasure`, interleaved in one process on the same buffers: GB/s of data and ratios.
//!
//! The rebuild figures of `reed-solomon-erasure` hold the copies of the present shards that its interface asks for: they say
//! what using it costs, not what its arithmetic does.
//!
//! Run with `cargo bench -p tenfour-erasure`. Trust the ratios more than the values: the machine may be busy with other work,
//! which is why every contender is timed in every round and the median is shown.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tenfour_erasure::geometry::layout;
use tenfour_erasure::{BlockSums, Codec, all, crc64};

const ROUNDS: usize = 9;
const SLICE: Duration = Duration::from_millis(8);
/// Cold stripes come from a set of buffers that is larger than the last-level cache.
const COLD_BYTES: usize = 192 << 20;

/// A stripe's buffer, 64-byte aligned.
struct Stripe {
    memory: Vec<u8>,
    start: usize,
}

impl Stripe {
    fn new(total_bytes: usize) -> Self {
        let memory: Vec<u8> =
            (0..total_bytes + 64).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let start = memory.as_ptr().align_offset(64);
        Self { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Encode,
    EncodeAndSum,
    Rebuild(&'static [usize]),
}

fn step(
    codec: &dyn Codec,
    operation: Operation,
    shard_bytes: usize,
    buffer: &mut [u8],
    sums: &mut [BlockSums; 14],
) {
    let layout = layout(shard_bytes);
    let result = match operation {
        Operation::Rebuild(lost) => {
            let payloads = layout.payloads_mut(buffer).expect("the buffer is large enough");
            let mut present: [Option<&[u8]>; 14] = [None; 14];
            let mut rebuild = Vec::with_capacity(4);
            for (shard, payload) in payloads.into_iter().enumerate() {
                if lost.contains(&shard) {
                    rebuild.push((shard, payload));
                } else {
                    present[shard] = Some(payload);
                }
            }
            codec.reconstruct(&present, &mut rebuild)
        }
        Operation::Encode | Operation::EncodeAndSum => {
            let mut split = layout.split(buffer).expect("the buffer is large enough");
            let sums = matches!(operation, Operation::EncodeAndSum).then_some(sums);
            codec.encode(&split.data, &mut split.parity, sums)
        }
    };
    result.expect("the arguments are right");
    black_box(buffer);
}

/// GB/s of data over at least one time slice.
fn measure(codec: &dyn Codec, operation: Operation, shard_bytes: usize, stripes: &mut [Stripe]) -> f64 {
    let mut sums = std::array::from_fn(|_| BlockSums::new());
    let mut done = 0_usize;
    let start = Instant::now();
    while start.elapsed() < SLICE {
        let count = stripes.len();
        for _ in 0..(65_536 / shard_bytes).max(1) {
            step(codec, operation, shard_bytes, stripes[done % count].bytes(), &mut sums);
            done += 1;
        }
    }
    (done * shard_bytes * 10) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let codecs = all();
    print!("{:<18}{:>10}{:>6}", "operation", "shard", "");
    codecs.iter().for_each(|codec| print!("{:>22}", codec.name()));
    println!("   (GB/s of data, ratio to the last)");
    let operations = [
        ("encode", Operation::Encode),
        ("encode+crc", Operation::EncodeAndSum),
        ("rebuild 1", Operation::Rebuild(&[3])),
        ("rebuild 2", Operation::Rebuild(&[3, 12])),
        ("rebuild 4", Operation::Rebuild(&[0, 3, 8, 12])),
    ];
    for shard_bytes in [4096, 65_536, 1 << 20] {
        let total_bytes = layout(shard_bytes).total_bytes;
        let mut stripes: Vec<Stripe> =
            (0..COLD_BYTES / total_bytes).map(|_| Stripe::new(total_bytes)).collect();
        for (residency, count) in [("warm", 1), ("cold", stripes.len())] {
            for (name, operation) in operations {
                let mut figures = vec![Vec::new(); codecs.len()];
                for _ in 0..ROUNDS {
                    for (codec, figures) in codecs.iter().zip(&mut figures) {
                        figures.push(measure(&**codec, operation, shard_bytes, &mut stripes[..count]));
                    }
                }
                let medians: Vec<f64> = figures.into_iter().map(median).collect();
                let reference = medians[medians.len() - 1];
                print!("{name:<18}{shard_bytes:>10}{residency:>6}");
                medians.iter().for_each(|figure| print!("{figure:>13.1} ({:>5.2}x)", figure / reference));
                println!();
            }
        }
    }
    let bytes = vec![7_u8; 65_536];
    let figures = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        (0..200).for_each(|_| {
            black_box(crc64(black_box(&bytes)));
        });
        200.0 * 65_536.0 / start.elapsed().as_secs_f64() / 1e9
    });
    println!("CRC-64/NVME, 64 KiB warm: {:.1} GB/s", median(figures.collect()));
}
