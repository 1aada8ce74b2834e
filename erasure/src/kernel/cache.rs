//! How much cache a core has to itself.
//!
//! Invariant: some size always comes back, whatever a processor or a hypervisor says.

use std::sync::OnceLock;

/// When the processor does not say: what most server cores of the last years have.
const PRIVATE_CACHE_BYTES_DEFAULT: usize = 1 << 20;

/// The second-level cache of a core, bytes. Asked for once: in a virtual machine, `cpuid` takes as long as encoding a small stripe.
pub(crate) fn private_cache_bytes() -> usize {
    static FOUND: OnceLock<usize> = OnceLock::new();
    *FOUND.get_or_init(|| ask().unwrap_or(PRIVATE_CACHE_BYTES_DEFAULT))
}

#[cfg(target_arch = "x86_64")]
fn ask() -> Option<usize> {
    super::x86::second_level_cache_bytes()
}

#[cfg(not(target_arch = "x86_64"))]
fn ask() -> Option<usize> {
    None
}
