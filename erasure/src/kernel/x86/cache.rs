//! The caches as `cpuid` tells of them.

use std::arch::x86_64::{__cpuid, __cpuid_count};

/// Intel's leaf of cache parameters, and AMD's in the same format.
const LEAVES: [u32; 2] = [4, 0x8000_001d];
/// More caches than any processor has levels and kinds.
const CACHES_MAX: u32 = 8;

/// The size of the unified second-level cache, bytes; `None` when no leaf tells.
pub(in crate::kernel) fn second_level_cache_bytes() -> Option<usize> {
    LEAVES.iter().find_map(|leaf| (0..CACHES_MAX).find_map(|index| unified_second_level(*leaf, index)))
}

fn unified_second_level(leaf: u32, index: u32) -> Option<usize> {
    let highest = __cpuid(leaf & 0x8000_0000).eax;
    if leaf > highest {
        return None;
    }
    let answer = __cpuid_count(leaf, index);
    let (kind, level) = (answer.eax & 31, answer.eax >> 5 & 7);
    if (kind, level) != (3, 2) {
        return None;
    }
    let ways = (answer.ebx >> 22) + 1;
    let partitions = (answer.ebx >> 12 & 0x3ff) + 1;
    let line_bytes = (answer.ebx & 0xfff) + 1;
    let sets = answer.ecx.checked_add(1)?;
    let bytes = [ways, partitions, line_bytes, sets]
        .iter()
        .try_fold(1_u64, |product, factor| product.checked_mul(u64::from(*factor)))?;
    usize::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_told_of_is_plausible() {
        if let Some(bytes) = second_level_cache_bytes() {
            assert!((64 << 10..=64 << 20).contains(&bytes), "{bytes}");
        }
    }
}
