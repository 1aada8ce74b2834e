//! [`Cuda`]: a CUDA device as a [`Device`]. A stream for each lane, so that while one batch is copied in, another is computed and a
//! third copied out.

use std::sync::Arc;

use cudarc::driver::result;
use tenfour_types::limits::{DATA_SHARDS, SHARD_BYTES_MAX, TOTAL_SHARDS};

use super::module::Stream;
use super::{Called, Module, Pinned};
use crate::device::{Device, DeviceError, Input, Job, LANES, Slot, by_work};
use crate::host_memory::Registrations;

#[derive(Debug)]
pub(crate) struct Cuda {
    module: Arc<Module>,
    lanes: Vec<Stream>,
    registrations: Registrations,
}

/// A stripe's memory on both sides: ten sources, then the wanted shards.
#[derive(Debug)]
pub(crate) struct CudaSlot {
    host: Pinned,
    device: u64,
    module: Arc<Module>,
    /// How long the shards are in it now.
    shard_bytes: usize,
    rows: usize,
}

impl Cuda {
    /// On that thread, which the device is then used from.
    pub(crate) fn new(module: &Arc<Module>) -> Result<Self, DeviceError> {
        module.enter()?;
        let lanes = (0..LANES).map(|_| Stream::new(module)).collect::<Result<_, _>>()?;
        Ok(Self { module: module.clone(), lanes, registrations: Registrations::default() })
    }
}

impl Slot for CudaSlot {
    fn inputs(&mut self) -> &mut [u8] {
        &mut self.host
    }

    fn outputs(&self) -> &[u8] {
        let start = DATA_SHARDS * self.shard_bytes;
        self.host.get(start..start + self.rows * self.shard_bytes).unwrap_or_default()
    }
}

impl Drop for CudaSlot {
    fn drop(&mut self) {
        let _ = self.module.enter();
        // SAFETY: allocated in `slot`; a slot is dropped when no batch has it.
        let _ = unsafe { result::free_sync(self.device) };
    }
}

impl Device for Cuda {
    type Slot = CudaSlot;

    fn name(&self) -> String {
        self.module.name().to_owned()
    }

    fn slot(&mut self) -> Result<CudaSlot, DeviceError> {
        let bytes = TOTAL_SHARDS * SHARD_BYTES_MAX;
        let host = Pinned::new(&self.module, bytes)?;
        // SAFETY: the context is current.
        let device = unsafe { result::malloc_sync(bytes) }.of("cuMemAlloc")?;
        Ok(CudaSlot { host, device, module: self.module.clone(), shard_bytes: 0, rows: 0 })
    }

    fn registrations(&self) -> Registrations {
        self.registrations.clone()
    }

    fn begin(&mut self, lane: usize, jobs: &mut [Job<CudaSlot>]) -> Result<(), DeviceError> {
        let stream = &self.lanes[lane];
        for job in jobs.iter_mut() {
            copy_in(stream, job)?;
        }
        for (work, stripes) in by_work(jobs, |_, slot| slot.device) {
            // SAFETY: every stripe lies in the device's memory of a slot that is this batch's.
            unsafe { stream.launch(&work, &stripes)? };
        }
        for job in jobs.iter_mut() {
            let CudaSlot { host, device, shard_bytes, rows, .. } = &mut job.slot;
            let start = DATA_SHARDS * *shard_bytes;
            let to = &mut host[start..start + *rows * *shard_bytes];
            // SAFETY: `to` is the slot's, which stays with the batch until the stream is past this, or for ever.
            unsafe { stream.copy_out(to.as_mut_ptr(), *device + start as u64, to.len())? };
        }
        stream.mark()
    }

    fn is_done(&mut self, lane: usize) -> Result<bool, DeviceError> {
        self.lanes[lane].is_done()
    }
}

/// Copies neighbours in the slot as one piece, what is in registered memory shard by shard.
fn copy_in(stream: &Stream, job: &mut Job<CudaSlot>) -> Result<(), DeviceError> {
    let Job { work, shard_bytes, inputs, slot } = job;
    (slot.shard_bytes, slot.rows) = (*shard_bytes, work.wanted().len());
    let mut place = 0;
    while place < DATA_SHARDS {
        let to = slot.device + (place * *shard_bytes) as u64;
        let (from, places) = match inputs[place] {
            Input::Lent(lent) => (lent.address as *const u8, 1),
            Input::Staged => {
                let staged = inputs[place..].iter().take_while(|input| matches!(input, Input::Staged));
                (slot.host[place * *shard_bytes..].as_ptr(), staged.count())
            }
        };
        // SAFETY: `from` is so long: in the slot by its size, in registered memory since a whole shard was lent; either is pinned,
        // so the driver can read it even when its owner no longer waits.
        unsafe { stream.copy_in(to, from, places * *shard_bytes)? };
        place += places;
    }
    Ok(())
}
