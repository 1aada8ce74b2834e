//! GFNI on 256 bits: one instruction a product; with VPCLMULQDQ the block CRCs too, in the same registers.

use std::arch::x86_64::{
    __m256i, _mm_sfence, _mm256_gf2p8affine_epi64_epi8, _mm256_loadu_si256, _mm256_set1_epi64x,
    _mm256_storeu_si256, _mm256_stream_si256, _mm256_xor_si256,
};

use crate::field::BIT_MATRICES;
use crate::kernel::dispatch::kernel;
use crate::kernel::vector::Vector;
use crate::kernel::x86::crc256::{self, Folded};

/// Exists only where AVX2 and GFNI do.
#[derive(Debug)]
pub(super) struct Gfni256 {
    /// Whether VPCLMULQDQ exists too.
    carryless: bool,
}

impl Gfni256 {
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni");
        found.then(|| Self { carryless: crc256::detect() })
    }
}

#[derive(Clone, Copy)]
struct V(__m256i);

impl Vector for V {
    const BYTES: usize = 32;
    type Factor = __m256i;

    #[inline(always)]
    unsafe fn factor(constant: u8) -> __m256i {
        // SAFETY: the instruction set exists.
        unsafe { _mm256_set1_epi64x(BIT_MATRICES[usize::from(constant)].cast_signed()) }
    }

    #[inline(always)]
    unsafe fn multiply(self, factor: __m256i) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { _mm256_gf2p8affine_epi64_epi8::<0>(self.0, factor) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the instruction set exists and 32 bytes are readable.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the instruction set exists and 32 bytes are writable.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) };
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the instruction set exists, 32 bytes are writable, and `to` is a multiple of 32.
        unsafe { _mm256_stream_si256(to.cast(), self.0) };
    }

    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: every x86-64 processor has SSE.
        unsafe { _mm_sfence() };
    }
}

impl crc256::Register for V {
    #[inline(always)]
    fn register(self) -> __m256i {
        self.0
    }
}

kernel!(
    Gfni256, "gfni256", #[target_feature(enable = "avx2,gfni")];
    carryless, #[target_feature(enable = "avx2,gfni,vpclmulqdq,pclmulqdq")]
);
