//! The portable kernel: eight bytes in a word, no instruction that not every processor has.
//!
//! A product with a constant is the sum of the doublings that the constant's bits select; for the constants of the
//! ten-multiplication form the compiler removes what is not selected.

use crate::kernel::dispatch::kernel;
use crate::kernel::vector::Vector;

/// The portable kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalar;

const WORDS: usize = 2;
type V = Words;

/// A few words, so that the compiler can put them into whatever vector the target has.
#[derive(Clone, Copy)]
struct Words([u64; WORDS]);

const EACH_LOW_BIT: u64 = 0x0101_0101_0101_0101;

/// Every byte times 2: shifted, and reduced by 0x1d where a bit fell out.
#[inline(always)]
fn double(word: u64) -> u64 {
    let carry = (word >> 7) & EACH_LOW_BIT;
    ((word & !(EACH_LOW_BIT << 7)) << 1) ^ carry ^ (carry << 2) ^ (carry << 3) ^ (carry << 4)
}

impl Vector for Words {
    const BYTES: usize = 8 * WORDS;
    /// A mask of ones for each bit that is set.
    type Factor = [u64; 8];

    #[inline(always)]
    unsafe fn factor(constant: u8) -> [u64; 8] {
        let mut masks = [0; 8];
        let mut bit = 0;
        while bit < 8 {
            masks[bit] = if constant >> bit & 1 == 1 { u64::MAX } else { 0 };
            bit += 1;
        }
        masks
    }

    #[inline(always)]
    unsafe fn multiply(self, factor: [u64; 8]) -> Self {
        let mut power = self.0;
        let mut product = [0; WORDS];
        let mut bit = 0;
        while bit < 8 {
            let mut word = 0;
            while word < WORDS {
                product[word] ^= power[word] & factor[bit];
                power[word] = double(power[word]);
                word += 1;
            }
            bit += 1;
        }
        Self(product)
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        let mut sum = self.0;
        let mut word = 0;
        while word < WORDS {
            sum[word] ^= other.0[word];
            word += 1;
        }
        Self(sum)
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller promises `BYTES` readable bytes; the read needs no alignment.
        Self(unsafe { from.cast::<[u64; WORDS]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller promises `BYTES` writable bytes; the write needs no alignment.
        unsafe { to.cast::<[u64; WORDS]>().write_unaligned(self.0) };
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller promises at least what `store` needs.
        unsafe { self.store(to) };
    }

    #[inline(always)]
    unsafe fn fence() {}
}

kernel!(Scalar, "scalar");
