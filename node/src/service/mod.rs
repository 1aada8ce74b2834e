//! The shard service: what gateways and repairing nodes speak to (`tenfour_types::shard_service`).
//!
//! One task for each connection; the disks' threads answer into its queue. Staging memory is divided among the peers when they
//! connect. Invariant: whatever a peer sends, or however it dies, its slots go back to the pool, and nobody else notices.

mod listen;
mod session;

pub(crate) use listen::Listening;
pub use listen::STAGING_BYTES_MIN;
pub(crate) use listen::check;

use crate::config::NodeConfig;
use crate::target::Target;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tenfour_rdma::Buffer;
use tenfour_types::shard_service::TargetStatus;
use tenfour_types::{ClusterId, Epoch, NodeId, TargetId};

/// What all connections share.
pub(crate) struct Inner {
    pub(crate) targets: HashMap<TargetId, Arc<Target<Buffer>>>,
    /// Configured, and not served.
    unopened: Vec<TargetStatus>,
    pub(crate) epoch: AtomicU64,
    cluster: ClusterId,
    node: NodeId,
    slots_per_peer: u16,
}

impl Inner {
    pub(crate) fn new(config: &NodeConfig, targets: HashMap<TargetId, Arc<Target<Buffer>>>) -> Self {
        let unopened = config.targets.iter().filter(|target| !targets.contains_key(&target.id));
        let unopened = unopened.map(|target| TargetStatus {
            target: target.id,
            healthy: false,
            shards: 0,
            used_bytes: 0,
            capacity_bytes: target.capacity_bytes,
            flushes: 0,
        });
        let (unopened, epoch) = (unopened.collect(), AtomicU64::new(0));
        let NodeConfig { cluster, node, slots_per_peer, .. } = *config;
        Self { targets, unopened, epoch, cluster, node, slots_per_peer }
    }

    pub(crate) fn statuses(&self) -> Vec<TargetStatus> {
        let mut statuses: Vec<_> = self.targets.values().map(|target| target.status()).collect();
        statuses.extend(self.unopened.iter().cloned());
        statuses.sort_unstable_by_key(|status| status.target);
        statuses
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }
}
