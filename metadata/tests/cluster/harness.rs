//! A cluster for tests: replicas with folders, and between each two of them a proxy that can be cut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tenfour_metadata::api::cluster::ClusterDone;
use tenfour_metadata::api::index::IndexAnswer;
use tenfour_metadata::api::{
    Bucket, ClusterCommand, Envelope, IndexCommand, IndexQuery, ObjectView, Precondition, User,
};
use tenfour_metadata::{Lease, Metadata, MetadataConfig, MetadataServer, MetadataServerConfig, StartError};
use tenfour_rdma::ClusterKey;
use tenfour_types::{
    Body, BucketName, ClusterId, CommandId, ETag, Headers, Manifest, MetaGroupId, ObjectKey,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub const CLUSTER: ClusterId = ClusterId(*b"a test's cluster");
pub const ROOT: &str = "root";

pub fn key() -> ClusterKey {
    ClusterKey::from_bytes([7; 32])
}

/// An address that was free a moment ago.
pub fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub struct Cluster {
    folder: TempDir,
    pub addresses: BTreeMap<u64, SocketAddr>,
    /// (from, to): what `from` takes for the address of `to`.
    proxies: BTreeMap<(u64, u64), Proxy>,
    pub servers: BTreeMap<u64, MetadataServer>,
    pub log_kept_entries: u64,
}

impl Cluster {
    /// Three replicas, begun.
    pub async fn start() -> Self {
        let mut cluster = Self::prepare(2_000).await;
        cluster.start_all(true).await;
        cluster
    }

    pub async fn prepare(log_kept_entries: u64) -> Self {
        let addresses: BTreeMap<u64, SocketAddr> = (1..=3).map(|id| (id, free_address())).collect();
        let mut proxies = BTreeMap::new();
        for from in 1..=3 {
            for to in (1..=3).filter(|to| *to != from) {
                proxies.insert((from, to), Proxy::start(addresses[&to]).await);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        Self { folder, addresses, proxies, servers: BTreeMap::new(), log_kept_entries }
    }

    pub fn folder(&self, id: u64) -> PathBuf {
        self.folder.path().join(format!("replica-{id}"))
    }

    pub fn config(&self, id: u64) -> MetadataServerConfig {
        let peers = (self.addresses.iter()).map(|(&peer, &address)| {
            (peer, self.proxies.get(&(id, peer)).map_or(address, |proxy| proxy.address))
        });
        let mut config = MetadataServerConfig::new(
            id,
            CLUSTER,
            key(),
            peers.collect(),
            self.addresses[&id],
            self.folder(id),
        );
        config.node_suspect_after = Duration::from_millis(500);
        config.node_down_after = Duration::from_millis(1000);
        config.log_kept_entries = self.log_kept_entries;
        config.index_groups = 3;
        config.root_user = Some(User {
            access_key: ROOT.to_owned(),
            secret_key: "secret".to_owned(),
            display_name: "the administrator".to_owned(),
            enabled: true,
            root: true,
        });
        config
    }

    pub async fn start_all(&mut self, bootstrap: bool) {
        let started = futures::future::join_all((1..=3).map(|id| {
            let config = MetadataServerConfig { bootstrap: bootstrap && id == 1, ..self.config(id) };
            async move { (id, MetadataServer::start(config).await.unwrap()) }
        }));
        self.servers.extend(started.await);
    }

    pub async fn start_one(&mut self, id: u64) -> Result<(), StartError> {
        let server = MetadataServer::start(self.config(id)).await?;
        self.servers.insert(id, server);
        Ok(())
    }

    pub async fn stop(&mut self, id: u64) {
        self.servers.remove(&id).unwrap().shutdown().await;
    }

    pub async fn stop_all(&mut self) {
        for id in 1..=3 {
            if self.servers.contains_key(&id) {
                self.stop(id).await;
            }
        }
    }

    /// Cuts a replica off from its peers, or joins it again. Clients still reach it.
    pub fn cut(&self, id: u64, cut: bool) {
        for ((from, to), proxy) in &self.proxies {
            if *from == id || *to == id {
                proxy.cut.send_replace(cut);
            }
        }
    }

    pub fn client_config(&self) -> MetadataConfig {
        MetadataConfig::new(CLUSTER, key(), self.addresses.values().copied().collect())
    }

    pub async fn connect(&self) -> Metadata {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            match Metadata::connect(self.client_config()).await {
                Ok(metadata) if !metadata.index_groups().is_empty() => return metadata,
                result => assert!(Instant::now() < deadline, "{:?}", result.err()),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A group that is led by the leader of group 0, and that leader.
pub async fn group_with_cluster_leader(metadata: &Metadata) -> Option<(MetaGroupId, u64)> {
    let leader = leader_of(metadata, MetaGroupId(0)).await;
    for group in metadata.index_groups() {
        if leader_of(metadata, group).await == leader {
            return Some((group, leader));
        }
    }
    None
}

pub async fn leader_of(metadata: &Metadata, group: MetaGroupId) -> u64 {
    for _ in 0..100 {
        if let Some(leader) = metadata.status().await.ok().and_then(|status| status.group(group)?.leader) {
            return leader;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{group} has no leader");
}

/// What a test needs to write objects.
pub struct Writer {
    pub metadata: Metadata,
    pub lease: Lease,
    pub bucket: Bucket,
}

static BUCKETS: AtomicU64 = AtomicU64::new(0);

impl Writer {
    pub async fn new(metadata: Metadata) -> Self {
        let name = format!("bucket-{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
        let name = BucketName::new(&name).unwrap();
        let command = ClusterCommand::CreateBucket { name, owner: ROOT.to_owned(), created_ms: 1 };
        let bucket = match metadata.cluster(command).await.unwrap().unwrap() {
            ClusterDone::Bucket(bucket) => bucket,
            other => panic!("{other:?}"),
        };
        metadata.refresh_config().await.unwrap();
        let lease = metadata.lease(&bucket.name.to_string()).await.unwrap();
        Self { metadata, lease, bucket }
    }

    pub fn group(&self, key: &str) -> MetaGroupId {
        self.metadata.group_of(self.bucket.id, &ObjectKey::new(key).unwrap())
    }

    /// The envelope that makes `key` an empty object whose ETag tells `tag`.
    pub fn put(
        &self,
        id: CommandId,
        key: &str,
        tag: u8,
        precondition: Precondition,
    ) -> Envelope<IndexCommand> {
        let manifest = Manifest {
            version: id,
            size: 0,
            etag: ETag { md5: [tag; 16], parts: None },
            modified_ms: 1,
            checksums: Vec::new(),
            headers: Headers::default(),
            body: Body::Extents(Vec::new()),
        };
        let key = ObjectKey::new(key).unwrap();
        let command = IndexCommand::PutObject {
            bucket: self.bucket.id,
            key,
            precondition,
            manifest,
            stripes: Vec::new(),
        };
        Envelope { id, config: self.metadata.config().version, command }
    }

    pub async fn write(&self, key: &str, tag: u8) {
        let ticket = self.lease.command();
        let envelope = self.put(ticket.id(), key, tag, Precondition::None);
        self.metadata.commit(self.group(key), envelope).await.unwrap().unwrap();
        ticket.decided();
    }

    pub async fn read(&self, key: &str) -> Option<ObjectView> {
        read(&self.metadata, &self.bucket, key).await
    }

    pub async fn tag(&self, key: &str) -> Option<u8> {
        self.read(key).await.map(|view| view.manifest.etag.md5[0])
    }
}

pub async fn read(metadata: &Metadata, bucket: &Bucket, key: &str) -> Option<ObjectView> {
    let key = ObjectKey::new(key).unwrap();
    let group = metadata.group_of(bucket.id, &key);
    let query = IndexQuery::Object { bucket: bucket.id, key, range: None };
    match metadata.query(group, query).await.unwrap().answer {
        IndexAnswer::Object(view) => view,
        other => panic!("{other:?}"),
    }
}

/// Forwards connections; while it is cut, bytes wait in it.
struct Proxy {
    address: SocketAddr,
    cut: Arc<watch::Sender<bool>>,
}

impl Proxy {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::new(watch::Sender::new(false));
        let switch = Arc::clone(&cut);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let switch = switch.subscribe();
                tokio::spawn(async move {
                    let Ok(to) = TcpStream::connect(to).await else { return };
                    let ((a, b), (c, d)) = (from.into_split(), to.into_split());
                    tokio::select! { () = forward(a, d, switch.clone()) => {}, () = forward(c, b, switch) => {} }
                });
            }
        });
        Self { address, cut }
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if cut.wait_for(|cut| !cut).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
