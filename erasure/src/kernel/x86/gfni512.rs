//! GFNI on 512 bits: one instruction a product; with VPCLMULQDQ the block CRCs too, in the same registers.

use std::arch::x86_64::{
    __m512i, _mm_sfence, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_set1_epi64,
    _mm512_storeu_si512, _mm512_stream_si512, _mm512_xor_si512,
};

use crate::field::BIT_MATRICES;
use crate::kernel::dispatch::{by_rows, common_length, kernel};
use crate::kernel::generic::{Constants, Vector, load_all, parity_of};
use crate::kernel::x86::crc512::{end_moves, fold, line_moves, remainder, seed};

/// Exists only where AVX-512 (F, BW) and GFNI do.
#[derive(Debug)]
pub(crate) struct Gfni512 {
    /// Whether VPCLMULQDQ exists too.
    carryless: bool,
}

impl Gfni512 {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("gfni");
        found.then(|| Self {
            carryless: is_x86_feature_detected!("vpclmulqdq") && is_x86_feature_detected!("pclmulqdq"),
        })
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

/// Encodes, folds each stream to 64 bytes, and gives their remainders.
///
/// # Safety
/// As [`encode`](crate::kernel::generic::encode); VPCLMULQDQ exists.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq,pclmulqdq")]
unsafe fn encode_and_fold<const STREAM: bool>(
    data: &[*const u8; 10],
    parity: &[*mut u8; 4],
    bytes: usize,
) -> [u64; 14] {
    // SAFETY: as the caller promises; every offset below is less than `bytes` by a vector or more.
    unsafe {
        let constants = Constants::<V>::new();
        let moves = line_moves();
        let mut folded = [seed(); 14];
        let mut offset = 0;
        while offset < bytes {
            let values = load_all::<V>(data, offset);
            let sums = parity_of(&constants, &values);
            let mut shard = 0;
            while shard < 10 {
                folded[shard] = fold(folded[shard], moves, values[shard].0);
                shard += 1;
            }
            let mut row = 0;
            while row < 4 {
                folded[10 + row] = fold(folded[10 + row], moves, sums[row].0);
                if STREAM {
                    sums[row].stream(parity[row].add(offset));
                } else {
                    sums[row].store(parity[row].add(offset));
                }
                row += 1;
            }
            offset += V::BYTES;
        }
        if STREAM {
            V::fence();
        }
        let ends = end_moves();
        let mut remainders = [0; 14];
        let mut shard = 0;
        while shard < 14 {
            remainders[shard] = remainder(folded[shard], ends);
            shard += 1;
        }
        remainders
    }
}

kernel!(
    Gfni512,
    "gfni512",
    #[target_feature(enable = "avx512f,avx512bw,gfni")];
    fn encode_and_sum(&self, data: &[&[u8]; 10], mut parity: [&mut [u8]; 4], non_temporal: bool) -> [u64; 14] {
        let bytes = common_length(data, &parity);
        if !self.carryless || bytes == 0 {
            return crate::kernel::encode_then_sum(self, data, parity);
        }
        let inputs = data.map(<[u8]>::as_ptr);
        let outputs = parity.each_mut().map(|shard| shard.as_mut_ptr());
        let aligned = outputs.iter().all(|output| output.addr().is_multiple_of(V::BYTES));
        // SAFETY: `self` exists and `carryless` is set, so the instructions exist; all slices are `bytes` long; `&mut` excludes
        // overlap.
        unsafe {
            if non_temporal && aligned {
                encode_and_fold::<true>(&inputs, &outputs, bytes)
            } else {
                encode_and_fold::<false>(&inputs, &outputs, bytes)
            }
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::crc64;
    use crate::kernel::Kernel;

    #[test]
    fn folded_sums_are_those_of_a_second_pass() {
        let Some(Gfni512 { carryless }) = Gfni512::detect() else { return };
        for lines in [0, 1, 2, 3, 61, 256] {
            let data: [Vec<u8>; 10] = std::array::from_fn(|shard| {
                (0..lines * 64)
                    .map(|i| ((i + 7_usize).wrapping_mul(shard + 3).wrapping_mul(2_654_435_761) >> 9) as u8)
                    .collect()
            });
            let data = data.each_ref().map(|shard| &shard[..]);
            for carryless in [false, carryless] {
                let mut parity: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; lines * 64]);
                let outputs = parity.each_mut().map(|shard| &mut shard[..]);
                let sums = Gfni512 { carryless }.encode_and_sum(&data, outputs, true);
                let shards = data.into_iter().chain(parity.iter().map(|shard| &shard[..]));
                assert!(shards.map(crc64).eq(sums), "{lines} lines, carryless {carryless}");
            }
        }
    }
}
