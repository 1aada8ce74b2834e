//! Fences on their way: kept until every index group has committed them.

use super::{Cluster, Counters, Identity, number_of};
use crate::api::cluster::{ClusterDone, ClusterReply};
use crate::api::index::Fence;
use crate::state::keys::{self, tag};
use crate::state::rows;
use crate::table::{Scan, Space, Table, TableError};
use tenfour_types::MetaGroupId;

/// The fences that a group has not committed yet, in order, at most `most`: the driver commits each as
/// `IndexCommand::Fence` in the group, and then `ClusterCommand::FenceDone` of the last here.
pub fn pending_fences(
    table: &dyn Table,
    group: MetaGroupId,
    most: usize,
) -> Result<Vec<(u64, Fence)>, TableError> {
    let start = keys::state_number(tag::FENCE, done(table, group)? + 1);
    let mut found = Vec::new();
    rows::scan_prefix(table, Space::State, &[tag::FENCE], &start, &mut |key, value| {
        if found.len() == most {
            return Ok(Scan::Stop);
        }
        found.push((number_of(key)?, rows::decode(value)?));
        Ok(Scan::On)
    })?;
    Ok(found)
}

/// The fence up to which a group has committed.
pub(super) fn done(table: &dyn Table, group: MetaGroupId) -> Result<u64, TableError> {
    Ok(rows::get(table, Space::State, &keys::fence_done(group))?.unwrap_or(0))
}

/// A group has committed all fences up to a number; those that every group has are forgotten.
pub(super) fn committed(
    cluster: &mut Cluster<'_>,
    group: MetaGroupId,
    number: u64,
) -> Result<ClusterReply, TableError> {
    let groups = Identity::load(cluster.table)?.map_or(0, |identity| identity.index_groups);
    let number = number.min(cluster.counters.fence);
    if !(1..=groups).contains(&group.0) || number <= done(cluster.table, group)? {
        return Ok(Ok(ClusterDone::Done));
    }
    rows::put(cluster.table, Space::State, keys::fence_done(group), &number)?;
    let mut everywhere = number;
    for group in 1..=groups {
        everywhere = everywhere.min(done(cluster.table, MetaGroupId(group))?);
    }
    let mut old = Vec::new();
    rows::scan_prefix(cluster.table, Space::State, &[tag::FENCE], &[tag::FENCE], &mut |key, _| {
        if number_of(key)? > everywhere {
            return Ok(Scan::Stop);
        }
        old.push(key.to_vec());
        Ok(Scan::On)
    })?;
    for key in old {
        cluster.table.remove(Space::State, &key);
    }
    Ok(Ok(ClusterDone::Done))
}

impl Cluster<'_> {
    /// What a command waits for that finds its change made already: all fences so far.
    pub(super) fn wait_for_all(&mut self) {
        let Counters { fence, .. } = self.counters;
        self.waits_for = fence;
    }
}
