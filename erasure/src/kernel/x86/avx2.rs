//! AVX2: products by two nibble shuffles; with VPCLMULQDQ the block CRCs too, in the same registers.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm_sfence, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_loadu_si256, _mm256_set1_epi8, _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256,
    _mm256_stream_si256, _mm256_xor_si256,
};

use crate::field::NIBBLE_TABLES;
use crate::kernel::dispatch::kernel;
use crate::kernel::vector::Vector;
use crate::kernel::x86::crc256::{self, Folded};

/// Exists only where AVX2 does.
#[derive(Debug)]
pub(super) struct Avx2 {
    /// Whether VPCLMULQDQ exists too.
    carryless: bool,
}

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then(|| Self { carryless: crc256::detect() })
    }
}

#[derive(Clone, Copy)]
pub(in crate::kernel) struct V(pub(in crate::kernel) __m256i);

impl Vector for V {
    const BYTES: usize = 32;
    type Factor = [__m256i; 2];

    #[inline(always)]
    unsafe fn factor(constant: u8) -> [__m256i; 2] {
        let [low, high] = &NIBBLE_TABLES[usize::from(constant)];
        // SAFETY: the instruction set exists; the tables are 16 bytes.
        unsafe {
            let low = _mm_loadu_si128(low.as_ptr().cast::<__m128i>());
            let high = _mm_loadu_si128(high.as_ptr().cast::<__m128i>());
            [_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high)]
        }
    }

    #[inline(always)]
    unsafe fn multiply(self, [low, high]: [__m256i; 2]) -> Self {
        // SAFETY: the instruction set exists.
        unsafe {
            let mask = _mm256_set1_epi8(15);
            let low = _mm256_shuffle_epi8(low, _mm256_and_si256(self.0, mask));
            let high = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi64::<4>(self.0), mask));
            Self(_mm256_xor_si256(low, high))
        }
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
    Avx2, "avx2", #[target_feature(enable = "avx2")];
    carryless, #[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq")]
);
