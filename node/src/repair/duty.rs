//! What a map asks of this node: which shards of a stripe have to come to be on its targets.

use std::collections::{BTreeMap, BTreeSet};
use tenfour_placement::ClusterMap;
use tenfour_types::{GroupId, ShardIndex, StripeRow, TargetId};

/// A shard that belongs on one of this node's targets and may not be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    pub(super) index: ShardIndex,
    /// Its home.
    pub(super) target: TargetId,
    /// Where an override says that it is.
    pub(super) away: Option<TargetId>,
}

/// By one map.
pub(super) struct Duty<'a> {
    map: &'a ClusterMap,
    mine: BTreeSet<TargetId>,
    /// Slots that are not whole and whose target is here.
    moving: BTreeMap<(GroupId, ShardIndex), TargetId>,
}

impl<'a> Duty<'a> {
    pub(super) fn new(map: &'a ClusterMap, mine: impl Iterator<Item = TargetId>) -> Self {
        let mine: BTreeSet<TargetId> = mine.collect();
        let mut moving = BTreeMap::new();
        for (group, row) in (0..).map(GroupId).zip(&map.groups) {
            for (index, slot) in ShardIndex::all().zip(&row.slots) {
                if !slot.sources.is_empty() && mine.contains(&slot.target) {
                    moving.insert((group, index), slot.target);
                }
            }
        }
        Self { map, mine, moving }
    }

    /// The slots that repair has to say that they are whole.
    pub(super) fn moving(&self) -> &BTreeMap<(GroupId, ShardIndex), TargetId> {
        &self.moving
    }

    /// The shards of a stripe that are this node's business.
    pub(super) fn wanted(&self, row: &StripeRow) -> Vec<Wanted> {
        let wanted = |index| {
            let target = self.map.home(row, index).filter(|home| self.mine.contains(home))?;
            let away = row.override_of(index);
            let is_moving = self.moving.contains_key(&(row.group, index));
            (away.is_some() || is_moving).then_some(Wanted { index, target, away })
        };
        ShardIndex::all().filter_map(wanted).collect()
    }

    /// How urgent a stripe is: the lower, the fewer further losses it survives.
    pub(super) fn rank(&self, row: &StripeRow) -> usize {
        self.map.standing(row).survives.map_or(0, |more| more + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenfour_placement::{Node, NodeState, Row, Slot, Target, TargetState};
    use tenfour_types::{Digest, Epoch, LeaseId, MetaGroupId, NodeId, Override, StripeId};

    fn map() -> ClusterMap {
        let mut map = ClusterMap::default();
        for id in 0..15 {
            let node = Node { endpoints: Vec::new(), rack: "r".to_owned(), state: NodeState::Up };
            map.nodes.insert(NodeId(id), node);
            map.targets.insert(TargetId(id), Target { node: NodeId(id), weight: 1, state: TargetState::Up });
        }
        let slot = |id: usize| Slot { target: TargetId(id as u32), sources: Vec::new() };
        map.groups = vec![Row { slots: std::array::from_fn(slot) }; 2];
        map
    }

    fn stripe(group: u32, overrides: &[(usize, u32)]) -> StripeRow {
        let id = StripeId { meta_group: MetaGroupId(1), lease: LeaseId(1), counter: 1 };
        let overrides = overrides
            .iter()
            .map(|(index, target)| Override {
                index: ShardIndex::new(*index).unwrap(),
                target: TargetId(*target),
            })
            .collect();
        let digests = [Digest([0; 16]); 14];
        StripeRow {
            id,
            group: GroupId(group),
            epoch: Epoch(1),
            data_bytes: 1,
            live_bytes: 1,
            digests,
            overrides,
        }
    }

    #[test]
    fn a_nodes_business_is_what_belongs_on_its_targets_and_may_not_be_there() {
        let mut map = map();
        map.groups[0].slots[3].sources = vec![TargetId(14)];
        map.groups[0].slots[4].sources = vec![TargetId(14)];
        let duty = Duty::new(&map, [TargetId(3), TargetId(5)].into_iter());
        let three = ShardIndex::new(3).unwrap();
        assert_eq!(
            duty.moving().iter().map(|(slot, target)| (*slot, *target)).collect::<Vec<_>>(),
            [((GroupId(0), three), TargetId(3))]
        );
        let wanted = |row: &StripeRow| {
            duty.wanted(row)
                .into_iter()
                .map(|wanted| (wanted.index.get(), wanted.target.0, wanted.away.map(|target| target.0)))
                .collect::<Vec<_>>()
        };
        assert_eq!(wanted(&stripe(0, &[])), [(3, 3, None)]);
        assert_eq!(wanted(&stripe(1, &[])), []);
        assert_eq!(
            wanted(&stripe(1, &[(5, 9), (6, 3)])),
            [(5, 5, Some(9))],
            "what lies here and belongs elsewhere is not"
        );
        assert_eq!(wanted(&stripe(0, &[(3, 9)])), [(3, 3, Some(9))]);
        assert_eq!(wanted(&stripe(9, &[(3, 9)])), [], "a row that the map does not know");
    }

    #[test]
    fn the_stripe_that_survives_the_least_comes_first() {
        let mut map = map();
        map.nodes.get_mut(&NodeId(9)).unwrap().state = NodeState::Down;
        let duty = Duty::new(&map, std::iter::once(TargetId(3)));
        let (plain, narrow) = (stripe(1, &[]), stripe(1, &[(3, 4), (5, 4)]));
        assert!(duty.rank(&narrow) < duty.rank(&plain));
        (0..5).for_each(|node| map.nodes.get_mut(&NodeId(node)).unwrap().state = NodeState::Down);
        assert_eq!(Duty::new(&map, std::iter::empty()).rank(&plain), 0);
    }
}
