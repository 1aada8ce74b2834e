//! The cluster group: who the cluster is, its map, buckets, users and leases, and the fences that tell the index groups.
//!
//! A change that concerns the index groups appends fences, numbered without gaps; every group commits all of them in their order.
//! A reply is given only when every group has committed the fences of its change (the plumbing waits for that), so whoever
//! has seen the reply may rely on them.

mod buckets;
mod fences;
mod map;
mod replaced;

pub use fences::pending_fences;

use super::keys::{self, tag};
use super::rows;
use crate::api::cluster::{ClusterCommand, ClusterDone, ClusterRefusal, ClusterReply, Config, User};
use crate::api::index::Fence;
use crate::table::{Scan, Space, Table, TableError, TableMut};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tenfour_placement::ClusterMap;
use tenfour_types::limits::{ACCESS_KEY_BYTES_MAX, KEY_SLOTS};
use tenfour_types::{ClusterId, CommandId, ConfigVersion, LeaseId, MetaGroupId};

/// Ids whose replies are remembered.
const REPLIES_MAX: u64 = 4096;

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterApplied {
    /// The reply.
    pub reply: ClusterReply,
    /// The reply is given only after every index group has committed all fences up to this number; 0 for none.
    pub fence: u64,
}

/// Applies a command. With an id it happens once: a repeated one gets its first reply (the last 4,096 ids are remembered).
pub fn apply_cluster(
    table: &mut dyn TableMut,
    _at_index: u64,
    id: Option<CommandId>,
    command: &ClusterCommand,
) -> Result<ClusterApplied, TableError> {
    if let Some(id) = id
        && let Some(first) = rows::get(table, Space::Replies, &keys::command(id))?
    {
        return Ok(first);
    }
    let mut cluster = Cluster { counters: Counters::load(table)?, waits_for: 0, table };
    let before = cluster.counters;
    let reply = cluster.run(command)?;
    if reply.is_err() {
        // A refusal tells of a state whose fences may still be on their way.
        cluster.wait_for_all();
    }
    let applied = ClusterApplied { reply, fence: cluster.waits_for };
    if let Some(id) = id {
        cluster.remember(id, &applied)?;
    }
    if cluster.counters != before {
        cluster.counters.save(cluster.table)?;
    }
    Ok(applied)
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
pub fn query_cluster(table: &dyn Table) -> Result<ClusterOverview, TableError> {
    let identity = Identity::load(table)?;
    let groups = identity.as_ref().map_or(0, |identity| identity.index_groups);
    let index_groups: Vec<MetaGroupId> = (1..=groups).map(MetaGroupId).collect();
    let last_fence = Counters::load(table)?.fence;
    let done = |&group: &MetaGroupId| Ok((group, fences::done(table, group)?));
    let fences_done = index_groups.iter().map(done).collect::<Result<Vec<_>, TableError>>()?;
    let fences_pending =
        fences_done.iter().filter(|(_, done)| *done < last_fence).map(|(group, _)| *group).collect();
    let mut leases = Vec::new();
    each(table, tag::HOLDER, |key, holder: String| {
        leases.push((LeaseId(number_of(key)?), holder));
        Ok(())
    })?;
    let cluster = identity.map(|identity| identity.cluster);
    Ok(ClusterOverview { cluster, index_groups, leases, fences_pending, last_fence, fences_done })
}

/// Buckets, users and slots.
pub fn cluster_config(table: &dyn Table) -> Result<Arc<Config>, TableError> {
    let mut config = Config { version: Counters::load(table)?.config, ..Config::default() };
    each(table, tag::BUCKET_NAME, |_, row: buckets::BucketRow| {
        config.buckets.insert(row.bucket.name.clone(), row.bucket);
        Ok(())
    })?;
    each(table, tag::USER, |_, user: User| {
        config.users.insert(user.access_key.clone(), user);
        Ok(())
    })?;
    config.slots = Identity::load(table)?.map(|identity| identity.slots()).unwrap_or_default();
    Ok(Arc::new(config))
}

/// The newest map.
pub fn cluster_map(table: &dyn Table) -> Result<Arc<ClusterMap>, TableError> {
    Ok(Arc::new(map::load(table)?))
}

/// The tables while one command is applied.
struct Cluster<'a> {
    table: &'a mut dyn TableMut,
    counters: Counters,
    waits_for: u64,
}

impl Cluster<'_> {
    fn run(&mut self, command: &ClusterCommand) -> Result<ClusterReply, TableError> {
        if let ClusterCommand::Bootstrap { cluster, index_groups, root } = command {
            return self.bootstrap(*cluster, *index_groups, root.as_ref());
        }
        if Identity::load(self.table)?.is_none() {
            return Ok(Err(ClusterRefusal::Bootstrapped));
        }
        match command {
            ClusterCommand::Bootstrap { .. } => Ok(Err(ClusterRefusal::Bootstrapped)),
            ClusterCommand::RegisterNode { node, endpoints, rack, targets } => {
                map::register(self, *node, endpoints, rack, targets)
            }
            ClusterCommand::SetNodeState { node, state } => map::set_node_state(self, *node, *state),
            ClusterCommand::PoisonTarget { target } => map::poison(self, *target),
            ClusterCommand::BuildGroups { count } => map::build_groups(self, *count),
            ClusterCommand::CreateBucket { name, owner, created_ms } => {
                buckets::create(self, name, owner, *created_ms)
            }
            ClusterCommand::CloseBucket { bucket } => buckets::close(self, *bucket),
            ClusterCommand::FinishCloseBucket { bucket, round, empty } => {
                buckets::finish(self, *bucket, *round, *empty)
            }
            ClusterCommand::PutUser { user } => self.put_user(user),
            ClusterCommand::RemoveUser { access_key } => self.remove_user(access_key),
            ClusterCommand::GrantLease { holder } => self.grant_lease(holder),
            ClusterCommand::EndLease { lease } => self.end_lease(*lease),
            ClusterCommand::FenceDone { group, number } => fences::committed(self, *group, *number),
            ClusterCommand::ReplaceTarget { node, target } => replaced::replace(self, *node, *target),
            ClusterCommand::SlotsWhole { target, epoch, slots } => {
                map::slots_whole(self, *target, *epoch, slots)
            }
        }
    }

    fn bootstrap(
        &mut self,
        cluster: ClusterId,
        index_groups: u16,
        root: Option<&User>,
    ) -> Result<ClusterReply, TableError> {
        match Identity::load(self.table)? {
            Some(known) if known.cluster == cluster => return Ok(Ok(ClusterDone::Done)),
            Some(_) => return Ok(Err(ClusterRefusal::Bootstrapped)),
            None => {}
        }
        if !(1..=KEY_SLOTS).contains(&index_groups) {
            return Ok(Err(ClusterRefusal::GroupCount));
        }
        let identity = Identity { cluster, index_groups };
        rows::put(self.table, Space::State, keys::state(tag::IDENTITY), &identity)?;
        self.fence(&Fence::Slots(identity.slots()))?;
        if let Some(user) = root {
            rows::put(self.table, Space::State, keys::state_text(tag::USER, &user.access_key), user)?;
        }
        self.config_changed()?;
        Ok(Ok(ClusterDone::Done))
    }

    fn put_user(&mut self, user: &User) -> Result<ClusterReply, TableError> {
        let key = keys::state_text(tag::USER, &user.access_key);
        let fits = (1..=ACCESS_KEY_BYTES_MAX).contains(&user.access_key.len());
        // One that is there can still be changed: to be disabled, for instance.
        if !fits && self.table.get(Space::State, &key)?.is_none() {
            return Ok(Err(ClusterRefusal::AccessKeyLength));
        }
        rows::put(self.table, Space::State, key, user)?;
        self.config_changed()?;
        Ok(Ok(ClusterDone::Done))
    }

    fn remove_user(&mut self, access_key: &str) -> Result<ClusterReply, TableError> {
        let key = keys::state_text(tag::USER, access_key);
        if self.table.get(Space::State, &key)?.is_none() {
            return Ok(Err(ClusterRefusal::NoSuchUser));
        }
        self.table.remove(Space::State, &key);
        let mut heir = None;
        each(self.table, tag::USER, |_, user: User| {
            if user.root && heir.is_none() {
                heir = Some(user.access_key);
            }
            Ok(())
        })?;
        if let Some(heir) = heir {
            buckets::hand_over(self.table, access_key, &heir)?;
        }
        self.config_changed()?;
        Ok(Ok(ClusterDone::Done))
    }

    fn grant_lease(&mut self, holder: &str) -> Result<ClusterReply, TableError> {
        for earlier in self.leases_of(holder)? {
            self.remove_lease(earlier)?;
        }
        self.counters.lease += 1;
        let lease = LeaseId(self.counters.lease);
        let key = keys::state_number(tag::HOLDER, lease.0);
        rows::put(self.table, Space::State, key, &holder)?;
        self.fence(&Fence::LeaseGranted(lease))?;
        Ok(Ok(ClusterDone::Lease(lease)))
    }

    /// The leases that live under a holder's name; a holder without a name has none but the one it takes.
    fn leases_of(&self, holder: &str) -> Result<Vec<LeaseId>, TableError> {
        let mut leases = Vec::new();
        if !holder.is_empty() {
            each(self.table, tag::HOLDER, |key, known: String| {
                if known == holder {
                    leases.push(LeaseId(number_of(key)?));
                }
                Ok(())
            })?;
        }
        Ok(leases)
    }

    fn end_lease(&mut self, lease: LeaseId) -> Result<ClusterReply, TableError> {
        let key = keys::state_number(tag::HOLDER, lease.0);
        if self.table.get(Space::State, &key)?.is_none() {
            return Ok(Err(ClusterRefusal::NoSuchLease));
        }
        self.remove_lease(lease)?;
        Ok(Ok(ClusterDone::Done))
    }

    fn remove_lease(&mut self, lease: LeaseId) -> Result<(), TableError> {
        self.table.remove(Space::State, &keys::state_number(tag::HOLDER, lease.0));
        self.fence(&Fence::LeaseEnded(lease))
    }

    /// Buckets or users changed: the version rises, and every group learns it.
    fn config_changed(&mut self) -> Result<(), TableError> {
        self.counters.config.0 += 1;
        self.fence(&Fence::Config(self.counters.config))
    }

    /// Appends a fence; the reply waits for it.
    fn fence(&mut self, fence: &Fence) -> Result<(), TableError> {
        self.counters.fence += 1;
        self.waits_for = self.counters.fence;
        rows::put(self.table, Space::State, keys::state_number(tag::FENCE, self.counters.fence), fence)
    }

    /// Records a reply, and forgets the oldest.
    fn remember(&mut self, id: CommandId, applied: &ClusterApplied) -> Result<(), TableError> {
        let number = self.counters.replies;
        self.counters.replies += 1;
        rows::put(self.table, Space::Replies, keys::command(id), applied)?;
        self.table.put(Space::State, keys::state_number(tag::REPLY_ORDER, number), keys::command(id));
        if let Some(oldest) = number.checked_sub(REPLIES_MAX) {
            let key = keys::state_number(tag::REPLY_ORDER, oldest);
            if let Some(forgotten) = self.table.get(Space::State, &key)? {
                self.table.remove(Space::Replies, &forgotten);
            }
            self.table.remove(Space::State, &key);
        }
        Ok(())
    }
}

/// Who the cluster is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Identity {
    cluster: ClusterId,
    index_groups: u16,
}

impl Identity {
    fn load(table: &dyn Table) -> Result<Option<Self>, TableError> {
        rows::get(table, Space::State, &keys::state(tag::IDENTITY))
    }
    /// The slots, dealt to the groups in turn.
    fn slots(&self) -> Vec<MetaGroupId> {
        (0..KEY_SLOTS).map(|slot| MetaGroupId(slot % self.index_groups + 1)).collect()
    }
}

/// What was given out last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Counters {
    config: ConfigVersion,
    bucket: u64,
    lease: u64,
    fence: u64,
    round: u64,
    replies: u64,
}

impl Counters {
    fn load(table: &dyn Table) -> Result<Self, TableError> {
        Ok(rows::get(table, Space::State, &keys::state(tag::COUNTERS))?.unwrap_or_default())
    }
    fn save(self, table: &mut dyn TableMut) -> Result<(), TableError> {
        rows::put(table, Space::State, keys::state(tag::COUNTERS), &self)
    }
}

/// Every row of a tag.
fn each<T: serde::de::DeserializeOwned>(
    table: &dyn Table,
    tag: u8,
    mut row: impl FnMut(&[u8], T) -> Result<(), TableError>,
) -> Result<(), TableError> {
    rows::scan_prefix(table, Space::State, &[tag], &[tag], &mut |key, value| {
        row(key, rows::decode(value)?)?;
        Ok(Scan::On)
    })
}

/// The number of a row's key.
fn number_of(key: &[u8]) -> Result<u64, TableError> {
    let number = key.get(1..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    number.ok_or_else(|| TableError::Corrupt("a numbered row's key".into()))
}
