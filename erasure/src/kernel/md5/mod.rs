//! MD5's compression of whole blocks, of one stream or of many side by side: a vector holds the same word of each.
//!
//! One stream is bound by the latency of its 64 steps, each of which needs the one before; a vector takes no longer for its 8 or 16
//! streams than for one. RFC 1321 has the function and the names `f`, `g`, `h`, `i`.
//!
//! No closures here: they would be compiled without the instruction set of the function they are inlined into.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::fmt::Debug;

pub(crate) use portable::{Portable4, one};
#[cfg(target_arch = "x86_64")]
pub(crate) use {avx2::Avx2, avx512::Avx512};

/// What a stream has come to: a, b, c, d.
pub(crate) type Chain = [u32; 4];

/// The most streams that a kernel takes.
pub(crate) const LANES_MAX: usize = 16;
/// What is compressed at once, bytes.
pub(crate) const BLOCK_BYTES: usize = 64;
const BLOCK_WORDS: usize = BLOCK_BYTES / 4;

/// Compresses streams side by side.
pub(crate) trait Kernel: Send + Sync + Debug {
    /// For tables.
    fn name(&self) -> &'static str;
    /// How many streams take as long as one.
    fn lanes(&self) -> usize;
    /// Fewer streams are quicker one after the other.
    fn least(&self) -> usize;
    /// Moves each chain on by the blocks of its input. At most `lanes` of both, as many of the one as of the other; all inputs are
    /// of one length, a multiple of 64 (checked: a breach is a bug of this crate and panics).
    fn advance(&self, chains: &mut [Chain], inputs: &[&[u8]]);
}

/// The sines' fractions (RFC 1321, 3.4).
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// One 32-bit word of each of some streams. Every function is unsafe for one reason: its instructions must exist.
trait Words: Copy {
    /// Of how many.
    const LANES: usize;

    /// # Safety
    /// The instruction set exists.
    unsafe fn same(value: u32) -> Self;
    /// # Safety
    /// The instruction set exists.
    unsafe fn add(self, other: Self) -> Self;
    /// # Safety
    /// The instruction set exists.
    unsafe fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self;
    /// `self + f(b, c, d)`, and so on: the kernel chooses the form in which `b`, which comes last, has the shortest way.
    /// # Safety
    /// The instruction set exists.
    unsafe fn add_f(self, b: Self, c: Self, d: Self) -> Self;
    /// # Safety
    /// The instruction set exists.
    unsafe fn add_g(self, b: Self, c: Self, d: Self) -> Self;
    /// # Safety
    /// The instruction set exists.
    unsafe fn add_h(self, b: Self, c: Self, d: Self) -> Self;
    /// # Safety
    /// The instruction set exists.
    unsafe fn add_i(self, b: Self, c: Self, d: Self) -> Self;
    /// The 16 words of the block that begins at `offset` of each input.
    /// # Safety
    /// The instruction set exists, and 64 bytes at `offset` from each of the first `LANES` inputs are readable.
    unsafe fn block(inputs: &[*const u8; LANES_MAX], offset: usize) -> [Self; BLOCK_WORDS];
    /// Word `word` of the first `LANES` chains.
    /// # Safety
    /// The instruction set exists.
    unsafe fn take(chains: &[Chain; LANES_MAX], word: usize) -> Self;
    /// Puts it back.
    /// # Safety
    /// The instruction set exists.
    unsafe fn put(self, chains: &mut [Chain; LANES_MAX], word: usize);
}

/// Twice the streams in two vectors: a step of the one runs while a step of the other waits for its result.
#[derive(Clone, Copy)]
struct Pair<W>(W, W);

impl<W: Words> Words for Pair<W> {
    const LANES: usize = 2 * W::LANES;

    #[inline(always)]
    unsafe fn same(value: u32) -> Self {
        // SAFETY: as the caller promises, here and below.
        unsafe { Self(W::same(value), W::same(value)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(self.0.add(other.0), self.1.add(other.1)) }
    }

    #[inline(always)]
    unsafe fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        // SAFETY: as above.
        unsafe { Self(self.0.rotate::<LEFT, RIGHT>(), self.1.rotate::<LEFT, RIGHT>()) }
    }

    #[inline(always)]
    unsafe fn add_f(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(self.0.add_f(b.0, c.0, d.0), self.1.add_f(b.1, c.1, d.1)) }
    }

    #[inline(always)]
    unsafe fn add_g(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(self.0.add_g(b.0, c.0, d.0), self.1.add_g(b.1, c.1, d.1)) }
    }

    #[inline(always)]
    unsafe fn add_h(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(self.0.add_h(b.0, c.0, d.0), self.1.add_h(b.1, c.1, d.1)) }
    }

    #[inline(always)]
    unsafe fn add_i(self, b: Self, c: Self, d: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(self.0.add_i(b.0, c.0, d.0), self.1.add_i(b.1, c.1, d.1)) }
    }

    #[inline(always)]
    unsafe fn block(inputs: &[*const u8; LANES_MAX], offset: usize) -> [Self; BLOCK_WORDS] {
        let mut second = *inputs;
        second.rotate_left(W::LANES);
        // SAFETY: as above; the second half's inputs now come first.
        let (first, second) = unsafe { (W::block(inputs, offset), W::block(&second, offset)) };
        let mut words = [Self(first[0], second[0]); BLOCK_WORDS];
        let mut word = 1;
        while word < BLOCK_WORDS {
            words[word] = Self(first[word], second[word]);
            word += 1;
        }
        words
    }

    #[inline(always)]
    unsafe fn take(chains: &[Chain; LANES_MAX], word: usize) -> Self {
        let mut second = *chains;
        second.rotate_left(W::LANES);
        // SAFETY: as above.
        unsafe { Self(W::take(chains, word), W::take(&second, word)) }
    }

    #[inline(always)]
    unsafe fn put(self, chains: &mut [Chain; LANES_MAX], word: usize) {
        // SAFETY: as above.
        unsafe {
            self.0.put(chains, word);
            chains.rotate_left(W::LANES);
            self.1.put(chains, word);
            chains.rotate_right(W::LANES);
        }
    }
}

/// Four steps, after which each of the four has changed.
macro_rules! four_steps {
    ($function:ident, $chain:ident, $words:ident, $first:expr, $index:expr, $($place:tt: $left:literal),*) => {
        let mut step = 0;
        while step < 16 {
            $({
                let at = $first + step + (4 - $place) % 4;
                let [a, b, c, d] = [
                    $chain[$place], $chain[($place + 1) % 4], $chain[($place + 2) % 4], $chain[($place + 3) % 4],
                ];
                let sum = a.add($words[$index(at)].add(W::same(SINES[at])));
                $chain[$place] = sum.$function(b, c, d).rotate::<$left, { 32 - $left }>().add(b);
            })*
            step += 4;
        }
    };
}

/// What word a step takes, in each of the four rounds.
const fn straight(at: usize) -> usize {
    at % 16
}
const fn by_5(at: usize) -> usize {
    (5 * at + 1) % 16
}
const fn by_3(at: usize) -> usize {
    (3 * at + 5) % 16
}
const fn by_7(at: usize) -> usize {
    (7 * at) % 16
}

/// Compresses `blocks` blocks of each input into its chain.
///
/// # Safety
/// The instruction set exists, and `64 * blocks` bytes at each of the first `W::LANES` inputs are readable.
#[inline(always)]
unsafe fn advance<W: Words>(chains: &mut [Chain; LANES_MAX], inputs: &[*const u8; LANES_MAX], blocks: usize) {
    // SAFETY: as the caller promises; every offset is less than `64 * blocks` by a block or more.
    unsafe {
        let mut chain = [W::take(chains, 0), W::take(chains, 1), W::take(chains, 2), W::take(chains, 3)];
        let mut block = 0;
        while block < blocks {
            let words = W::block(inputs, block * BLOCK_BYTES);
            let before = chain;
            four_steps!(add_f, chain, words, 0, straight, 0: 7, 3: 12, 2: 17, 1: 22);
            four_steps!(add_g, chain, words, 16, by_5, 0: 5, 3: 9, 2: 14, 1: 20);
            four_steps!(add_h, chain, words, 32, by_3, 0: 4, 3: 11, 2: 16, 1: 23);
            four_steps!(add_i, chain, words, 48, by_7, 0: 6, 3: 10, 2: 15, 1: 21);
            chain = [
                chain[0].add(before[0]),
                chain[1].add(before[1]),
                chain[2].add(before[2]),
                chain[3].add(before[3]),
            ];
            block += 1;
        }
        let [a, b, c, d] = chain;
        a.put(chains, 0);
        b.put(chains, 1);
        c.put(chains, 2);
        d.put(chains, 3);
    }
}

/// Checks the lengths, and gives lanes that nobody uses the first stream, whose result they drop.
fn with_all_lanes(
    lanes: usize,
    chains: &mut [Chain],
    inputs: &[&[u8]],
    advance: impl FnOnce(&mut [Chain; LANES_MAX], &[*const u8; LANES_MAX], usize),
) {
    let Some(first) = inputs.first() else { return };
    assert!(inputs.len() <= lanes && lanes <= LANES_MAX, "{} streams in {lanes} lanes", inputs.len());
    assert_eq!(inputs.len(), chains.len(), "a chain for each input");
    assert!(inputs.iter().all(|input| input.len() == first.len()), "inputs of unequal length");
    assert!(first.len().is_multiple_of(BLOCK_BYTES), "not whole blocks");
    let mut all = [Chain::default(); LANES_MAX];
    let mut pointers = [first.as_ptr(); LANES_MAX];
    for ((chain, pointer), (given, input)) in all.iter_mut().zip(&mut pointers).zip(chains.iter().zip(inputs))
    {
        *chain = *given;
        *pointer = input.as_ptr();
    }
    advance(&mut all, &pointers, first.len() / BLOCK_BYTES);
    for (given, chain) in chains.iter_mut().zip(all) {
        *given = chain;
    }
}

/// The kernel of an instruction set: the generic loop behind functions that enable it, one with few lanes and one with all. The type
/// `$kernel` has values only where the instructions exist.
macro_rules! kernel {
    ($kernel:ident, $name:literal, $few:ty, $all:ty, least $least:literal $(, #[$enable:meta])?) => {
        $(#[$enable])?
        unsafe fn advance_few(
            chains: &mut [$crate::kernel::md5::Chain; $crate::kernel::md5::LANES_MAX],
            inputs: &[*const u8; $crate::kernel::md5::LANES_MAX],
            blocks: usize,
        ) {
            // SAFETY: the caller promises what the loop asks for, and the instructions are enabled.
            unsafe { $crate::kernel::md5::advance::<$few>(chains, inputs, blocks) }
        }

        $(#[$enable])?
        unsafe fn advance_all(
            chains: &mut [$crate::kernel::md5::Chain; $crate::kernel::md5::LANES_MAX],
            inputs: &[*const u8; $crate::kernel::md5::LANES_MAX],
            blocks: usize,
        ) {
            // SAFETY: the caller promises what the loop asks for, and the instructions are enabled.
            unsafe { $crate::kernel::md5::advance::<$all>(chains, inputs, blocks) }
        }

        impl $crate::kernel::md5::Kernel for $kernel {
            fn name(&self) -> &'static str {
                $name
            }

            fn lanes(&self) -> usize {
                <$all as $crate::kernel::md5::Words>::LANES
            }

            fn least(&self) -> usize {
                $least
            }

            fn advance(&self, chains: &mut [$crate::kernel::md5::Chain], inputs: &[&[u8]]) {
                let few = inputs.len() <= <$few as $crate::kernel::md5::Words>::LANES;
                $crate::kernel::md5::with_all_lanes(self.lanes(), chains, inputs, |chains, inputs, blocks| {
                    // SAFETY: `self` exists, so the instructions do; every pointer is that of a slice of `64 * blocks` bytes.
                    unsafe {
                        if few {
                            advance_few(chains, inputs, blocks);
                        } else {
                            advance_all(chains, inputs, blocks);
                        }
                    }
                });
            }
        }
    };
}

use kernel;
