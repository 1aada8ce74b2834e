//! A row of the stripe table: where a stripe's 14 shards are, and how each is recognised.

use crate::limits::{SHARD_ALIGN_BYTES, SHARD_BYTES_MIN, TOTAL_SHARDS};
use crate::{Digest, Epoch, GroupId, ShardIndex, StripeId, TargetId, Wire};
use serde::{Deserialize, Serialize};

/// A shard that could not go to the target of its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Override {
    /// Which shard.
    pub index: ShardIndex,
    /// The target that holds it.
    pub target: TargetId,
}

/// One row of the stripe table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StripeRow {
    /// The stripe.
    pub id: StripeId,
    /// Its placement group: shard *i* is on the group's target *i*, unless an override says otherwise.
    pub group: GroupId,
    /// The epoch of the map by which it was written.
    pub epoch: Epoch,
    /// Object bytes in it, 1 to 10 × `SHARD_BYTES_MAX`; the rest of the data shards is zero.
    pub data_bytes: u32,
    /// Bytes that manifests refer to.
    pub live_bytes: u32,
    /// The digest of each shard.
    pub digests: [Digest; TOTAL_SHARDS],
    /// The shards that are elsewhere.
    pub overrides: Vec<Override>,
}

impl StripeRow {
    /// Payload of each of the 14 shards, bytes.
    pub fn shard_bytes(&self) -> usize {
        shard_bytes(self.data_bytes as usize)
    }
    /// Where an override puts a shard.
    pub fn override_of(&self, index: ShardIndex) -> Option<TargetId> {
        self.overrides.iter().find(|entry| entry.index == index).map(|entry| entry.target)
    }
}

impl Wire for StripeRow {
    const NAME: &'static str = "stripe row";
}

/// Payload of each shard of a stripe with so many object bytes: a tenth, rounded up to whole cache lines, at least
/// `SHARD_BYTES_MIN`.
pub fn shard_bytes(data_bytes: usize) -> usize {
    data_bytes.div_ceil(crate::limits::DATA_SHARDS).next_multiple_of(SHARD_ALIGN_BYTES).max(SHARD_BYTES_MIN)
}
