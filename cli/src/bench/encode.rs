//! `tenfour bench encode`: every encoder of this machine on one stripe, interleaved in one process.

use crate::table;
use crate::units::ByteSize;
use anyhow::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_erasure::geometry::{Layout, layout};
use tenfour_erasure::{BlockSums, Codec};
use tenfour_types::limits::{DATA_SHARDS, SHARD_ALIGN_BYTES, TOTAL_SHARDS};

/// Rounds of which the median counts; the encoders take turns in each.
const ROUNDS: usize = 9;

/// Options of `tenfour bench encode`.
#[derive(clap::Args, Clone, Debug)]
pub struct EncodeArguments {
    /// Payload of one shard: multiples of 64 bytes up to 1 MiB.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "4KiB,64KiB,1MiB")]
    shards: Vec<ByteSize>,
    /// How long each encoder runs in each round, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 30)]
    milliseconds: u64,
}

/// Measures and prints.
pub fn run(arguments: &EncodeArguments) -> Result<()> {
    let codecs = tenfour_erasure::all();
    let mut rows = Vec::new();
    for size in &arguments.shards {
        let shard_bytes = size.as_usize();
        anyhow::ensure!(
            shard_bytes > 0 && shard_bytes.is_multiple_of(SHARD_ALIGN_BYTES) && BlockSums::fits(shard_bytes),
            "--shards {size}: a shard has a multiple of {SHARD_ALIGN_BYTES} bytes, at most 1MiB"
        );
        let mut stripe = Stripe::new(shard_bytes);
        let mut rates = vec![Vec::new(); codecs.len()];
        for _ in 0..ROUNDS {
            for (codec, rates) in codecs.iter().zip(&mut rates) {
                rates.push(stripe.rate(codec, Duration::from_millis(arguments.milliseconds.max(1)))?);
            }
        }
        let medians: Vec<f64> = rates.into_iter().map(median).collect();
        let reference = codecs
            .iter()
            .zip(&medians)
            .find(|(codec, _)| codec.name() == "reed-solomon-erasure")
            .map(|(_, rate)| *rate);
        for (codec, rate) in codecs.iter().zip(&medians) {
            let ratio = reference.map_or("-".to_owned(), |reference| format!("{:.1}", rate / reference));
            rows.push(vec![codec.name().to_owned(), size.to_string(), format!("{rate:.1}"), ratio]);
        }
    }
    table::print(&["encoder", "shard", "GB/s of data, with block CRCs", "× reed-solomon-erasure"], &rows);
    println!("\n{}", tenfour_gpu::probe());
    Ok(())
}

/// One stripe in the layout that PUT uses, warm in cache as far as it fits.
struct Stripe {
    layout: Layout,
    memory: Vec<u8>,
    start: usize,
}

impl Stripe {
    fn new(shard_bytes: usize) -> Self {
        let layout = layout(shard_bytes);
        let memory = vec![0xa5; layout.total_bytes + SHARD_ALIGN_BYTES];
        let start = memory.as_ptr().align_offset(SHARD_ALIGN_BYTES);
        Self { layout, memory, start }
    }

    fn rate(&mut self, codec: &Arc<dyn Codec>, duration: Duration) -> Result<f64> {
        let end = self.start + self.layout.total_bytes;
        let buffer = self.memory.get_mut(self.start..end).unwrap_or_default();
        let mut sums: [BlockSums; TOTAL_SHARDS] = std::array::from_fn(|_| BlockSums::new());
        let began = Instant::now();
        let mut stripes = 0u32;
        while began.elapsed() < duration {
            let mut split = self.layout.split(buffer)?;
            sums.iter_mut().for_each(BlockSums::clear);
            codec.encode(&split.data, &mut split.parity, Some(&mut sums))?;
            stripes += 1;
        }
        let bytes = f64::from(stripes) * (self.layout.shard_bytes * DATA_SHARDS) as f64;
        Ok(bytes / 1e9 / began.elapsed().as_secs_f64())
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}
