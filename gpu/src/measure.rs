//! What a stripe costs on the processor and by way of the device, on this machine, now: for the choice at the start, and for tables.
//!
//! Invariant: both sides take turns, and medians count.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tenfour_erasure::{BlockSums, Codec, CodecError};
use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, SHARD_BYTES_MAX, TOTAL_SHARDS};

use crate::choice::{Cost, Costs, Operation};
use crate::codec::DeviceCodec;
use crate::device::Device;

/// Sizes of shards that are measured, bytes; between them the next smaller one counts.
const SHARD_BYTES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, SHARD_BYTES_MAX];
/// Rounds of which the median counts.
const ROUNDS: usize = 5;
/// A round is at least so long.
const ROUND: Duration = Duration::from_micros(300);
/// What a measured stripe takes at most.
pub(crate) const STRIPE_BYTES: usize = TOTAL_SHARDS * SHARD_BYTES_MAX;

/// A row of a table. The names are those of `tenfour bench encode --json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// `encode`, `encode+crc`, `reconstruct1` or `reconstruct4`.
    pub op: &'static str,
    /// Bytes of a shard.
    pub shard_bytes: usize,
    /// Where the bytes are: `device` (the kernel alone), `registered` (copied in and out by the device) or `host` (staged as well).
    pub residency: &'static str,
    /// Calls at the same time.
    pub callers: usize,
    /// 10^9 bytes of data a second.
    pub gb_per_s: f64,
    /// For kernels alone, the share of the rate at which the device copies its own memory, over all bytes read and written.
    pub of_copy_bandwidth: Option<f64>,
}

/// One stripe in ordinary or pinned memory.
struct Stripe<'a> {
    memory: &'a mut [u8],
    shard_bytes: usize,
    sums: Box<[BlockSums; TOTAL_SHARDS]>,
}

impl<'a> Stripe<'a> {
    /// In memory of at least 14 shards.
    fn new(memory: &'a mut [u8], shard_bytes: usize) -> Self {
        let sums = Box::new([const { BlockSums::new() }; TOTAL_SHARDS]);
        Self { memory, shard_bytes, sums }
    }

    fn encode(&mut self, codec: &dyn Codec, with_sums: bool) -> Result<(), CodecError> {
        let (data, parity) = self.memory.split_at_mut(DATA_SHARDS * self.shard_bytes);
        let mut places = data.chunks_exact(self.shard_bytes);
        let data: [&[u8]; DATA_SHARDS] = std::array::from_fn(|_| places.next().unwrap_or_default());
        let mut places = parity.chunks_exact_mut(self.shard_bytes);
        let mut parity: [&mut [u8]; PARITY_SHARDS] =
            std::array::from_fn(|_| places.next().unwrap_or_default());
        codec.encode(&data, &mut parity, with_sums.then_some(&mut *self.sums))
    }

    /// The first shard, from the others.
    fn rebuild(&mut self, codec: &dyn Codec) -> Result<(), CodecError> {
        let (first, others) = self.memory.split_at_mut(self.shard_bytes);
        let mut places = others.chunks_exact(self.shard_bytes);
        let present = std::array::from_fn(|shard| if shard == 0 { None } else { places.next() });
        codec.reconstruct(&present, &mut [(0, first)])
    }

    fn run(&mut self, codec: &dyn Codec, operation: Operation) -> Result<(), CodecError> {
        match operation {
            Operation::Encode => self.encode(codec, true),
            Operation::Rebuild => self.rebuild(codec),
        }
    }

    /// A round of calls: the time of one, and the processor's part of it.
    fn round(&mut self, codec: &dyn Codec, operation: Operation) -> Result<(Duration, Duration), CodecError> {
        let (began, busy) = (Instant::now(), busy_time());
        let mut calls = 0;
        loop {
            self.run(codec, operation)?;
            calls += 1;
            if began.elapsed() >= ROUND {
                return Ok((began.elapsed() / calls, busy_time().saturating_sub(busy) / calls));
            }
        }
    }
}

/// How long this thread has run, not waited.
fn busy_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn median<T: Ord + Copy + Default>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The costs of stripes in that memory, of [`STRIPE_BYTES`], which the device can read in place or not. Well under a second.
pub(crate) fn costs<D: Device>(codec: &DeviceCodec<D>, memory: &mut [u8]) -> Result<Costs, CodecError> {
    let mut costs = Vec::new();
    let in_place = codec.reaches(memory);
    for operation in [Operation::Encode, Operation::Rebuild] {
        for shard_bytes in SHARD_BYTES {
            let mut stripe = Stripe::new(memory, shard_bytes);
            let (mut cpu, mut device, mut device_busy) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                cpu.push(stripe.round(&**codec.cpu(), operation)?.0);
                let (whole, busy) = stripe.round(codec, operation)?;
                device.push(whole);
                device_busy.push(busy);
            }
            let (cpu, device, device_busy) = (median(cpu), median(device), median(device_busy));
            costs.push(Cost { operation, shard_bytes, in_place, cpu, device, device_busy });
        }
    }
    Ok(Costs(costs))
}

/// The rate of so many callers at once, each with a stripe of its own, 10^9 bytes of data a second.
pub(crate) fn rate(
    codec: &dyn Codec,
    memories: &mut [&mut [u8]],
    shard_bytes: usize,
    with_sums: bool,
    duration: Duration,
) -> Result<f64, CodecError> {
    let began = Instant::now();
    let stripes = std::thread::scope(|scope| {
        let callers: Vec<_> = memories
            .iter_mut()
            .map(|memory| {
                scope.spawn(|| {
                    let mut stripe = Stripe::new(memory, shard_bytes);
                    let mut stripes = 0_u64;
                    loop {
                        stripe.encode(codec, with_sums)?;
                        stripes += 1;
                        if began.elapsed() >= duration {
                            return Ok(stripes);
                        }
                    }
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap_or(Ok(0))).sum::<Result<u64, CodecError>>()
    })?;
    Ok(gb_per_s(stripes, shard_bytes, began.elapsed()))
}

/// 10^9 bytes of data a second.
pub(crate) fn gb_per_s(stripes: u64, shard_bytes: usize, time: Duration) -> f64 {
    stripes as f64 * (DATA_SHARDS * shard_bytes) as f64 / 1e9 / time.as_secs_f64()
}
