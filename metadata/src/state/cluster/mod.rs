//! The cluster group.

use crate::api::cluster::{ClusterCommand, ClusterReply, Config};
use crate::api::index::Fence;
use crate::table::{Table, TableError, TableMut};
use std::sync::Arc;
use tenfour_placement::ClusterMap;
use tenfour_types::{ClusterId, CommandId, LeaseId, MetaGroupId};

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterApplied {
    /// The reply.
    pub reply: ClusterReply,
    /// The reply is given only after every index group has committed all fences up to this number; 0 for none.
    pub fence: u64,
}

/// Applies a command. With an id it happens once: a repeated one gets its first reply (the last 4,096 ids are remembered).
pub fn apply_cluster(
    _table: &mut impl TableMut,
    _at_index: u64,
    _id: Option<CommandId>,
    _command: &ClusterCommand,
) -> Result<ClusterApplied, TableError> {
    Err(TableError::Store("not yet".into()))
}

/// What group 0's tables know of the cluster, for `ClusterStatus` (the plumbing adds who was heard of when).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterOverview {
    /// The cluster; `None` before it was bootstrapped.
    pub cluster: Option<ClusterId>,
    /// Its index groups.
    pub index_groups: Vec<MetaGroupId>,
    /// Leases that live, with their holders.
    pub leases: Vec<(LeaseId, String)>,
    /// Index groups that have not committed the newest fence.
    pub fences_pending: Vec<MetaGroupId>,
    /// The number of the newest fence.
    pub last_fence: u64,
    /// The fence up to which each index group has committed.
    pub fences_done: Vec<(MetaGroupId, u64)>,
}

/// Who the cluster is and how its fences fare.
pub fn query_cluster(_table: &(impl Table + ?Sized)) -> Result<ClusterOverview, TableError> {
    Err(TableError::Store("not yet".into()))
}

/// Buckets, users and slots.
pub fn cluster_config(_table: &(impl Table + ?Sized)) -> Result<Arc<Config>, TableError> {
    Err(TableError::Store("not yet".into()))
}

/// The newest map.
pub fn cluster_map(_table: &(impl Table + ?Sized)) -> Result<Arc<ClusterMap>, TableError> {
    Err(TableError::Store("not yet".into()))
}

/// The fences that a group has not committed yet, in order, at most `most`: the driver commits each as
/// `IndexCommand::Fence` in the group, and then `ClusterCommand::FenceDone` of the last here.
pub fn pending_fences(
    _table: &(impl Table + ?Sized),
    _group: MetaGroupId,
    _most: usize,
) -> Result<Vec<(u64, Fence)>, TableError> {
    Ok(Vec::new())
}
