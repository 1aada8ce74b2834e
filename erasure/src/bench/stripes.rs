//! Stripes to measure on: one contiguous region of huge pages, shards staggered as [`geometry`](crate::geometry) lays them out.

use std::io;

use tenfour_types::limits::{DATA_SHARDS, RECORD_ALIGN_BYTES, TOTAL_SHARDS};

use crate::geometry::{HEADROOM_BYTES, STAGGER_BYTES};
use crate::kernel::peers::Pages;

/// More than the last-level cache of any part of a processor that one core fills.
const REGION_BYTES: usize = 256 << 20;

/// The 14 shards of one stripe.
pub(super) type Shards<'a> = [&'a mut [u8]; TOTAL_SHARDS];

/// The memory, for one length of shards after the other.
pub(super) struct Region(Pages);

impl Region {
    pub(super) fn new() -> io::Result<Self> {
        Pages::new(REGION_BYTES).map(Self)
    }

    /// As many stripes as fit, at least one, their data filled with what no two stripes share.
    pub(super) fn stripes(&mut self, shard_bytes: usize) -> Vec<Shards<'_>> {
        let stride_bytes =
            (HEADROOM_BYTES + shard_bytes).next_multiple_of(RECORD_ALIGN_BYTES) + STAGGER_BYTES;
        let mut state = shard_bytes as u64;
        let regions = self.0.chunks_exact_mut(stride_bytes * TOTAL_SHARDS);
        let stripes = regions.map(|region| {
            let mut places = region.chunks_exact_mut(stride_bytes);
            let mut shards: Shards<'_> = std::array::from_fn(|_| {
                let place = places.next().unwrap_or_default();
                place.get_mut(HEADROOM_BYTES..HEADROOM_BYTES + shard_bytes).unwrap_or_default()
            });
            shards.iter_mut().take(DATA_SHARDS).for_each(|shard| fill(shard, &mut state));
            shards
        });
        stripes.collect()
    }
}

/// Words of a generator that is cheap and has no short period.
fn fill(bytes: &mut [u8], state: &mut u64) {
    for word in bytes.chunks_exact_mut(8) {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&(*state ^ *state >> 29).to_le_bytes());
    }
}
