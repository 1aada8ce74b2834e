//! The calls into CUDA's driver, each behind a safe function, and the loading of the kernels where there is none.
//!
//! `unsafe` is allowed here because the driver is a C library, loaded at run time, that takes addresses of both memories.
//!
//! Invariant: memory that the driver was given is freed only after it has let go of it, or never.
#![allow(unsafe_code)]

mod cuda;
mod memory;
mod module;
#[cfg(test)]
pub(crate) mod on_host;
pub(crate) mod probe;

pub(crate) use cuda::Cuda;
pub use memory::DeviceMemory;
pub(crate) use memory::{Pinned, register};
pub(crate) use module::Module;

use cudarc::driver::result::DriverError;

use crate::device::DeviceError;

/// The name of the call, for the error.
trait Called<T> {
    fn of(self, call: &'static str) -> Result<T, DeviceError>;
}

impl<T> Called<T> for Result<T, DriverError> {
    fn of(self, call: &'static str) -> Result<T, DeviceError> {
        self.map_err(|error| DeviceError::Driver { call, reason: error.to_string() })
    }
}
