//! GFNI on 512 bits: one instruction a product; with VPCLMULQDQ the block CRCs too, in the same registers.

use std::arch::x86_64::{
    __m512i, _mm_sfence, _mm512_clmulepi64_epi128, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512,
    _mm512_set_epi64, _mm512_set1_epi64, _mm512_storeu_si512, _mm512_stream_si512, _mm512_ternarylogic_epi64,
    _mm512_xor_si512,
};

use crate::checksum::crc64;
use crate::field::BIT_MATRICES;
use crate::kernel::generic::{Constants, Vector, by_rows, common_length, kernel, load_all, parity_of};

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
        found.then(|| Self { carryless: is_x86_feature_detected!("vpclmulqdq") })
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

/// CRC-64/NVME's polynomial, its highest power in the lowest bit.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;

/// `value · x^power` modulo the polynomial; a negative power divides. Bit 63 is the coefficient of `x^0`.
const fn shifted(mut value: u64, power: i32) -> u64 {
    let mut step = 0;
    while step < power {
        value = (value >> 1) ^ if value & 1 == 1 { POLYNOMIAL } else { 0 };
        step += 1;
    }
    while step > power {
        value = if value >> 63 == 1 { (value ^ POLYNOMIAL) << 1 | 1 } else { value << 1 };
        step -= 1;
    }
    value
}

/// One vector of message, bits.
const VECTOR_BITS: i32 = 512;
const ONE: u64 = 1 << 63;
/// What moves the first and the second half of each 128 bits on by a vector. A carry-less product of two bit-reversed numbers is
/// one bit short, hence the `- 1` (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", 2009).
const MOVE_FIRST: i64 = shifted(ONE, VECTOR_BITS + 64 - 1).cast_signed();
const MOVE_SECOND: i64 = shifted(ONE, VECTOR_BITS - 1).cast_signed();
/// The initial value (all ones, added to the first 8 bytes) as it is one vector earlier.
const SEED: i64 = shifted(u64::MAX, -VECTOR_BITS).cast_signed();

/// `folded`, moved on by one vector, plus `next`: a 64-byte message with the same remainder as all that it was made of.
///
/// # Safety
/// AVX-512F and VPCLMULQDQ exist.
#[inline(always)]
unsafe fn fold(folded: V, moves: __m512i, next: V) -> V {
    // SAFETY: as the caller promises; 0x96 is the exclusive or of three.
    unsafe {
        let first = _mm512_clmulepi64_epi128::<0x00>(folded.0, moves);
        let second = _mm512_clmulepi64_epi128::<0x11>(folded.0, moves);
        V(_mm512_ternarylogic_epi64::<0x96>(first, second, next.0))
    }
}

/// Encodes and folds each stream to 64 bytes.
///
/// # Safety
/// As [`encode`](crate::kernel::generic::encode); VPCLMULQDQ exists.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
unsafe fn encode_and_fold<const STREAM: bool>(
    data: &[*const u8; 10],
    parity: &[*mut u8; 4],
    bytes: usize,
) -> [[u8; 64]; 14] {
    // SAFETY: as the caller promises; every offset below is less than `bytes` by a vector or more.
    unsafe {
        let constants = Constants::<V>::new();
        let moves = _mm512_set_epi64(
            MOVE_SECOND,
            MOVE_FIRST,
            MOVE_SECOND,
            MOVE_FIRST,
            MOVE_SECOND,
            MOVE_FIRST,
            MOVE_SECOND,
            MOVE_FIRST,
        );
        let mut folded = [V(_mm512_set_epi64(0, 0, 0, 0, 0, 0, 0, SEED)); 14];
        let mut offset = 0;
        while offset < bytes {
            let values = load_all::<V>(data, offset);
            let sums = parity_of(&constants, &values);
            let mut shard = 0;
            while shard < 10 {
                folded[shard] = fold(folded[shard], moves, values[shard]);
                shard += 1;
            }
            let mut row = 0;
            while row < 4 {
                folded[10 + row] = fold(folded[10 + row], moves, sums[row]);
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
        let mut bytes = [[0; 64]; 14];
        let mut shard = 0;
        while shard < 14 {
            folded[shard].store(bytes[shard].as_mut_ptr());
            shard += 1;
        }
        bytes
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
        let folded = unsafe {
            if non_temporal && aligned {
                encode_and_fold::<true>(&inputs, &outputs, bytes)
            } else {
                encode_and_fold::<false>(&inputs, &outputs, bytes)
            }
        };
        folded.map(|mut message| {
            // The initial value is in there already; `crc64` adds it to the first 8 bytes once more.
            message[..8].iter_mut().for_each(|byte| *byte ^= 0xff);
            crc64(&message)
        })
    }
);
