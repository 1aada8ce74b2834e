//! What a node is started with. Nothing is read from the environment here.

use std::path::PathBuf;
use tenfour_rdma::{ClusterKey, ListenAt, Provider, Tunables};
use tenfour_types::{ClusterId, NodeId, TargetId};

/// Registered memory of a node, unless said otherwise.
pub const STAGING_BYTES_DEFAULT: usize = 96 << 20;
/// Length of a segment, unless said otherwise.
pub const SEGMENT_BYTES_DEFAULT: u32 = 64 << 20;
/// Staging slots that one peer is granted, unless said otherwise.
pub const SLOTS_PER_PEER_DEFAULT: u16 = 16;

/// Registered memory for repair, unless said otherwise; the least there can be, for one stripe of the largest shards.
pub const REPAIR_BYTES_DEFAULT: usize = 32 << 20;
/// Bytes a second that repair reads, unless said otherwise.
pub const REPAIR_BYTES_PER_SECOND_DEFAULT: u64 = 256 << 20;

/// What repair may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RepairConfig {
    /// Registered memory, while something is repaired; at least [`REPAIR_BYTES_DEFAULT`].
    pub memory_bytes: usize,
    /// Bytes a second that it reads from other nodes; 0 for as many as it can.
    pub bytes_per_second: u64,
}

impl Default for RepairConfig {
    fn default() -> Self {
        Self { memory_bytes: REPAIR_BYTES_DEFAULT, bytes_per_second: REPAIR_BYTES_PER_SECOND_DEFAULT }
    }
}

/// A node: who it is, where it listens, where its disks are.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster: peers and folders of another one are refused.
    pub cluster: ClusterId,
    /// What peers must prove to have.
    pub cluster_key: ClusterKey,
    /// Its id.
    pub node: NodeId,
    /// Where the shard service listens, in order of preference; connections of every provider share the registered memory.
    pub fabric: Vec<ListenAt>,
    /// Its disks.
    pub targets: Vec<TargetConfig>,
    /// Registered memory: three quarters for staging slots, the rest for reads.
    pub staging_bytes: usize,
    /// Staging slots for each peer, while there is memory; a peer gets fewer rather than none.
    pub slots_per_peer: u16,
    /// Length of the segments of new targets.
    pub segment_bytes: u32,
    /// Times of the fabric.
    pub tunables: Tunables,
    /// What repair may use.
    pub repair: RepairConfig,
}

/// One disk.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// Its id.
    pub id: TargetId,
    /// Its folder, which must exist.
    pub folder: PathBuf,
    /// What its segments may take together.
    pub capacity_bytes: u64,
    /// The id was never in use: an empty folder may become this target. Without it an empty folder is refused, since it could be a
    /// wiped or unmounted disk. A folder that already is this target is opened in any case.
    pub create: bool,
}

impl NodeConfig {
    /// A node with defaults for everything that has one.
    pub fn new(cluster: ClusterId, cluster_key: ClusterKey, node: NodeId) -> Self {
        Self {
            cluster,
            cluster_key,
            node,
            fabric: Vec::new(),
            targets: Vec::new(),
            staging_bytes: STAGING_BYTES_DEFAULT,
            slots_per_peer: SLOTS_PER_PEER_DEFAULT,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            tunables: Tunables::default(),
            repair: RepairConfig::default(),
        }
    }

    /// What carries its connections, each once.
    pub(crate) fn providers(&self) -> Vec<Provider> {
        let mut providers = Vec::new();
        for provider in self.fabric.iter().map(|at| at.endpoint.provider()) {
            if !providers.contains(&provider) {
                providers.push(provider);
            }
        }
        providers
    }

    /// Those that need not be had: of no endpoint that is required.
    pub(crate) fn optional_providers(&self) -> Vec<Provider> {
        let is_required =
            |provider| self.fabric.iter().any(|at| at.required && at.endpoint.provider() == provider);
        self.providers().into_iter().filter(|provider| !is_required(*provider)).collect()
    }
}
