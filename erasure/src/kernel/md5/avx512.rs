//! 16 streams on AVX-512: each of the four functions is one instruction, and so is a rotation.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_i32gather_epi32, _mm512_i32scatter_epi32, _mm512_loadu_si512,
    _mm512_mullo_epi32, _mm512_rol_epi32, _mm512_set_epi32, _mm512_set1_epi32, _mm512_shuffle_i32x4,
    _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::{BLOCK_WORDS, Chain, LANES_MAX, Words, kernel};

/// Exists only where AVX-512F does.
#[derive(Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

#[derive(Clone, Copy)]
struct W(__m512i);

impl W {
    /// `self` plus the function of three that a truth table says.
    #[inline(always)]
    unsafe fn add_table<const TABLE: i32>(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: the instruction set exists.
        unsafe { self.add(Self(_mm512_ternarylogic_epi32::<TABLE>(b.0, c.0, d.0))) }
    }
}

impl Words for W {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn same(value: u32) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { _mm512_set1_epi32(value.cast_signed()) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { _mm512_add_epi32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { _mm512_rol_epi32::<LEFT>(self.0) })
    }

    #[inline(always)]
    unsafe fn add_f(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: the instruction set exists.
        unsafe { self.add_table::<0b1100_1010>(b, c, d) }
    }

    #[inline(always)]
    unsafe fn add_g(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: the instruction set exists.
        unsafe { self.add_table::<0b1110_0100>(b, c, d) }
    }

    #[inline(always)]
    unsafe fn add_h(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: the instruction set exists.
        unsafe { self.add_table::<0b1001_0110>(b, c, d) }
    }

    #[inline(always)]
    unsafe fn add_i(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: the instruction set exists.
        unsafe { self.add_table::<0b0011_1001>(b, c, d) }
    }

    /// 16 lines of 16 words, transposed: words, then pairs, then quarters of a vector change places.
    #[inline(always)]
    unsafe fn block(inputs: &[*const u8; LANES_MAX], offset: usize) -> [Self; BLOCK_WORDS] {
        // SAFETY: the instruction set exists and 64 bytes of each input are readable.
        unsafe {
            let mut lines = [_mm512_loadu_si512(inputs[0].add(offset).cast()); 16];
            let mut lane = 1;
            while lane < 16 {
                lines[lane] = _mm512_loadu_si512(inputs[lane].add(offset).cast());
                lane += 1;
            }
            // Four lanes in each quarter: after this, quarter q of `columns[4 g + w]` is word 4 q + w of lanes 4 g to 4 g + 3.
            let mut columns = lines;
            let mut group = 0;
            while group < 16 {
                let [a, b, c, d] = [lines[group], lines[group + 1], lines[group + 2], lines[group + 3]];
                let [low_ab, low_cd] = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
                let [high_ab, high_cd] = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
                columns[group] = _mm512_unpacklo_epi64(low_ab, low_cd);
                columns[group + 1] = _mm512_unpackhi_epi64(low_ab, low_cd);
                columns[group + 2] = _mm512_unpacklo_epi64(high_ab, high_cd);
                columns[group + 3] = _mm512_unpackhi_epi64(high_ab, high_cd);
                group += 4;
            }
            let mut words = [Self(columns[0]); 16];
            let mut word = 0;
            while word < 4 {
                let [a, b] = [columns[word], columns[word + 4]];
                let [c, d] = [columns[word + 8], columns[word + 12]];
                let [ab_01, ab_23] = [_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b)];
                let [cd_01, cd_23] = [_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d)];
                words[word] = Self(_mm512_shuffle_i32x4::<0x88>(ab_01, cd_01));
                words[word + 4] = Self(_mm512_shuffle_i32x4::<0xdd>(ab_01, cd_01));
                words[word + 8] = Self(_mm512_shuffle_i32x4::<0x88>(ab_23, cd_23));
                words[word + 12] = Self(_mm512_shuffle_i32x4::<0xdd>(ab_23, cd_23));
                word += 1;
            }
            words
        }
    }

    #[inline(always)]
    unsafe fn take(chains: &[Chain; LANES_MAX], word: usize) -> Self {
        // SAFETY: the instruction set exists; the 16 words at these places lie in the array.
        Self(unsafe { _mm512_i32gather_epi32::<4>(places(), chains.as_ptr().cast::<i32>().add(word)) })
    }

    #[inline(always)]
    unsafe fn put(self, chains: &mut [Chain; LANES_MAX], word: usize) {
        // SAFETY: the instruction set exists; the 16 words at these places lie in the array.
        unsafe {
            _mm512_i32scatter_epi32::<4>(chains.as_mut_ptr().cast::<i32>().add(word), places(), self.0);
        }
    }
}

/// Where each chain begins, in words.
#[inline(always)]
unsafe fn places() -> __m512i {
    // SAFETY: the instruction set exists.
    unsafe {
        let numbers = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        _mm512_mullo_epi32(numbers, _mm512_set1_epi32(4))
    }
}

kernel!(Avx512, "avx512", W, W, least 2, #[target_feature(enable = "avx512f")]);
