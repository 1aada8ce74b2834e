//! `kernel/code.cu` as the C++ compiler takes it, and `kernel/code.ptx` as CUDA's compiler made it, against the reference, byte for byte.

use super::ptx::PtxDevice;
use super::{Shards, loss_patterns, stripe};
use crate::device::{Device, Input, Job, Slot};
use crate::ffi::on_host::{HostDevice, HostSlot, compiled};
use crate::work::Work;

/// Runs stripes as one batch, and compares what comes out.
fn check(device: &mut impl Device<Slot = HostSlot>, slots: &mut Vec<HostSlot>, batch: &[(Work, &Shards)]) {
    let mut jobs: Vec<Job<HostSlot>> = batch
        .iter()
        .map(|(work, shards)| {
            let mut slot = slots.pop().unwrap_or_else(|| device.slot().unwrap());
            let shard_bytes = shards[0].len();
            for (place, source) in slot.inputs().chunks_exact_mut(shard_bytes).zip(work.sources) {
                place.copy_from_slice(&shards[source]);
            }
            slot.inputs()[10 * shard_bytes..14 * shard_bytes].fill(0xee);
            Job { work: work.clone(), shard_bytes, inputs: [Input::Staged; 10], slot }
        })
        .collect();
    device.begin(0, &mut jobs).unwrap();
    for (job, (work, shards)) in jobs.into_iter().zip(batch) {
        for (output, wanted) in job.slot.outputs().chunks_exact(job.shard_bytes).zip(work.wanted()) {
            assert!(
                output == shards[*wanted],
                "{:?}: shard {wanted}, {} bytes",
                work.kernel,
                job.shard_bytes
            );
        }
        assert_eq!(job.slot.outputs().len(), work.wanted().len() * job.shard_bytes);
        slots.push(job.slot);
    }
}

/// All patterns of lost shards, with each number of wanted ones.
fn all_patterns(mut device: impl Device<Slot = HostSlot>, shard_bytes: usize) {
    let (shards, mut slots) = (stripe(shard_bytes, 1), Vec::new());
    let (mut patterns, mut rebuilt) = (0, 0);
    for lost in loss_patterns() {
        patterns += 1;
        let present = std::array::from_fn(|shard| !lost.contains(&shard));
        if lost.is_empty() {
            check(&mut device, &mut slots, &[(Work::encode(), &shards)]);
        }
        // Each number of them, from either end, each order.
        for wanted in (1..=lost.len())
            .flat_map(|rows| [lost[..rows].to_vec(), lost.iter().rev().take(rows).copied().collect()])
        {
            check(&mut device, &mut slots, &[(Work::rebuild(present, &wanted).unwrap(), &shards)]);
            rebuilt += 1;
        }
    }
    assert_eq!(patterns, 1471);
    assert!(rebuilt > 8000, "{rebuilt}");
}

#[test]
fn every_loss_pattern() {
    let Some(kernels) = compiled() else { return };
    all_patterns(HostDevice::new(kernels), 192);
}

#[test]
fn every_loss_pattern_in_ptx() {
    all_patterns(PtxDevice::new(), 64);
}

/// Around the ends of threads, blocks and CRC blocks, up to the longest.
#[test]
fn encode_at_many_lengths() {
    let Some(kernels) = compiled() else { return };
    let mut device = HostDevice::new(kernels);
    let mut slots = Vec::new();
    let lengths = (1..=70).map(|lines| lines * 64).chain([
        4032,
        4096,
        4160,
        8192,
        16384,
        16448,
        65536 + 64,
        262_144,
        1 << 20,
    ]);
    for shard_bytes in lengths {
        let shards = stripe(shard_bytes, shard_bytes as u64);
        let present = std::array::from_fn(|shard| shard >= 4);
        let rebuild = Work::rebuild(present, &[3, 1, 0, 2]).unwrap();
        check(&mut device, &mut slots, &[(Work::encode(), &shards), (rebuild, &shards)]);
    }
}

/// Stripes of many sizes share launches, more of them than one launch takes.
fn many(mut device: impl Device<Slot = HostSlot>) {
    let stripes: Vec<Shards> = (1..=27).map(|number| stripe(number * 320, number as u64)).collect();
    let present = std::array::from_fn(|shard| shard != 2 && shard != 12);
    let works =
        [Work::encode(), Work::rebuild(present, &[2]).unwrap(), Work::rebuild(present, &[2, 12]).unwrap()];
    let batch: Vec<(Work, &Shards)> =
        works.into_iter().flat_map(|work| stripes.iter().map(move |shards| (work.clone(), shards))).collect();
    check(&mut device, &mut Vec::new(), &batch);
}

#[test]
fn a_batch_of_many() {
    let Some(kernels) = compiled() else { return };
    many(HostDevice::new(kernels));
}

#[test]
fn a_batch_of_many_in_ptx() {
    many(PtxDevice::new());
}
