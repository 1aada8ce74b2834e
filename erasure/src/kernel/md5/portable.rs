//! Without intrinsics: one stream in the processor's ordinary registers, and four that the compiler puts into whatever vectors the
//! target has.

use super::{BLOCK_WORDS, Chain, LANES_MAX, Words, kernel};

/// Four streams, on any processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable4;

type W = Lanes<4>;

#[derive(Clone, Copy)]
struct Lanes<const N: usize>([u32; N]);

impl<const N: usize> Lanes<N> {
    #[inline(always)]
    fn with(self, other: Self, operation: impl Fn(u32, u32) -> u32) -> Self {
        let mut result = self.0;
        let mut lane = 0;
        while lane < N {
            result[lane] = operation(self.0[lane], other.0[lane]);
            lane += 1;
        }
        Self(result)
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self.with(other, |a, b| a & b)
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self.with(other, |a, b| a ^ b)
    }

    /// `!self & other`.
    #[inline(always)]
    fn and_not(self, other: Self) -> Self {
        self.with(other, |a, b| !a & b)
    }

    /// `self | !other`.
    #[inline(always)]
    fn or_not(self, other: Self) -> Self {
        self.with(other, |a, b| a | !b)
    }
}

impl<const N: usize> Words for Lanes<N> {
    const LANES: usize = N;

    #[inline(always)]
    unsafe fn same(value: u32) -> Self {
        Self([value; N])
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.with(other, u32::wrapping_add)
    }

    #[inline(always)]
    unsafe fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        self.with(self, |word, _| word.rotate_left(LEFT.cast_unsigned()))
    }

    #[inline(always)]
    unsafe fn add_f(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: no instruction that not every processor has.
        unsafe { self.add(c.xor(d).and(b).xor(d)) }
    }

    #[inline(always)]
    unsafe fn add_g(self, b: Self, c: Self, d: Self) -> Self {
        // The two halves have no bit in common, so they can be added one after the other: only the second waits for `b`.
        // SAFETY: no instruction that not every processor has.
        unsafe { self.add(d.and_not(c)).add(d.and(b)) }
    }

    #[inline(always)]
    unsafe fn add_h(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: no instruction that not every processor has.
        unsafe { self.add(c.xor(d).xor(b)) }
    }

    #[inline(always)]
    unsafe fn add_i(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: no instruction that not every processor has.
        unsafe { self.add(c.xor(b.or_not(d))) }
    }

    #[inline(always)]
    unsafe fn block(inputs: &[*const u8; LANES_MAX], offset: usize) -> [Self; BLOCK_WORDS] {
        let mut words = [Self([0; N]); BLOCK_WORDS];
        let mut lane = 0;
        while lane < N {
            // SAFETY: the caller promises 64 readable bytes; the read needs no alignment.
            let block = unsafe { inputs[lane].add(offset).cast::<[u32; BLOCK_WORDS]>().read_unaligned() };
            let mut word = 0;
            while word < BLOCK_WORDS {
                words[word].0[lane] = u32::from_le(block[word]);
                word += 1;
            }
            lane += 1;
        }
        words
    }

    #[inline(always)]
    unsafe fn take(chains: &[Chain; LANES_MAX], word: usize) -> Self {
        let mut taken = [0; N];
        let mut lane = 0;
        while lane < N {
            taken[lane] = chains[lane][word];
            lane += 1;
        }
        Self(taken)
    }

    #[inline(always)]
    unsafe fn put(self, chains: &mut [Chain; LANES_MAX], word: usize) {
        let mut lane = 0;
        while lane < N {
            chains[lane][word] = self.0[lane];
            lane += 1;
        }
    }
}

kernel!(Portable4, "portable", W, W, least 3);

/// Compresses the whole blocks of one stream; what is left over is not looked at.
pub(crate) fn one(chain: &mut Chain, input: &[u8]) {
    let mut chains = [*chain; LANES_MAX];
    let inputs = [input.as_ptr(); LANES_MAX];
    // SAFETY: no instruction that not every processor has; so many whole blocks are in the slice.
    unsafe { super::advance::<Lanes<1>>(&mut chains, &inputs, input.len() / super::BLOCK_BYTES) };
    *chain = chains[0];
}
