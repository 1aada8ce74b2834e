//! Memory that the driver knows: pinned, registered, and the device's own.
//!
//! Invariant: each is freed once, after everything that uses it; what a hanging device may still use is forgotten instead.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use cudarc::driver::{result, sys};
use tenfour_types::Scaled;
use tenfour_types::limits::{SHARD_ALIGN_BYTES, TOTAL_SHARDS};

use super::module::Stream;
use super::{Called, Module};
use crate::device::{DeviceError, guarded};
use crate::engine::PATIENCE;
use crate::gpu::Gpu;
use crate::host_memory::Registrations;
use crate::work::{Stripe, Work};

/// Pinned host memory.
pub(crate) struct Pinned {
    module: Arc<Module>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain memory; who may touch it is decided by who owns the value.
unsafe impl Send for Pinned {}
// SAFETY: shared, it can only be read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Zeros.
    pub(crate) fn new(module: &Arc<Module>, bytes: usize) -> Result<Self, DeviceError> {
        module.enter()?;
        // SAFETY: a context is current; the flag says that all contexts know the memory.
        let start =
            unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_PORTABLE) }.of("cuMemHostAlloc")?;
        let none = DeviceError::Driver { call: "cuMemHostAlloc", reason: "no memory".to_owned() };
        let start = NonNull::new(start.cast::<u8>()).ok_or(none)?;
        // SAFETY: so many bytes are there, and nobody else's.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self { module: module.clone(), start, bytes })
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes, initialised, as long as `self`; a device writes to them only while it owns the value.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed by nobody else.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.module.enter();
        // SAFETY: allocated in `new`.
        let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pinned({} bytes)", self.bytes)
    }
}

/// Host memory that stays registered, and its owner.
struct Registered {
    module: Arc<Module>,
    start: usize,
    _owner: Box<dyn Any + Send + Sync>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let _ = self.module.enter();
        // SAFETY: registered at that address, and still mapped: the owner is dropped after this.
        let _ = unsafe { sys::cuMemHostUnregister(self.start as *mut _) };
    }
}

/// Pins a range of this process's memory, so that the device reads it where it is, for as long as `list` lists it. `owner` keeps it
/// mapped. A range that is not mapped is refused by the driver, and one that is unmapped too early is pinned all the same: the
/// device would read pages that nobody else has any more, and what it makes of them is found wrong.
pub(crate) fn register(
    module: &Arc<Module>,
    list: &Registrations,
    owner: Box<dyn Any + Send + Sync>,
    start: usize,
    bytes: usize,
) -> Result<(), DeviceError> {
    module.enter()?;
    // SAFETY: the call pins pages of the process or fails; nothing is read or written.
    unsafe { sys::cuMemHostRegister_v2(start as *mut _, bytes, sys::CU_MEMHOSTREGISTER_PORTABLE) }
        .result()
        .of("cuMemHostRegister")?;
    list.add(start, bytes, Registered { module: module.clone(), start, _owner: owner });
    Ok(())
}

/// Memory of the device, with stripes in it: 14 shards of a stripe one after the other, data first, and stripe after stripe.
#[derive(Debug)]
pub struct DeviceMemory {
    stream: Stream,
    module: Arc<Module>,
    start: u64,
    bytes: usize,
    is_ours: bool,
}

impl Gpu {
    /// Memory of the device that somebody else has allocated, such as what a network card writes to.
    ///
    /// # Safety
    /// `bytes` at `start`, a multiple of 16, are of the device's memory, as long as the value, and nobody else uses them while a
    /// method runs.
    pub unsafe fn adopt_device_memory(&self, start: u64, bytes: usize) -> Result<DeviceMemory, DeviceError> {
        guarded(|| {
            let module = self.module();
            module.enter()?;
            Ok(DeviceMemory {
                stream: Stream::new(module)?,
                module: module.clone(),
                start,
                bytes,
                is_ours: false,
            })
        })
    }
}

impl DeviceMemory {
    /// Fresh memory.
    pub(crate) fn new(module: &Arc<Module>, bytes: usize) -> Result<Self, DeviceError> {
        module.enter()?;
        let stream = Stream::new(module)?;
        // SAFETY: a context is current.
        let start = unsafe { result::malloc_sync(bytes) }.of("cuMemAlloc")?;
        Ok(Self { stream, module: module.clone(), start, bytes, is_ours: true })
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start
    }

    /// How much it is, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fills the beginning from host memory.
    pub fn write(&mut self, from: &[u8]) -> Result<(), DeviceError> {
        self.holds(from.len())?;
        // SAFETY: both are alive and `from.len()` long until `finish` returns, which without an error it only does when all is done;
        // the memory of others is read only, and a read that comes late harms nobody.
        unsafe { self.stream.copy_in(self.start, from.as_ptr(), from.len())? };
        self.finish()
    }

    /// The beginning, in host memory.
    pub fn read(&mut self, bytes: usize) -> Result<Vec<u8>, DeviceError> {
        self.holds(bytes)?;
        let mut to = Pinned::new(&self.module, bytes)?;
        // SAFETY: both are alive and so long; where `finish` fails, the target is never freed.
        unsafe { self.stream.copy_out(to.as_mut_ptr(), self.start, bytes)? };
        match self.finish() {
            Ok(()) => Ok(to.to_vec()),
            Err(error) => {
                std::mem::forget(to);
                Err(error)
            }
        }
    }

    /// Fills the parity of the first so many stripes. All waiting is on the calling thread, and bounded.
    pub fn encode(&mut self, stripes: usize, shard_bytes: usize) -> Result<(), DeviceError> {
        self.begin(stripes, shard_bytes, &Work::encode())?;
        self.finish()
    }

    /// Fills one to four lost shards of the first so many stripes, from those that are `present`; false for any other number.
    pub fn rebuild(
        &mut self,
        stripes: usize,
        shard_bytes: usize,
        present: [bool; TOTAL_SHARDS],
        wanted: &[usize],
    ) -> Result<bool, DeviceError> {
        let is_lost = |shard: &usize| present.get(*shard).is_some_and(|is_present| !is_present);
        let is_enough = present.iter().filter(|is_present| **is_present).count() >= TOTAL_SHARDS - 4;
        let Some(work) =
            (is_enough && wanted.iter().all(is_lost)).then(|| Work::rebuild(present, wanted)).flatten()
        else {
            return Ok(false);
        };
        self.begin(stripes, shard_bytes, &work)?;
        self.finish()?;
        Ok(true)
    }

    /// Begins the work on the stripes.
    pub(crate) fn begin(
        &mut self,
        stripes: usize,
        shard_bytes: usize,
        work: &Work,
    ) -> Result<(), DeviceError> {
        let needed = stripes.checked_mul(shard_bytes).and_then(|bytes| bytes.checked_mul(TOTAL_SHARDS));
        if shard_bytes == 0
            || needed.is_none_or(|needed| needed > self.bytes)
            || !shard_bytes.is_multiple_of(SHARD_ALIGN_BYTES)
        {
            return Err(DeviceError::Memory { stripes, shard_bytes, bytes: self.bytes });
        }
        self.module.enter()?;
        let stripe_bytes = (shard_bytes * TOTAL_SHARDS) as u64;
        let stripes: Vec<Stripe> = (0..stripes as u64)
            .map(|number| Stripe::in_order(self.start + number * stripe_bytes, shard_bytes))
            .collect();
        // SAFETY: the stripes lie in this memory, which is borrowed until `finish`.
        unsafe { self.stream.launch(work, &stripes) }
    }

    /// Copies the first half to the second: what the memory can do at best.
    pub(crate) fn begin_copy(&mut self, bytes: usize) -> Result<(), DeviceError> {
        self.holds(bytes.saturating_mul(2))?;
        // SAFETY: both halves lie in this memory.
        unsafe { self.stream.copy_within(self.start + bytes as u64, self.start, bytes) }
    }

    /// Waits for what was begun.
    pub(crate) fn finish(&mut self) -> Result<(), DeviceError> {
        let finished = self.stream.finish(PATIENCE.scaled());
        // To free what a device may still use would wait for it.
        self.is_ours &= finished.is_ok();
        finished
    }

    fn holds(&self, bytes: usize) -> Result<(), DeviceError> {
        if bytes > self.bytes {
            return Err(DeviceError::Memory {
                stripes: 1,
                shard_bytes: bytes / TOTAL_SHARDS,
                bytes: self.bytes,
            });
        }
        self.module.enter()
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = self.module.enter();
            // SAFETY: allocated in `new`; the driver waits for what still uses it.
            let _ = unsafe { result::free_sync(self.start) };
        }
    }
}
