//! The checks that every codec makes before it writes its first byte.

use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, SHARD_ALIGN_BYTES, TOTAL_SHARDS};

use crate::checksum::BlockSums;
use crate::codec::{CodecError, Rebuilt, Source};

/// The common length of the shards to encode.
pub(super) fn encode(
    data: &[&[u8]; DATA_SHARDS],
    parity: &[&mut [u8]; PARITY_SHARDS],
    with_sums: bool,
) -> Result<usize, CodecError> {
    let shard_bytes = positive_multiple(data[0].len())?;
    let lengths = data.iter().map(|shard| shard.len()).chain(parity.iter().map(|shard| shard.len()));
    for (index, found_bytes) in lengths.enumerate() {
        equal(index, shard_bytes, found_bytes)?;
    }
    if with_sums && !BlockSums::fits(shard_bytes) {
        return Err(CodecError::TooManyBlocks { shard_bytes });
    }
    Ok(shard_bytes)
}

/// The common length of the shards to reconstruct from and into, given the lengths of those that are present and what is wanted: an
/// index and a length each.
pub(super) fn reconstruct(
    present: &[Option<usize>; TOTAL_SHARDS],
    wanted: impl Iterator<Item = (usize, usize)>,
) -> Result<usize, CodecError> {
    let shards = || present.iter().enumerate().filter_map(|(index, bytes)| Some((index, (*bytes)?)));
    let (_, first_bytes) = shards().next().ok_or(CodecError::TooFewShards { present: 0 })?;
    let shard_bytes = positive_multiple(first_bytes)?;
    for (index, found_bytes) in shards() {
        equal(index, shard_bytes, found_bytes)?;
    }
    let mut asked = [false; TOTAL_SHARDS];
    for (index, found_bytes) in wanted {
        let (Some(asked), Some(shard)) = (asked.get_mut(index), present.get(index)) else {
            return Err(CodecError::NoSuchShard { index });
        };
        if shard.is_some() {
            return Err(CodecError::NotMissing { index });
        }
        if std::mem::replace(asked, true) {
            return Err(CodecError::AskedTwice { index });
        }
        equal(index, shard_bytes, found_bytes)?;
    }
    let found = shards().count();
    if found < DATA_SHARDS {
        return Err(CodecError::TooFewShards { present: found });
    }
    Ok(shard_bytes)
}

/// The same where sums come along.
pub(super) fn verified(
    present: &[Option<Source<'_>>; TOTAL_SHARDS],
    rebuild: &[Rebuilt<'_>],
) -> Result<usize, CodecError> {
    let wanted = rebuild.iter().map(|shard| (shard.index, shard.bytes.len()));
    let shard_bytes = reconstruct(&present.map(|source| source.map(|source| source.bytes.len())), wanted)?;
    if !BlockSums::fits(shard_bytes) {
        return Err(CodecError::TooManyBlocks { shard_bytes });
    }
    Ok(shard_bytes)
}

/// The common length of a data shard before and after, and of the parity that is to follow it.
pub(super) fn update(
    index: usize,
    old: &[u8],
    new: &[u8],
    parity: &[&mut [u8]; PARITY_SHARDS],
) -> Result<usize, CodecError> {
    if index >= DATA_SHARDS {
        return Err(CodecError::NotData { index });
    }
    let shard_bytes = positive_multiple(old.len())?;
    equal(index, shard_bytes, new.len())?;
    for (row, shard) in parity.iter().enumerate() {
        equal(DATA_SHARDS + row, shard_bytes, shard.len())?;
    }
    Ok(shard_bytes)
}

fn positive_multiple(shard_bytes: usize) -> Result<usize, CodecError> {
    if shard_bytes == 0 || !shard_bytes.is_multiple_of(SHARD_ALIGN_BYTES) {
        return Err(CodecError::ShardBytes { shard_bytes });
    }
    Ok(shard_bytes)
}

fn equal(index: usize, expected_bytes: usize, found_bytes: usize) -> Result<(), CodecError> {
    if found_bytes != expected_bytes {
        return Err(CodecError::UnequalShards { index, expected_bytes, found_bytes });
    }
    Ok(())
}
