//! [`DeviceCodec`]: a device as a [`Codec`], with the processor's codec behind it and beside it.
//!
//! The processor takes over whatever the device cannot: arguments that are wrong (its codec says what is), shards that are too
//! long, a stripe that finds all slots taken, and everything from the moment at which the device fails, hangs or gives wrong bytes.
//! The caller sees none of it, but that a call waits, and allocates a little. Block CRCs are the processor's too: those of the data while the device computes the parity.
//!
//! Every stripe is looked at: of one in [`WHOLE_EVERY`] of each kernel, and of all until the first was right, all bytes are computed
//! again by the processor, of the others one line of 64 bytes.
//!
//! Invariant: no byte of the device's reaches the caller's memory before it was looked at, and then the calling thread copies it: a
//! device that was given up can write into slots only.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tenfour_erasure::{BlockSums, Codec, CodecError, block_sums};
use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, SHARD_ALIGN_BYTES, SHARD_BYTES_MAX, TOTAL_SHARDS};

use crate::counters::Counters;
use crate::device::{Device, DeviceError, Input, Job, Slot};
use crate::engine::{Engine, Pending};
use crate::work::{Kernel, Work};

/// Of so many stripes one is computed again in whole.
pub(crate) const WHOLE_EVERY: u64 = 64;
/// From stripe to stripe the line that is looked at moves by so many lines: a prime, so that it comes by everywhere.
const LINE_STRIDE: u64 = 1_000_003;

#[derive(Debug)]
pub(crate) struct DeviceCodec<D: Device> {
    engine: Engine<D>,
    cpu: Arc<dyn Codec>,
    /// Stripes that each kernel got right.
    right: [AtomicU64; Kernel::ALL.len()],
    counters: Arc<Counters>,
}

impl<D: Device> DeviceCodec<D> {
    pub(crate) fn new(engine: Engine<D>, cpu: Arc<dyn Codec>, counters: Arc<Counters>) -> Self {
        Self { engine, cpu, right: Default::default(), counters }
    }

    pub(crate) fn engine(&self) -> &Engine<D> {
        &self.engine
    }

    pub(crate) fn cpu(&self) -> &Arc<dyn Codec> {
        &self.cpu
    }

    /// Whether the device reads these bytes where they are.
    pub(crate) fn reaches(&self, bytes: &[u8]) -> bool {
        self.engine.registrations().lend(bytes).is_some()
    }

    /// Hands the device a stripe's work, if it has room for it.
    fn begin<'a>(&self, work: Work, shard: impl Fn(usize) -> &'a [u8]) -> Option<Pending<D::Slot>> {
        let Some(mut slot) = self.engine.take_slot() else {
            self.counters.declined.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let shard_bytes = shard(work.sources[0]).len();
        let mut inputs = [Input::Staged; DATA_SHARDS];
        let places = slot.inputs().chunks_exact_mut(shard_bytes);
        for ((input, place), source) in inputs.iter_mut().zip(places).zip(work.sources) {
            match self.engine.registrations().lend(shard(source)) {
                Some(lent) => *input = Input::Lent(lent),
                None => place.copy_from_slice(shard(source)),
            }
        }
        Some(self.engine.submit(Job { work, shard_bytes, inputs, slot }))
    }

    /// The device's part, done and looked at: `again` computes the given range of the outputs on the processor. False when the
    /// device was given up; the outputs are then to be computed anew.
    fn finish(
        &self,
        pending: &Pending<D::Slot>,
        outputs: &mut [&mut [u8]],
        again: impl FnOnce(Range<usize>, &mut [&mut [u8]]) -> Result<(), CodecError>,
    ) -> Result<bool, CodecError> {
        let Some(job) = self.engine.wait(pending) else {
            self.counters.taken_over.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        };
        let range = self.range_to_look_at(&job);
        let mut parts: Vec<&mut [u8]> = outputs.iter_mut().map(|output| &mut output[range.clone()]).collect();
        if let Err(error) = again(range.clone(), &mut parts) {
            self.engine.give_back(job.slot);
            return Err(error);
        }
        let computed = || job.slot.outputs().chunks_exact(job.shard_bytes);
        let is_right = computed().zip(&parts).all(|(computed, part)| computed[range.clone()] == **part);
        if is_right {
            self.right[job.work.kernel as usize].fetch_add(1, Ordering::Relaxed);
            for (output, computed) in outputs.iter_mut().zip(computed()) {
                output.copy_from_slice(computed);
            }
            self.counters.stripes.fetch_add(1, Ordering::Relaxed);
            self.counters.bytes.fetch_add((job.shard_bytes * DATA_SHARDS) as u64, Ordering::Relaxed);
        } else {
            let (kernel, shard_bytes) = (job.work.kernel.name(), job.shard_bytes);
            self.engine.lose(DeviceError::Wrong { kernel, shard_bytes });
            self.counters.taken_over.fetch_add(1, Ordering::Relaxed);
        }
        self.engine.give_back(job.slot);
        Ok(is_right)
    }

    /// The whole, or a line that moves.
    fn range_to_look_at(&self, job: &Job<D::Slot>) -> Range<usize> {
        let number = self.right[job.work.kernel as usize].load(Ordering::Relaxed);
        if number.is_multiple_of(WHOLE_EVERY) {
            self.counters.checked.fetch_add(1, Ordering::Relaxed);
            return 0..job.shard_bytes;
        }
        let lines = (job.shard_bytes / SHARD_ALIGN_BYTES) as u64;
        let start = (number.wrapping_mul(LINE_STRIDE) % lines) as usize * SHARD_ALIGN_BYTES;
        start..start + SHARD_ALIGN_BYTES
    }
}

/// Whether shards of that length, all equally long, fit a slot.
fn fits(shard_bytes: usize, lengths: impl IntoIterator<Item = usize>) -> bool {
    (1..=SHARD_BYTES_MAX).contains(&shard_bytes)
        && shard_bytes.is_multiple_of(SHARD_ALIGN_BYTES)
        && lengths.into_iter().all(|length| length == shard_bytes)
}

/// What is to be rebuilt from what, if that is as [`Codec::reconstruct`] wants it and fits a slot.
fn rebuilding(present: &[Option<&[u8]>; TOTAL_SHARDS], rebuild: &[(usize, &mut [u8])]) -> Option<Work> {
    let lengths = || present.iter().flatten().map(|shard| shard.len());
    let shard_bytes = lengths().next()?;
    let wanted: Vec<usize> = rebuild.iter().map(|(index, _)| *index).collect();
    let is_wanted_once = |(position, index): (usize, &usize)| {
        present.get(*index).is_some_and(Option::is_none) && !wanted[..position].contains(index)
    };
    let is_well_formed = lengths().count() >= DATA_SHARDS
        && fits(shard_bytes, lengths().chain(rebuild.iter().map(|(_, buffer)| buffer.len())))
        && wanted.iter().enumerate().all(is_wanted_once);
    is_well_formed.then(|| Work::rebuild(present.each_ref().map(Option::is_some), &wanted)).flatten()
}

impl<D: Device> Codec for DeviceCodec<D> {
    fn name(&self) -> &'static str {
        "gpu"
    }

    fn encode(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
        sums: Option<&mut [BlockSums; TOTAL_SHARDS]>,
    ) -> Result<(), CodecError> {
        let lengths = data.iter().map(|shard| shard.len()).chain(parity.iter().map(|shard| shard.len()));
        let begun = match fits(data[0].len(), lengths) {
            true => self.begin(Work::encode(), |shard| data[shard]),
            false => None,
        };
        let Some(pending) = begun else { return self.cpu.encode(data, parity, sums) };
        let data_sums = sums.is_some().then(|| data.map(block_sums));
        let again = |range: Range<usize>, parts: &mut [&mut [u8]]| {
            let mut rows: [&mut [u8]; PARITY_SHARDS] = Default::default();
            for (row, part) in rows.iter_mut().zip(parts) {
                *row = part;
            }
            self.cpu.encode(&data.map(|shard| &shard[range.clone()]), &mut rows, None)
        };
        if !self.finish(&pending, parity, again)? {
            return self.cpu.encode(data, parity, sums);
        }
        if let (Some(sums), Some(data_sums)) = (sums, data_sums) {
            let of_parity = parity.iter().map(|shard| block_sums(shard));
            for (place, found) in sums.iter_mut().zip(data_sums.into_iter().chain(of_parity)) {
                *place = found;
            }
        }
        Ok(())
    }

    fn reconstruct(
        &self,
        present: &[Option<&[u8]>; TOTAL_SHARDS],
        rebuild: &mut [(usize, &mut [u8])],
    ) -> Result<(), CodecError> {
        let begun = rebuilding(present, rebuild)
            .and_then(|work| self.begin(work, |shard| present[shard].unwrap_or_default()));
        let Some(pending) = begun else { return self.cpu.reconstruct(present, rebuild) };
        let wanted: Vec<usize> = rebuild.iter().map(|(index, _)| *index).collect();
        let again = |range: Range<usize>, parts: &mut [&mut [u8]]| {
            let present = present.map(|shard| shard.map(|shard| &shard[range.clone()]));
            let mut rebuild: Vec<(usize, &mut [u8])> =
                wanted.iter().copied().zip(parts.iter_mut().map(|part| &mut **part)).collect();
            self.cpu.reconstruct(&present, &mut rebuild)
        };
        let mut outputs: Vec<&mut [u8]> = rebuild.iter_mut().map(|(_, buffer)| &mut **buffer).collect();
        if !self.finish(&pending, &mut outputs, again)? {
            return self.cpu.reconstruct(present, rebuild);
        }
        Ok(())
    }

    /// One shard in, four changed: nothing that is worth a way to the device and back.
    fn update(
        &self,
        index: usize,
        old: &[u8],
        new: &[u8],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
    ) -> Result<(), CodecError> {
        self.cpu.update(index, old, new, parity)
    }
}
