//! A whole cluster in this process: metadata replicas on loopback TCP, fourteen nodes over shared memory on disks that can be made
//! to fail, and gateways. Only public interfaces are used.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tenfour_gateway::transfer::{
    AccessError, Authorise, Destination, Digested, ReadError, Sink, Source, SourceError, Stored, Summary,
    Wanted, WriteError,
};
use tenfour_gateway::{Gateway, GatewayConfig};
use tenfour_metadata::api::{Bucket, ClusterCommand, Config, IndexAnswer, IndexQuery, Precondition, User};
use tenfour_metadata::{Metadata, MetadataConfig, MetadataServer, MetadataServerConfig};
use tenfour_node::disk::{Faults, FaultyDisk};
use tenfour_node::{Node, NodeConfig, TargetConfig};
use tenfour_rdma::{Advertised, ClusterKey, Endpoint, Fabric, Provider};
use tenfour_types::{BucketName, ClusterId, Headers, NodeId, ObjectKey, StripeRow, TargetId};

const CLUSTER: ClusterId = ClusterId(*b"pipeline cluster");
/// Longer than any test: nodes send no heartbeats here, and what is tested is what the gateway notices by itself.
const NODE_DOWN_AFTER: Duration = Duration::from_secs(3600);

fn key() -> ClusterKey {
    ClusterKey::from_bytes([5; 32])
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub struct Cluster {
    folder: tempfile::TempDir,
    peers: Vec<SocketAddr>,
    metadata: Metadata,
    _servers: Vec<MetadataServer>,
    hybrid: bool,
    pub nodes: BTreeMap<u32, Node>,
    pub disks: BTreeMap<u32, FaultyDisk>,
}

impl Cluster {
    /// Nodes over shared memory.
    pub async fn start(nodes: u32, replicas: u64) -> Self {
        Self::start_as(nodes, replicas, false, |_, endpoints| endpoints).await
    }

    /// Nodes over shared memory and TCP; `register` says what the map is told of a node's endpoints.
    pub async fn start_hybrid(nodes: u32, register: impl Fn(u32, Vec<String>) -> Vec<String>) -> Self {
        Self::start_as(nodes, 1, true, register).await
    }

    async fn start_as(
        nodes: u32,
        replicas: u64,
        hybrid: bool,
        register: impl Fn(u32, Vec<String>) -> Vec<String>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let peers: BTreeMap<u64, SocketAddr> = (1..=replicas).map(|id| (id, free_address())).collect();
        let servers = futures::future::join_all((1..=replicas).map(|id| {
            let at = folder.path().join(format!("meta-{id}"));
            let mut config = MetadataServerConfig::new(id, CLUSTER, key(), peers.clone(), peers[&id], at);
            config.node_down_after = NODE_DOWN_AFTER;
            config.bootstrap = id == 1;
            config.root_user = Some(User {
                access_key: "root".to_owned(),
                secret_key: "secret".to_owned(),
                display_name: "the administrator".to_owned(),
                enabled: true,
                root: true,
            });
            async move { MetadataServer::start(config).await.unwrap() }
        }))
        .await;
        let peers: Vec<SocketAddr> = peers.into_values().collect();
        let metadata = loop {
            match Metadata::connect(MetadataConfig::new(CLUSTER, key(), peers.clone())).await {
                Ok(metadata) if !metadata.index_groups().is_empty() => break metadata,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let mut cluster = Self {
            folder,
            peers,
            metadata,
            _servers: servers,
            hybrid,
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
        };
        for id in 0..nodes {
            cluster.disks.insert(id, FaultyDisk::new(&cluster.folder.path().join(format!("index-{id}"))));
            cluster.start_node(id).await;
            let endpoints = cluster.nodes[&id].endpoints().iter();
            let endpoints = endpoints.map(|at| Advertised::by_this_process(at.clone()).to_string()).collect();
            let command = ClusterCommand::RegisterNode {
                node: NodeId(id),
                endpoints: register(id, endpoints),
                rack: format!("rack-{}", id % 3),
                targets: vec![(TargetId(id), 1)],
            };
            cluster.command(command).await;
        }
        cluster.command(ClusterCommand::BuildGroups { count: Some(32) }).await;
        let name = BucketName::new("bucket").unwrap();
        cluster.command(ClusterCommand::CreateBucket { name, owner: "root".to_owned(), created_ms: 1 }).await;
        cluster
    }

    async fn command(&self, command: ClusterCommand) {
        self.metadata.cluster(command).await.unwrap().unwrap();
    }

    /// The socket of a node.
    pub fn socket(&self, id: u32) -> PathBuf {
        self.folder.path().join(format!("node-{id}.sock"))
    }

    pub async fn start_node(&mut self, id: u32) {
        let mut config = NodeConfig::new(CLUSTER, key(), NodeId(id));
        config.fabric = vec![Endpoint::Shm(self.socket(id)).into()];
        if self.hybrid {
            config.fabric.push(Endpoint::Tcp("127.0.0.1:0".parse().unwrap()).into());
        }
        config.targets = vec![TargetConfig {
            id: TargetId(id),
            folder: self.folder.path().to_owned(),
            capacity_bytes: 256 << 20,
            create: true,
        }];
        config.staging_bytes = 48 << 20;
        config.segment_bytes = 8 << 20;
        let disk = self.disks[&id].clone();
        let node = Node::start_on(config, move |_| Ok(disk.clone())).await.unwrap();
        self.nodes.insert(id, node);
    }

    pub async fn stop_node(&mut self, id: u32) {
        self.nodes.remove(&id).unwrap().shutdown().await;
    }

    pub fn slow_disk(&self, id: u32, flush_delay: Duration) {
        self.disks[&id].set_faults(Faults { flush_delay, ..Faults::default() });
    }

    pub fn gateway_config(&self) -> GatewayConfig {
        let mut config = GatewayConfig::new(CLUSTER, key(), self.peers.clone());
        config.fabric = Fabric::Only(Provider::Shm);
        // A test machine is slow at times; who tests hedging says what is late.
        config.hedge_min = Duration::from_secs(1);
        config
    }

    pub async fn gateway(&self) -> Gateway {
        self.gateway_with(self.gateway_config()).await
    }

    pub async fn gateway_with(&self, config: GatewayConfig) -> Gateway {
        let gateway = Gateway::start(config).await.unwrap();
        assert_eq!(gateway.connected_nodes(), self.nodes.len(), "all nodes are connected");
        gateway
    }

    /// Every row of the stripe table.
    pub async fn stripes(&self) -> Vec<StripeRow> {
        let mut rows = Vec::new();
        for group in self.metadata.index_groups() {
            let query = IndexQuery::Stripes { after: None, most: 4096 };
            match self.metadata.query(group, query).await.unwrap().answer {
                IndexAnswer::Stripes(found) => rows.extend(found),
                other => panic!("{other:?}"),
            }
        }
        rows
    }

    /// Shards on all disks.
    pub fn shards(&self) -> u64 {
        self.nodes.values().flat_map(Node::targets).map(|status| status.shards).sum()
    }
}

/// Who may do everything.
pub struct Root;

impl Authorise for Root {
    fn check(&self, config: &Config) -> Result<Bucket, AccessError> {
        let bucket = config.buckets.get(&BucketName::new("bucket").unwrap());
        bucket.cloned().ok_or(AccessError::NoSuchBucket)
    }
}

/// Bytes that say whose they are.
pub fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// A client that sends so much at a time.
pub struct Body {
    rest: Bytes,
    size: u64,
    at_a_time: usize,
    pub pause: Option<Duration>,
    pub verdict: Result<(), SourceError>,
    pub md5: Option<[u8; 16]>,
}

impl Body {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let rest = bytes.into();
        Self { size: rest.len() as u64, rest, at_a_time: 100_000, pause: None, verdict: Ok(()), md5: None }
    }

    /// Announces more than it sends.
    pub fn cut(mut self, missing: u64) -> Self {
        self.size += missing;
        self
    }
}

impl Source for Body {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&mut self, into: &mut [u8]) -> Result<usize, SourceError> {
        if let Some(pause) = self.pause {
            tokio::time::sleep(pause).await;
        }
        let piece = self.rest.split_to(into.len().min(self.at_a_time).min(self.rest.len()));
        into[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }

    fn wants_md5(&self) -> bool {
        self.md5.is_some()
    }

    async fn finish(&mut self, digested: Digested) -> Result<Summary, SourceError> {
        self.verdict.clone()?;
        if self.md5.is_some() && self.md5 != digested.md5 {
            return Err(SourceError::Md5Mismatch);
        }
        Ok(Summary { etag: digested.etag, checksums: Vec::new() })
    }
}

pub fn object(key: &str) -> Destination {
    Destination::Object {
        key: ObjectKey::new(key).unwrap(),
        headers: Headers::default(),
        precondition: Precondition::None,
    }
}

pub async fn put(gateway: &Gateway, key: &str, bytes: Vec<u8>) -> Result<Stored, WriteError> {
    gateway.put(&Root, object(key), &mut Body::new(bytes)).await
}

pub async fn read(gateway: &Gateway, key: &str, wanted: Wanted) -> Result<Vec<u8>, ReadError> {
    let mut reading = gateway.get(&Root, &ObjectKey::new(key).unwrap(), wanted).await?;
    let mut all = Vec::new();
    while let Some(bytes) = reading.body.next().await {
        all.extend_from_slice(&bytes?);
    }
    assert_eq!(all.len() as u64, reading.range.1 - reading.range.0);
    Ok(all)
}

/// Puts, and reads back from the same gateway.
pub async fn round_trip(gateway: &Gateway, key: &str, seed: u64, bytes: usize) {
    let body = pattern(seed, bytes);
    put(gateway, key, body.clone()).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    assert_same(gateway, key, &body).await;
}

pub async fn assert_same(gateway: &Gateway, key: &str, body: &[u8]) {
    let found = read(gateway, key, Wanted::All).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    assert!(found == body, "{key}: {} bytes read back as {} others", body.len(), found.len());
}
