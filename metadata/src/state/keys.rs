//! Where rows are: the keys of each space. All numbers big-endian, so that the order of bytes is the order of what they name.
//!
//! A key that is followed by something else is escaped (0x00 becomes 0x00 0xff, and 0x00 0x00 ends it), which keeps its order.

use tenfour_types::{
    BucketId, CommandId, Epoch, GroupId, LeaseId, MetaGroupId, ShardIndex, StripeId, TargetId, UploadId,
};

/// Rows of `Space::State`: the first byte says which.
pub(super) mod tag {
    /// Index group: `Head`.
    pub(in crate::state) const HEAD: u8 = 1;
    /// Index group: the metadata group of each key slot, two bytes each.
    pub(in crate::state) const SLOTS: u8 = 2;
    /// Index group: lease → `LeaseRow`.
    pub(in crate::state) const LEASE: u8 = 3;
    /// Index group: bucket → `BucketFence`.
    pub(in crate::state) const BUCKET: u8 = 4;
    /// Index group: epoch, placement group, shard → its target before and since.
    pub(in crate::state) const MOVE: u8 = 5;
    /// Index group: the epochs whose moves are kept.
    pub(in crate::state) const MOVE_EPOCHS: u8 = 6;
    /// Index group: a stripe whose row has overrides.
    pub(in crate::state) const AWAY: u8 = 7;

    /// Cluster group: `Identity`.
    pub(in crate::state) const IDENTITY: u8 = 32;
    /// Cluster group: `Counters`.
    pub(in crate::state) const COUNTERS: u8 = 33;
    /// Cluster group: the `ClusterMap`.
    pub(in crate::state) const MAP: u8 = 34;
    /// Cluster group: bucket name → `BucketRow`.
    pub(in crate::state) const BUCKET_NAME: u8 = 35;
    /// Cluster group: access key → `User`.
    pub(in crate::state) const USER: u8 = 36;
    /// Cluster group: lease → its holder.
    pub(in crate::state) const HOLDER: u8 = 37;
    /// Cluster group: number → `Fence`.
    pub(in crate::state) const FENCE: u8 = 38;
    /// Cluster group: index group → the fence up to which it has committed.
    pub(in crate::state) const FENCE_DONE: u8 = 39;
    /// Cluster group: number → the id whose reply is kept.
    pub(in crate::state) const REPLY_ORDER: u8 = 40;
    /// Cluster group: a lost target → the id of the one in its place.
    pub(in crate::state) const REPLACED: u8 = 41;
    /// Cluster group: placement group, shard → the epoch in which the slot moved last, as long as it is not whole.
    pub(in crate::state) const SLOT_MOVED: u8 = 42;
}

/// Rows of `Space::Uploads`: the first byte says which.
pub(super) mod upload_tag {
    /// In progress.
    pub(in crate::state) const OPEN: u8 = 0;
    /// Completed, and the object that it became is not yet let go.
    pub(in crate::state) const COMPLETED: u8 = 1;
}

pub(super) fn state(tag: u8) -> Vec<u8> {
    vec![tag]
}

pub(super) fn state_number(tag: u8, number: u64) -> Vec<u8> {
    tagged(tag, &number.to_be_bytes())
}

pub(super) fn state_text(tag: u8, text: &str) -> Vec<u8> {
    tagged(tag, text.as_bytes())
}

pub(super) fn lease(lease: LeaseId) -> Vec<u8> {
    state_number(tag::LEASE, lease.0)
}

pub(super) fn bucket_fence(bucket: BucketId) -> Vec<u8> {
    state_number(tag::BUCKET, bucket.0)
}

pub(super) fn fence_done(group: MetaGroupId) -> Vec<u8> {
    tagged(tag::FENCE_DONE, &group.0.to_be_bytes())
}

pub(super) fn replaced(target: TargetId) -> Vec<u8> {
    tagged(tag::REPLACED, &target.0.to_be_bytes())
}

pub(super) fn slot_moved(group: GroupId, index: ShardIndex) -> Vec<u8> {
    let mut key = tagged(tag::SLOT_MOVED, &group.0.to_be_bytes());
    key.push(u8::from(index));
    key
}

/// The mark of a stripe that has overrides.
pub(super) fn away(stripe: StripeId) -> Vec<u8> {
    tagged(tag::AWAY, &stripe.to_bytes())
}

/// The inverse of [`away`].
pub(super) fn parse_away(key: &[u8]) -> Option<StripeId> {
    let (&tag::AWAY, id) = key.split_first()? else { return None };
    Some(StripeId::from_bytes(id.try_into().ok()?))
}

/// Moves of an epoch; with a placement group, those of the group; with a shard, the one.
pub(super) fn moves(epoch: Epoch, group: Option<GroupId>, index: Option<ShardIndex>) -> Vec<u8> {
    let mut key = state_number(tag::MOVE, epoch.0);
    key.extend(group.into_iter().flat_map(|group| group.0.to_be_bytes()));
    key.extend(index.map(u8::from));
    key
}

/// The inverse of [`moves`], whole.
pub(super) fn parse_move(key: &[u8]) -> Option<(Epoch, GroupId, ShardIndex)> {
    let (&tag::MOVE, rest) = key.split_first()? else { return None };
    let (&epoch, rest) = rest.split_first_chunk::<8>()?;
    let (&group, rest) = rest.split_first_chunk::<4>()?;
    let index = ShardIndex::try_from(*rest.first()?).ok()?;
    Some((Epoch(u64::from_be_bytes(epoch)), GroupId(u32::from_be_bytes(group)), index))
}

pub(super) fn command(id: CommandId) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    key.extend_from_slice(&id.lease.0.to_be_bytes());
    key.extend_from_slice(&id.sequence.to_be_bytes());
    key
}

/// The inverse of [`command`].
pub(super) fn parse_command(key: &[u8]) -> Option<CommandId> {
    let (&lease, sequence) = key.split_first_chunk::<8>()?;
    let sequence = u64::from_be_bytes(sequence.try_into().ok()?);
    Some(CommandId { lease: LeaseId(u64::from_be_bytes(lease)), sequence })
}

/// An object; with an empty key or a prefix, where to begin to look for some.
pub(super) fn object(bucket: BucketId, key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len() + 1);
    out.extend_from_slice(&bucket.0.to_be_bytes());
    out.extend_from_slice(key.as_bytes());
    out
}

/// The first key above all that begin with this one (whose last byte is not 0xff: it ends in UTF-8 or a tag).
pub(super) fn past_prefix(mut key: Vec<u8>) -> Vec<u8> {
    while let Some(last) = key.pop() {
        if last < u8::MAX {
            key.push(last + 1);
            break;
        }
    }
    key
}

/// An upload's row.
pub(super) fn upload(upload_tag: u8, bucket: BucketId, key: &str, upload: UploadId) -> Vec<u8> {
    let mut out = uploads_of_key(upload_tag, bucket, key);
    out.extend_from_slice(&command(upload.0));
    out
}

/// Where the uploads of exactly this key begin.
pub(super) fn uploads_of_key(upload_tag: u8, bucket: BucketId, key: &str) -> Vec<u8> {
    let mut out = uploads_of_prefix(upload_tag, bucket, key);
    out.extend_from_slice(&[0, 0]);
    out
}

/// Where the uploads of keys with this prefix begin.
pub(super) fn uploads_of_prefix(upload_tag: u8, bucket: BucketId, prefix: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + 8 + prefix.len() + 18);
    out.push(upload_tag);
    out.extend_from_slice(&bucket.0.to_be_bytes());
    for &byte in prefix.as_bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(u8::MAX);
        }
    }
    out
}

/// Key and upload of an upload's row.
pub(super) fn parse_upload(row: &[u8]) -> Option<(String, UploadId)> {
    let mut rest = row.get(9..)?;
    let mut key = Vec::with_capacity(rest.len());
    loop {
        match rest {
            [0, 0, id @ ..] => return Some((String::from_utf8(key).ok()?, UploadId(parse_command(id)?))),
            [0, u8::MAX, tail @ ..] => {
                key.push(0);
                rest = tail;
            }
            [byte, tail @ ..] => {
                key.push(*byte);
                rest = tail;
            }
            [] => return None,
        }
    }
}

/// A part; number 0 is where the parts of an upload begin.
pub(super) fn part(upload: UploadId, number: u32) -> Vec<u8> {
    let mut out = command(upload.0);
    out.extend_from_slice(&number.to_be_bytes());
    out
}

/// Something to be let go: replaced at a log index by a command, which may replace several things.
pub(super) fn released(at_index: u64, id: CommandId, ordinal: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(25);
    out.extend_from_slice(&at_index.to_be_bytes());
    out.extend_from_slice(&command(id));
    out.push(ordinal);
    out
}

/// The log index of [`released`].
pub(super) fn released_index(key: &[u8]) -> Option<u64> {
    key.first_chunk::<8>().map(|index| u64::from_be_bytes(*index))
}

fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(tag);
    key.extend_from_slice(rest);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn uploads_are_in_the_order_of_keys_and_come_back(a in "[\\x00-\\x02a/é]{0,6}", b in "[\\x00-\\x02a/é]{0,6}", x: u64, y: u64) {
            let id = |sequence| UploadId(CommandId { lease: LeaseId(1), sequence });
            let (one, other) = (upload(0, BucketId(7), &a, id(x)), upload(0, BucketId(7), &b, id(y)));
            prop_assert_eq!((a.as_bytes(), x).cmp(&(b.as_bytes(), y)), one.cmp(&other));
            prop_assert_eq!(parse_upload(&one), Some((a.clone(), id(x))));
            prop_assert_eq!(b.starts_with(&a), other.starts_with(&uploads_of_prefix(0, BucketId(7), &a)));
        }
    }

    #[test]
    fn past_a_prefix_is_past_all_that_begin_with_it() {
        assert_eq!(past_prefix(vec![1, 2]), [1, 3]);
        assert_eq!(past_prefix(vec![1, 0xff]), [2]);
    }
}
