//! [`Gpu`]: the first CUDA device of this machine, and a codec of it and the processor together.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use tenfour_erasure::{Codec, CodecError};
use tenfour_types::limits::{DATA_SHARDS, SHARD_BYTES_MAX, TOTAL_SHARDS};

use crate::choice::{Choice, Costs, When};
use crate::codec::DeviceCodec;
use crate::counters::Counters;
use crate::device::{DeviceError, guarded};
use crate::engine::{Engine, PATIENCE, SLOTS};
use crate::ffi::{self, Cuda, DeviceMemory, Module, Pinned};
use crate::measure::{self, Row, STRIPE_BYTES};
use crate::probe::{LOOKED_FOR, Probe, probe};
use crate::work::Work;

/// Memory that a kernel alone is measured on, bytes: more than any cache of a device.
const BENCH_BYTES: usize = 512 << 20;

/// No GPU can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no GPU can be used: {reason}. Looked for {} and {}, and found:\n{found}", LOOKED_FOR[0], LOOKED_FOR[1])]
pub struct OpenError {
    /// What was missing or refused.
    pub reason: String,
    /// What there is.
    pub found: Probe,
}

/// The device, and the codec that gives it stripes.
#[derive(Debug)]
pub struct Gpu {
    choice: Arc<Choice<Cuda>>,
    module: Arc<Module>,
    counters: Arc<Counters>,
}

impl Gpu {
    /// What there is on this machine, if a device is among it. Opens none.
    pub fn look() -> Result<Probe, OpenError> {
        let found = probe();
        let reason = match &found {
            Probe { driver: Err(reason), .. } => reason.clone(),
            Probe { devices, .. } if devices.is_empty() => "the driver shows no device".to_owned(),
            _ => return Ok(found),
        };
        Err(OpenError { reason, found })
    }

    /// Opens the first device (`CUDA_VISIBLE_DEVICES` says which that is). `cpu` is the processor's codec, `processors` how many
    /// calls run at once at full speed. Nothing goes to the device before [`Gpu::measure`], unless `when` says always.
    pub fn open(cpu: Arc<dyn Codec>, when: When, processors: usize) -> Result<Self, OpenError> {
        let found = Self::look()?;
        let (opened, module) = sync_channel(1);
        let open = move || {
            let module = Module::open(0)?;
            let device = Cuda::new(&module)?;
            let _ = opened.send(module);
            Ok(device)
        };
        let engine = Engine::start(open, PATIENCE)
            .map_err(|error| OpenError { reason: error.to_string(), found: found.clone() })?;
        let module =
            module.recv().map_err(|_| OpenError { reason: "its thread has ended".to_owned(), found })?;
        let counters = Arc::<Counters>::default();
        let codec = DeviceCodec::new(engine, cpu, counters.clone());
        let choice = Arc::new(Choice::new(codec, when, processors, counters.clone()));
        Ok(Self { choice, module, counters })
    }

    /// The codec that gives a stripe to the device where that costs less, and to the processor otherwise and when the device fails.
    #[must_use]
    pub fn codec(&self) -> Arc<dyn Codec> {
        self.choice.clone()
    }

    /// The device's name.
    #[must_use]
    pub fn device_name(&self) -> &str {
        self.choice.codec().engine().name()
    }

    /// Why the device is used no longer, if it is not.
    #[must_use]
    pub fn lost(&self) -> Option<DeviceError> {
        self.choice.codec().engine().lost()
    }

    /// Lets the device read memory of this process where it is, instead of from a copy: whole pages from address `start` on, that
    /// `owner` keeps mapped.
    pub fn register(
        &self,
        owner: impl Any + Send + Sync,
        start: usize,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        let list = self.choice.codec().engine().registrations();
        guarded(|| ffi::register(&self.module, list, Box::new(owner), start, bytes))
    }

    /// Measures both sides, for memory that is registered and memory that is not, and chooses by it from now on.
    pub fn measure(&self) -> Result<Costs, DeviceError> {
        let mut costs = self.costs(&mut vec![0xa5; STRIPE_BYTES])?;
        let mut pinned = self.pinned(1)?;
        costs.0.extend(self.costs(pinned.memory(0))?.0);
        self.choice.set_costs(costs.clone());
        Ok(costs)
    }

    fn costs(&self, memory: &mut [u8]) -> Result<Costs, DeviceError> {
        measure::costs(self.choice.codec(), memory).map_err(bug)
    }

    /// Each counter with its name.
    #[must_use]
    pub fn counted(&self) -> Vec<(&'static str, u64)> {
        let engine = self.choice.codec().engine();
        let mut all = self.counters.all().to_vec();
        all.push(("gpu_batches", engine.batches()));
        all.push(("gpu_lost", u64::from(engine.lost().is_some())));
        all
    }

    /// Memory of the device, to encode in where the bytes are there already.
    pub fn device_memory(&self, bytes: usize) -> Result<DeviceMemory, DeviceError> {
        guarded(|| DeviceMemory::new(&self.module, bytes))
    }

    /// The kernels, in their context.
    pub(crate) fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// Rows of a table, each measured for `duration`: kernels alone, beside the rate of a plain copy; and, for shards of up to
    /// `SHARD_BYTES_MAX`, with the transfers, and end to end.
    pub fn bench(&self, shards: &[usize], duration: Duration) -> Result<Vec<Row>, DeviceError> {
        let mut rows = Vec::new();
        for shard_bytes in shards.iter().copied() {
            rows.extend(guarded(|| self.bench_kernels(shard_bytes, duration))?);
            if shard_bytes > SHARD_BYTES_MAX {
                continue; // No slot takes them.
            }
            let mut pinned = self.pinned(SLOTS)?;
            let mut host = vec![vec![0xa5; STRIPE_BYTES]; SLOTS];
            for callers in [1, SLOTS] {
                let mut registered: Vec<&mut [u8]> = pinned.memories().take(callers).collect();
                let mut host: Vec<&mut [u8]> =
                    host.iter_mut().take(callers).map(|memory| &mut memory[..]).collect();
                for (residency, memories) in [("registered", &mut registered), ("host", &mut host)] {
                    for (op, with_sums) in [("encode", false), ("encode+crc", true)] {
                        let codec = self.choice.codec();
                        let gb_per_s =
                            measure::rate(codec, memories, shard_bytes, with_sums, duration).map_err(bug)?;
                        rows.push(Row {
                            op,
                            shard_bytes,
                            residency,
                            callers,
                            gb_per_s,
                            of_copy_bandwidth: None,
                        });
                    }
                }
            }
        }
        Ok(rows)
    }

    fn bench_kernels(&self, shard_bytes: usize, duration: Duration) -> Result<Vec<Row>, DeviceError> {
        let mut memory = DeviceMemory::new(&self.module, BENCH_BYTES)?;
        let half = BENCH_BYTES / 2;
        let (copies, time) = repeat(&mut memory, duration, |memory| memory.begin_copy(half))?;
        let copied_gb_per_s = 2.0 * half as f64 * copies as f64 / 1e9 / time.as_secs_f64();
        let stripes = (BENCH_BYTES / TOTAL_SHARDS / shard_bytes.max(1)).max(1);
        let lost = |count: usize| std::array::from_fn(|shard| shard >= count);
        let ops = [
            ("encode", Some(Work::encode()), TOTAL_SHARDS),
            ("reconstruct1", Work::rebuild(lost(1), &[0]), DATA_SHARDS + 1),
            ("reconstruct4", Work::rebuild(lost(4), &[0, 1, 2, 3]), TOTAL_SHARDS),
        ];
        let mut rows = Vec::new();
        for (op, work, moved_shards) in ops {
            let Some(work) = work else { continue };
            let (launches, time) =
                repeat(&mut memory, duration, |memory| memory.begin(stripes, shard_bytes, &work))?;
            let gb_per_s = measure::gb_per_s(launches * stripes as u64, shard_bytes, time);
            let share = gb_per_s * moved_shards as f64 / DATA_SHARDS as f64 / copied_gb_per_s;
            rows.push(Row {
                op,
                shard_bytes,
                residency: "device",
                callers: 1,
                gb_per_s,
                of_copy_bandwidth: Some(share),
            });
        }
        Ok(rows)
    }

    /// Pinned stripes that the device reads in place.
    fn pinned(&self, stripes: usize) -> Result<PinnedStripes<'_>, DeviceError> {
        let mut all = PinnedStripes { gpu: self, stripes: Vec::new() };
        for _ in 0..stripes {
            let mut memory = guarded(|| Pinned::new(&self.module, STRIPE_BYTES))?;
            memory.fill(0xa5);
            self.choice.codec().engine().registrations().add(memory.as_ptr().addr(), STRIPE_BYTES, ());
            all.stripes.push(memory);
        }
        Ok(all)
    }
}

/// As often as fits the time, begun in rounds that a device does in well under a second: how often, and how long it took.
fn repeat(
    memory: &mut DeviceMemory,
    duration: Duration,
    begin: impl Fn(&mut DeviceMemory) -> Result<(), DeviceError>,
) -> Result<(u64, Duration), DeviceError> {
    const AT_ONCE: u64 = 16;
    begin(memory)?;
    memory.finish()?;
    let (began, mut times) = (Instant::now(), 0);
    while began.elapsed() < duration {
        for _ in 0..AT_ONCE {
            begin(memory)?;
        }
        memory.finish()?;
        times += AT_ONCE;
    }
    Ok((times, began.elapsed()))
}

/// A stripe of our own making that a codec refuses.
fn bug(error: CodecError) -> DeviceError {
    DeviceError::Driver { call: "the measurement", reason: error.to_string() }
}

struct PinnedStripes<'a> {
    gpu: &'a Gpu,
    stripes: Vec<Pinned>,
}

impl PinnedStripes<'_> {
    fn memory(&mut self, number: usize) -> &mut [u8] {
        self.stripes.get_mut(number).map(|memory| &mut **memory).unwrap_or_default()
    }

    fn memories(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.stripes.iter_mut().map(|memory| &mut **memory)
    }
}

impl Drop for PinnedStripes<'_> {
    fn drop(&mut self) {
        let engine = self.gpu.choice.codec().engine();
        for memory in self.stripes.drain(..) {
            engine.registrations().remove(memory.as_ptr().addr());
            if engine.lost().is_some() {
                // A device that hangs may still read it, and to free it would wait for that.
                std::mem::forget(memory);
            }
        }
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} and the CPU ({})", self.device_name(), self.choice.codec().cpu().name())
    }
}
