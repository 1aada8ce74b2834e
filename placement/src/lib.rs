//! The cluster map, failure domains and placement groups, as pure functions.
//!
//! A stripe's placement group is a row of 14 targets; shard *i* lives on target *i*. This crate says which rows there are
//! ([`plan`]), how they change when targets come and go ([`rebalance`], [`diff`]), which row a new stripe takes
//! ([`ClusterMap::choose_group`]), who stands in for a target that is absent ([`ClusterMap::substitutes`]) and where a shard is
//! to be read ([`ClusterMap::holders`]).
//!
//! It knows no network, no Raft and no time: the same map gives the same rows on every machine, so there is no floating
//! point in it and no ambient randomness. Chance comes in as a `seed`.
//!
//! **Failure domains** nest: rack > node > target. The *widest* row is the one that spreads its 14 shards most evenly over
//! nodes, and among those most evenly over racks, and among those over targets. Nodes come first because they fail first: with
//! one small rack and one large one, even racks would pile shards on the small rack's nodes, and one lost node could take more
//! than the four shards that a stripe can lose.

mod choose;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod map;
mod plan;
mod spread;
mod standing;

pub use map::{ClusterMap, Node, NodeState, Row, Slot, Target, TargetState};
pub use plan::{Move, default_group_count, diff, plan, rebalance};
pub use standing::{Standing, nodes_to_lose};

/// A well mixed number of a few others (the finalizer of `SplitMix64`), the same on every machine.
pub(crate) fn mix(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0x9e37_79b9_7f4a_7c15, |state, &number| {
        let mut x = (state ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    })
}
