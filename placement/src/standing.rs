//! How a stripe stands by the map: what it misses, and what it can still lose.
//!
//! The map knows which targets are there, not which shards are on them: damage that nobody has found yet does not count. While
//! a slot is not whole, its shards are taken to be where they were before, so nothing counts before it is certain.

use crate::map::ClusterMap;
use std::collections::BTreeMap;
use tenfour_types::limits::DATA_SHARDS;
use tenfour_types::{NodeId, ShardIndex, StripeRow, TargetId};

/// How one stripe stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Shards that no target in service is certain to hold.
    pub missing: usize,
    /// Shards that are elsewhere than at home.
    pub away: usize,
    /// Further nodes, whichever they are, that may be lost; `None` when the stripe cannot be read now.
    pub survives: Option<usize>,
}

impl Standing {
    /// Whether all 14 shards are there and at home.
    pub fn is_full(&self) -> bool {
        (self.missing, self.away) == (0, 0)
    }
}

impl ClusterMap {
    /// How a stripe stands.
    pub fn standing(&self, row: &StripeRow) -> Standing {
        let found: Vec<TargetId> = ShardIndex::all().filter_map(|index| self.certain(row, index)).collect();
        let missing = ShardIndex::all().count() - found.len();
        let nodes = found.into_iter().filter_map(|target| self.node_of(target));
        Standing { missing, away: row.overrides.len(), survives: nodes_to_lose(nodes) }
    }

    /// A target in service that holds a shard, as far as the map can know.
    fn certain(&self, row: &StripeRow, index: ShardIndex) -> Option<TargetId> {
        let is_whole = self.row(row.group).is_some_and(|group| group.slot(index).sources.is_empty());
        let unsure = if is_whole || row.override_of(index).is_some() { None } else { self.home(row, index) };
        self.holders(row, index).find(|target| Some(*target) != unsure && self.is_usable(*target))
    }
}

/// How many more nodes, whichever they are, may be lost of those that hold a stripe's shards (each named once for each
/// shard); `None` when there are fewer than 10 shards.
pub fn nodes_to_lose(holders: impl Iterator<Item = NodeId>) -> Option<usize> {
    let mut shards: BTreeMap<NodeId, usize> = BTreeMap::new();
    holders.for_each(|node| *shards.entry(node).or_default() += 1);
    let mut spare = shards.values().sum::<usize>().checked_sub(DATA_SHARDS)?;
    let mut fullest: Vec<usize> = shards.into_values().collect();
    fullest.sort_unstable_by(|a, b| b.cmp(a));
    let lost = fullest
        .into_iter()
        .take_while(|held| spare.checked_sub(*held).inspect(|left| spare = *left).is_some());
    Some(lost.count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{Node, NodeState, Target, TargetState};
    use crate::{plan, rebalance};
    use tenfour_types::{Digest, Epoch, GroupId, LeaseId, MetaGroupId, Override, StripeId};

    fn cluster(nodes: u32) -> ClusterMap {
        let mut map = ClusterMap::default();
        for number in 1..=nodes {
            let node = Node { endpoints: Vec::new(), rack: "r".to_owned(), state: NodeState::Up };
            map.nodes.insert(NodeId(number), node);
            let target = Target { node: NodeId(number), weight: 1, state: TargetState::Up };
            map.targets.insert(TargetId(number), target);
        }
        map.groups = plan(&map, 4);
        map
    }

    fn stripe() -> StripeRow {
        let id = StripeId { meta_group: MetaGroupId(1), lease: LeaseId(1), counter: 1 };
        let (digests, overrides) = ([Digest([0; 16]); 14], Vec::new());
        let (group, epoch) = (GroupId(0), Epoch(1));
        StripeRow { id, group, epoch, data_bytes: 1, live_bytes: 1, digests, overrides }
    }

    fn standing(map: &ClusterMap) -> (usize, Option<usize>) {
        let standing = map.standing(&stripe());
        (standing.missing, standing.survives)
    }

    #[test]
    fn what_may_be_lost_counts_nodes_not_targets() {
        assert_eq!(standing(&cluster(14)), (0, Some(4)));
        assert_eq!(standing(&cluster(7)), (0, Some(2)));
        assert_eq!(standing(&cluster(3)), (0, Some(0)), "five of the fourteen shards are on one node");
        let mut map = cluster(14);
        for number in 1..=5 {
            map.nodes.get_mut(&NodeId(number)).unwrap().state = NodeState::Down;
        }
        assert_eq!(standing(&map), (5, None));
    }

    #[test]
    fn a_lost_target_is_missed_until_the_slot_that_took_its_place_is_whole() {
        let mut map = cluster(14);
        map.targets.get_mut(&TargetId(5)).unwrap().state = TargetState::Poisoned;
        let replaced = Target { node: NodeId(5), weight: 1, state: TargetState::Up };
        map.targets.insert(TargetId(15), replaced);
        map.groups = rebalance(&map.groups, &map);
        assert_eq!(standing(&map), (1, Some(3)));
        map.groups.iter_mut().flat_map(|row| &mut row.slots).for_each(|slot| slot.sources.clear());
        assert_eq!(standing(&map), (0, Some(4)));
        assert!(map.standing(&stripe()).is_full());
    }

    #[test]
    fn what_is_away_is_there_but_two_shards_on_one_node_are_lost_together() {
        let map = cluster(14);
        let home = map.home(&stripe(), ShardIndex::new(3).unwrap()).unwrap();
        let beside = map.home(&stripe(), ShardIndex::new(4).unwrap()).unwrap();
        assert_ne!(home, beside);
        let overrides = vec![Override { index: ShardIndex::new(3).unwrap(), target: beside }];
        let standing = map.standing(&StripeRow { overrides, ..stripe() });
        assert_eq!((standing.missing, standing.away, standing.survives), (0, 1, Some(3)));
        assert!(!standing.is_full());
    }
}
