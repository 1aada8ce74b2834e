//! Everybody's turn in every round.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tenfour_types::limits::DATA_SHARDS;

use crate::bench::contender::{Contender, ours};
use crate::bench::machine::machine;
use crate::bench::peers::{BOUND, REFERENCE, peers};
use crate::bench::report::{Report, Row, aims};
use crate::bench::stripes::{Region, Shards};
use crate::bench::{BenchError, Operation, Options, Residency};

/// The largest shards that the region has room for.
const SHARD_BYTES_MAX: usize = 16 << 20;
/// Data that is encoded between two looks at the clock, bytes: a look costs as much as twenty kilobytes.
const BYTES_PER_LOOK: usize = 4 << 20;

/// Measures; says before each part which one it is.
pub fn measure(options: &Options, mut progress: impl FnMut(&str)) -> Result<Report, BenchError> {
    let is_wrong = |bytes: &&usize| **bytes == 0 || !bytes.is_multiple_of(64) || **bytes > SHARD_BYTES_MAX;
    if let Some(bytes) = options.shard_bytes.iter().find(is_wrong) {
        return Err(BenchError::ShardBytes(*bytes));
    }
    let mut contenders = ours();
    contenders.extend(peers(options)?);
    let mut region = Region::new()?;
    let (mut rows, mut reached) = (Vec::new(), Vec::new());
    for shard_bytes in options.shard_bytes.iter().copied() {
        progress(&format!("{shard_bytes} bytes a shard: all compute the same"));
        let mut stripes = region.stripes(shard_bytes);
        compare(&mut contenders, &mut stripes)?;
        for residency in [Residency::Warm, Residency::Cold] {
            progress(&format!("{shard_bytes} bytes a shard, {}", residency.name()));
            let count = if residency == Residency::Warm { 1 } else { stripes.len() };
            let samples = rounds(&mut contenders, stripes.get_mut(..count).unwrap_or_default(), options);
            rows.extend(
                samples.entries.iter().map(|entry| Row::new(entry, &samples, shard_bytes, residency)),
            );
            reached.extend(aims(&samples, shard_bytes, residency));
        }
    }
    let order = |row: &Row| Operation::ALL.iter().position(|operation| *operation == row.operation);
    rows.sort_by_key(order);
    Ok(Report { machine: machine(), rows, reached })
}

/// The rates of one contender at one operation, GB/s of data, a round each.
pub(super) struct Entry {
    pub(super) kernel: String,
    pub(super) operation: Operation,
    pub(super) rates: Vec<f64>,
}

/// What one length of shards and one residency gave.
pub(super) struct Samples {
    pub(super) entries: Vec<Entry>,
}

impl Samples {
    /// The median of the rounds' ratios, when both took part.
    pub(super) fn ratio(&self, who: (&str, Operation), to: (&str, Operation)) -> Option<f64> {
        let rates = |(kernel, operation): (&str, Operation)| {
            let mut entries = self.entries.iter();
            entries.find(|entry| entry.kernel == kernel && entry.operation == operation)
        };
        let (who, to) = (rates(who)?, rates(to)?);
        Some(median(who.rates.iter().zip(&to.rates).map(|(rate, to)| rate / to).collect()))
    }
}

/// The middle one.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Lets the reference encode all stripes, and holds everybody's bytes against the first one.
fn compare(contenders: &mut [Box<dyn Contender>], stripes: &mut [Shards<'_>]) -> Result<(), BenchError> {
    let reference = contenders.iter_mut().find(|contender| contender.name() == REFERENCE);
    let reference = reference.ok_or(BenchError::NoReference)?;
    stripes.iter_mut().for_each(|stripe| reference.run(Operation::Encode, stripe));
    let Some(stripe) = stripes.first_mut() else { return Ok(()) };
    let expected = stripe.each_ref().map(|shard| shard.to_vec());
    for contender in contenders.iter_mut().filter(|contender| contender.computes()) {
        for operation in Operation::ALL {
            if !contender.can(operation) {
                continue;
            }
            operation.written().iter().for_each(|index| stripe[*index].fill(0xee));
            contender.run(operation, stripe);
            if stripe.iter().zip(&expected).any(|(found, expected)| **found != expected[..]) {
                return Err(BenchError::OtherBytes {
                    kernel: contender.name().to_owned(),
                    operation: operation.name(),
                    shard_bytes: expected[0].len(),
                });
            }
        }
    }
    Ok(())
}

/// All operations of all contenders in every round; who begins moves on from round to round.
fn rounds(contenders: &mut [Box<dyn Contender>], stripes: &mut [Shards<'_>], options: &Options) -> Samples {
    let mut turns = Vec::new();
    let mut entries = Vec::new();
    for operation in Operation::ALL {
        for (who, contender) in contenders.iter().enumerate().filter(|(_, who)| who.can(operation)) {
            turns.push((who, operation));
            entries.push(Entry { kernel: contender.name().to_owned(), operation, rates: Vec::new() });
        }
    }
    let mut next_stripe = 0;
    for round in 0..options.rounds.max(1) {
        for turn in 0..turns.len() {
            let turn = (turn + round) % turns.len();
            let (who, operation) = turns[turn];
            let rate = rate(&mut *contenders[who], operation, stripes, &mut next_stripe, options);
            entries[turn].rates.push(rate);
        }
    }
    Samples { entries: best_of_the_bus(entries) }
}

/// The bus is as fast as the fastest way to move as much over it, in each round.
fn best_of_the_bus(entries: Vec<Entry>) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::new();
    for entry in entries {
        let is_same = |other: &&mut Entry| other.kernel == BOUND && other.operation == entry.operation;
        match kept.iter_mut().find(is_same).filter(|_| entry.kernel == BOUND) {
            Some(best) => {
                best.rates.iter_mut().zip(entry.rates).for_each(|(best, rate)| *best = best.max(rate));
            }
            None => kept.push(entry),
        }
    }
    kept
}

fn rate(
    contender: &mut dyn Contender,
    operation: Operation,
    stripes: &mut [Shards<'_>],
    next_stripe: &mut usize,
    options: &Options,
) -> f64 {
    let shard_bytes = stripes.first().map_or(0, |stripe| stripe[0].len());
    let per_look = (BYTES_PER_LOOK / (shard_bytes * DATA_SHARDS)).max(1);
    let (mut done, began) = (0_usize, processor_time());
    loop {
        for _ in 0..per_look {
            *next_stripe = (*next_stripe + 1) % stripes.len();
            contender.run(operation, &mut stripes[*next_stripe]);
        }
        done += per_look;
        let elapsed = processor_time().saturating_sub(began);
        if elapsed >= options.slice {
            return (done * shard_bytes * DATA_SHARDS) as f64 / elapsed.as_secs_f64() / 1e9;
        }
    }
}

/// Time that this thread has run: what others get of the core does not count.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned() as u32)
}
