//! What CUDA offers on this machine.
//!
//! Invariant: [`probe`] never panics and never fails; what is missing is told in words. It makes no context on any device.

use std::fmt;

use crate::device::guarded;
use crate::ffi;

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
    pub devices: Vec<FoundDevice>,
}

/// One CUDA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDevice {
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
    let compiler = guarded(|| Ok(ffi::probe::compiler_is_present())).unwrap_or(false);
    if !guarded(|| Ok(ffi::probe::driver_is_present())).unwrap_or(false) {
        let reason = format!("the dynamic loader found no {}", LOOKED_FOR[0]);
        return Probe { driver: Err(reason), compiler, devices: Vec::new() };
    }
    match guarded(|| Ok((ffi::probe::driver_version()?, ffi::probe::devices()?))) {
        Ok((version, devices)) => Probe { driver: Ok(version), compiler, devices },
        Err(reason) => Probe { driver: Err(reason.to_string()), compiler, devices: Vec::new() },
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Ok((major, minor)) => writeln!(formatter, "CUDA driver: {major}.{minor}")?,
            Err(reason) => writeln!(formatter, "CUDA driver: none ({reason})")?,
        }
        writeln!(formatter, "{}: {}", LOOKED_FOR[1], if self.compiler { "found" } else { "not found" })?;
        for FoundDevice { ordinal, name, compute_capability: (major, minor), memory_bytes } in &self.devices {
            writeln!(formatter, "device {ordinal}: {name}, sm_{major}{minor}, {} MiB", memory_bytes >> 20)?;
        }
        write!(formatter, "devices: {}", self.devices.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_it_found() {
        let device =
            FoundDevice { ordinal: 0, name: "H".into(), compute_capability: (9, 0), memory_bytes: 80 << 30 };
        let found = Probe { driver: Ok((13, 0)), compiler: true, devices: vec![device] };
        assert!(found.to_string().contains("device 0: H, sm_90, 81920 MiB"));
    }
}
