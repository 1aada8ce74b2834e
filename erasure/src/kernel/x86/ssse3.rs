//! SSSE3: products by two nibble shuffles of 128 bits, for what has neither AVX2 nor GFNI.

use std::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_loadu_si128, _mm_set1_epi8, _mm_sfence, _mm_shuffle_epi8, _mm_srli_epi64,
    _mm_storeu_si128, _mm_stream_si128, _mm_xor_si128,
};

use crate::field::NIBBLE_TABLES;
use crate::kernel::dispatch::kernel;
use crate::kernel::vector::Vector;

/// Exists only where SSSE3 does.
#[derive(Debug)]
pub(super) struct Ssse3(());

impl Ssse3 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("ssse3").then_some(Self(()))
    }
}

#[derive(Clone, Copy)]
struct V(__m128i);

impl Vector for V {
    const BYTES: usize = 16;
    type Factor = [__m128i; 2];

    #[inline(always)]
    unsafe fn factor(constant: u8) -> [__m128i; 2] {
        let [low, high] = &NIBBLE_TABLES[usize::from(constant)];
        // SAFETY: the instruction set exists; the tables are 16 bytes.
        unsafe { [_mm_loadu_si128(low.as_ptr().cast()), _mm_loadu_si128(high.as_ptr().cast())] }
    }

    #[inline(always)]
    unsafe fn multiply(self, [low, high]: [__m128i; 2]) -> Self {
        // SAFETY: the instruction set exists.
        unsafe {
            let mask = _mm_set1_epi8(15);
            let low = _mm_shuffle_epi8(low, _mm_and_si128(self.0, mask));
            let high = _mm_shuffle_epi8(high, _mm_and_si128(_mm_srli_epi64::<4>(self.0), mask));
            Self(_mm_xor_si128(low, high))
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { _mm_xor_si128(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the instruction set exists and 16 bytes are readable.
        Self(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the instruction set exists and 16 bytes are writable.
        unsafe { _mm_storeu_si128(to.cast(), self.0) };
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the instruction set exists, 16 bytes are writable, and `to` is a multiple of 16.
        unsafe { _mm_stream_si128(to.cast(), self.0) };
    }

    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: every x86-64 processor has SSE.
        unsafe { _mm_sfence() };
    }
}

kernel!(Ssse3, "ssse3", #[target_feature(enable = "ssse3")]);
