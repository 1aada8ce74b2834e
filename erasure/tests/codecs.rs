//! Every codec of this machine against `reed-solomon-erasure` itself: all loss patterns, odd lengths, odd alignments.
#![allow(clippy::unwrap_used)] // The helpers of tests are tests too.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reed_solomon_erasure::galois_8::ReedSolomon;
use tenfour_erasure::{
    BlockSums, Codec, CodecError, PARITY_MATRIX, Rebuilt, Source, all, best, block_sums, by_name,
};

type Stripe = [Vec<u8>; 14];

/// Random data, parity by `reed-solomon-erasure`.
fn stripe(shard_bytes: usize, seed: u64) -> Stripe {
    let mut random = StdRng::seed_from_u64(seed);
    let mut shards: Stripe = std::array::from_fn(|_| vec![0; shard_bytes]);
    for shard in &mut shards[..10] {
        random.fill_bytes(shard);
    }
    ReedSolomon::new(10, 4).unwrap().encode(&mut shards[..]).unwrap();
    shards
}

fn data(stripe: &Stripe) -> [&[u8]; 10] {
    std::array::from_fn(|shard| &stripe[shard][..])
}

fn lost(mask: u32) -> Vec<usize> {
    (0..14).filter(|shard| mask >> shard & 1 == 1).collect()
}

/// Loses the shards of `mask`, rebuilds those of `wanted` into buffers that begin `skew` bytes off, compares.
fn rebuild(codec: &dyn Codec, stripe: &Stripe, mask: u32, wanted: &[usize], skew: usize) {
    let shard_bytes = stripe[0].len();
    let present = std::array::from_fn(|shard| (mask >> shard & 1 == 0).then_some(&stripe[shard][..]));
    let mut buffers: Vec<Vec<u8>> = wanted.iter().map(|_| vec![0xa5; shard_bytes + skew + 1]).collect();
    let mut outputs: Vec<(usize, &mut [u8])> = wanted
        .iter()
        .copied()
        .zip(buffers.iter_mut().map(|buffer| &mut buffer[skew..skew + shard_bytes]))
        .collect();
    codec.reconstruct(&present, &mut outputs).unwrap();
    for (shard, buffer) in wanted.iter().zip(&buffers) {
        let name = codec.name();
        assert_eq!(buffer[skew..skew + shard_bytes], stripe[*shard], "{name} lost {mask:014b} shard {shard}");
        assert!(
            buffer[..skew].iter().chain(&buffer[skew + shard_bytes..]).all(|byte| *byte == 0xa5),
            "{name} wrote outside"
        );
    }
}

#[test]
fn all_1471_loss_patterns_of_every_codec() {
    let masks: Vec<u32> = (0..1 << 14).filter(|mask: &u32| mask.count_ones() <= 4).collect();
    assert_eq!(masks.len(), 1471);
    for shard_bytes in [64, 64 * 3, 64 * 17, 8192 + 64, 64 * 301] {
        let stripe = stripe(shard_bytes, shard_bytes as u64);
        for codec in all() {
            for mask in &masks {
                rebuild(&*codec, &stripe, *mask, &lost(*mask), 0);
            }
        }
    }
}

/// The reference crate rebuilds the same bytes: the stripes above are its own, and so is what comes back.
#[test]
fn the_reference_rebuilds_what_we_encode() {
    let original = stripe(64 * 5, 3);
    for codec in all() {
        let mut ours = original.clone();
        ours[10..].iter_mut().for_each(|shard| shard.fill(0));
        let (data, parity) = ours.split_at_mut(10);
        let data: [&[u8]; 10] = std::array::from_fn(|shard| &data[shard][..]);
        let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(|shard| &mut shard[..]).collect();
        codec.encode(&data, parity.as_mut_slice().try_into().unwrap(), None).unwrap();
        for mask in (0..1_u32 << 14).filter(|mask| mask.count_ones() == 4) {
            let mut shards: Vec<Option<Vec<u8>>> =
                (0..14).map(|shard| (mask >> shard & 1 == 0).then(|| ours[shard].clone())).collect();
            ReedSolomon::new(10, 4).unwrap().reconstruct(&mut shards).unwrap();
            assert!(shards.iter().zip(&original).all(|(found, shard)| found.as_ref() == Some(shard)));
        }
    }
}

#[test]
fn some_of_the_lost_shards_alone() {
    let stripe = stripe(64 * 9, 11);
    for codec in all() {
        for mask in (0..1_u32 << 14).filter(|mask| mask.count_ones() == 4) {
            let lost = lost(mask);
            rebuild(&*codec, &stripe, mask, &[lost[mask as usize % 4]], 0);
            rebuild(&*codec, &stripe, mask, &[lost[3], lost[0]], 0);
            rebuild(&*codec, &stripe, mask, &[lost[2], lost[3], lost[1]], 0);
            rebuild(&*codec, &stripe, mask, &[], 0);
        }
    }
}

/// Shards with their sums, without those of `mask`.
fn sources<'a>(stripe: &'a Stripe, sums: &'a [BlockSums; 14], mask: u32) -> [Option<Source<'a>>; 14] {
    std::array::from_fn(|shard| {
        let source = Source { bytes: &stripe[shard], sums: &sums[shard] };
        (mask >> shard & 1 == 0).then_some(source)
    })
}

#[test]
fn verified_reconstruction_of_all_loss_patterns() {
    for shard_bytes in [64 * 3, 16384 + 64 * 5] {
        let stripe = stripe(shard_bytes, 17);
        let sums = stripe.each_ref().map(|shard| block_sums(shard));
        for codec in all() {
            for mask in (0..1_u32 << 14).filter(|mask| mask.count_ones() <= 4) {
                let mut buffers = [const { Vec::new() }; 4].map(|_: Vec<u8>| vec![0x77; shard_bytes]);
                let stale = || BlockSums::try_from(&[1, 2, 3][..]).unwrap();
                let mut rebuild: Vec<Rebuilt<'_>> = lost(mask)
                    .into_iter()
                    .zip(&mut buffers)
                    .map(|(index, bytes)| Rebuilt { index, bytes, sums: stale() })
                    .collect();
                codec.reconstruct_verified(&sources(&stripe, &sums, mask), &mut rebuild).unwrap();
                for shard in rebuild {
                    assert_eq!(shard.bytes, stripe[shard.index], "{} {mask:014b}", codec.name());
                    assert_eq!(shard.sums, sums[shard.index], "{} {mask:014b}", codec.name());
                }
            }
        }
    }
}

/// Whichever shard is damaged, and wherever: it is named, and without it the others give the right bytes.
#[test]
fn verified_reconstruction_names_the_bad_shard() {
    let shard_bytes = 2 * 16384 + 64 * 7;
    let good = stripe(shard_bytes, 23);
    let sums = good.each_ref().map(|shard| block_sums(shard));
    for codec in all() {
        for (bad, at) in (0..14).flat_map(|bad| [0, 16383, 16384, shard_bytes - 1].map(|at| (bad, at))) {
            let mut damaged = good.clone();
            damaged[bad][at] ^= 0x10;
            let lost = (bad + 5) % 14;
            let mut buffer = vec![0; shard_bytes];
            let mut mask = 1 << lost;
            let mut named = Vec::new();
            loop {
                let mut rebuild = [Rebuilt { index: lost, bytes: &mut buffer, sums: BlockSums::new() }];
                match codec.reconstruct_verified(&sources(&damaged, &sums, mask), &mut rebuild) {
                    Ok(()) => break,
                    Err(CodecError::BadShard { index, block }) => {
                        named.push((index, block));
                        mask |= 1 << index;
                    }
                    Err(other) => panic!("{}: {other}", codec.name()),
                }
                assert!(named.len() < 2, "{} named {named:?}", codec.name());
            }
            assert_eq!(buffer, good[lost], "{} shard {bad}", codec.name());
            assert!(named.is_empty() || named == [(bad, at / 16384)], "{} named {named:?}", codec.name());
            // Ten shards, the bad one among them, all have to be read.
            let others: Vec<usize> =
                (0..14).filter(|shard| *shard != bad && *shard != lost).take(3).collect();
            let mask = others.iter().fold(1 << lost, |mask, shard| mask | 1 << shard);
            let mut rebuild = [Rebuilt { index: lost, bytes: &mut buffer, sums: BlockSums::new() }];
            let result = codec.reconstruct_verified(&sources(&damaged, &sums, mask), &mut rebuild);
            assert_eq!(
                result,
                Err(CodecError::BadShard { index: bad, block: at / 16384 }),
                "{}",
                codec.name()
            );
        }
        // Too few sums are a bad shard too.
        let mut buffer = vec![0; shard_bytes];
        let mut rebuild = [Rebuilt { index: 0, bytes: &mut buffer, sums: BlockSums::new() }];
        let mut present = sources(&good, &sums, 0b11_1000_0000_0001);
        present[4] = Some(Source { bytes: &good[4], sums: &sums[4][..2] });
        let result = codec.reconstruct_verified(&present, &mut rebuild);
        assert_eq!(result, Err(CodecError::BadShard { index: 4, block: 2 }), "{}", codec.name());
    }
}

#[test]
fn parity_follows_a_changed_data_shard() {
    for (shard_bytes, skew) in [(64, 0), (64 * 9, 1), (64 * 131, 37)] {
        let (before, other) = (stripe(shard_bytes, 29), stripe(shard_bytes, 31));
        for codec in all() {
            for index in 0..10 {
                let mut after = before.clone();
                after[index].clone_from(&other[index]);
                ReedSolomon::new(10, 4).unwrap().encode(&mut after[..]).unwrap();
                let mut parity: [Vec<u8>; 4] = std::array::from_fn(|row| {
                    [&vec![0x3c; skew], &before[10 + row][..], &[0x3c; 3]].concat()
                });
                let mut places = parity.each_mut().map(|shard| &mut shard[skew..skew + shard_bytes]);
                codec.update(index, &before[index], &after[index], &mut places).unwrap();
                for (row, shard) in parity.iter().enumerate() {
                    let name = codec.name();
                    assert_eq!(shard[skew..skew + shard_bytes], after[10 + row], "{name} {index} {row}");
                    let mut around = shard[..skew].iter().chain(&shard[skew + shard_bytes..]);
                    assert!(around.all(|byte| *byte == 0x3c), "{name} wrote outside");
                }
            }
        }
    }
}

/// Encoding is linear: the 80 unit bits say all that there is to say about it.
#[test]
fn the_80_unit_bits() {
    for codec in all() {
        for bit in 0..80 {
            let mut data = [[0_u8; 64]; 10];
            data[bit / 8][bit % 64] = 1 << (bit % 8);
            let mut parity = [[0xff_u8; 64]; 4];
            codec
                .encode(
                    &data.each_ref().map(|shard| &shard[..]),
                    &mut parity.each_mut().map(|shard| &mut shard[..]),
                    None,
                )
                .unwrap();
            for row in 0..4 {
                let expected = (0..8).fold((0_u8, PARITY_MATRIX[row][bit / 8]), |(sum, power), position| {
                    let doubled = (power << 1) ^ (if power >> 7 == 1 { 0x1d } else { 0 });
                    (if position == bit % 8 { power } else { sum }, doubled)
                });
                let mut shard = [0; 64];
                shard[bit % 64] = expected.0;
                assert_eq!(parity[row], shard, "{} bit {bit} row {row}", codec.name());
            }
        }
    }
}

fn check_encode(codec: &dyn Codec, stripe: &Stripe, skews: [usize; 14], with_sums: bool) {
    let shard_bytes = stripe[0].len();
    let mut buffers: Vec<Vec<u8>> = skews.iter().map(|skew| vec![0x5a; shard_bytes + skew + 9]).collect();
    for (shard, skew) in skews.iter().enumerate().take(10) {
        buffers[shard][*skew..skew + shard_bytes].copy_from_slice(&stripe[shard]);
    }
    let mut slices =
        buffers.iter_mut().zip(skews).map(|(buffer, skew)| &mut buffer[skew..skew + shard_bytes]);
    let data: [&[u8]; 10] = std::array::from_fn(|_| &*slices.next().unwrap());
    let mut parity: [&mut [u8]; 4] = std::array::from_fn(|_| slices.next().unwrap());
    let mut sums: [BlockSums; 14] = std::array::from_fn(|_| BlockSums::try_from(&[1, 2, 3][..]).unwrap());
    codec.encode(&data, &mut parity, with_sums.then_some(&mut sums)).unwrap();
    for (shard, skew) in skews.iter().enumerate() {
        assert_eq!(
            buffers[shard][*skew..skew + shard_bytes],
            stripe[shard],
            "{} shard {shard}",
            codec.name()
        );
        assert!(buffers[shard][skew + shard_bytes..].iter().all(|byte| *byte == 0x5a));
        if with_sums {
            assert_eq!(sums[shard], block_sums(&stripe[shard]), "{} sums of shard {shard}", codec.name());
        }
    }
}

#[test]
fn lengths_around_blocks_and_around_the_cache() {
    for shard_bytes in [64, 16384 - 64, 16384, 16384 + 64, 3 * 16384 + 128, 299_584, 299_648, 1 << 20] {
        let stripe = stripe(shard_bytes, 5);
        for codec in all() {
            // Aligned as an allocation happens to be, and 64-byte aligned, so that stores around the cache are taken.
            check_encode(&*codec, &stripe, [0; 14], shard_bytes < 100_000);
            check_encode(&*codec, &stripe, [3; 14], true);
            check_aligned(&*codec, &stripe);
        }
    }
}

fn check_aligned(codec: &dyn Codec, stripe: &Stripe) {
    let shard_bytes = stripe[0].len();
    let layout = tenfour_erasure::geometry::layout(shard_bytes);
    let mut buffer = vec![0; layout.total_bytes + 64];
    let start = buffer.as_ptr().align_offset(64);
    let buffer = &mut buffer[start..start + layout.total_bytes];
    for (payload, shard) in layout.payloads_mut(buffer).unwrap().into_iter().zip(stripe).take(10) {
        payload.copy_from_slice(shard);
    }
    for with_sums in [false, true] {
        let mut sums = std::array::from_fn(|_| BlockSums::new());
        let mut split = layout.split(buffer).unwrap();
        split.parity.iter_mut().for_each(|shard| shard.fill(0));
        codec.encode(&split.data, &mut split.parity, with_sums.then_some(&mut sums)).unwrap();
        for (shard, payload) in layout.payloads(buffer).unwrap().into_iter().enumerate() {
            assert_eq!(payload, stripe[shard], "{} shard {shard}", codec.name());
            assert!(
                !with_sums || sums[shard] == block_sums(payload),
                "{} sums of shard {shard}",
                codec.name()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_length_and_any_alignment(
        lines in 1..600_usize,
        skews in any::<[u8; 14]>(),
        losses in prop::collection::btree_set(0..14_usize, 0..=4),
        skew in 0..70_usize,
        seed in any::<u64>(),
    ) {
        let stripe = stripe(lines * 64, seed);
        let mask = losses.iter().fold(0, |mask, shard| mask | 1 << shard);
        for codec in all() {
            check_encode(&*codec, &stripe, skews.map(|skew| usize::from(skew % 70)), seed % 2 == 0);
            rebuild(&*codec, &stripe, mask, &lost(mask), skew);
        }
    }

    #[test]
    fn nonsense_is_an_error_and_writes_nothing(
        lengths in prop::collection::vec(prop_oneof![Just(0_usize), Just(64), Just(128), 0..200_usize], 14),
        present in any::<u16>(),
        asked in prop::collection::vec((0..20_usize, prop_oneof![Just(64_usize), 0..200_usize]), 0..7),
    ) {
        for codec in all() {
            let shards: Vec<Vec<u8>> = lengths.iter().map(|length| vec![1; *length]).collect();
            let inputs = std::array::from_fn(|shard| (present >> shard & 1 == 1).then_some(&shards[shard][..]));
            let mut buffers: Vec<Vec<u8>> = asked.iter().map(|(_, length)| vec![0xa5; *length]).collect();
            let mut outputs: Vec<(usize, &mut [u8])> =
                asked.iter().map(|(index, _)| *index).zip(buffers.iter_mut().map(|buffer| &mut buffer[..])).collect();
            if codec.reconstruct(&inputs, &mut outputs).is_err() {
                prop_assert!(buffers.iter().flatten().all(|byte| *byte == 0xa5));
            }
            let data = std::array::from_fn(|shard| &shards[shard][..]);
            let mut parity: Vec<Vec<u8>> = lengths[10..].iter().map(|length| vec![0xa5; *length]).collect();
            let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(|shard| &mut shard[..]).collect();
            let result = codec.encode(&data, outputs.as_mut_slice().try_into().unwrap(), None);
            let well_formed = lengths.iter().all(|length| *length == lengths[0] && *length > 0 && length % 64 == 0);
            prop_assert_eq!(result.is_ok(), well_formed);
            prop_assert!(well_formed || parity.iter().flatten().all(|byte| *byte == 0xa5));
        }
    }
}

#[test]
fn each_error_by_its_name() {
    let good = stripe(128, 1);
    let mut output = [0; 128];
    for codec in all() {
        let mut parity = [[0; 128]; 4];
        let mut encode =
            |data: [&[u8]; 10]| codec.encode(&data, &mut parity.each_mut().map(|shard| &mut shard[..]), None);
        assert_eq!(encode([&[]; 10]), Err(CodecError::ShardBytes { shard_bytes: 0 }));
        assert_eq!(encode([&[0; 65]; 10]), Err(CodecError::ShardBytes { shard_bytes: 65 }));
        let unequal = |index, found_bytes, expected_bytes| CodecError::UnequalShards {
            index,
            expected_bytes,
            found_bytes,
        };
        assert_eq!(encode([&[0; 64]; 10]), Err(unequal(10, 128, 64)));
        let mut data = data(&good);
        data[7] = &data[7][..64];
        assert_eq!(encode(data), Err(unequal(7, 64, 128)));

        let present: [Option<&[u8]>; 14] =
            std::array::from_fn(|shard| (shard > 3).then_some(&good[shard][..]));
        let mut other = [0; 128];
        let mut rebuild = |present, wanted| codec.reconstruct(&present, &mut [(wanted, &mut output[..])]);
        let mut few = present;
        few[5] = None;
        assert_eq!(rebuild(few, 1), Err(CodecError::TooFewShards { present: 9 }));
        assert!(CodecError::TooFewShards { present: 9 }.is_retryable());
        assert_eq!(rebuild([None; 14], 1), Err(CodecError::TooFewShards { present: 0 }));
        assert_eq!(rebuild(present, 14), Err(CodecError::NoSuchShard { index: 14 }));
        assert_eq!(rebuild(present, 4), Err(CodecError::NotMissing { index: 4 }));
        assert!(!CodecError::NotMissing { index: 4 }.is_retryable());
        let mut twice = [(2, &mut output[..]), (2, &mut other[..])];
        assert_eq!(codec.reconstruct(&present, &mut twice), Err(CodecError::AskedTwice { index: 2 }));

        let mut parity = [[0x3c; 128]; 4];
        let mut update = |index: usize, old: &[u8], new: &[u8]| {
            codec.update(index, old, new, &mut parity.each_mut().map(|shard| &mut shard[..]))
        };
        assert_eq!(update(10, &[0; 128], &[0; 128]), Err(CodecError::NotData { index: 10 }));
        assert_eq!(update(usize::MAX, &[0; 128], &[0; 128]), Err(CodecError::NotData { index: usize::MAX }));
        assert_eq!(update(3, &[0; 128], &[0; 64]), Err(unequal(3, 64, 128)));
        assert_eq!(update(3, &[0; 64], &[0; 64]), Err(unequal(10, 128, 64)));
        assert_eq!(update(3, &[0; 63], &[0; 63]), Err(CodecError::ShardBytes { shard_bytes: 63 }));
        assert_eq!(parity, [[0x3c; 128]; 4]);

        let long = vec![0; (1 << 20) + 64];
        let mut parity: [Vec<u8>; 4] = std::array::from_fn(|_| long.clone());
        let mut sums = std::array::from_fn(|_| BlockSums::new());
        let mut parity = parity.each_mut().map(|shard| &mut shard[..]);
        let result = codec.encode(&[&long; 10], &mut parity, Some(&mut sums));
        assert_eq!(result, Err(CodecError::TooManyBlocks { shard_bytes: (1 << 20) + 64 }));
    }
}

#[test]
fn codecs_are_found_by_name() {
    let names: Vec<_> = all().iter().map(|codec| codec.name()).collect();
    assert_eq!(best().name(), names[0]);
    assert!(names.contains(&"scalar"));
    for name in &names {
        assert_eq!(by_name(name).unwrap().name(), *name);
    }
    assert!(by_name("abacus").is_none());
    #[cfg(target_arch = "x86_64")]
    assert_eq!(names.contains(&"avx2"), is_x86_feature_detected!("avx2"));
}
