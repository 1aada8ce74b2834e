//! CRC-64/NVME folded to 64 bytes, for many streams side by side.

use std::arch::x86_64::{
    __m128i, __m512i, _mm_xor_si128, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_xor_si256,
    _mm512_castsi512_si256, _mm512_clmulepi64_epi128, _mm512_extracti64x4_epi64, _mm512_set_epi64,
    _mm512_setzero_si512, _mm512_ternarylogic_epi64,
};

use crate::kernel::vector::Sum;
use crate::kernel::x86::crc64;
use crate::kernel::x86::gfni512::V;

/// What is folded, and by what.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Folded {
    moves: __m512i,
}

impl Sum<V> for Folded {
    type State = __m512i;

    #[inline(always)]
    unsafe fn new() -> Self {
        const MOVES: [i64; 2] = crc64::moves(512);
        // SAFETY: the instruction set exists.
        Self { moves: unsafe { lanes([MOVES; 4]) } }
    }

    #[inline(always)]
    unsafe fn start(self) -> __m512i {
        const SEED: i64 = crc64::seed(512);
        // SAFETY: the instruction set exists.
        unsafe { lanes([[SEED, 0], [0; 2], [0; 2], [0; 2]]) }
    }

    #[inline(always)]
    unsafe fn fold(self, state: __m512i, next: V) -> __m512i {
        // SAFETY: the instruction set exists.
        unsafe { moved(state, self.moves, next.0) }
    }

    #[inline(always)]
    unsafe fn ask_for(self, from: *const u8) {
        // SAFETY: every x86-64 processor has SSE.
        unsafe { crc64::ask_for(from) };
    }

    #[inline(always)]
    unsafe fn finish(self, state: __m512i) -> u64 {
        const ENDS: [[i64; 2]; 4] =
            [crc64::moves(384), crc64::moves(256), crc64::moves(128), crc64::moves(0)];
        // SAFETY: the instruction set exists; PCLMULQDQ and SSE2 come with it.
        unsafe { crc64::remainder(narrowed(moved(state, lanes(ENDS), _mm512_setzero_si512()))) }
    }
}

/// # Safety
/// AVX-512F exists.
#[inline(always)]
pub(in crate::kernel) unsafe fn lanes([[a, b], [c, d], [e, f], [g, h]]: [[i64; 2]; 4]) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe { _mm512_set_epi64(h, g, f, e, d, c, b, a) }
}

/// Each 128 bits of `folded` moved on, plus `next`.
///
/// # Safety
/// AVX-512F and VPCLMULQDQ exist.
#[inline(always)]
pub(in crate::kernel) unsafe fn moved(folded: __m512i, moves: __m512i, next: __m512i) -> __m512i {
    // SAFETY: as the caller promises; 0x96 is the exclusive or of three.
    unsafe {
        let first = _mm512_clmulepi64_epi128::<0x00>(folded, moves);
        let second = _mm512_clmulepi64_epi128::<0x11>(folded, moves);
        _mm512_ternarylogic_epi64::<0x96>(first, second, next)
    }
}

/// The sum of the four 128 bits.
///
/// # Safety
/// AVX-512F exists.
#[inline(always)]
pub(in crate::kernel) unsafe fn narrowed(lanes: __m512i) -> __m128i {
    // SAFETY: as the caller promises.
    unsafe {
        let halves = _mm256_xor_si256(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64::<1>(lanes));
        _mm_xor_si128(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
    }
}
