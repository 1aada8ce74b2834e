//! MD5, because S3's clients take an ETag for it: of one stream, or of many side by side.
//!
//! One stream's MD5 is 40 times slower than the encoder, and nothing helps that; but 16 streams take hardly longer than one. So
//! whoever has several hands their next bytes over together ([`Md5Lanes::update`]). It guards nothing: what must resist an
//! adversary is BLAKE3.
//!
//! Not here, on purpose: threads and queues. Invariant: for any bytes, cut and mixed with other streams in any way, the digest is
//! that of RFC 1321.

use std::fmt;

use crate::kernel::md5::{self as kernel, BLOCK_BYTES, Chain, Kernel, LANES_MAX};

/// One stream's MD5 so far.
#[derive(Clone)]
pub struct Md5 {
    chain: Chain,
    /// The bytes after the last whole block; `bytes % 64` of them.
    tail: [u8; BLOCK_BYTES],
    bytes: u64,
}

impl Md5 {
    /// Of no bytes yet.
    #[must_use]
    pub const fn new() -> Self {
        let chain = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
        Self { chain, tail: [0; BLOCK_BYTES], bytes: 0 }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let rest = self.fill_tail(bytes);
        let (blocks, rest) = rest.split_at(rest.len() - rest.len() % BLOCK_BYTES);
        kernel::one(&mut self.chain, blocks);
        self.bytes = self.bytes.wrapping_add(blocks.len() as u64);
        self.keep(rest);
    }

    /// The MD5 of all bytes.
    #[must_use]
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.bytes.wrapping_mul(8);
        let mut padding = [0; 2 * BLOCK_BYTES];
        padding[0] = 0x80;
        // One 0x80, zeroes, and the length in the last 8 bytes of a block.
        let end = BLOCK_BYTES + (BLOCK_BYTES - 8) - self.tail_bytes();
        let padding_bytes = if end > BLOCK_BYTES { end - BLOCK_BYTES } else { end };
        padding[padding_bytes..padding_bytes + 8].copy_from_slice(&bits.to_le_bytes());
        self.update(&padding[..padding_bytes + 8]);
        let mut digest = [0; 16];
        for (place, word) in digest.chunks_exact_mut(4).zip(self.chain) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }

    const fn tail_bytes(&self) -> usize {
        (self.bytes % BLOCK_BYTES as u64) as usize
    }

    /// Completes the block that was begun, if there is one; what is left of the bytes. Afterwards either none are, or no block is
    /// begun.
    fn fill_tail<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let begun = self.tail_bytes();
        if begun == 0 {
            return bytes;
        }
        let (taken, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - begun));
        self.tail[begun..begun + taken.len()].copy_from_slice(taken);
        self.bytes = self.bytes.wrapping_add(taken.len() as u64);
        if self.tail_bytes() == 0 && !taken.is_empty() {
            kernel::one(&mut self.chain, &self.tail);
        }
        rest
    }

    /// Keeps less than a block for later, when no block is begun.
    fn keep(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.tail[..rest.len()].copy_from_slice(rest);
            self.bytes = self.bytes.wrapping_add(rest.len() as u64);
        }
    }
}

impl Default for Md5 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Md5 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Md5 of {} bytes", self.bytes)
    }
}

/// Hashes streams side by side, as many at once as this machine's vectors hold.
#[derive(Debug)]
pub struct Md5Lanes {
    kernel: Box<dyn Kernel>,
}

impl Md5Lanes {
    /// The fastest of this machine that does what one stream does.
    #[must_use]
    pub fn best() -> Self {
        let right = Self::all().into_iter().find(Self::is_right);
        right.unwrap_or_else(|| Self { kernel: Box::new(kernel::Portable4) })
    }

    /// Looked at where it runs, since a kernel may meet its processor there for the first time, and a wrong one would refuse what
    /// clients send.
    fn is_right(&self) -> bool {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().map(|byte| byte.wrapping_mul(167)).take(1024).collect();
        let inputs: Vec<&[u8]> =
            (0..self.lanes()).filter_map(|lane| bytes.get(lane * 7..lane * 7 + 640)).collect();
        let mut streams = vec![Md5::new(); inputs.len()];
        self.update(&mut streams.iter_mut().zip(inputs.iter().copied()).collect::<Vec<_>>());
        streams.into_iter().zip(inputs).all(|(together, input)| {
            let mut alone = Md5::new();
            alone.update(input);
            together.finish() == alone.finish()
        })
    }

    /// All that this machine can run, the fastest first.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut kernels: Vec<Box<dyn Kernel>> = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            kernels.extend(kernel::Avx512::detect().map(|kernel| Box::new(kernel) as Box<dyn Kernel>));
            kernels.extend(kernel::Avx2::detect().map(|kernel| Box::new(kernel) as Box<dyn Kernel>));
        }
        kernels.push(Box::new(kernel::Portable4));
        kernels.into_iter().map(|kernel| Self { kernel }).collect()
    }

    /// Its instruction set.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.kernel.name()
    }

    /// So many streams take hardly longer than one.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.kernel.lanes()
    }

    /// The next bytes of each stream: what [`Md5::update`] does to each, sooner. Best when no more than [`Md5Lanes::lanes`] come
    /// together, all with as many bytes.
    pub fn update(&self, streams: &mut [(&mut Md5, &[u8])]) {
        for (md5, bytes) in streams.iter_mut() {
            *bytes = md5.fill_tail(bytes);
        }
        while self.step(streams) {}
        for (md5, bytes) in streams {
            md5.keep(bytes);
        }
    }

    /// Takes as many streams as there are lanes, and from each as many blocks as all of them have; false when none has any.
    fn step(&self, streams: &mut [(&mut Md5, &[u8])]) -> bool {
        let whole = |bytes: &[u8]| bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
        let has_block = |stream: &&mut (&mut Md5, &[u8])| stream.1.len() >= BLOCK_BYTES;
        let mut chosen: Vec<_> = streams.iter_mut().filter(has_block).take(self.lanes()).collect();
        let count = chosen.len();
        match chosen.as_mut_slice() {
            [] => false,
            // So few are quicker one after the other, in ordinary registers.
            [(md5, bytes), others @ ..] if others.len() + 1 < self.kernel.least() => {
                let (blocks, rest) = bytes.split_at(whole(bytes));
                md5.update(blocks);
                *bytes = rest;
                true
            }
            chosen => {
                let common = chosen.iter().map(|(_, bytes)| whole(bytes)).min().unwrap_or_default();
                let mut chains = [Chain::default(); LANES_MAX];
                let mut inputs: [&[u8]; LANES_MAX] = [&[]; LANES_MAX];
                for ((chain, input), (md5, bytes)) in chains.iter_mut().zip(&mut inputs).zip(&mut *chosen) {
                    (*input, *bytes) = bytes.split_at(common);
                    *chain = md5.chain;
                }
                self.kernel.advance(&mut chains[..count], &inputs[..count]);
                for (chain, (md5, _)) in chains.into_iter().zip(chosen) {
                    md5.chain = chain;
                    md5.bytes = md5.bytes.wrapping_add(common as u64);
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ::md5::{Digest as _, Md5 as Reference};
    use proptest::prelude::*;

    use super::*;

    fn reference(bytes: &[u8]) -> [u8; 16] {
        Reference::digest(bytes).into()
    }

    fn bytes(length: usize, seed: u64) -> Vec<u8> {
        (0..length as u64)
            .map(|i| (i.wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 41) as u8)
            .collect()
    }

    #[test]
    fn the_test_suite_of_the_rfc() {
        let of = |text: &str| {
            let mut md5 = Md5::new();
            md5.update(text.as_bytes());
            md5.finish().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(of(""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(of("abc"), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(of("abcdefghijklmnopqrstuvwxyz"), "c3fcd3d76192e4007dfb496cca67e13b");
        assert_eq!(of(&"1234567890".repeat(8)), "57edf4a22be3c955ac49da2e2107b67a");
    }

    #[test]
    fn every_length_around_the_blocks() {
        for length in 0..300 {
            let bytes = bytes(length, 1);
            let mut md5 = Md5::new();
            md5.update(&bytes);
            assert_eq!(md5.finish(), reference(&bytes), "{length} bytes");
        }
    }

    #[test]
    fn the_best_is_the_first_since_all_are_right() {
        assert!(Md5Lanes::all().iter().all(Md5Lanes::is_right));
        assert_eq!(Md5Lanes::best().name(), Md5Lanes::all()[0].name());
    }

    #[test]
    fn every_number_of_streams_in_every_kernel() {
        for lanes in Md5Lanes::all() {
            for count in 0..=2 * LANES_MAX + 1 {
                let inputs: Vec<Vec<u8>> = (0..count).map(|stream| bytes(64 * 7, stream as u64)).collect();
                let mut streams = vec![Md5::new(); count];
                let mut both: Vec<_> = streams.iter_mut().zip(inputs.iter().map(Vec::as_slice)).collect();
                lanes.update(&mut both);
                for (md5, input) in streams.into_iter().zip(&inputs) {
                    assert_eq!(md5.finish(), reference(input), "{} with {count}", lanes.name());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn cut_in_any_way(length in 0..2000_usize, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let bytes = bytes(length, 7);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(length + 1)).chain([0, length]).collect();
            at.sort_unstable();
            let mut md5 = Md5::new();
            for pair in at.windows(2) {
                md5.update(&bytes[pair[0]..pair[1]]);
            }
            prop_assert_eq!(md5.finish(), reference(&bytes));
        }

        #[test]
        fn any_mix_of_streams_is_what_each_is_alone(
            lengths in prop::collection::vec(prop::collection::vec(prop_oneof![0..200_usize, Just(64), Just(640), 0..3000_usize], 0..5), 0..40),
            seed in any::<u64>(),
        ) {
            for lanes in Md5Lanes::all() {
                let mut streams = vec![Md5::new(); lengths.len()];
                let wholes: Vec<Vec<u8>> =
                    lengths.iter().enumerate().map(|(stream, pieces)| bytes(pieces.iter().sum(), seed ^ stream as u64)).collect();
                let mut done = vec![0; lengths.len()];
                for round in 0..5 {
                    let mut both = Vec::new();
                    for ((md5, whole), (pieces, done)) in streams.iter_mut().zip(&wholes).zip(lengths.iter().zip(&mut done)) {
                        if let Some(length) = pieces.get(round) {
                            both.push((md5, &whole[*done..*done + length]));
                            *done += length;
                        }
                    }
                    lanes.update(&mut both);
                }
                for (md5, whole) in streams.into_iter().zip(&wholes) {
                    prop_assert_eq!(md5.finish(), reference(whole), "{}", lanes.name());
                }
            }
        }
    }
}
