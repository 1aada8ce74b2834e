//! The gateway as a whole: what it is started with, what its pipelines share.
//!
//! It holds no state that cannot be lost: a lease, caches with their versions, connections. Everything here is cheap to clone.

use crate::counters::Counters;
use crate::etag::{EtagKind, Etags};
use crate::latency::Latency;
use crate::memory::Memory;
use crate::nodes::{Nodes, NodesConfig};
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tenfour_erasure::Codec;
use tenfour_metadata::{Lease, Metadata, MetadataConfig, MetadataError};
use tenfour_placement::ClusterMap;
use tenfour_rdma::{
    Advertised, ChoiceError, ClusterKey, Domain, DomainConfig, Fabric, Pool, Provider, Tunables,
};
use tenfour_types::ClusterId;
use tenfour_types::Scaled;
use tenfour_types::limits::NODE_DOWN_AFTER_MS;
use thiserror::Error;

/// Registered memory, unless said otherwise, bytes.
pub const POOL_BYTES_DEFAULT: usize = 256 << 20;
/// The least registered memory: one full stripe, and the spares.
pub const POOL_BYTES_MIN: usize = 32 << 20;
/// A gateway that starts waits so long for its first connections to nodes.
const FIRST_CONNECTIONS_WAIT: Duration = Duration::from_secs(3);

/// What a gateway is started with. Times are those of an ordinary machine: they are multiplied by the process's
/// [`tenfour_types::TimeScale`].
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Its name in the cluster: of no other gateway that runs, and the same at every start, since a gateway ends what an
    /// earlier life of its name has left undecided. By default one that is made up, and takes nothing over.
    pub name: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// What its members prove to each other.
    pub cluster_key: ClusterKey,
    /// Metadata replicas.
    pub metadata_peers: Vec<SocketAddr>,
    /// A request to metadata is given up after this. Default 10 s.
    pub metadata_deadline: Duration,
    /// What carries shards to and from the nodes. Default `auto`: of the endpoints that a node has registered, the first that a
    /// connection can be had to.
    pub fabric: Fabric,
    /// A node that is reached by less than its best endpoint is tried at the better ones every so often. Default 15 s.
    pub better_fabric_every: Duration,
    /// Registered memory, bytes: what all requests together may hold. Default 256 MiB.
    pub pool_bytes: usize,
    /// Who encodes.
    pub codec: Arc<dyn Codec>,
    /// What ETags are. Default MD5.
    pub etag: EtagKind,
    /// A node that left requests unanswered for so long is taken for down until it answers. Default 3 s.
    pub node_down_after: Duration,
    /// A shard is written elsewhere too, or read from others, after at least so long. Default 75 ms.
    pub hedge_min: Duration,
    /// And after at most so long, however slow the nodes are. Default 1 s.
    pub hedge_max: Duration,
    /// The 14 shards of a stripe are durable after so long, or the write fails. Default 30 s.
    pub write_deadline: Duration,
    /// A stripe is read after so long, or the read fails. Default 20 s.
    pub read_deadline: Duration,
    /// A request waits so long for memory before it is refused. Default 15 s: longer than an operation of the fabric
    /// can hold it.
    pub memory_wait: Duration,
    /// Times of the fabric.
    pub tunables: Tunables,
}

impl GatewayConfig {
    /// With defaults for everything that has one.
    pub fn new(cluster: ClusterId, cluster_key: ClusterKey, metadata_peers: Vec<SocketAddr>) -> Self {
        Self {
            name: process_name(),
            cluster,
            cluster_key,
            metadata_peers,
            metadata_deadline: Duration::from_secs(10),
            fabric: Fabric::Auto,
            better_fabric_every: Duration::from_secs(15),
            pool_bytes: POOL_BYTES_DEFAULT,
            codec: tenfour_erasure::best(),
            etag: EtagKind::Md5,
            node_down_after: Duration::from_millis(NODE_DOWN_AFTER_MS),
            hedge_min: Duration::from_millis(75),
            hedge_max: Duration::from_secs(1),
            write_deadline: Duration::from_secs(30),
            read_deadline: Duration::from_secs(20),
            memory_wait: Duration::from_secs(15),
            tunables: Tunables::default(),
        }
    }
}

/// Why a gateway does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// The transport that was named cannot be had here.
    #[error(transparent)]
    Fabric(#[from] ChoiceError),
    /// The transport that was named is none of any node.
    #[error(
        "fabric = {named}: no node listens at such an endpoint (registered: {registered}); name what the nodes have, or auto"
    )]
    NotOffered {
        /// What was named.
        named: Provider,
        /// What the nodes have registered.
        registered: String,
    },
    /// Registered memory cannot be had.
    #[error("the fabric's memory: {0}")]
    Memory(#[from] tenfour_rdma::OpenError),
    /// The threads that hash cannot be started.
    #[error("the threads that hash: {0}")]
    Threads(std::io::Error),
    /// No metadata.
    #[error("the metadata service: {0}")]
    Metadata(#[from] MetadataError),
}

impl StartError {
    /// Whether the same start can succeed later without anyone's help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Metadata(error) if error.is_retryable())
    }
}

/// A running gateway. A clone is the same gateway.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) name: String,
    pub(crate) metadata: Metadata,
    pub(crate) lease: ArcSwap<Lease>,
    pub(crate) renewing: AtomicBool,
    pub(crate) nodes: Nodes,
    pub(crate) memory: Memory,
    pub(crate) codec: Arc<dyn Codec>,
    pub(crate) etags: Etags,
    pub(crate) counters: Arc<Counters>,
    pub(crate) write_deadline: Duration,
    pub(crate) read_deadline: Duration,
}

impl Gateway {
    /// Takes a lease, registers memory, and connects to the nodes; those that are missing are connected to when they come.
    pub fn start(config: GatewayConfig) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(Self::start_anew(config))
    }

    async fn start_anew(config: GatewayConfig) -> Result<Self, StartError> {
        if config.pool_bytes < POOL_BYTES_MIN {
            return Err(StartError::Config("the gateway's pool is too small: 32 MiB or more"));
        }
        let settings = MetadataConfig {
            deadline: config.metadata_deadline,
            ..MetadataConfig::new(config.cluster, config.cluster_key.clone(), config.metadata_peers.clone())
        };
        let metadata = Metadata::connect(settings).await?;
        check_offers(config.fabric, &metadata.map())?;
        let lease = metadata.lease(&config.name).await?;
        let domain = open_domain(&config)?;
        let memory = Memory::new(domain.pool().clone(), config.memory_wait.scaled());
        let nodes = Nodes::start(
            NodesConfig {
                cluster: config.cluster,
                better_every: config.better_fabric_every.scaled(),
                down_after: config.node_down_after.scaled(),
                stores: Latency::new(config.hedge_min.scaled(), config.hedge_max.scaled()),
                fetches: Latency::new(config.hedge_min.scaled(), config.hedge_max.scaled()),
            },
            domain,
            metadata.clone(),
        );
        nodes.first_connections(FIRST_CONNECTIONS_WAIT.scaled()).await;
        let counters = Arc::<Counters>::default();
        let inner = Inner {
            name: config.name,
            metadata,
            lease: ArcSwap::from_pointee(lease),
            renewing: AtomicBool::new(false),
            nodes,
            memory,
            codec: config.codec,
            etags: Etags::start(config.etag, counters.clone()).map_err(StartError::Threads)?,
            counters,
            write_deadline: config.write_deadline.scaled(),
            read_deadline: config.read_deadline.scaled(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The metadata service.
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// The lease that commands and stripes are numbered under.
    pub fn lease(&self) -> Arc<Lease> {
        self.inner.lease.load_full()
    }

    /// What it did so far.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// The nodes that answer now.
    pub fn connected_nodes(&self) -> usize {
        self.inner.nodes.ready_count()
    }

    /// The registered memory that stripes are encoded in.
    pub fn pool(&self) -> &Pool {
        self.inner.memory.pool()
    }

    /// Registered memory that nobody holds, bytes.
    pub fn free_bytes(&self) -> usize {
        self.inner.memory.free_bytes()
    }

    /// Staging slots of nodes that may be written to now.
    pub fn free_credits(&self) -> usize {
        self.inner.nodes.credits().free_count()
    }

    /// Ends the lease and the connections. To be called when no request is running.
    pub fn shutdown(self) -> BoxFuture<'static, ()> {
        Box::pin(self.end())
    }

    async fn end(self) {
        let lease = Lease::clone(&self.lease());
        // Published first: what is decided need not be asked for when the lease is fenced.
        if let Err(error) = lease.publish().await {
            tracing::debug!(%error, "the last watermark was not published");
        }
        if let Err(error) = lease.end().await {
            tracing::warn!(%error, "the lease was not ended: the next gateway of this name will");
        }
        self.inner.nodes.stop().await;
    }
}

/// The fabric's end of this gateway. `auto` does without verbs when a device that is there cannot be used.
fn open_domain(config: &GatewayConfig) -> Result<Domain, StartError> {
    let providers = config.fabric.providers()?;
    let mut domain =
        DomainConfig::carrying(providers, "gateway", config.cluster_key.clone(), config.pool_bytes);
    domain.tunables = config.tunables.clone();
    let optional: &[Provider] = if config.fabric == Fabric::Auto { &[Provider::Verbs] } else { &[] };
    Ok(Domain::open_without(domain, optional)?)
}

/// A transport that was named, and that no node has, is an error now and not a gateway without nodes.
fn check_offers(fabric: Fabric, map: &ClusterMap) -> Result<(), StartError> {
    let Fabric::Only(named) = fabric else { return Ok(()) };
    let offered: BTreeSet<String> = map
        .nodes
        .values()
        .flat_map(|node| &node.endpoints)
        .filter_map(|text| Some(text.parse::<Advertised>().ok()?.endpoint.provider().to_string()))
        .collect();
    if offered.is_empty() || offered.contains(&named.to_string()) {
        return Ok(());
    }
    let registered = offered.into_iter().collect::<Vec<_>>().join(", ");
    Err(StartError::NotOffered { named, registered })
}

/// A name that no other gateway has, in this process or another.
fn process_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("gateway {} pid {} {:016x}", host.trim(), std::process::id(), rand::random::<u64>())
}
