//! What must hold of any bytes that are taken for a cluster map: a fuzz target, which a plain test replays over `fuzz/corpus`.
//!
//! A map that decodes may be any map: name targets that are not there, weigh them absurdly, list a node in no rack. Whatever is asked
//! of it is answered without a panic, and what is planned for it keeps what `plan` promises.

use crate::{ClusterMap, Row, rebalance};
use tenfour_types::{Digest, GroupId, LeaseId, MetaGroupId, Override, ShardIndex, StripeId, StripeRow, Wire};

/// Above these, planning takes too long to be done millions of times.
const ROWS_MAX: usize = 8;
const TARGETS_MAX: usize = 32;

/// Cluster maps, as members are sent them.
pub fn map(bytes: &[u8]) -> bool {
    let Ok(map) = ClusterMap::from_bytes(bytes) else { return false };
    let encoded = map.to_bytes();
    assert!(encoded.len() <= bytes.len(), "the map grew: {map:?}");
    assert_eq!(ClusterMap::from_bytes(&encoded).as_ref(), Ok(&map));
    ask(&map, bytes.len() as u64);
    if map.groups.len() <= ROWS_MAX && map.targets.len() <= TARGETS_MAX {
        plan_again(&map);
    }
    true
}

fn ask(map: &ClusterMap, seed: u64) {
    assert!(map.groups_at_full_width() <= map.groups.len());
    let Some(group) = map.choose_group(seed) else { return assert!(map.groups.is_empty()) };
    assert!(map.row(group).is_some());
    let all: Vec<ShardIndex> = ShardIndex::all().collect();
    for absent in [&all[..1], &all[3..7], &all[..]] {
        for (index, target) in map.substitutes(group, absent, &[], seed).into_iter().flatten() {
            assert!(absent.contains(&index) && map.is_usable(target));
        }
    }
    for group in [group, GroupId(u32::MAX)] {
        let row = stripe(map, group);
        let overridden = map.holders(&row, all[13]).collect::<Vec<_>>();
        let lost = |target: &tenfour_types::TargetId| map.is_lost(*target);
        assert_eq!(overridden.first(), Some(&row.overrides[0].target).filter(|target| !lost(target)));
        let slot = map.row(group).map(|row| row.slot(all[0]));
        let chain = slot.into_iter().flat_map(|slot| std::iter::once(&slot.target).chain(&slot.sources));
        assert_eq!(map.holders(&row, all[0]).count(), chain.filter(|target| !lost(target)).count());
        let standing = map.standing(&row);
        assert!(standing.missing <= all.len() && standing.away == row.overrides.len());
    }
}

fn stripe(map: &ClusterMap, group: GroupId) -> StripeRow {
    let id = StripeId { meta_group: MetaGroupId(1), lease: LeaseId(1), counter: 1 };
    let index = ShardIndex::all().last();
    let target = map.targets.keys().next().copied().unwrap_or_default();
    let overrides = index.map(|index| Override { index, target }).into_iter().collect();
    let digests = [Digest([0; 16]); 14];
    StripeRow { id, group, epoch: map.epoch, data_bytes: 1, live_bytes: 1, digests, overrides }
}

/// Every slot goes to a target that may have slots, if there is one, and what was there before is on its chain or poisoned.
fn plan_again(map: &ClusterMap) {
    let rows = rebalance(&map.groups, map);
    assert_eq!(rows.len(), map.groups.len());
    let moved = crate::diff(&map.groups, &rows);
    assert_eq!(rebalance_moves(map, &rows), moved.len());
    let homeless = map.targets.values().all(|target| {
        let node = map.nodes.get(&target.node);
        target.state != crate::TargetState::Up || node.is_none_or(|node| node.state == crate::NodeState::Out)
    });
    let is_home = |id| map.targets.get(id).is_some_and(|target| target.state == crate::TargetState::Up);
    assert!(homeless || rows.iter().flat_map(|row| &row.slots).all(|slot| is_home(&slot.target)));
}

fn rebalance_moves(map: &ClusterMap, rows: &[Row]) -> usize {
    let slots =
        |rows: &[Row]| rows.iter().flat_map(|row| &row.slots).map(|slot| slot.target).collect::<Vec<_>>();
    slots(&map.groups).into_iter().zip(slots(rows)).filter(|(old, new)| old != new).count()
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;
    use super::*;
    use crate::{Node, NodeState, Target, TargetState, plan};
    use tenfour_types::{Epoch, NodeId, TargetId};

    fn cluster(nodes: u32, groups: usize) -> ClusterMap {
        let node = |id: u32| {
            let endpoints = vec![format!("tcp:127.0.0.1:{}", 7000 + id), "shm:/run/t".into()];
            (NodeId(id), Node { endpoints, rack: format!("r{}", id % 3), state: NodeState::Up })
        };
        let target =
            |id: u32| (TargetId(id), Target { node: NodeId(id), weight: 100 + id, state: TargetState::Up });
        let mut map = ClusterMap {
            epoch: Epoch(300),
            nodes: (0..nodes).map(node).collect(),
            targets: (0..nodes).map(target).collect(),
            groups: Vec::new(),
        };
        map.groups = plan(&map, groups);
        map
    }

    #[test]
    fn maps_survive_and_are_planned_for() {
        let mut moving = cluster(16, 4);
        moving.targets.get_mut(&TargetId(3)).unwrap().state = TargetState::Poisoned;
        moving.nodes.get_mut(&NodeId(5)).unwrap().state = NodeState::Out;
        moving.groups = rebalance(&moving.groups, &moving);
        moving.nodes.get_mut(&NodeId(7)).unwrap().state = NodeState::Down;
        let mut absurd = cluster(2, 1);
        absurd.targets.get_mut(&TargetId(0)).unwrap().weight = u32::MAX;
        absurd.targets.get_mut(&TargetId(1)).unwrap().weight = 0;
        absurd.groups[0].slots[4].target = TargetId(u32::MAX);
        absurd.groups[0].slots[5].sources = vec![TargetId(9); 5];
        let seeds = [
            ("empty", ClusterMap::default().to_bytes()),
            ("one-node", cluster(1, 1).to_bytes()),
            ("three-nodes", cluster(3, 2).to_bytes()),
            ("moving", moving.to_bytes()),
            ("absurd", absurd.to_bytes()),
        ];
        replay("placement_map", map, &seeds);
    }
}
