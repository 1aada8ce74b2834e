//! The checksum that was not chosen: CRC-32C folded into the encoder in the same way, to show what it would cost.

use std::arch::x86_64::{__m512i, _mm_crc32_u64, _mm512_setzero_si512};

use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, TOTAL_SHARDS};

use crate::kernel::dispatch::{check_block, common_length, places};
use crate::kernel::vector::{Sum, Vector};
use crate::kernel::x86::crc64::{ask_for, halves_of};
use crate::kernel::x86::crc512::{lanes, moved, narrowed};
use crate::kernel::x86::gfni512::V;

/// The polynomial with its highest term, bit-reversed; bit 63 is the coefficient of `x^0`, bit 31 that of `x^32`.
const POLYNOMIAL: u64 = 0x82f6_3b78 << 32 | 1 << 31;

/// `value · x^power` modulo the polynomial; a negative power divides.
const fn shifted(mut value: u64, power: i32) -> u64 {
    let mut step = 0;
    while step < power {
        value >>= 1;
        value ^= if value >> 31 & 1 == 1 { POLYNOMIAL } else { 0 };
        step += 1;
    }
    while step > power {
        value = (value ^ if value >> 63 == 1 { POLYNOMIAL } else { 0 }) << 1;
        step -= 1;
    }
    value
}

const fn moves(bits: i32) -> [i64; 2] {
    [shifted(1 << 63, bits + 64 - 1).cast_signed(), shifted(1 << 63, bits - 1).cast_signed()]
}

#[derive(Clone, Copy)]
struct Folded {
    moves: __m512i,
}

impl Sum<V> for Folded {
    type State = __m512i;

    #[inline(always)]
    unsafe fn new() -> Self {
        const MOVES: [i64; 2] = moves(512);
        // SAFETY: the instruction set exists.
        Self { moves: unsafe { lanes([MOVES; 4]) } }
    }

    #[inline(always)]
    unsafe fn start(self) -> __m512i {
        // All ones, added to the first 4 bytes, as they are one vector earlier.
        const SEED: i64 = shifted(0xffff_ffff << 32, 32 - 512).cast_signed();
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
        unsafe { ask_for(from) };
    }

    #[inline(always)]
    unsafe fn finish(self, state: __m512i) -> u64 {
        const ENDS: [[i64; 2]; 4] = [moves(384), moves(256), moves(128), moves(0)];
        // SAFETY: the instruction set exists.
        unsafe {
            let [first, second] = halves_of(narrowed(moved(state, lanes(ENDS), _mm512_setzero_si512())));
            u64::from(!(_mm_crc32_u64(_mm_crc32_u64(0, first), second) as u32))
        }
    }
}

mod summed {
    use super::{Folded, V};
    use crate::kernel::{dispatch::encode_loop, generic};

    encode_loop!(
        V,
        Folded,
        #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq,pclmulqdq,sse4.2")]
    );
}

/// Exists only where the instructions do.
#[derive(Debug)]
pub(crate) struct Castagnoli(());

impl Castagnoli {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("gfni")
            && is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("sse4.2");
        found.then_some(Self(()))
    }

    /// The four parities of a block, and the CRC-32C of all 14 over it.
    pub(crate) fn encode_block(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
        block: std::ops::Range<usize>,
        non_temporal: bool,
    ) -> [u64; TOTAL_SHARDS] {
        check_block(&block, common_length(data, parity));
        let inputs = data.map(<[u8]>::as_ptr);
        let (outputs, aligned) = places::<V>(parity);
        // SAFETY: `self` exists, so the instructions do; the block lies in all slices; `&mut` excludes overlap.
        unsafe {
            if non_temporal && aligned {
                summed::encode::<true>(&inputs, &outputs, block)
            } else {
                summed::encode::<false>(&inputs, &outputs, block)
            }
        }
    }

    /// Orders what was written around the cache before all that follows.
    pub(crate) fn fence(&self) {
        // SAFETY: every x86-64 processor has SSE.
        unsafe { V::fence() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_sums_are_those_of_a_second_pass() {
        let Some(kernel) = Castagnoli::detect() else { return };
        for lines in [1, 2, 3, 61, 256] {
            let data: [Vec<u8>; 10] = std::array::from_fn(|shard| {
                (0..lines * 64).map(|i: usize| (i.wrapping_mul(shard * 2 + 77) >> 3) as u8).collect()
            });
            let data = data.each_ref().map(|shard| &shard[..]);
            let mut parity: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; lines * 64]);
            let mut outputs = parity.each_mut().map(|shard| &mut shard[..]);
            let sums = kernel.encode_block(&data, &mut outputs, 0..lines * 64, false);
            let shards = data.into_iter().chain(parity.iter().map(|shard| &shard[..]));
            let expected = shards.map(|shard| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, shard));
            assert!(expected.eq(sums), "{lines} lines");
        }
    }
}
