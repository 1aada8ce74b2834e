//! Targets in the place of lost ones: their ids.
//!
//! Invariant: an id that was given out is never given out again once a target of it was registered; and until then it is given
//! again to whoever asks for the same place, so that a node which dies in between wastes none.

use super::{Cluster, each, map};
use crate::api::cluster::{ClusterDone, ClusterRefusal, ClusterReply};
use crate::state::keys::{self, tag};
use crate::state::rows;
use crate::table::{Space, Table, TableError};
use tenfour_types::{NodeId, TargetId};

/// Ids below this one are for operators to choose.
const FIRST_GIVEN: TargetId = TargetId(1_000_000);

/// The id of the target in the place of a lost one.
pub(super) fn replace(
    cluster: &mut Cluster<'_>,
    node: NodeId,
    target: TargetId,
) -> Result<ClusterReply, TableError> {
    let map = map::load(cluster.table)?;
    if map.node_of(target) != Some(node) {
        return Ok(Err(ClusterRefusal::TargetRefused(target)));
    }
    let mut last = target;
    while let Some(next) = rows::get::<TargetId>(cluster.table, Space::State, &keys::replaced(last))? {
        if !map.targets.contains_key(&next) {
            return Ok(Ok(ClusterDone::Target(next)));
        }
        last = next;
    }
    let mut next = FIRST_GIVEN;
    each(cluster.table, tag::REPLACED, |_, given: TargetId| {
        next = next.max(TargetId(given.0.saturating_add(1)));
        Ok(())
    })?;
    while map.targets.contains_key(&next) {
        next = TargetId(next.0.wrapping_add(1));
    }
    rows::put(cluster.table, Space::State, keys::replaced(last), &next)?;
    Ok(Ok(ClusterDone::Target(next)))
}

/// The lost targets whose place these take.
pub(super) fn by(table: &dyn Table, made: &[TargetId]) -> Result<Vec<TargetId>, TableError> {
    let mut lost = Vec::new();
    if made.is_empty() {
        return Ok(lost);
    }
    each(table, tag::REPLACED, |key, next: TargetId| {
        let target = key.get(1..).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let target = target.ok_or_else(|| TableError::Corrupt("a replaced target's key".into()))?;
        if made.contains(&next) {
            lost.push(TargetId(target));
        }
        Ok(())
    })?;
    Ok(lost)
}
