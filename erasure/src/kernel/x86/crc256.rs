//! CRC-64/NVME folded to 32 bytes, for many streams side by side: on processors with VPCLMULQDQ and without AVX-512.

use std::arch::x86_64::{
    __m256i, _mm_xor_si128, _mm256_castsi256_si128, _mm256_clmulepi64_epi128, _mm256_extracti128_si256,
    _mm256_set_epi64x, _mm256_setzero_si256, _mm256_xor_si256,
};

use crate::kernel::vector::{Sum, Vector};
use crate::kernel::x86::crc64;

/// Whether the instructions exist, where AVX2 does.
pub(super) fn detect() -> bool {
    is_x86_feature_detected!("vpclmulqdq") && is_x86_feature_detected!("pclmulqdq")
}

/// A vector that is one register of 256 bits.
pub(super) trait Register: Vector {
    /// That register.
    fn register(self) -> __m256i;
}

/// What is folded, and by what.
#[derive(Clone, Copy)]
pub(super) struct Folded {
    moves: __m256i,
}

impl<V: Register> Sum<V> for Folded {
    type State = __m256i;

    #[inline(always)]
    unsafe fn new() -> Self {
        const MOVES: [i64; 2] = crc64::moves(256);
        // SAFETY: the instruction set exists.
        Self { moves: unsafe { lanes([MOVES; 2]) } }
    }

    #[inline(always)]
    unsafe fn start(self) -> __m256i {
        const SEED: i64 = crc64::seed(256);
        // SAFETY: the instruction set exists.
        unsafe { lanes([[SEED, 0], [0; 2]]) }
    }

    #[inline(always)]
    unsafe fn fold(self, state: __m256i, next: V) -> __m256i {
        // SAFETY: the instruction set exists.
        unsafe { moved(state, self.moves, next.register()) }
    }

    #[inline(always)]
    unsafe fn ask_for(self, from: *const u8) {
        // SAFETY: every x86-64 processor has SSE.
        unsafe { crc64::ask_for(from) };
    }

    #[inline(always)]
    unsafe fn finish(self, state: __m256i) -> u64 {
        const ENDS: [[i64; 2]; 2] = [crc64::moves(128), crc64::moves(0)];
        // SAFETY: the instruction set exists; PCLMULQDQ and SSE2 come with it.
        unsafe {
            let ends = moved(state, lanes(ENDS), _mm256_setzero_si256());
            crc64::remainder(_mm_xor_si128(_mm256_castsi256_si128(ends), _mm256_extracti128_si256::<1>(ends)))
        }
    }
}

/// # Safety
/// AVX2 exists.
#[inline(always)]
unsafe fn lanes([[a, b], [c, d]]: [[i64; 2]; 2]) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe { _mm256_set_epi64x(d, c, b, a) }
}

/// Each 128 bits of `folded` moved on, plus `next`.
///
/// # Safety
/// AVX2 and VPCLMULQDQ exist.
#[inline(always)]
unsafe fn moved(folded: __m256i, moves: __m256i, next: __m256i) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe {
        let first = _mm256_clmulepi64_epi128::<0x00>(folded, moves);
        let second = _mm256_clmulepi64_epi128::<0x11>(folded, moves);
        _mm256_xor_si256(_mm256_xor_si256(first, second), next)
    }
}
