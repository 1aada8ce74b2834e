//! 8 streams on AVX2, or 16 in two vectors.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_si256, _mm256_loadu_si256, _mm256_or_si256,
    _mm256_permute2x128_si256, _mm256_set1_epi32, _mm256_slli_epi32, _mm256_srli_epi32,
    _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
    _mm256_xor_si256,
};

use super::{BLOCK_WORDS, Chain, LANES_MAX, Pair, Words, kernel};

/// Exists only where AVX2 does.
#[derive(Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

#[derive(Clone, Copy)]
struct W(__m256i);

impl Words for W {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn same(value: u32) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { _mm256_set1_epi32(value.cast_signed()) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { _mm256_add_epi32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe {
            _mm256_or_si256(_mm256_slli_epi32::<LEFT>(self.0), _mm256_srli_epi32::<RIGHT>(self.0))
        })
    }

    #[inline(always)]
    unsafe fn add_f(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: the instruction set exists.
        unsafe {
            let chosen = _mm256_and_si256(_mm256_xor_si256(c.0, d.0), b.0);
            self.add(Self(_mm256_xor_si256(chosen, d.0)))
        }
    }

    #[inline(always)]
    unsafe fn add_g(self, b: Self, c: Self, d: Self) -> Self {
        // The two halves have no bit in common, so they can be added one after the other: only the second waits for `b`.
        // SAFETY: the instruction set exists.
        unsafe { self.add(Self(_mm256_andnot_si256(d.0, c.0))).add(Self(_mm256_and_si256(d.0, b.0))) }
    }

    #[inline(always)]
    unsafe fn add_h(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: the instruction set exists.
        unsafe { self.add(Self(_mm256_xor_si256(_mm256_xor_si256(c.0, d.0), b.0))) }
    }

    #[inline(always)]
    unsafe fn add_i(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: the instruction set exists.
        unsafe {
            let not_d = _mm256_xor_si256(d.0, _mm256_set1_epi32(-1));
            self.add(Self(_mm256_xor_si256(c.0, _mm256_or_si256(b.0, not_d))))
        }
    }

    /// Twice 8 lines of 8 words, transposed: words, then pairs, then halves of a vector change places.
    #[inline(always)]
    unsafe fn block(inputs: &[*const u8; LANES_MAX], offset: usize) -> [Self; BLOCK_WORDS] {
        // SAFETY: the instruction set exists and 64 bytes of each input are readable.
        unsafe {
            let mut words = [Self::same(0); BLOCK_WORDS];
            let mut half = 0;
            while half < 2 {
                let mut lines = [_mm256_loadu_si256(inputs[0].add(offset + half * 32).cast()); 8];
                let mut lane = 1;
                while lane < 8 {
                    lines[lane] = _mm256_loadu_si256(inputs[lane].add(offset + half * 32).cast());
                    lane += 1;
                }
                // Half q of `columns[4 g + w]` is word 4 q + w of lanes 4 g to 4 g + 3.
                let mut columns = lines;
                let mut group = 0;
                while group < 8 {
                    let [a, b, c, d] = [lines[group], lines[group + 1], lines[group + 2], lines[group + 3]];
                    let [low_ab, low_cd] = [_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d)];
                    let [high_ab, high_cd] = [_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d)];
                    columns[group] = _mm256_unpacklo_epi64(low_ab, low_cd);
                    columns[group + 1] = _mm256_unpackhi_epi64(low_ab, low_cd);
                    columns[group + 2] = _mm256_unpacklo_epi64(high_ab, high_cd);
                    columns[group + 3] = _mm256_unpackhi_epi64(high_ab, high_cd);
                    group += 4;
                }
                let mut word = 0;
                while word < 4 {
                    let [a, b] = [columns[word], columns[word + 4]];
                    words[half * 8 + word] = Self(_mm256_permute2x128_si256::<0x20>(a, b));
                    words[half * 8 + word + 4] = Self(_mm256_permute2x128_si256::<0x31>(a, b));
                    word += 1;
                }
                half += 1;
            }
            words
        }
    }

    #[inline(always)]
    unsafe fn take(chains: &[Chain; LANES_MAX], word: usize) -> Self {
        let mut taken = [0_u32; 8];
        let mut lane = 0;
        while lane < 8 {
            taken[lane] = chains[lane][word];
            lane += 1;
        }
        // SAFETY: the instruction set exists; the array is 32 bytes.
        Self(unsafe { _mm256_loadu_si256(taken.as_ptr().cast()) })
    }

    #[inline(always)]
    unsafe fn put(self, chains: &mut [Chain; LANES_MAX], word: usize) {
        // SAFETY: both are 32 bytes, and any bits are words.
        let taken: [u32; 8] = unsafe { std::mem::transmute(self.0) };
        let mut lane = 0;
        while lane < 8 {
            chains[lane][word] = taken[lane];
            lane += 1;
        }
    }
}

kernel!(Avx2, "avx2", W, Pair<W>, least 2, #[target_feature(enable = "avx2")]);
