//! The cluster map: every change is a new epoch, and a fence of it with the slots that it moves.
//!
//! Slots move when shards may live on other targets than before: a target came, one was poisoned, a node was taken out or came
//! back from being out. A node that is merely down keeps its slots. A slot that moved is not whole until repair says so, of the
//! map in which it moved or of a later one.

use super::{Cluster, replaced};
use crate::api::cluster::{ClusterDone, ClusterRefusal, ClusterReply};
use crate::api::index::{Fence, MOVES_MAX, SlotMove};
use crate::state::keys::{self, tag};
use crate::state::rows;
use crate::table::{Space, Table, TableError};
use tenfour_placement::{
    ClusterMap, Node, NodeState, Target, TargetState, default_group_count, diff, plan, rebalance,
};
use tenfour_types::{Epoch, GroupId, NodeId, ShardIndex, TargetId};

/// Most placement groups: the map is one row, and every gateway and node holds it.
const GROUPS_MAX: u32 = 1 << 14;

pub(super) fn load(table: &dyn Table) -> Result<ClusterMap, TableError> {
    Ok(rows::get(table, Space::State, &keys::state(tag::MAP))?.unwrap_or_default())
}

/// A node is there, with its targets. One that was taken out stays out: only an operator brings it back; and a poisoned target
/// stays poisoned for ever, without keeping the node's other targets away.
pub(super) fn register(
    cluster: &mut Cluster<'_>,
    id: NodeId,
    endpoints: &[String],
    rack: &str,
    targets: &[(TargetId, u32)],
) -> Result<ClusterReply, TableError> {
    let old = load(cluster.table)?;
    let mut map = old.clone();
    let node = map.nodes.entry(id).or_insert_with(|| Node {
        endpoints: Vec::new(),
        rack: rack.to_owned(),
        state: NodeState::Up,
    });
    let mut moves = node.rack != rack;
    let mut made = Vec::new();
    node.endpoints = endpoints.to_vec();
    rack.clone_into(&mut node.rack);
    if node.state == NodeState::Down {
        node.state = NodeState::Up;
    }
    for &(target, weight) in targets {
        let entry = map.targets.entry(target).or_insert_with(|| {
            made.push(target);
            Target { node: id, weight, state: TargetState::Up }
        });
        if entry.node != id {
            return Ok(Err(ClusterRefusal::TargetRefused(target)));
        }
        if entry.state != TargetState::Poisoned {
            entry.weight = weight.max(1);
        }
    }
    moves |= !made.is_empty();
    for lost in replaced::by(cluster.table, &made)? {
        if let Some(target) = map.targets.get_mut(&lost) {
            target.state = TargetState::Poisoned;
        }
    }
    publish(cluster, &old, map, moves)
}

pub(super) fn set_node_state(
    cluster: &mut Cluster<'_>,
    id: NodeId,
    state: NodeState,
) -> Result<ClusterReply, TableError> {
    let old = load(cluster.table)?;
    let mut map = old.clone();
    let Some(node) = map.nodes.get_mut(&id) else { return Ok(Err(ClusterRefusal::NoSuchNode)) };
    let moves = node.state != state && (node.state == NodeState::Out || state == NodeState::Out);
    node.state = state;
    publish(cluster, &old, map, moves)
}

pub(super) fn poison(cluster: &mut Cluster<'_>, id: TargetId) -> Result<ClusterReply, TableError> {
    let old = load(cluster.table)?;
    let mut map = old.clone();
    let Some(target) = map.targets.get_mut(&id) else { return Ok(Err(ClusterRefusal::TargetRefused(id))) };
    target.state = TargetState::Poisoned;
    publish(cluster, &old, map, true)
}

/// Repair has found all shards of these slots where they belong.
pub(super) fn slots_whole(
    cluster: &mut Cluster<'_>,
    target: TargetId,
    epoch: Epoch,
    slots: &[(GroupId, ShardIndex)],
) -> Result<ClusterReply, TableError> {
    let old = load(cluster.table)?;
    let mut map = old.clone();
    for &(group, index) in slots {
        let slot = map.groups.get_mut(group.0 as usize).and_then(|row| row.slots.get_mut(index.get()));
        let Some(slot) = slot.filter(|slot| slot.target == target) else { continue };
        let key = keys::slot_moved(group, index);
        let moved: Option<Epoch> = rows::get(cluster.table, Space::State, &key)?;
        if moved.is_none_or(|moved| moved <= epoch) {
            slot.sources.clear();
            cluster.table.remove(Space::State, &key);
        }
    }
    publish(cluster, &old, map, false)
}

pub(super) fn build_groups(
    cluster: &mut Cluster<'_>,
    count: Option<u32>,
) -> Result<ClusterReply, TableError> {
    let old = load(cluster.table)?;
    if !old.groups.is_empty() {
        return Ok(Err(ClusterRefusal::GroupsExist));
    }
    if count.is_some_and(|count| !(1..=GROUPS_MAX).contains(&count)) {
        return Ok(Err(ClusterRefusal::GroupCount));
    }
    let mut map = old.clone();
    let count = count.map_or_else(|| default_group_count(map.targets.len()), |count| count as usize);
    map.groups = plan(&map, count);
    if map.groups.is_empty() {
        return Ok(Err(ClusterRefusal::NoTargets));
    }
    publish(cluster, &old, map, false)
}

/// Makes it the map, under a new epoch, unless nothing changed.
fn publish(
    cluster: &mut Cluster<'_>,
    old: &ClusterMap,
    mut new: ClusterMap,
    moves: bool,
) -> Result<ClusterReply, TableError> {
    if new == *old {
        return Ok(Ok(ClusterDone::Epoch(old.epoch)));
    }
    if moves && !new.groups.is_empty() {
        new.groups = rebalance(&old.groups, &new);
    }
    let epoch = Epoch(old.epoch.0 + 1);
    new.epoch = epoch;
    let moved: Vec<SlotMove> = diff(&old.groups, &new.groups)
        .into_iter()
        .map(|moved| SlotMove { group: moved.group, index: moved.index, from: moved.from, to: moved.to })
        .collect();
    for slot in &moved {
        let key = keys::slot_moved(slot.group, slot.index);
        rows::put(cluster.table, Space::State, key, &epoch)?;
    }
    for moves in moved.chunks(MOVES_MAX) {
        cluster.fence(&Fence::Moves { epoch, moves: moves.to_vec() })?;
    }
    cluster.fence(&Fence::Epoch(epoch))?;
    rows::put(cluster.table, Space::State, keys::state(tag::MAP), &new)?;
    Ok(Ok(ClusterDone::Epoch(epoch)))
}
