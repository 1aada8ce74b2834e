//! The kernels in a device's context, and streams that copy and launch.
//!
//! The PTX that is shipped serves every device from sm_80 on; a driver that does not know its version gets what the run-time
//! compiler makes of the source, where there is one.
//!
//! Invariant: a context lives as long as anything that was made in it.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::{result, sys};
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

use super::Called;
use crate::device::DeviceError;
use crate::work::{Kernel, Launch, Stripe, THREADS, Work, launches};

/// What the kernels are written in, and what `gpu/make-ptx` made of it.
const SOURCE: &str = include_str!("../kernel/code.cu");
const PTX: &str = include_str!("../kernel/code.ptx");

/// The kernels on one device, in its primary context.
#[derive(Debug)]
pub(crate) struct Module {
    device: sys::CUdevice,
    context: sys::CUcontext,
    module: sys::CUmodule,
    functions: [sys::CUfunction; Kernel::ALL.len()],
    name: String,
}

// SAFETY: handles of the driver, which may be used from every thread.
unsafe impl Send for Module {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for Module {}

impl Module {
    /// On that device. The driver is there.
    pub(crate) fn open(ordinal: i32) -> Result<Arc<Self>, DeviceError> {
        result::init().of("cuInit")?;
        let device = result::device::get(ordinal).of("cuDeviceGet")?;
        let name = result::device::get_name(device).of("cuDeviceGetName")?;
        // SAFETY: the driver has just given the device.
        let context = unsafe { result::primary_ctx::retain(device) }.of("cuDevicePrimaryCtxRetain")?;
        let null = ptr::null_mut();
        // From here on dropped, and with it the context, when the rest fails.
        let mut opened =
            Self { device, context, module: null, functions: [ptr::null_mut(); _], name: name.clone() };
        opened.enter()?;
        opened.module = load(device)?;
        for (kernel, function) in Kernel::ALL.into_iter().zip(&mut opened.functions) {
            // SAFETY: the module is loaded.
            *function = unsafe { result::module::get_function(opened.module, c_string(kernel.name())) }
                .of("cuModuleGetFunction")?;
        }
        Ok(Arc::new(opened))
    }

    /// The device's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes the context that of the calling thread.
    pub(crate) fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is retained as long as `self` is.
        unsafe { result::ctx::set_current(self.context) }.of("cuCtxSetCurrent")
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // What a driver says about the end of what was given up changes nothing any more.
        let _ = self.enter();
        if !self.module.is_null() {
            // SAFETY: loaded, and nobody has the functions but `self`.
            let _ = unsafe { result::module::unload(self.module) };
        }
        // SAFETY: retained once, in `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn load(device: sys::CUdevice) -> Result<sys::CUmodule, DeviceError> {
    let image = |ptx: &str| {
        let image = c_string(ptx);
        // SAFETY: PTX, ended by a zero, which the driver has compiled when the call returns.
        unsafe { result::module::load_data(image.as_ptr().cast()) }.of("cuModuleLoadData")
    };
    let refused = match image(PTX) {
        Err(refused) if super::probe::compiler_is_present() => refused,
        loaded => return loaded,
    };
    tracing::info!(%refused, "the shipped PTX is not for this driver: compiling the kernels");
    let found = super::probe::device(device)?;
    let (major, minor) = found.compute_capability;
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
        ..CompileOptions::default()
    };
    let compiled = compile_ptx_with_opts(SOURCE, options)
        .map_err(|error| DeviceError::Driver { call: "nvrtcCompileProgram", reason: error.to_string() })?;
    image(&compiled.to_src())
}

/// A stream, and the event at its end.
#[derive(Debug)]
pub(crate) struct Stream {
    module: Arc<Module>,
    stream: sys::CUstream,
    end: sys::CUevent,
}

// SAFETY: handles of the driver, which may be used from every thread.
unsafe impl Send for Stream {}

impl Stream {
    /// In the context of the calling thread, which is the module's.
    pub(crate) fn new(module: &Arc<Module>) -> Result<Self, DeviceError> {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).of("cuStreamCreate")?;
        let mut made = Self { module: module.clone(), stream, end: ptr::null_mut() };
        made.end = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).of("cuEventCreate")?;
        Ok(made)
    }

    /// # Safety
    /// `bytes` at `from` are host memory of this process that the driver may read until the stream is past this, and `bytes` at
    /// `to` are of the device's memory, and nobody else uses them meanwhile.
    pub(crate) unsafe fn copy_in(&self, to: u64, from: *const u8, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: as the caller promises.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, self.stream) }
            .result()
            .of("cuMemcpyHtoDAsync")
    }

    /// # Safety
    /// As [`Stream::copy_in`], the other way: the driver may write to `to` until the stream is past this.
    pub(crate) unsafe fn copy_out(&self, to: *mut u8, from: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: as the caller promises.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, self.stream) }
            .result()
            .of("cuMemcpyDtoHAsync")
    }

    /// # Safety
    /// Both ranges are of the device's memory, and do not overlap.
    pub(crate) unsafe fn copy_within(&self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: as the caller promises.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }.of("cuMemcpyDtoDAsync")
    }

    /// Launches equal work on stripes.
    ///
    /// # Safety
    /// Every stripe lies in the device's memory, in 14 places of its length, and nobody else uses them until the stream is past this.
    pub(crate) unsafe fn launch(&self, work: &Work, stripes: &[Stripe]) -> Result<(), DeviceError> {
        let plan = work.plan();
        let function = self.module.functions[work.kernel as usize];
        for Launch { blocks, stripes, batch } in launches(stripes) {
            let batch = (&raw const *batch).cast_mut().cast::<c_void>();
            let mut both = [batch, plan.as_ptr().cast_mut().cast::<c_void>()];
            let parameters = if plan.is_empty() { &mut both[..1] } else { &mut both[..] };
            let (grid, block) = ((blocks, stripes, 1), (THREADS, 1, 1));
            // SAFETY: the parameters are those of the kernel, read before the call returns; the rest is the caller's promise.
            unsafe { result::launch_kernel(function, grid, block, 0, self.stream, parameters) }
                .of("cuLaunchKernel")?;
        }
        Ok(())
    }

    /// Marks the end of what was begun.
    pub(crate) fn mark(&self) -> Result<(), DeviceError> {
        // SAFETY: both are alive as long as `self`.
        unsafe { result::event::record(self.end, self.stream) }.of("cuEventRecord")
    }

    /// Whether all that was begun before the mark is done.
    pub(crate) fn is_done(&self) -> Result<bool, DeviceError> {
        // SAFETY: the event is alive as long as `self`.
        match unsafe { result::event::query(self.end) } {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => other.map(|()| true).of("cuEventQuery"),
        }
    }

    /// Waits for it, so long at most.
    pub(crate) fn finish(&self, patience: std::time::Duration) -> Result<(), DeviceError> {
        self.mark()?;
        let since = Instant::now();
        while !self.is_done()? {
            if since.elapsed() > patience {
                return Err(DeviceError::Hung(patience));
            }
            std::hint::spin_loop();
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.module.enter();
        // SAFETY: made in `new`; the driver keeps a stream until what is in it is done.
        unsafe {
            if !self.end.is_null() {
                let _ = result::event::destroy(self.end);
            }
            let _ = result::stream::destroy(self.stream);
        }
    }
}
