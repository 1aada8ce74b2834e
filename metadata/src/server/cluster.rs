//! What this replica knows of group 0: a decoded view, kept while nothing changes, and who was heard of when.
//!
//! Only reads through [`Cluster::answer`] are linearizable (they come behind a `ReadIndex` round); everything else here is what
//! this replica has applied so far, and serves as a hint.

use crate::api::cluster::{ClusterStatus, RepairProgress};
use crate::api::{ClusterAnswer, ClusterQuery, Config};
use crate::raft::Machine;
use crate::state::{ClusterOverview, cluster_config, cluster_map, query_cluster};
use crate::table::{Table, TableError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_placement::{ClusterMap, NodeState};
use tenfour_types::{ConfigVersion, Epoch, NodeId, TargetId};
use tokio::sync::watch;

/// Group 0 at one log index.
pub(super) struct View {
    applied: u64,
    pub(super) map: Arc<ClusterMap>,
    pub(super) config: Arc<Config>,
    pub(super) overview: ClusterOverview,
}

/// What those who wait are told about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Versions {
    pub(super) epoch: Epoch,
    pub(super) config: ConfigVersion,
    /// Every index group has committed all fences up to this one.
    pub(super) fences_done: u64,
}

/// A node's last sign of life.
#[derive(Clone)]
pub(super) struct Heard {
    pub(super) at: Instant,
    pub(super) poisoned: Vec<TargetId>,
    pub(super) repair: RepairProgress,
}

pub(super) struct Cluster {
    machine: Machine,
    view: Mutex<Option<Arc<View>>>,
    versions: watch::Sender<Versions>,
    /// By node; only the leader is told.
    pub(super) heard: Mutex<BTreeMap<NodeId, Heard>>,
    suspect_after: Duration,
}

impl Cluster {
    pub(super) fn new(machine: Machine, suspect_after: Duration) -> Self {
        let (versions, heard) = (watch::Sender::default(), Mutex::default());
        Self { machine, view: Mutex::new(None), versions, heard, suspect_after }
    }

    /// The answer to a query on a view of the table.
    pub(super) fn answer(
        &self,
        table: &dyn Table,
        applied: u64,
        query: ClusterQuery,
    ) -> Result<ClusterAnswer, TableError> {
        let view = self.decode(table, applied)?;
        Ok(match query {
            ClusterQuery::ConfigSince { known } if view.config.version <= known => {
                ClusterAnswer::ConfigIsNewest
            }
            ClusterQuery::Config | ClusterQuery::ConfigSince { .. } => {
                ClusterAnswer::Config(Arc::clone(&view.config))
            }
            ClusterQuery::Map { known } => {
                ClusterAnswer::Map((view.map.epoch > known).then(|| Arc::clone(&view.map)))
            }
            ClusterQuery::Status => {
                let Some(cluster) = view.overview.cluster else {
                    return Err(TableError::Store("the cluster has not been begun".to_owned()));
                };
                let heard = self.heard.lock();
                let silent_ms =
                    heard.iter().map(|(node, heard)| (*node, heard.at.elapsed().as_millis() as u64));
                let is_suspect = |(node, heard): &(&NodeId, &Heard)| {
                    let is_up = view.map.nodes.get(*node).is_some_and(|node| node.state == NodeState::Up);
                    is_up && heard.at.elapsed() > self.suspect_after
                };
                ClusterAnswer::Status(ClusterStatus {
                    cluster,
                    map: Arc::clone(&view.map),
                    leases: view.overview.leases.clone(),
                    fences_pending: view.overview.fences_pending.clone(),
                    silent_ms: silent_ms.collect(),
                    suspected: heard.iter().filter(is_suspect).map(|(node, _)| *node).collect(),
                    repair: heard.iter().map(|(node, heard)| (*node, heard.repair)).collect(),
                })
            }
        })
    }

    /// What this replica has applied. Blocks for no longer than decoding takes.
    pub(super) fn local(&self) -> Result<Arc<View>, TableError> {
        self.machine.read(|table, applied| self.decode(table, applied))
    }

    fn decode(&self, table: &dyn Table, applied: u64) -> Result<Arc<View>, TableError> {
        if let Some(view) = self.view.lock().as_ref()
            && view.applied == applied
        {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(View {
            applied,
            map: cluster_map(table)?,
            config: cluster_config(table)?,
            overview: query_cluster(table)?,
        });
        let mut kept = self.view.lock();
        if kept.as_ref().is_none_or(|kept| kept.applied < applied) {
            *kept = Some(Arc::clone(&view));
        }
        Ok(view)
    }

    /// Told whenever the map, the config or the fences change in what this replica has applied.
    pub(super) fn versions(&self) -> watch::Receiver<Versions> {
        self.versions.subscribe()
    }

    /// Follows what is applied, and tells those who wait.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut applied = self.machine.applied();
        loop {
            let this = Arc::clone(&self);
            let view = match tokio::task::spawn_blocking(move || this.local()).await {
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                view => view,
            };
            if let Ok(Ok(view)) = view {
                let done = view.overview.fences_done.iter().map(|(_, number)| *number).min();
                let versions = Versions {
                    epoch: view.map.epoch,
                    config: view.config.version,
                    fences_done: done.unwrap_or(0),
                };
                self.versions.send_if_modified(|known| std::mem::replace(known, versions) != versions);
            }
            if applied.changed().await.is_err() {
                return;
            }
        }
    }
}
