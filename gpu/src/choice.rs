//! [`Choice`]: which stripes go to the device.
//!
//! By what was measured on this machine, for stripes of that size, where their bytes lie. With processors to spare it is who answers
//! sooner; when every processor encodes already, it is who takes less of one: the device's copies and checksums, or all the work.
//!
//! Invariant: nothing goes to the device before it was measured, unless the operator wants all of it there.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tenfour_erasure::{BlockSums, Codec, CodecError, Rebuilt, Source};
use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, TOTAL_SHARDS};

use crate::codec::DeviceCodec;
use crate::counters::Counters;
use crate::device::Device;

/// When the device is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// For the stripes for which it costs less.
    Measured,
    /// For all that it has room for.
    Always,
}

/// What is done with a stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Parity and block CRCs, as a PUT wants them.
    Encode,
    /// One lost shard, as a GET wants it.
    Rebuild,
}

/// What one stripe costs here and there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Of doing what.
    pub operation: Operation,
    /// With shards of that size.
    pub shard_bytes: usize,
    /// Whether the device reads the bytes where they are.
    pub in_place: bool,
    /// From call to return on the processor, which is busy all that time.
    pub cpu: Duration,
    /// From call to return by way of the device.
    pub device: Duration,
    /// How long a processor is busy meanwhile.
    pub device_busy: Duration,
}

/// Costs by operation, size and place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Costs(pub Vec<Cost>);

impl Costs {
    /// Whether the device is the better choice. The device gains with size, so what was measured for the next smaller size counts.
    fn prefer_device(
        &self,
        operation: Operation,
        shard_bytes: usize,
        in_place: bool,
        is_loaded: bool,
    ) -> bool {
        let is_of_kind = |cost: &&Cost| cost.operation == operation && cost.in_place == in_place;
        let of_kind = self.0.iter().filter(is_of_kind).filter(|cost| cost.shard_bytes <= shard_bytes);
        of_kind.max_by_key(|cost| cost.shard_bytes).is_some_and(|cost| {
            let there = if is_loaded { cost.device_busy } else { cost.device };
            there < cost.cpu
        })
    }

    /// The smallest size of shards from which on the device is chosen for encoding.
    #[must_use]
    pub fn encodes_from(&self, in_place: bool, is_loaded: bool) -> Option<usize> {
        let mut sizes: Vec<usize> = self.0.iter().map(|cost| cost.shard_bytes).collect();
        sizes.sort_unstable();
        sizes.into_iter().find(|bytes| self.prefer_device(Operation::Encode, *bytes, in_place, is_loaded))
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = [(true, "registered"), (false, "other")];
        let loads = [(false, "an idle"), (true, "a busy")];
        for (number, ((in_place, place), (is_loaded, load))) in
            places.into_iter().flat_map(|place| loads.map(|load| (place, load))).enumerate()
        {
            let comma = if number == 0 { "" } else { ", " };
            match self.encodes_from(in_place, is_loaded) {
                Some(bytes) => write!(
                    formatter,
                    "{comma}{place} memory on {load} machine: GPU from {bytes} byte shards"
                )?,
                None => write!(formatter, "{comma}{place} memory on {load} machine: CPU")?,
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Choice<D: Device> {
    codec: DeviceCodec<D>,
    when: When,
    costs: RwLock<Costs>,
    /// Calls that encode on a processor now.
    on_cpu: AtomicUsize,
    processors: usize,
    counters: Arc<Counters>,
}

impl<D: Device> Choice<D> {
    pub(crate) fn new(codec: DeviceCodec<D>, when: When, processors: usize, counters: Arc<Counters>) -> Self {
        Self { codec, when, costs: RwLock::default(), on_cpu: AtomicUsize::new(0), processors, counters }
    }

    pub(crate) fn codec(&self) -> &DeviceCodec<D> {
        &self.codec
    }

    /// From now on these decide.
    pub(crate) fn set_costs(&self, costs: Costs) {
        *self.costs.write() = costs;
    }

    fn is_for_device(&self, operation: Operation, sample: &[u8]) -> bool {
        match self.when {
            When::Always => true,
            When::Measured => {
                let is_loaded = self.on_cpu.load(Ordering::Relaxed) >= self.processors;
                let in_place = self.codec.reaches(sample);
                self.costs.read().prefer_device(operation, sample.len(), in_place, is_loaded)
                    && self.codec.engine().has_room()
            }
        }
    }

    /// Runs it on the processor that calls.
    fn here<T>(&self, work: impl FnOnce(&dyn Codec) -> T) -> T {
        self.counters.on_cpu.fetch_add(1, Ordering::Relaxed);
        self.on_cpu.fetch_add(1, Ordering::Relaxed);
        let done = work(&**self.codec.cpu());
        self.on_cpu.fetch_sub(1, Ordering::Relaxed);
        done
    }
}

impl<D: Device> Codec for Choice<D> {
    fn name(&self) -> &'static str {
        match self.when {
            When::Measured => "auto",
            When::Always => "gpu",
        }
    }

    fn encode(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
        sums: Option<&mut [BlockSums; TOTAL_SHARDS]>,
    ) -> Result<(), CodecError> {
        if self.is_for_device(Operation::Encode, data[0]) {
            self.codec.encode(data, parity, sums)
        } else {
            self.here(|cpu| cpu.encode(data, parity, sums))
        }
    }

    fn reconstruct(
        &self,
        present: &[Option<&[u8]>; TOTAL_SHARDS],
        rebuild: &mut [(usize, &mut [u8])],
    ) -> Result<(), CodecError> {
        let sample = present.iter().flatten().next().copied().unwrap_or_default();
        if self.is_for_device(Operation::Rebuild, sample) {
            self.codec.reconstruct(present, rebuild)
        } else {
            self.here(|cpu| cpu.reconstruct(present, rebuild))
        }
    }

    fn reconstruct_verified(
        &self,
        present: &[Option<Source<'_>>; TOTAL_SHARDS],
        rebuild: &mut [Rebuilt<'_>],
    ) -> Result<(), CodecError> {
        let sample = present.iter().flatten().next().map_or(&[][..], |source| source.bytes);
        if self.is_for_device(Operation::Rebuild, sample) {
            self.codec.reconstruct_verified(present, rebuild)
        } else {
            self.here(|cpu| cpu.reconstruct_verified(present, rebuild))
        }
    }

    fn update(
        &self,
        index: usize,
        old: &[u8],
        new: &[u8],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
    ) -> Result<(), CodecError> {
        self.here(|cpu| cpu.update(index, old, new, parity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(shard_bytes: usize, cpu: u64, device: u64, device_busy: u64) -> Cost {
        let micros = Duration::from_micros;
        Cost {
            operation: Operation::Encode,
            shard_bytes,
            in_place: true,
            cpu: micros(cpu),
            device: micros(device),
            device_busy: micros(device_busy),
        }
    }

    #[test]
    fn by_size_load_and_place() {
        let costs = Costs(vec![cost(4096, 4, 60, 10), cost(1 << 20, 600, 300, 200), cost(65536, 40, 80, 15)]);
        let prefer = |bytes, loaded| costs.prefer_device(Operation::Encode, bytes, true, loaded);
        assert_eq!([4095, 4096, 65535, 65536].map(|bytes| prefer(bytes, true)), [false, false, false, true]);
        assert_eq!([65536, (1 << 20) - 64, 1 << 20].map(|bytes| prefer(bytes, false)), [false, false, true]);
        assert!(!costs.prefer_device(Operation::Encode, 1 << 20, false, true), "not measured there");
        assert!(!costs.prefer_device(Operation::Rebuild, 1 << 20, true, true), "not measured for that");
        assert_eq!(
            (costs.encodes_from(true, true), costs.encodes_from(true, false)),
            (Some(65536), Some(1 << 20))
        );
        assert!(
            costs
                .to_string()
                .ends_with("other memory on an idle machine: CPU, other memory on a busy machine: CPU")
        );
        assert!(!Costs::default().prefer_device(Operation::Encode, 1 << 20, true, true));
    }
}
