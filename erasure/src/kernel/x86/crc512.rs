//! CRC-64/NVME by carry-less multiplication, a vector of 64 bytes at a time, for many streams side by side.
//!
//! A message of any length is folded into 64 bytes that have the same remainder; whoever owns the stream keeps them in a
//! register. Bit-reversed as the CRC is: the first bit of the message, the highest power, is bit 0 of the first byte.

use std::arch::x86_64::{
    __m128i, __m512i, _mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_unpackhi_epi64,
    _mm_xor_si128, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_xor_si256,
    _mm512_castsi512_si256, _mm512_clmulepi64_epi128, _mm512_extracti64x4_epi64, _mm512_set_epi64,
    _mm512_setzero_si512, _mm512_ternarylogic_epi64,
};

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
/// `x^128` divided by the polynomial, without its highest term.
const QUOTIENT: u64 = quotient();

const fn quotient() -> u64 {
    // Long division: the dividend is x^64 after the first term was taken off, that is the polynomial itself.
    let mut remainder = POLYNOMIAL;
    let mut quotient = 0;
    let mut bit = 0;
    while bit < 64 {
        if remainder & 1 == 1 {
            quotient |= 1 << bit;
        }
        remainder = shifted(remainder, 1);
        bit += 1;
    }
    quotient
}

/// The initial value (all ones, added to the first 8 bytes) as it is one vector earlier.
const SEED: i64 = shifted(u64::MAX, -VECTOR_BITS).cast_signed();

/// What moves the two halves of each 128 bits on by one vector.
///
/// # Safety
/// AVX-512F exists.
#[inline(always)]
pub(super) unsafe fn line_moves() -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        _mm512_set_epi64(
            MOVE_SECOND,
            MOVE_FIRST,
            MOVE_SECOND,
            MOVE_FIRST,
            MOVE_SECOND,
            MOVE_FIRST,
            MOVE_SECOND,
            MOVE_FIRST,
        )
    }
}

/// What a CRC begins with.
///
/// # Safety
/// AVX-512F exists.
#[inline(always)]
pub(super) unsafe fn seed() -> __m512i {
    // SAFETY: as the caller promises.
    unsafe { _mm512_set_epi64(0, 0, 0, 0, 0, 0, 0, SEED) }
}

/// `folded`, moved on by one vector, plus `next`: a 64-byte message with the same remainder as all that it was made of.
///
/// # Safety
/// AVX-512F and VPCLMULQDQ exist.
#[inline(always)]
pub(super) unsafe fn fold(folded: __m512i, moves: __m512i, next: __m512i) -> __m512i {
    // SAFETY: as the caller promises; 0x96 is the exclusive or of three.
    unsafe {
        let first = _mm512_clmulepi64_epi128::<0x00>(folded, moves);
        let second = _mm512_clmulepi64_epi128::<0x11>(folded, moves);
        _mm512_ternarylogic_epi64::<0x96>(first, second, next)
    }
}

/// What moves the two halves of each 128 bits to the end of the vector.
///
/// # Safety
/// AVX-512F exists.
#[inline(always)]
pub(super) unsafe fn end_moves() -> __m512i {
    const fn by(bits: i32) -> i64 {
        shifted(ONE, bits - 1).cast_signed()
    }
    // SAFETY: as the caller promises.
    unsafe {
        _mm512_set_epi64(
            const { by(0) },
            const { by(64) },
            const { by(128) },
            const { by(192) },
            const { by(256) },
            const { by(320) },
            const { by(384) },
            const { by(448) },
        )
    }
}

/// The CRC of all that was folded: the remainders of each 128 bits of `folded`, moved to its end, added up, and reduced to 64 bits by Barrett's method,
/// and the final complement.
///
/// # Safety
/// AVX-512F and VPCLMULQDQ exist.
#[inline(always)]
pub(super) unsafe fn remainder(folded: __m512i, moves: __m512i) -> u64 {
    // SAFETY: as the caller promises; PCLMULQDQ and SSE2 come with them.
    unsafe {
        let lanes = fold(folded, moves, _mm512_setzero_si512());
        let halves = _mm256_xor_si256(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64::<1>(lanes));
        let sum = _mm_xor_si128(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
        let [first, second] = halves_of(sum);
        let [carried, low] = carryless(first, const { shifted(ONE, 2 * 64 - 1) });
        let high = carried ^ second;
        let quotient = high ^ (carryless(high, QUOTIENT)[0] << 1);
        let [below, above] = carryless(quotient, POLYNOMIAL);
        !(low ^ (above << 1 | below >> 63))
    }
}

/// # Safety
/// PCLMULQDQ exists.
#[inline(always)]
unsafe fn carryless(a: u64, b: u64) -> [u64; 2] {
    // SAFETY: as the caller promises.
    unsafe {
        let [a, b] = [_mm_cvtsi64_si128(a.cast_signed()), _mm_cvtsi64_si128(b.cast_signed())];
        halves_of(_mm_clmulepi64_si128::<0>(a, b))
    }
}

/// # Safety
/// SSE2 exists.
#[inline(always)]
unsafe fn halves_of(both: __m128i) -> [u64; 2] {
    // SAFETY: as the caller promises.
    unsafe {
        let second = _mm_cvtsi128_si64(_mm_unpackhi_epi64(both, both));
        [_mm_cvtsi128_si64(both).cast_unsigned(), second.cast_unsigned()]
    }
}
