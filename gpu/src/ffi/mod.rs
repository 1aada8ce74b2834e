//! The calls into CUDA's driver, each behind a safe function.
//!
//! Invariant: but for the two `is_present`, call only after [`driver_is_present`] said yes: without the library the bindings
//! panic. The caller catches that.
#![allow(unsafe_code)] // Loading a library and calling the driver's C functions.

use cudarc::driver::{result, sys};

use crate::Device;

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
pub(crate) fn driver_version() -> Result<(i32, i32), String> {
    result::init().map_err(|error| format!("cuInit: {error}"))?;
    let mut version = 0;
    // SAFETY: the library is loaded and initialised; the pointer is to a live integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(|error| format!("cuDriverGetVersion: {error}"))?;
    Ok((version / 1000, version % 1000 / 10))
}

/// The devices that the driver shows.
pub(crate) fn devices() -> Result<Vec<Device>, String> {
    let count = result::device::get_count().map_err(|error| format!("cuDeviceGetCount: {error}"))?;
    (0..count).map(device).collect::<Result<_, _>>().map_err(|error| format!("device: {error}"))
}

fn device(ordinal: i32) -> Result<Device, result::DriverError> {
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
    Ok(Device {
        ordinal,
        name: result::device::get_name(handle)?,
        compute_capability: (major, minor),
        memory_bytes,
    })
}
