//! How much cache a core has to itself.
//!
//! Invariant: some size always comes back, whatever a processor or a hypervisor says.

/// When the processor does not say: what most server cores of the last years have.
const PRIVATE_CACHE_BYTES_DEFAULT: usize = 1 << 20;

/// The second-level cache of a core, bytes.
pub(crate) fn private_cache_bytes() -> usize {
    #[cfg(target_arch = "x86_64")]
    let found = super::x86::second_level_cache_bytes();
    #[cfg(not(target_arch = "x86_64"))]
    let found = None;
    found.unwrap_or(PRIVATE_CACHE_BYTES_DEFAULT)
}
