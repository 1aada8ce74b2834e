//! The cluster map: nodes, targets, and the table of placement groups, versioned by an epoch.
//!
//! It is a value. Who may change it, and how a new epoch reaches everybody, is the metadata service's business. A map that
//! was decoded may name targets or nodes that it does not contain; they count as unusable, nothing panics.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tenfour_types::limits::TOTAL_SHARDS;
use tenfour_types::{Epoch, GroupId, NodeId, ShardIndex, StripeRow, TargetId, Wire};

/// One version of what the cluster consists of and where shards belong.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterMap {
    /// The version; counts up with every change.
    pub epoch: Epoch,
    /// The storage servers.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Their disks.
    pub targets: BTreeMap<TargetId, Target>,
    /// The placement groups: a group's id is its position.
    pub groups: Vec<Row>,
}

impl Wire for ClusterMap {
    const NAME: &'static str = "cluster map";
}

/// One storage server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Where its shard service listens, in order of preference: `shm:/path`, `tcp:ip:port`.
    pub endpoints: Vec<String>,
    /// The failure domain above it; nodes of one rack may fail together.
    pub rack: String,
    /// Whether it is there.
    pub state: NodeState,
}

/// Whether a node is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NodeState {
    /// Speaks.
    Up,
    /// Silent: it is not asked, but its shards stay where they are, since it is expected back.
    Down,
    /// Being replaced: its slots move elsewhere.
    Out,
}

/// One disk of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Target {
    /// The server it is in.
    pub node: NodeId,
    /// Its share of the data relative to the others', by convention its capacity in GiB; at least 1.
    pub weight: u32,
    /// Whether it may be used.
    pub state: TargetState,
}

/// Whether a target may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TargetState {
    /// In service.
    Up,
    /// A flush failed, or its folder was taken away: never written again; its slots move elsewhere.
    Poisoned,
    /// Being taken out on purpose: its slots move elsewhere.
    Out,
}

/// A placement group: shard *i* of each of its stripes lives on the target of slot *i*.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// In the order of shard indexes.
    pub slots: [Slot; TOTAL_SHARDS],
}

impl Row {
    /// The slot of a shard.
    pub fn slot(&self, index: ShardIndex) -> &Slot {
        &self.slots[index.get()]
    }
}

/// One place in a row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Slot {
    /// Where shards of this index are written, and read first.
    pub target: TargetId,
    /// While the slot is not whole: where its shards were before, the latest first, lost targets among them; empty once repair
    /// has said that all of its shards are on `target`.
    pub sources: Vec<TargetId>,
}

impl ClusterMap {
    /// Whether a target can be asked: in service, on a node that is up.
    pub fn is_usable(&self, target: TargetId) -> bool {
        self.targets.get(&target).is_some_and(|target| {
            target.state == TargetState::Up
                && self.nodes.get(&target.node).is_some_and(|node| node.state == NodeState::Up)
        })
    }

    /// The node that a target is in.
    pub fn node_of(&self, target: TargetId) -> Option<NodeId> {
        self.targets.get(&target).map(|target| target.node)
    }

    /// A placement group's row.
    pub fn row(&self, group: GroupId) -> Option<&Row> {
        self.groups.get(group.0 as usize)
    }

    /// The targets on which a shard may be found, best first: the stripe's override alone, if it has one, else its
    /// slot's target and then the earlier ones while the slot moves. They need not be usable, but none of them is lost.
    pub fn holders(&self, row: &StripeRow, index: ShardIndex) -> impl Iterator<Item = TargetId> {
        let overridden = row.override_of(index);
        let slot = if overridden.is_none() { self.row(row.group).map(|row| row.slot(index)) } else { None };
        let at_home = slot
            .into_iter()
            .flat_map(|slot| std::iter::once(slot.target).chain(slot.sources.iter().copied()));
        overridden.into_iter().chain(at_home).filter(|target| !self.is_lost(*target))
    }

    /// Where a shard belongs: the target of its slot, whatever an override says.
    pub fn home(&self, row: &StripeRow, index: ShardIndex) -> Option<TargetId> {
        self.row(row.group).map(|row| row.slot(index).target)
    }

    /// Whether what a target held is gone for ever.
    pub fn is_lost(&self, target: TargetId) -> bool {
        self.targets.get(&target).is_some_and(|target| target.state == TargetState::Poisoned)
    }

    /// The number of groups with all 14 targets usable and no slot moving.
    pub fn groups_at_full_width(&self) -> usize {
        let whole =
            |row: &&Row| row.slots.iter().all(|slot| slot.sources.is_empty() && self.is_usable(slot.target));
        self.groups.iter().filter(whole).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenfour_types::{Digest, LeaseId, MetaGroupId, Override, StripeId};

    fn map() -> ClusterMap {
        let node = |id: u32| {
            let endpoints = vec![format!("tcp:127.0.0.1:{}", 7000 + id)];
            (NodeId(id), Node { endpoints, rack: format!("r{}", id % 2), state: NodeState::Up })
        };
        let target = |id: u32| (TargetId(id), Target { node: NodeId(id), weight: 1, state: TargetState::Up });
        let slot = |id: usize| Slot { target: TargetId(id as u32), sources: Vec::new() };
        ClusterMap {
            epoch: Epoch(3),
            nodes: (0..15).map(node).collect(),
            targets: (0..15).map(target).collect(),
            groups: vec![Row { slots: std::array::from_fn(slot) }],
        }
    }

    fn stripe(overrides: Vec<Override>) -> StripeRow {
        let id = StripeId { meta_group: MetaGroupId(1), lease: LeaseId(1), counter: 1 };
        let digests = [Digest([0; 16]); TOTAL_SHARDS];
        StripeRow { id, group: GroupId(0), epoch: Epoch(3), data_bytes: 1, live_bytes: 1, digests, overrides }
    }

    #[test]
    fn a_shard_is_looked_for_at_its_override_else_at_home_and_then_along_the_chain() {
        let mut map = map();
        map.groups[0].slots[2].sources = vec![TargetId(14), TargetId(9)];
        let two = ShardIndex::new(2).unwrap();
        let holders = |map: &ClusterMap, stripe: &StripeRow| {
            map.holders(stripe, two).map(|target| target.0).collect::<Vec<_>>()
        };
        assert_eq!(holders(&map, &stripe(Vec::new())), [2, 14, 9]);
        assert_eq!(holders(&map, &stripe(vec![Override { index: two, target: TargetId(7) }])), [7]);
        assert_eq!(holders(&map, &StripeRow { group: GroupId(99), ..stripe(Vec::new()) }), [0u32; 0]);
        map.targets.get_mut(&TargetId(14)).unwrap().state = TargetState::Poisoned;
        assert_eq!(holders(&map, &stripe(Vec::new())), [2, 9], "a lost target is not asked");
    }

    #[test]
    fn a_group_is_at_full_width_when_all_its_targets_are_usable_and_none_of_its_slots_moves() {
        let mut map = map();
        assert_eq!(map.groups_at_full_width(), 1);
        map.groups[0].slots[0].sources = vec![TargetId(14)];
        assert_eq!(map.groups_at_full_width(), 0);
        map.groups[0].slots[0].sources.clear();
        map.nodes.get_mut(&NodeId(13)).unwrap().state = NodeState::Down;
        assert_eq!(map.groups_at_full_width(), 0);
        map.nodes.get_mut(&NodeId(13)).unwrap().state = NodeState::Up;
        map.targets.get_mut(&TargetId(4)).unwrap().state = TargetState::Poisoned;
        assert_eq!(map.groups_at_full_width(), 0);
        assert!(!map.is_usable(TargetId(99)), "a target that the map does not know");
    }

    #[test]
    fn the_map_survives_its_codec_and_no_cut_of_it_panics() {
        let map = map();
        let bytes = map.to_bytes();
        assert_eq!(ClusterMap::from_bytes(&bytes), Ok(map));
        for cut in 0..bytes.len() {
            assert!(ClusterMap::from_bytes(&bytes[..cut]).is_err());
        }
    }
}
