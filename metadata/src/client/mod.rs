//! The handle that everyone else uses: it finds leaders, reconnects, and sends a command again under the same id.
//!
//! It holds no state of the cluster but caches, each with its version; a linearizable answer says which version it was given
//! under. A command whose outcome is not known when the deadline passes is reported as [`MetadataError::OutcomeUnknown`], never
//! as failed.

mod follow;
mod lease;
mod list;
mod members;
mod route;
pub mod status;

pub use lease::{CommandTicket, Lease, ReadTicket, StripeTicket};
pub use status::{GroupStatus, MetadataStatus, ReplicaStatus};

use crate::api::cluster::Heartbeat;
use crate::api::index::IndexAnswerAt;
use crate::api::{
    ClusterAnswer, ClusterCommand, ClusterQuery, ClusterReply, Config, Envelope, IndexCommand, IndexQuery,
    IndexReply,
};
use crate::net::Kind;
use crate::raft::ClusterEnvelope;
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use route::Router;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tenfour_placement::ClusterMap;
use tenfour_rdma::ClusterKey;
use tenfour_types::Scaled;
use tenfour_types::{BucketId, ClusterId, CommandId, Epoch, LeaseId, MetaGroupId, ObjectKey};
use thiserror::Error;

/// A heartbeat is given up after this.
const HEARTBEAT_DEADLINE: Duration = Duration::from_millis(1500);

/// What a handle has to know.
#[derive(Clone)]
pub struct MetadataConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's secret.
    pub cluster_key: ClusterKey,
    /// The replicas; one that answers is enough, others are learned.
    pub peers: Vec<SocketAddr>,
    /// A request is given up after this.
    pub deadline: Duration,
}

impl MetadataConfig {
    /// With the default deadline of 10 seconds.
    pub fn new(cluster: ClusterId, cluster_key: ClusterKey, peers: Vec<SocketAddr>) -> Self {
        Self { cluster, cluster_key, peers, deadline: Duration::from_secs(10) }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetadataError {
    /// Nothing happened: no leader took it before the deadline.
    #[error("the metadata service is not available: {0}")]
    Unavailable(String),
    /// The deadline passed after it was sent: it happened, or not, or will still.
    #[error("the metadata service did not answer in time: it is not known whether the command happened")]
    OutcomeUnknown,
    /// Nothing happened: no replica is of this cluster, or holds this key.
    #[error("no replica is of this cluster with this key: {0}")]
    Stranger(String),
    /// Nothing happened: the request itself is at fault.
    #[error("the metadata service refused: {0}")]
    Refused(String),
}

impl MetadataError {
    /// Whether the same request, sent again, can succeed; a command only under the same id.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown)
    }
}

/// The handle. A clone is the same handle.
#[derive(Clone)]
pub struct Metadata {
    shared: Arc<Shared>,
}

struct Shared {
    router: Router,
    map: ArcSwap<ClusterMap>,
    config: ArcSwap<Config>,
}

impl Metadata {
    /// Finds the cluster, reads its map and config, and follows them from then on.
    pub fn connect(config: MetadataConfig) -> BoxFuture<'static, Result<Self, MetadataError>> {
        Box::pin(async move {
            let this = Self::unconnected(&config);
            this.refresh_config().await?;
            this.refresh_map().await?;
            tokio::spawn(follow::run(Arc::downgrade(&this.shared)));
            Ok(this)
        })
    }

    /// A handle that has not asked anything yet, whose map and config are empty and stay so unless they are refreshed.
    pub(crate) fn unconnected(config: &MetadataConfig) -> Self {
        let shared = Shared {
            router: Router::new(config),
            map: ArcSwap::from_pointee(ClusterMap::default()),
            config: ArcSwap::from_pointee(Config::default()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The newest map that this handle knows.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.shared.map.load_full()
    }

    /// The map as it is now, linearizably.
    pub async fn refresh_map(&self) -> Result<Arc<ClusterMap>, MetadataError> {
        let known = self.shared.map.load().epoch;
        match self.cluster_query(ClusterQuery::Map { known }).await? {
            ClusterAnswer::Map(Some(map)) => {
                replace_if_newer(&self.shared.map, map, |map| map.epoch);
                Ok(self.map())
            }
            ClusterAnswer::Map(None) => Ok(self.map()),
            _ => Err(unreadable()),
        }
    }

    /// The newest config that this handle knows.
    pub fn config(&self) -> Arc<Config> {
        self.shared.config.load_full()
    }

    /// Buckets, users and slots as they are now, linearizably. They travel only when they have changed.
    pub async fn refresh_config(&self) -> Result<Arc<Config>, MetadataError> {
        let known = self.shared.config.load().version;
        match self.cluster_query(ClusterQuery::ConfigSince { known }).await? {
            ClusterAnswer::Config(config) => {
                replace_if_newer(&self.shared.config, config, |config| config.version);
                Ok(self.config())
            }
            ClusterAnswer::ConfigIsNewest => Ok(self.config()),
            _ => Err(unreadable()),
        }
    }

    /// The index group of a key, by the slots of the config that this handle knows.
    pub fn group_of(&self, bucket: BucketId, key: &ObjectKey) -> MetaGroupId {
        let slot = tenfour_types::key_slot(bucket, key.as_str());
        self.shared.config.load().slots.get(usize::from(slot)).copied().unwrap_or(MetaGroupId(1))
    }

    /// All index groups.
    pub fn index_groups(&self) -> Vec<MetaGroupId> {
        let mut groups = self.shared.config.load().slots.clone();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// A command for group 0; answered after its fences are committed in every index group. Sent again under the same
    /// (random) id when a leader is lost, so it happens once.
    pub async fn cluster(&self, command: ClusterCommand) -> Result<ClusterReply, MetadataError> {
        let id = CommandId { lease: LeaseId(0), sequence: rand::random() };
        self.cluster_as(Some(id), command).await
    }

    pub(crate) async fn cluster_as(
        &self,
        id: Option<CommandId>,
        command: ClusterCommand,
    ) -> Result<ClusterReply, MetadataError> {
        let envelope = ClusterEnvelope { id, command };
        self.shared.router.command(Kind::Cluster, MetaGroupId(0), &envelope).await
    }

    /// A linearizable read of group 0.
    pub async fn cluster_query(&self, query: ClusterQuery) -> Result<ClusterAnswer, MetadataError> {
        self.shared.router.read(Kind::ClusterQuery, MetaGroupId(0), &query).await
    }

    /// A node's sign of life; answers with the epoch that the leader knows. Given up soon: the next one comes anyway.
    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<Epoch, MetadataError> {
        let late = MetadataError::Unavailable("no answer in time".to_owned());
        let within = self.shared.router.deadline().min(HEARTBEAT_DEADLINE.scaled());
        self.shared.router.ask(Kind::Heartbeat, MetaGroupId(0), &heartbeat, within, late).await
    }

    /// A command for an index group. Sent again under the same id, to whoever leads, until it is decided or the deadline passes.
    pub async fn commit(
        &self,
        group: MetaGroupId,
        envelope: Envelope<IndexCommand>,
    ) -> Result<IndexReply, MetadataError> {
        self.shared.router.command(Kind::Commit, group, &envelope).await
    }

    /// A linearizable read of an index group.
    pub async fn query(&self, group: MetaGroupId, query: IndexQuery) -> Result<IndexAnswerAt, MetadataError> {
        self.shared.router.read(Kind::Query, group, &query).await
    }

    /// Takes a lease, and ends the earlier ones of the same `holder`: a name that a gateway keeps over its restarts and shares
    /// with no other; an empty one ends none.
    pub async fn lease(&self, holder: &str) -> Result<Lease, MetadataError> {
        Lease::take(self, holder).await
    }
}

/// Puts `new` into a cache unless what is there is as new.
fn replace_if_newer<T, V: Ord>(cache: &ArcSwap<T>, new: Arc<T>, version: impl Fn(&T) -> V) {
    cache.rcu(|known| if version(known) < version(&new) { Arc::clone(&new) } else { Arc::clone(known) });
}

fn unreadable() -> MetadataError {
    MetadataError::Refused("its answer is not readable".to_owned())
}
