//! CRC-64/NVME by carry-less multiplication: the constants, and the end of every stream.
//!
//! A message of any length is folded into a vector that has the same remainder; whoever owns the stream keeps it in a register.
//! Bit-reversed as the CRC is: the first bit of the message, the highest power, is bit 0 of the first byte. A carry-less product of
//! two bit-reversed numbers is one bit short, hence each `- 1` (Gopal et al., "Fast CRC Computation for Generic Polynomials Using
//! PCLMULQDQ", 2009).

use std::arch::x86_64::{
    __m128i, _MM_HINT_T0, _mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_prefetch,
    _mm_unpackhi_epi64,
};

/// The polynomial, its highest power in the lowest bit.
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

const ONE: u64 = 1 << 63;

/// What moves the first and the second half of 128 bits on by so many bits.
pub(super) const fn moves(bits: i32) -> [i64; 2] {
    [shifted(ONE, bits + 64 - 1).cast_signed(), shifted(ONE, bits - 1).cast_signed()]
}

/// The initial value (all ones, added to the first 8 bytes) as it is one vector of so many bits earlier.
pub(super) const fn seed(vector_bits: i32) -> i64 {
    shifted(u64::MAX, -vector_bits).cast_signed()
}

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

/// The CRC of what was folded to 128 bits: reduced to 64 by Barrett's method, and the final complement.
///
/// # Safety
/// PCLMULQDQ exists.
#[inline(always)]
pub(super) unsafe fn remainder(folded: __m128i) -> u64 {
    // SAFETY: as the caller promises; every x86-64 processor has SSE2.
    unsafe {
        let [first, second] = halves_of(folded);
        let [carried, low] = carryless(first, const { shifted(ONE, 2 * 64 - 1) });
        let high = carried ^ second;
        let quotient = high ^ (carryless(high, QUOTIENT)[0] << 1);
        let [below, above] = carryless(quotient, POLYNOMIAL);
        !(low ^ (above << 1 | below >> 63))
    }
}

/// Asks for a line, which need not exist.
///
/// # Safety
/// SSE exists.
#[inline(always)]
pub(in crate::kernel) unsafe fn ask_for(from: *const u8) {
    // SAFETY: a prefetch reads nothing and faults nowhere.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
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
pub(in crate::kernel) unsafe fn halves_of(both: __m128i) -> [u64; 2] {
    // SAFETY: as the caller promises.
    unsafe {
        let second = _mm_cvtsi128_si64(_mm_unpackhi_epi64(both, both));
        [_mm_cvtsi128_si64(both).cast_unsigned(), second.cast_unsigned()]
    }
}
