//! Which blocks of which shards to fetch, as pure functions: of what is needed, what is here, what is on its way, and what is lost.

use std::ops::Range;
use tenfour_erasure::geometry::{StripeGeometry, whole_blocks};
use tenfour_types::ShardIndex;
use tenfour_types::limits::{DATA_SHARDS, TOTAL_SHARDS};

/// Bytes of one data shard that the reader wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Need {
    pub(super) index: ShardIndex,
    /// The bytes, as a range of the payload.
    pub(super) within: Range<usize>,
    /// The whole blocks around them.
    pub(super) blocks: Range<usize>,
}

/// What is known of one shard while it is gathered.
#[derive(Clone, Default, Debug)]
pub(super) struct Shard {
    /// Verified blocks that are here.
    pub(super) held: Option<Range<usize>>,
    /// Blocks that were asked for and have not come.
    pub(super) expected: Option<Range<usize>>,
    /// It is not where it should be, or bad, or nobody answers there.
    pub(super) failed: bool,
    /// It is overdue: it is used when it comes, but not waited for.
    pub(super) late: bool,
}

impl Shard {
    /// What was fetched is let go of; what was learned stays.
    pub(super) fn forget(&mut self) {
        (self.held, self.expected) = (None, None);
    }

    fn holds(&self, range: &Range<usize>) -> bool {
        self.held.as_ref().is_some_and(|held| covers(held, range))
    }

    fn expects(&self, range: &Range<usize>) -> bool {
        self.expected.as_ref().is_some_and(|expected| covers(expected, range))
    }

    fn is_lost(&self) -> bool {
        self.failed || self.late
    }
}

/// What to do next.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Fetch these blocks; none when all that can help is on its way.
    Fetch(Vec<(ShardIndex, Range<usize>)>),
    /// Fewer than ten shards can be had.
    Impossible,
}

/// The parts of data shards that a range of a stripe's bytes touches.
pub(super) fn needs(geometry: StripeGeometry, range: Range<usize>) -> Vec<Need> {
    let part = |touched: tenfour_erasure::geometry::ShardRange| {
        let blocks = whole_blocks(touched.within.clone(), geometry.shard_bytes);
        Some(Need { index: ShardIndex::new(touched.shard)?, within: touched.within, blocks })
    };
    geometry.touched(range).filter_map(part).collect()
}

pub(super) fn covers(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// Whether everything needed is here or can be computed from what is here.
pub(super) fn is_enough(needs: &[Need], shards: &[Shard; TOTAL_SHARDS]) -> bool {
    match rebuild(needs, shards) {
        None => true,
        Some((range, _)) => shards.iter().filter(|shard| shard.holds(&range)).count() >= DATA_SHARDS,
    }
}

/// The blocks that have to be computed of the shards that are needed and not here; `None` when there are no such shards.
pub(super) fn rebuild(
    needs: &[Need],
    shards: &[Shard; TOTAL_SHARDS],
) -> Option<(Range<usize>, Vec<ShardIndex>)> {
    hull(needs.iter().filter(|need| !shards[need.index.get()].holds(&need.blocks)))
}

fn hull<'a>(needs: impl Iterator<Item = &'a Need>) -> Option<(Range<usize>, Vec<ShardIndex>)> {
    let mut found: Option<(Range<usize>, Vec<ShardIndex>)> = None;
    for need in needs {
        let (range, indexes) = found.get_or_insert_with(|| (need.blocks.clone(), Vec::new()));
        *range = union(range, &need.blocks);
        indexes.push(need.index);
    }
    found
}

fn union(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.min(b.start)..a.end.max(b.end)
}

/// What to fetch now. Without lost shards, what is needed; else ten shards' blocks of what the lost ones need, with as few
/// as possible beyond those needed anyway.
pub(super) fn next(needs: &[Need], shards: &[Shard; TOTAL_SHARDS]) -> Step {
    let missing = || needs.iter().filter(|need| !shards[need.index.get()].holds(&need.blocks));
    let unasked =
        |need: &&Need| !shards[need.index.get()].is_lost() && !shards[need.index.get()].expects(&need.blocks);
    let Some((range, lost)) = hull(missing().filter(|need| shards[need.index.get()].is_lost())) else {
        return Step::Fetch(
            missing().filter(unasked).map(|need| (need.index, need.blocks.clone())).collect(),
        );
    };
    let need_of = |index: ShardIndex| missing().find(|need| need.index == index);
    let mut fetches = Vec::new();
    let mut sources = 0;
    // Those that are needed anyway come first, then data before parity: less to compute.
    let needed_first = ShardIndex::all().filter(|index| need_of(*index).is_some());
    let others = ShardIndex::all().filter(|index| need_of(*index).is_none());
    for index in needed_first.chain(others) {
        let shard = &shards[index.get()];
        if shard.holds(&range) {
            sources += 1;
            continue;
        }
        if shard.is_lost() {
            continue;
        }
        let is_expected = shard.expects(&range);
        match need_of(index) {
            _ if is_expected => sources += 1,
            Some(need) if sources < DATA_SHARDS => {
                fetches.push((index, union(&need.blocks, &range)));
                sources += 1;
            }
            Some(need) if unasked(&need) => fetches.push((index, need.blocks.clone())),
            None if sources < DATA_SHARDS => {
                fetches.push((index, range.clone()));
                sources += 1;
            }
            _ => {}
        }
    }
    if sources >= DATA_SHARDS {
        return Step::Fetch(fetches);
    }
    // Not without those that are late: all of them are asked, and waited for.
    for index in ShardIndex::all() {
        let shard = &shards[index.get()];
        if shard.failed || !shard.late || shard.holds(&range) {
            continue;
        }
        sources += 1;
        if !shard.expects(&range) {
            let wanted = need_of(index).map_or_else(|| range.clone(), |need| union(&need.blocks, &range));
            fetches.push((index, wanted));
        }
    }
    let is_hopeful = lost.iter().all(|index| !shards[index.get()].failed);
    if sources >= DATA_SHARDS || is_hopeful { Step::Fetch(fetches) } else { Step::Impossible }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tenfour_types::limits::{CRC_BLOCK_BYTES, SHARD_BYTES_MAX, STRIPE_DATA_BYTES_MAX};

    const FULL: Range<usize> = 0..SHARD_BYTES_MAX;

    fn shards() -> [Shard; TOTAL_SHARDS] {
        std::array::from_fn(|_| Shard::default())
    }

    fn full_stripe(range: Range<usize>) -> Vec<Need> {
        needs(StripeGeometry::new(STRIPE_DATA_BYTES_MAX).unwrap(), range)
    }

    fn fetches(step: Step) -> Vec<(usize, Range<usize>)> {
        match step {
            Step::Fetch(fetches) => fetches.into_iter().map(|(index, range)| (index.get(), range)).collect(),
            Step::Impossible => panic!("impossible"),
        }
    }

    #[test]
    fn a_small_range_is_one_block_of_one_shard() {
        let needs = full_stripe(SHARD_BYTES_MAX + 20_000..SHARD_BYTES_MAX + 20_001);
        assert_eq!(fetches(next(&needs, &shards())), [(1, CRC_BLOCK_BYTES..2 * CRC_BLOCK_BYTES)]);
    }

    #[test]
    fn an_object_that_fits_one_shard_is_one_fetch() {
        let needs = needs(StripeGeometry::new(3904).unwrap(), 0..3904);
        assert_eq!(fetches(next(&needs, &shards())), [(0, 0..3904)]);
    }

    #[test]
    fn what_is_lost_costs_ten_shards_of_its_blocks_and_no_more() {
        let needs = full_stripe(5..6);
        let mut shards = shards();
        shards[0].failed = true;
        shards[3].late = true;
        let asked = fetches(next(&needs, &shards));
        let indexes: Vec<_> = asked.iter().map(|(index, _)| *index).collect();
        assert_eq!(indexes, [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert!(asked.iter().all(|(_, range)| *range == (0..CRC_BLOCK_BYTES)));
        for (index, range) in asked {
            shards[index].expected = Some(range);
        }
        assert_eq!(fetches(next(&needs, &shards)), []);
        for shard in &mut shards {
            shard.held = shard.expected.take();
        }
        assert!(is_enough(&needs, &shards));
    }

    #[test]
    fn a_whole_stripe_with_four_lost_is_exactly_ten_fetches() {
        let needs = full_stripe(0..STRIPE_DATA_BYTES_MAX);
        let mut shards = shards();
        for lost in [0, 4, 7, 12] {
            shards[lost].failed = true;
        }
        let asked = fetches(next(&needs, &shards));
        assert_eq!(asked.len(), DATA_SHARDS);
        assert!(asked.iter().all(|(index, range)| *range == FULL && ![0, 4, 7, 12].contains(index)));
        shards[13].failed = true;
        assert_eq!(next(&needs, &shards), Step::Impossible);
    }

    #[test]
    fn one_that_is_late_after_the_others_came_is_hedged_by_one_more_parity() {
        let needs = full_stripe(0..STRIPE_DATA_BYTES_MAX);
        let mut shards = shards();
        for (index, shard) in shards.iter_mut().enumerate().take(DATA_SHARDS) {
            shard.held = (index != 2).then_some(FULL);
            shard.expected = (index == 2).then_some(FULL);
        }
        assert_eq!(fetches(next(&needs, &shards)), []);
        shards[2].late = true;
        assert_eq!(fetches(next(&needs, &shards)), [(10, FULL)]);
        shards[10].held = Some(FULL);
        assert_eq!(rebuild(&needs, &shards).unwrap().1, [ShardIndex::new(2).unwrap()]);
        assert!(is_enough(&needs, &shards));
        shards[2].held = Some(FULL);
        assert!(rebuild(&needs, &shards).is_none(), "it came after all");
    }

    #[test]
    fn late_shards_are_waited_for_when_there_are_too_few_others() {
        let needs = full_stripe(0..100);
        let mut shards = shards();
        for shard in &mut shards[0..5] {
            shard.late = true;
        }
        let asked = fetches(next(&needs, &shards));
        assert_eq!(asked.len(), TOTAL_SHARDS);
        for shard in &mut shards {
            shard.failed = true;
        }
        shards[0].failed = false;
        assert_ne!(next(&needs, &shards), Step::Impossible, "the one that is needed may still come");
        shards[0].failed = true;
        assert_eq!(next(&needs, &shards), Step::Impossible);
    }

    #[test]
    fn parts_of_different_lengths_are_fetched_once_each_also_when_one_is_lost() {
        // The end of shard 2, all of 3, the beginning of 4.
        let needs = full_stripe(3 * SHARD_BYTES_MAX - 10..4 * SHARD_BYTES_MAX + 10);
        let mut shards = shards();
        assert_eq!(fetches(next(&needs, &shards)).len(), 3);
        shards[4].failed = true;
        let asked = fetches(next(&needs, &shards));
        assert_eq!(asked.len(), DATA_SHARDS);
        assert!(
            asked.contains(&(3, FULL))
                && asked.contains(&(2, FULL))
                && asked.contains(&(0, 0..CRC_BLOCK_BYTES))
        );
    }

    proptest! {
        /// With at most four shards lost, one round of fetches is enough, asks no lost shard, and is no longer than it has to be.
        #[test]
        fn one_round_is_enough_whichever_four_are_lost(
            data_bytes in prop_oneof![1..100_000_usize, 1..=STRIPE_DATA_BYTES_MAX],
            ends in any::<[prop::sample::Index; 2]>(),
            lost in prop::collection::btree_set(0..TOTAL_SHARDS, 0..=4),
            is_late: bool,
        ) {
            let [a, b] = ends.map(|end| end.index(data_bytes + 1));
            let needs = needs(StripeGeometry::new(data_bytes).unwrap(), a.min(b)..a.max(b));
            let mut shards = shards();
            for shard in &lost {
                (shards[*shard].failed, shards[*shard].late) = (!is_late, is_late);
            }
            let asked = fetches(next(&needs, &shards));
            prop_assert!(asked.len() <= DATA_SHARDS && asked.iter().all(|(index, _)| !lost.contains(index)));
            let is_degraded = needs.iter().any(|need| lost.contains(&need.index.get()));
            prop_assert_eq!(asked.len(), if is_degraded { DATA_SHARDS } else { needs.len() });
            for (index, range) in asked {
                prop_assert!(shards[index].held.is_none(), "asked twice");
                shards[index].held = Some(range);
            }
            prop_assert!(is_enough(&needs, &shards));
        }
    }
}
