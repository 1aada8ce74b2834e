//! GFNI on 512 bits: one instruction a product; with VPCLMULQDQ the block CRCs too, in the same registers.

use std::arch::x86_64::{
    __m512i, _mm_sfence, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_set1_epi64,
    _mm512_storeu_si512, _mm512_stream_si512, _mm512_xor_si512,
};

use crate::field::BIT_MATRICES;
use crate::kernel::dispatch::kernel;
use crate::kernel::vector::Vector;
use crate::kernel::x86::crc512::Folded;

/// Exists only where AVX-512 (F, BW) and GFNI do.
#[derive(Debug)]
pub(super) struct Gfni512 {
    /// Whether VPCLMULQDQ exists too.
    carryless: bool,
}

impl Gfni512 {
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("gfni");
        found.then(|| Self {
            carryless: is_x86_feature_detected!("vpclmulqdq") && is_x86_feature_detected!("pclmulqdq"),
        })
    }
}

#[derive(Clone, Copy)]
pub(in crate::kernel) struct V(pub(in crate::kernel) __m512i);

impl Vector for V {
    const BYTES: usize = 64;
    type Factor = __m512i;

    #[inline(always)]
    unsafe fn factor(constant: u8) -> __m512i {
        // SAFETY: the instruction set exists.
        unsafe { _mm512_set1_epi64(BIT_MATRICES[usize::from(constant)].cast_signed()) }
    }

    #[inline(always)]
    unsafe fn multiply(self, factor: __m512i) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(self.0, factor) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the instruction set exists and 64 bytes are readable.
        Self(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the instruction set exists and 64 bytes are writable.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) };
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the instruction set exists, 64 bytes are writable, and `to` is a multiple of 64.
        unsafe { _mm512_stream_si512(to.cast(), self.0) };
    }

    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: every x86-64 processor has SSE.
        unsafe { _mm_sfence() };
    }
}

kernel!(
    Gfni512, "gfni512", #[target_feature(enable = "avx512f,avx512bw,gfni")];
    carryless, #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq,pclmulqdq")]
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::crc64;
    use crate::kernel::Kernel;

    #[test]
    fn folded_sums_are_those_of_a_second_pass() {
        let Some(Gfni512 { carryless }) = Gfni512::detect() else { return };
        for lines in [1, 2, 3, 61, 256] {
            let data: [Vec<u8>; 10] = std::array::from_fn(|shard| {
                (0..lines * 64)
                    .map(|i| ((i + 7_usize).wrapping_mul(shard + 3).wrapping_mul(2_654_435_761) >> 9) as u8)
                    .collect()
            });
            let data = data.each_ref().map(|shard| &shard[..]);
            for carryless in [false, carryless] {
                let mut parity: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; lines * 64]);
                let mut outputs = parity.each_mut().map(|shard| &mut shard[..]);
                let sums = Gfni512 { carryless }.encode_block(&data, &mut outputs, 0..lines * 64, true);
                let shards = data.into_iter().chain(parity.iter().map(|shard| &shard[..]));
                assert!(shards.map(crc64).eq(sums), "{lines} lines, carryless {carryless}");
            }
        }
    }
}
