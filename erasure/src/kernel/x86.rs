//! The kernels of x86-64: AVX2 with nibble shuffles, GFNI on 256 bits, GFNI on 512 bits.
//!
//! With GFNI a product is one `gf2p8affineqb` by the constant's bit matrix (`gf2p8mulb` is for another polynomial); without, two
//! shuffles that look the nibbles' products up (Plank, Greenan, Miller, "Screaming Fast Galois Field Arithmetic Using Intel SIMD
//! Instructions", FAST 2013).

pub(crate) use {avx2::Avx2, gfni256::Gfni256, gfni512::Gfni512};

mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_loadu_si128, _mm_sfence, _mm256_and_si256, _mm256_broadcastsi128_si256,
        _mm256_loadu_si256, _mm256_set1_epi8, _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256,
        _mm256_stream_si256, _mm256_xor_si256,
    };

    use crate::field::NIBBLE_TABLES;
    use crate::kernel::generic::{Vector, by_rows, kernel};

    /// Exists only where AVX2 does.
    #[derive(Debug)]
    pub(crate) struct Avx2(());

    impl Avx2 {
        pub(crate) fn detect() -> Option<Self> {
            is_x86_feature_detected!("avx2").then_some(Self(()))
        }
    }

    #[derive(Clone, Copy)]
    struct V(__m256i);

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

    kernel!(Avx2, "avx2", #[target_feature(enable = "avx2")]);
}

mod gfni256 {
    use std::arch::x86_64::{
        __m256i, _mm_sfence, _mm256_gf2p8affine_epi64_epi8, _mm256_loadu_si256, _mm256_set1_epi64x,
        _mm256_storeu_si256, _mm256_stream_si256, _mm256_xor_si256,
    };

    use crate::field::BIT_MATRICES;
    use crate::kernel::generic::{Vector, by_rows, kernel};

    /// Exists only where AVX2 and GFNI do.
    #[derive(Debug)]
    pub(crate) struct Gfni256(());

    impl Gfni256 {
        pub(crate) fn detect() -> Option<Self> {
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni")).then_some(Self(()))
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

    kernel!(Gfni256, "gfni256", #[target_feature(enable = "avx2,gfni")]);
}

mod gfni512 {
    use std::arch::x86_64::{
        __m512i, _mm_sfence, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_set1_epi64,
        _mm512_storeu_si512, _mm512_stream_si512, _mm512_xor_si512,
    };

    use crate::field::BIT_MATRICES;
    use crate::kernel::generic::{Vector, by_rows, kernel};

    /// Exists only where AVX-512 (F, BW) and GFNI do.
    #[derive(Debug)]
    pub(crate) struct Gfni512(());

    impl Gfni512 {
        pub(crate) fn detect() -> Option<Self> {
            let found = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("gfni");
            found.then_some(Self(()))
        }
    }

    #[derive(Clone, Copy)]
    struct V(__m512i);

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

    kernel!(Gfni512, "gfni512", #[target_feature(enable = "avx512f,avx512bw,gfni")]);
}
