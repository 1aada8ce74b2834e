//! tenfour: the 10+4 code on CUDA, found at run time.
//!
//! **Encoding on CUDA is not in this crate yet.** It looks for a driver and devices and says what it found, so that an operator
//! who asks for a GPU hears exactly what was looked for; all encoding runs on the CPU kernels of `tenfour-erasure`. Nothing here
//! has run on a GPU's arithmetic units.
//!
//! Not here, on purpose: nodes and gateways, and any link to CUDA at build time: a machine without a driver is a normal machine.
//!
//! Invariant: [`probe`] never panics and never fails; what is missing is told in words.

mod ffi;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The libraries that [`probe`] asks the dynamic loader for, as they are called on Linux.
pub const LOOKED_FOR: [&str; 2] = ["libcuda.so (the NVIDIA driver)", "libnvrtc.so (the run-time compiler)"];

/// What was looked for and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The driver's CUDA version, `(major, minor)`, or why there is none to use.
    pub driver: Result<(i32, i32), String>,
    /// Whether the run-time compiler's library can be loaded.
    pub compiler: bool,
    /// The devices, in the driver's order; empty without a driver.
    pub devices: Vec<Device>,
}

/// One CUDA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its number in the driver's order.
    pub ordinal: i32,
    /// Its name, as the driver tells it.
    pub name: String,
    /// Its compute capability, `(major, minor)`: `(9, 0)` is sm_90.
    pub compute_capability: (i32, i32),
    /// Its memory, bytes.
    pub memory_bytes: usize,
}

/// Looks for the driver, the run-time compiler and the devices. Creates no context on any device.
#[must_use]
pub fn probe() -> Probe {
    let compiler = guarded(|| Ok(ffi::compiler_is_present())).unwrap_or(false);
    if !guarded(|| Ok(ffi::driver_is_present())).unwrap_or(false) {
        let reason = format!("the dynamic loader found no {}", LOOKED_FOR[0]);
        return Probe { driver: Err(reason), compiler, devices: Vec::new() };
    }
    match guarded(|| Ok((ffi::driver_version()?, ffi::devices()?))) {
        Ok((version, devices)) => Probe { driver: Ok(version), compiler, devices },
        Err(reason) => Probe { driver: Err(reason), compiler, devices: Vec::new() },
    }
}

/// The bindings panic when a driver lacks a symbol; that is a driver that cannot be used, not an end of the process.
fn guarded<T>(ask: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("the driver lacks what is needed: {}", text.unwrap_or("no further word")))
    })
}

impl fmt::Display for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Ok((major, minor)) => writeln!(formatter, "CUDA driver: {major}.{minor}")?,
            Err(reason) => writeln!(formatter, "CUDA driver: none ({reason})")?,
        }
        writeln!(formatter, "{}: {}", LOOKED_FOR[1], if self.compiler { "found" } else { "not found" })?;
        for Device { ordinal, name, compute_capability: (major, minor), memory_bytes } in &self.devices {
            writeln!(formatter, "device {ordinal}: {name}, sm_{major}{minor}, {} MiB", memory_bytes >> 20)?;
        }
        write!(formatter, "devices: {}; encoding runs on the CPU", self.devices.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_symbol_is_an_answer() {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let literal: Result<(), _> = guarded(|| panic!("no cuFoo"));
        let formatted: Result<(), _> = guarded(|| panic!("no {}", "cuBar"));
        std::panic::set_hook(loud);
        assert_eq!(literal, Err("the driver lacks what is needed: no cuFoo".into()));
        assert_eq!(formatted, Err("the driver lacks what is needed: no cuBar".into()));
    }

    #[test]
    fn tells_what_it_found() {
        let device =
            Device { ordinal: 0, name: "H".into(), compute_capability: (9, 0), memory_bytes: 80 << 30 };
        let found = Probe { driver: Ok((13, 0)), compiler: true, devices: vec![device] };
        assert!(found.to_string().contains("device 0: H, sm_90, 81920 MiB"));
    }
}
