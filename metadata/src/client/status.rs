//! How the metadata service fares, for operators.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use tenfour_types::MetaGroupId;

/// A group as one replica sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The group.
    pub group: MetaGroupId,
    /// The leader that the replica follows.
    pub leader: Option<u64>,
    /// Its term.
    pub term: u64,
    /// Who votes.
    pub voters: Vec<u64>,
    /// Who only learns.
    pub learners: Vec<u64>,
    /// The index of the last entry of the replica's log.
    pub last_log_index: u64,
    /// The index of the last entry that the replica applied.
    pub applied_index: u64,
    /// Up to here the replica's log was purged.
    pub purged_index: u64,
}

/// All groups as one replica sees them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The replica.
    pub replica: u64,
    /// By id.
    pub groups: Vec<GroupStatus>,
}

/// The whole service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MetadataStatus {
    /// The replicas that answer, by id, and where.
    pub replicas: Vec<(SocketAddr, ReplicaStatus)>,
    /// The addresses where none answers.
    pub silent: Vec<SocketAddr>,
}

impl MetadataStatus {
    /// The group as its leader sees it, or as whoever has applied the most.
    pub fn group(&self, group: MetaGroupId) -> Option<&GroupStatus> {
        let views = self.replicas.iter().flat_map(|(_, replica)| {
            replica.groups.iter().filter(move |view| view.group == group).map(|view| (replica.replica, view))
        });
        views
            .max_by_key(|(replica, view)| (view.leader == Some(*replica), view.term, view.applied_index))
            .map(|(_, view)| view)
    }

    /// How many more replicas may be lost before some group has no majority; `None` when one has none now.
    pub fn losses_survived(&self) -> Option<usize> {
        let (_, first) = self.replicas.first()?;
        let answering: Vec<u64> = self.replicas.iter().map(|(_, replica)| replica.replica).collect();
        let groups = first.groups.iter().filter_map(|view| self.group(view.group));
        groups
            .map(|view| {
                let alive = view.voters.iter().filter(|voter| answering.contains(voter)).count();
                alive.checked_sub(view.voters.len() / 2 + 1)
            })
            .min()?
    }
}
