//! tenfour: the 10+4 code on CUDA, found at run time.
//!
//! [`Gpu::codec`] is a [`Codec`](tenfour_erasure::Codec) that gives each stripe to the device or to the processor, whichever does it for
//! less, and to the processor alone from the moment at which the device fails. [`probe`] says what there is.
//!
//! **Nothing here has run on a GPU yet.** The kernels' source, compiled for the processor, and the shipped PTX, executed by an
//! interpreter, are checked byte for byte against the reference; the watchdog is tested with devices that fail on purpose.
//!
//! Not here, on purpose: nodes and gateways, and any link to CUDA at build time: a machine without a driver is a normal machine.
//!
//! Invariant: no caller waits for a device without a limit, and gets bytes of it that nobody looked at.

mod choice;
mod codec;
mod counters;
mod device;
mod engine;
mod ffi;
mod gpu;
mod host_memory;
pub mod measure;
mod probe;
#[cfg(test)]
mod tests;
mod work;

pub use choice::{Cost, Costs, Operation, When};
pub use device::DeviceError;
pub use ffi::DeviceMemory;
pub use gpu::{Gpu, OpenError};
pub use probe::{FoundDevice, LOOKED_FOR, Probe, probe};
