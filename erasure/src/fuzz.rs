//! What must hold of any losses, lengths and alignments: a fuzz target, which a plain test replays over `fuzz/corpus`.
//!
//! The bytes say what is lost, what is asked for, how long the shards are and how far off an aligned address they begin. Every codec
//! of this machine must give the bytes back, or refuse as the reference refuses and write nothing, and never write beside its buffers.

use crate::{BlockSums, Codec, CodecError, all, block_sums, crc64, crc64_of_blocks, verify_blocks};

/// Shards of a case are shorter than this, so that a case takes microseconds.
const UNITS_MAX: usize = 20;
const UNIT_BYTES: usize = 64;
/// What is found beside a buffer, and in one that nothing was written to.
const UNTOUCHED: u8 = 0xa5;
/// Bytes of a case before those that fill its shards.
const HEAD_BYTES: usize = 12;

/// One case.
struct Case {
    present: u16,
    /// In the order asked for; may be nonsense.
    wanted: Vec<usize>,
    shard_bytes: usize,
    /// One shard, and by how many bytes it is longer than the others.
    odd: Option<(usize, usize)>,
    input_skew: usize,
    output_skew: usize,
}

/// Encodes, loses, reconstructs. Whether anything could be reconstructed.
pub fn reconstruct(bytes: &[u8]) -> bool {
    let Some((head, fill)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return false };
    let case = Case::read(head);
    let stripe = stripe(&case, fill);
    let codecs = all();
    let Some((reference, others)) = codecs.split_last() else { return false };
    let expected = run(&**reference, &case, &stripe);
    if let Ok(rebuilt) = &expected {
        for (index, shard) in case.wanted.iter().zip(rebuilt) {
            assert_eq!(shard, &stripe[*index], "the reference, shard {index}");
        }
    }
    for codec in others {
        assert_eq!(run(&**codec, &case, &stripe), expected, "{} and the reference", codec.name());
    }
    expected.is_ok()
}

impl Case {
    fn read(head: &[u8; HEAD_BYTES]) -> Self {
        let [p0, p1, wants, w0, w1, w2, w3, units, rest, odd, input_skew, output_skew] =
            head.map(usize::from);
        let is_ragged = rest >= 250;
        Self {
            present: (p0 | p1 << 8) as u16,
            wanted: [w0, w1, w2, w3, w0 ^ w1].into_iter().take(wants % 6).map(|want| want % 16).collect(),
            shard_bytes: units % UNITS_MAX * UNIT_BYTES + if is_ragged { rest % UNIT_BYTES } else { 0 },
            odd: (odd >= 240).then_some((odd % 14, UNIT_BYTES)),
            input_skew: input_skew % UNIT_BYTES,
            output_skew: output_skew % UNIT_BYTES,
        }
    }

    fn bytes_of(&self, index: usize) -> usize {
        self.shard_bytes + self.odd.filter(|(odd, _)| *odd == index).map_or(0, |(_, more)| more)
    }

    fn is_present(&self, index: usize) -> bool {
        self.present >> index & 1 == 1
    }
}

/// 14 shards that belong together, as all codecs must agree; of lengths that no codec takes, zeros.
fn stripe(case: &Case, fill: &[u8]) -> [Vec<u8>; 14] {
    let bytes = case.shard_bytes;
    let byte = |index: usize, at: usize| {
        let given = fill.get((index * 31 + at) % fill.len().max(1)).copied().unwrap_or(index as u8);
        given.wrapping_mul(((at / 7) as u8) << 1 | 1).wrapping_add(index as u8)
    };
    let mut shards: [Vec<u8>; 14] =
        std::array::from_fn(|index| (0..bytes).map(|at| byte(index, at)).collect());
    let (data, parity) = shards.split_at_mut(10);
    let encoded: Vec<_> = all().into_iter().map(|codec| (codec.name(), encode(&*codec, data))).collect();
    if let Some((_, first)) = encoded.first() {
        encoded.iter().for_each(|(name, other)| assert_eq!(other, first, "{name} encodes differently"));
        assert_eq!(first.is_ok(), bytes > 0 && bytes.is_multiple_of(UNIT_BYTES));
        if let Ok(first) = first {
            parity.iter_mut().zip(first).for_each(|(parity, found)| parity.clone_from(found));
        }
    }
    shards
}

/// The parity of 10 shards; the sums that come with it are those of the bytes.
fn encode(codec: &dyn Codec, data: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, CodecError> {
    let bytes = data.first().map_or(0, Vec::len);
    let mut parity = vec![vec![UNTOUCHED; bytes]; 4];
    let mut sums: [BlockSums; 14] = Default::default();
    let inputs: [&[u8]; 10] = std::array::from_fn(|index| data.get(index).map_or(&[][..], Vec::as_slice));
    let mut outputs: [&mut [u8]; 4] = Default::default();
    outputs.iter_mut().zip(&mut parity).for_each(|(output, parity)| *output = parity);
    codec.encode(&inputs, &mut outputs, Some(&mut sums))?;
    for (sums, shard) in sums.iter().zip(data.iter().chain(&parity)) {
        assert_eq!(*sums, block_sums(shard), "{}", codec.name());
        assert_eq!(crc64_of_blocks(sums, shard.len()), Some(crc64(shard)));
        assert!(verify_blocks(shard, 0, sums).is_ok());
    }
    Ok(parity)
}

/// What is rebuilt, in the order asked for. Inputs and outputs lie in larger buffers, off by the case's skews.
fn run(codec: &dyn Codec, case: &Case, stripe: &[Vec<u8>; 14]) -> Result<Vec<Vec<u8>>, CodecError> {
    let skewed = |index: usize| {
        let mut buffer = vec![UNTOUCHED; case.input_skew];
        buffer.extend(stripe.get(index).into_iter().flatten());
        buffer.resize(case.input_skew + case.bytes_of(index), 0);
        buffer
    };
    let inputs: Vec<Vec<u8>> = (0..14).map(skewed).collect();
    let present: [Option<&[u8]>; 14] = std::array::from_fn(|index| {
        inputs.get(index).filter(|_| case.is_present(index)).and_then(|input| input.get(case.input_skew..))
    });
    let room = |index: &usize| vec![UNTOUCHED; case.output_skew + case.bytes_of(*index) + UNIT_BYTES];
    let mut buffers: Vec<Vec<u8>> = case.wanted.iter().map(room).collect();
    let mut rebuild: Vec<(usize, &mut [u8])> = Vec::new();
    for (index, buffer) in case.wanted.iter().zip(&mut buffers) {
        let (_, place) = buffer.split_at_mut(case.output_skew);
        let (place, _) = place.split_at_mut(case.bytes_of(*index));
        rebuild.push((*index, place));
    }
    let result = codec.reconstruct(&present, &mut rebuild);
    let mut rebuilt = Vec::new();
    for (index, buffer) in case.wanted.iter().zip(&buffers) {
        let (before, rest) = buffer.split_at(case.output_skew);
        let (shard, after) = rest.split_at(case.bytes_of(*index));
        let is_untouched = |bytes: &[u8]| bytes.iter().all(|byte| *byte == UNTOUCHED);
        assert!(is_untouched(before) && is_untouched(after), "{} wrote outside", codec.name());
        assert!(result.is_ok() || is_untouched(shard), "{} refused and wrote", codec.name());
        rebuilt.push(shard.to_vec());
    }
    result.map(|()| rebuilt)
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;
    use super::*;

    /// Losing and asking for these, of shards of so many units.
    fn case(lost: &[u8], units: u8, skew: u8) -> Vec<u8> {
        let present = lost.iter().fold((1_u16 << 14) - 1, |present, index| present & !(1 << index));
        let want = |at: usize| lost.get(at).copied().unwrap_or_default();
        let [low, high] = present.to_le_bytes();
        let head =
            [low, high, lost.len() as u8, want(0), want(1), want(2), want(3), units, 0, 0, skew, skew * 3];
        [&head[..], b"some bytes that fill the shards"].concat()
    }

    #[test]
    fn any_ten_shards_give_back_the_others() {
        let seeds = [
            ("nothing-lost", case(&[], 3, 0)),
            ("one-data-shard", case(&[4], 1, 1)),
            ("two-data-shards", case(&[0, 9], 17, 8)),
            ("three-mixed", case(&[2, 11, 5], 13, 63)),
            ("four-data-shards", case(&[3, 1, 9, 7], 19, 5)),
            ("all-parity", case(&[10, 11, 12, 13], 16, 0)),
            ("four-mixed", case(&[13, 0, 6, 10], 5, 32)),
        ];
        replay("erasure_reconstruct", reconstruct, &seeds);
    }

    #[test]
    fn too_many_lost_and_nonsense_asked_for_are_refused() {
        assert!(!reconstruct(&case(&[0, 1, 2, 3, 4], 3, 0)));
        assert!(!reconstruct(&case(&[3, 3], 3, 0)), "asked twice");
        assert!(!reconstruct(&case(&[0], 0, 0)), "no length");
    }
}
