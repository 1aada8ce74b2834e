//! What there is: the driver, its version, its devices. No context is made on any.
//!
//! Invariant: but for the two `is_present`, call only after [`driver_is_present`] said yes: without the library the bindings
//! panic. The caller catches that.

use cudarc::driver::{result, sys};

use super::Called;
use crate::device::DeviceError;
use crate::probe::FoundDevice;

/// Whether the driver's library can be loaded.
pub(crate) fn driver_is_present() -> bool {
    // SAFETY: loads libcuda if there is one; its initialisers are the driver's own and may run at any time.
    unsafe { sys::is_culib_present() }
}

/// Whether the run-time compiler's library can be loaded.
pub(crate) fn compiler_is_present() -> bool {
    // SAFETY: loads libnvrtc if there is one; its initialisers may run at any time.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

/// The CUDA version that the driver serves.
pub(crate) fn driver_version() -> Result<(i32, i32), DeviceError> {
    result::init().of("cuInit")?;
    let mut version = 0;
    // SAFETY: the library is loaded and initialised; the pointer is to a live integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().of("cuDriverGetVersion")?;
    Ok((version / 1000, version % 1000 / 10))
}

/// The devices that the driver shows.
pub(crate) fn devices() -> Result<Vec<FoundDevice>, DeviceError> {
    let count = result::device::get_count().of("cuDeviceGetCount")?;
    (0..count).map(device).collect()
}

/// One of them.
pub(super) fn device(ordinal: i32) -> Result<FoundDevice, DeviceError> {
    described(ordinal).of("cuDeviceGetAttribute")
}

fn described(ordinal: i32) -> Result<FoundDevice, result::DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let handle = result::device::get(ordinal)?;
    // SAFETY: the handle is one that the driver has just given.
    let (major, minor, memory_bytes) = unsafe {
        (
            result::device::get_attribute(handle, MAJOR)?,
            result::device::get_attribute(handle, MINOR)?,
            result::device::total_mem(handle)?,
        )
    };
    Ok(FoundDevice {
        ordinal,
        name: result::device::get_name(handle)?,
        compute_capability: (major, minor),
        memory_bytes,
    })
}
