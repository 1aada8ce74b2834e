//! Repair over the real fabric, on real disks, with a real metadata service: fourteen nodes in one process.
#![allow(clippy::unwrap_used)] // Also in the helpers, which are no tests themselves.

mod support;

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{CLUSTER, payload};
use tenfour_erasure::{block_sums, crc64};
use tenfour_metadata::api::cluster::{ClusterDone, Heartbeat, RepairProgress};
use tenfour_metadata::api::{
    Bucket, ClusterCommand, Envelope, IndexAnswer, IndexCommand, IndexQuery, Precondition, User,
};
use tenfour_metadata::{Lease, Metadata, MetadataConfig, MetadataServer, MetadataServerConfig};
use tenfour_node::target::ShardKey;
use tenfour_node::{Node, NodeConfig, TargetConfig};
use tenfour_placement::NodeState;
use tenfour_rdma::{
    Advertised, ClusterKey, ConnectOptions, Connection, Domain, DomainConfig, Endpoint, Provider, Received,
};
use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, SHARD_BYTES_MIN, TOTAL_SHARDS};
use tenfour_types::record::{ShardHeader, header_bytes, record_bytes, shard_digest};
use tenfour_types::shard_service::{FromNode, Hello};
use tenfour_types::{
    Body, BucketName, ETag, Extent, Headers, Manifest, NodeId, ObjectKey, Override, ShardIndex, StripeRow,
    TargetId, Wire,
};

const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// Long beside what a busy machine makes of a heartbeat.
const DOWN_AFTER: Duration = Duration::from_secs(4);

fn key() -> ClusterKey {
    ClusterKey::from_bytes([3; 32])
}

/// A node, and the connection that writes to it.
struct Running {
    node: Node,
    connection: Connection,
    slots: Vec<tenfour_rdma::Remote>,
}

struct Cluster {
    folder: tempfile::TempDir,
    provider: Provider,
    server: MetadataServer,
    metadata: Metadata,
    lease: Lease,
    bucket: Bucket,
    domain: Domain,
    nodes: BTreeMap<u32, Running>,
    /// Nodes whose signs of life are sent.
    beating: Arc<Mutex<BTreeSet<u32>>>,
    beats: tokio::task::JoinHandle<()>,
}

impl Cluster {
    async fn start(provider: Provider) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let root = "root".to_owned();
        let config = MetadataServerConfig {
            node_down_after: DOWN_AFTER,
            node_out_after: None,
            bootstrap: true,
            root_user: Some(User {
                access_key: root.clone(),
                secret_key: "secret".to_owned(),
                display_name: "root".to_owned(),
                enabled: true,
                root: true,
            }),
            ..MetadataServerConfig::new(
                1,
                CLUSTER,
                key(),
                [(1, listen)].into(),
                listen,
                folder.path().join("meta"),
            )
        };
        let server = MetadataServer::start(config).await.unwrap();
        let metadata = loop {
            match Metadata::connect(MetadataConfig::new(CLUSTER, key(), vec![listen])).await {
                Ok(metadata) if !metadata.index_groups().is_empty() => break metadata,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let name = BucketName::new("bucket").unwrap();
        let create = ClusterCommand::CreateBucket { name, owner: root, created_ms: 1 };
        let ClusterDone::Bucket(bucket) = metadata.cluster(create).await.unwrap().unwrap() else { panic!() };
        metadata.refresh_config().await.unwrap();
        let lease = metadata.lease("test").await.unwrap();
        let domain = Domain::open(DomainConfig::new(provider, "writer", key(), 64 << 20)).unwrap();
        let (nodes, beating) = (BTreeMap::new(), Arc::<Mutex<BTreeSet<u32>>>::default());
        let beats = tokio::spawn(beat(metadata.clone(), Arc::clone(&beating)));
        let mut cluster =
            Self { folder, provider, server, metadata, lease, bucket, domain, nodes, beating, beats };
        for number in 1..=14 {
            cluster.start_node(number, number).await;
        }
        let groups = ClusterCommand::BuildGroups { count: Some(8) };
        cluster.metadata.cluster(groups).await.unwrap().unwrap();
        cluster.metadata.refresh_map().await.unwrap();
        cluster
    }

    fn target_folder(&self, number: u32) -> std::path::PathBuf {
        self.folder.path().join(format!("target-{number}"))
    }

    /// Starts a node with one target, and registers it.
    async fn start_node(&mut self, number: u32, target: u32) {
        let map = self.metadata.refresh_map().await.unwrap();
        let mut config = NodeConfig::new(CLUSTER, key(), NodeId(number));
        let endpoint = match self.provider {
            Provider::Shm => Endpoint::Shm(self.folder.path().join(format!("{number}.sock"))),
            _ => "tcp:127.0.0.1:0".parse().unwrap(),
        };
        config.fabric = vec![endpoint.into()];
        let folder = self.target_folder(number);
        std::fs::create_dir_all(&folder).unwrap();
        let (id, create) = (TargetId(target), !map.targets.contains_key(&TargetId(target)));
        config.targets = vec![TargetConfig { id, folder, capacity_bytes: 64 << 20, create }];
        config.segment_bytes = 8 << 20;
        config.staging_bytes = 16 << 20;
        let node = Node::start(config).await.unwrap();
        let endpoints = node.endpoints().iter();
        let register = ClusterCommand::RegisterNode {
            node: NodeId(number),
            endpoints: endpoints.map(|at| Advertised::by_this_process(at.clone()).to_string()).collect(),
            rack: "r".to_owned(),
            targets: vec![(id, 1)],
        };
        self.metadata.cluster(register).await.unwrap().unwrap();
        let hello = Hello { cluster: CLUSTER, node: NodeId(number), stores: true };
        let options = ConnectOptions { private_data: hello.to_bytes(), deadline: Duration::from_secs(5) };
        let connection = self.domain.connect(&node.endpoints()[0], options).await.unwrap();
        let Some(FromNode::Slots { slots, .. }) = next(&connection).await else { panic!() };
        self.nodes.insert(number, Running { node, connection, slots });
        self.beating.lock().unwrap().insert(number);
    }

    async fn stop_node(&mut self, number: u32) {
        self.beating.lock().unwrap().remove(&number);
        self.nodes.remove(&number).unwrap().node.shutdown().await;
    }

    /// The nodes fall silent, or beat again, and the map says so.
    async fn beat_of(&self, nodes: [u32; 2], beats: bool) {
        for node in nodes {
            let mut beating = self.beating.lock().unwrap();
            let _ = if beats { beating.insert(node) } else { beating.remove(&node) };
        }
        let wanted = if beats { NodeState::Up } else { NodeState::Down };
        let began = Instant::now();
        loop {
            let map = self.metadata.refresh_map().await.unwrap();
            if nodes.iter().all(|node| map.nodes[&NodeId(*node)].state == wanted) {
                return;
            }
            assert!(began.elapsed() < HEALED_WITHIN, "{wanted:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Writes an object of one stripe; its shards go home, but for those of absent nodes, which go beside another one's.
    async fn put(&mut self, number: u64, shard_bytes: usize) {
        let map = self.metadata.refresh_map().await.unwrap();
        let name = ObjectKey::new(&format!("object-{number}")).unwrap();
        let meta_group = self.metadata.group_of(self.bucket.id, &name);
        let mut ticket = self.lease.stripe(meta_group);
        let group = tenfour_types::GroupId((number % map.groups.len() as u64) as u32);
        let data: Vec<Vec<u8>> =
            (0..DATA_SHARDS as u64).map(|shard| payload(number * 100 + shard, shard_bytes)).collect();
        let mut parity = vec![vec![0; shard_bytes]; PARITY_SHARDS];
        let views: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut places: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        let codec = tenfour_erasure::best();
        let (data_views, parity_places) = (views.as_slice().try_into().unwrap(), places.as_mut_slice());
        codec.encode(data_views, parity_places.try_into().unwrap(), None).unwrap();
        let shards: Vec<Vec<u8>> = data.into_iter().chain(parity).collect();
        let mut row = StripeRow {
            id: ticket.id(),
            group,
            epoch: map.epoch,
            data_bytes: (shard_bytes * DATA_SHARDS) as u32,
            live_bytes: 0,
            digests: [tenfour_types::Digest([0; 16]); TOTAL_SHARDS],
            overrides: Vec::new(),
        };
        for (index, shard) in ShardIndex::all().zip(&shards) {
            let sums = block_sums(shard);
            let digest = shard_digest(row.id, index, shard_bytes as u32, &sums);
            row.digests[index.get()] = digest;
            let home = map.home(&row, index).unwrap();
            let target = if map.is_usable(home) {
                home
            } else {
                let beside = ShardIndex::new((index.get() + 1) % TOTAL_SHARDS).unwrap();
                map.home(&row, beside).unwrap()
            };
            if target != home {
                row.overrides.push(Override { index, target });
            }
            let header = ShardHeader {
                stripe: row.id,
                index,
                payload_bytes: shard_bytes as u32,
                epoch: map.epoch,
                target,
                digest,
            };
            self.store(&header, &sums, shard, map.node_of(target).unwrap().0).await;
        }
        let command = self.lease.command();
        let id = command.id();
        let size = row.data_bytes;
        let extent = Extent { stripe: row.id, offset: 0, bytes: size };
        let manifest = Manifest {
            version: id,
            size: u64::from(size),
            etag: ETag { md5: [1; 16], parts: None },
            modified_ms: 1,
            checksums: Vec::new(),
            headers: Headers::default(),
            body: Body::Extents(vec![extent]),
        };
        let put = IndexCommand::PutObject {
            bucket: self.bucket.id,
            key: name,
            precondition: Precondition::None,
            manifest,
            stripes: vec![row],
        };
        ticket.named();
        let envelope = Envelope { id, config: self.metadata.config().version, command: put };
        self.metadata.commit(meta_group, envelope).await.unwrap().unwrap();
        command.decided();
        ticket.committed();
    }

    async fn store(&mut self, header: &ShardHeader, sums: &[u64], shard: &[u8], node: u32) {
        let mut record = self.domain.pool().lease(record_bytes(shard.len())).await.unwrap();
        let start = header_bytes(shard.len());
        assert!(header.write(sums, crc64, &mut record[..start]));
        record[start..start + shard.len()].copy_from_slice(shard);
        let source = record.freeze().slice(0..start + shard.len()).unwrap();
        let running = self.nodes.get_mut(&node).unwrap();
        let to = running.slots[0].sub(0, source.len() as u32).unwrap();
        drop(running.connection.post_write(source, to, Some(0)).await.unwrap());
        match next(&running.connection).await {
            Some(FromNode::Stored { result: Ok(()), next, .. }) => running.slots[0] = next,
            other => panic!("{other:?}"),
        }
    }

    async fn rows(&self) -> Vec<StripeRow> {
        let mut rows = Vec::new();
        for group in self.metadata.index_groups() {
            let query = IndexQuery::Stripes { after: None, most: 4096 };
            match self.metadata.query(group, query).await.unwrap().answer {
                IndexAnswer::Stripes(page) => rows.extend(page),
                other => panic!("{other:?}"),
            }
        }
        rows
    }

    /// Waits until the map says that every slot is whole and no stripe has an override, and looks for every shard on its home's disk.
    async fn healed(&self) {
        let began = Instant::now();
        loop {
            let map = self.metadata.refresh_map().await.unwrap();
            let rows = self.rows().await;
            if rows.iter().all(|row| map.standing(row).is_full()) {
                break;
            }
            assert!(
                began.elapsed() < HEALED_WITHIN,
                "{:?}",
                rows.iter().map(|row| map.standing(row)).collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let map = self.metadata.refresh_map().await.unwrap();
        for row in self.rows().await {
            for index in ShardIndex::all() {
                let home = map.home(&row, index).unwrap();
                let running = &self.nodes[&map.node_of(home).unwrap().0];
                let shard = ShardKey { stripe: row.id, index, digest: row.digests[index.get()] };
                let (answer, answered) = tokio::sync::oneshot::channel();
                let pass_on = move |result| {
                    let _ = answer.send(result);
                };
                running.node.target(home).unwrap().verify(shard, Box::new(pass_on));
                assert_eq!(answered.await.unwrap(), Ok(()), "{row:?} {index} on {home}");
            }
        }
    }

    async fn end(mut self) {
        self.beats.abort();
        for number in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop_node(number).await;
        }
        drop((self.lease, self.metadata));
        self.server.shutdown().await;
    }
}

/// Signs of life, as the processes of nodes send them.
async fn beat(metadata: Metadata, beating: Arc<Mutex<BTreeSet<u32>>>) {
    loop {
        let nodes = beating.lock().unwrap().clone();
        for node in nodes {
            let heartbeat = Heartbeat {
                node: NodeId(node),
                epoch: metadata.map().epoch,
                poisoned: Vec::new(),
                repair: RepairProgress::default(),
            };
            // One that is lost is followed by the next.
            let _ = metadata.heartbeat(heartbeat).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn next(connection: &Connection) -> Option<FromNode> {
    match tokio::time::timeout(Duration::from_secs(10), connection.recv()).await.expect("in time") {
        Ok(Received::Message(message)) => {
            let message: Bytes = message;
            Some(FromNode::from_bytes(&message).unwrap())
        }
        _ => None,
    }
}

fn run<F: Future<Output = ()>>(each: impl Fn(Provider) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for provider in [Provider::Shm, Provider::Tcp] {
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(120), each(provider)).await.expect("in time");
        });
    }
}

/// Objects by number, with the length of their shards.
fn sizes() -> impl Iterator<Item = (u64, usize)> {
    (0..20).map(|number| (number, [SHARD_BYTES_MIN, 4032, 40_000, 100_032][(number % 4) as usize]))
}

fn wipe(folder: &Path) {
    support::remove_folder(folder);
}

#[test]
fn a_lost_target_is_made_anew_from_the_others_also_when_repair_is_cut_off_and_begun_again() {
    run(async |provider| {
        let mut cluster = Cluster::start(provider).await;
        for (number, bytes) in sizes() {
            cluster.put(number, bytes).await;
        }
        cluster.stop_node(5).await;
        wipe(&cluster.target_folder(5));
        let replace = ClusterCommand::ReplaceTarget { node: NodeId(5), target: TargetId(5) };
        let replaced = cluster.metadata.cluster(replace).await.unwrap().unwrap();
        let ClusterDone::Target(id) = replaced else { panic!("{replaced:?}") };
        cluster.start_node(5, id.0).await;
        let map = cluster.metadata.refresh_map().await.unwrap();
        let narrow = cluster.rows().await;
        assert!(narrow.iter().all(|row| map.standing(row).missing == 1), "nothing is taken for fine");

        // What runs for a moment has done some of it, or none; the rest is done by the next one.
        let first = cluster.nodes[&5].node.repair(cluster.metadata.clone());
        tokio::time::sleep(Duration::from_millis(60)).await;
        let before = first.progress().shards_rebuilt;
        drop(first);
        let repair = cluster.nodes[&5].node.repair(cluster.metadata.clone());
        cluster.healed().await;
        let after = repair.progress();
        // One that was being stored when the first was dropped may be counted by neither.
        assert!(before + after.shards_rebuilt <= 20 && after.shards_left == 0, "{before} and {after:?}");
        assert!(after.bytes_read >= 9 * after.bytes_rebuilt, "a shard is computed from ten: {after:?}");
        drop(repair);
        cluster.end().await;
    });
}

#[test]
fn shards_that_went_elsewhere_come_home_and_a_node_that_stays_away_is_done_without() {
    run(async |provider| {
        let mut cluster = Cluster::start(provider).await;
        let repairs = |cluster: &Cluster| {
            cluster
                .nodes
                .values()
                .map(|running| running.node.repair(cluster.metadata.clone()))
                .collect::<Vec<_>>()
        };
        // Two nodes are away while objects are written: their shards go beside others'.
        cluster.beat_of([3, 9], false).await;
        for (number, bytes) in sizes() {
            cluster.put(number, bytes).await;
        }
        assert!(cluster.rows().await.iter().all(|row| row.overrides.len() >= 2));
        cluster.beat_of([3, 9], true).await;
        let running = repairs(&cluster);
        cluster.healed().await;
        let read: u64 = running.iter().map(|repair| repair.progress().bytes_read).sum();
        let made: u64 = running.iter().map(|repair| repair.progress().bytes_rebuilt).sum();
        assert_eq!(read, made, "they were copied, not computed");
        drop(running);

        // One is taken out for good: all others share its work, and its shards are nowhere to be copied from.
        cluster.stop_node(7).await;
        let out = ClusterCommand::SetNodeState { node: NodeId(7), state: NodeState::Out };
        cluster.metadata.cluster(out).await.unwrap().unwrap();
        let running = repairs(&cluster);
        cluster.healed().await;
        let busy = running.iter().filter(|repair| repair.progress().shards_rebuilt > 0).count();
        assert!(busy > 3, "{busy} nodes had a part in it");
        drop(running);
        cluster.end().await;
    });
}

/// Flips a bit of each copy of these bytes in a target's segments, and says how many there were.
fn rot(folder: &Path, bytes: &[u8]) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if !entry.file_name().unwrap().to_string_lossy().starts_with("segment-") {
            continue;
        }
        let segment = std::fs::read(&entry).unwrap();
        let file = std::fs::File::options().write(true).open(&entry).unwrap();
        for (at, _) in segment.chunks(64).enumerate().filter(|(_, chunk)| *chunk == bytes) {
            file.write_all_at(&[bytes[7] ^ 1], at as u64 * 64 + 7).unwrap();
            found += 1;
        }
    }
    found
}

#[test]
fn a_copy_that_was_found_damaged_is_made_anew_where_it_is() {
    run(async |provider| {
        let mut cluster = Cluster::start(provider).await;
        for (number, bytes) in sizes() {
            cluster.put(number, bytes).await;
        }
        let map = cluster.metadata.refresh_map().await.unwrap();
        let row = cluster.rows().await.into_iter().find(|row| row.shard_bytes() > 50_000).unwrap();
        let index = ShardIndex::new(4).unwrap();
        let home = map.home(&row, index).unwrap();
        let node = map.node_of(home).unwrap().0;
        // The object's number is not in the row: its bytes are one of those that were written.
        let rotten: usize = (0..20)
            .map(|number| {
                rot(&cluster.target_folder(node), &payload(number * 100 + 4, row.shard_bytes())[..64])
            })
            .sum();
        assert!(rotten >= 1);
        let repairs: Vec<_> =
            cluster.nodes.values().map(|running| running.node.repair(cluster.metadata.clone())).collect();
        let target = cluster.nodes[&node].node.target(home).unwrap();
        let verify = async || {
            let shard = ShardKey { stripe: row.id, index, digest: row.digests[index.get()] };
            let (answer, answered) = tokio::sync::oneshot::channel();
            let pass_on = move |result| {
                let _ = answer.send(result);
            };
            target.verify(shard, Box::new(pass_on));
            answered.await.unwrap()
        };
        assert!(verify().await.is_err(), "it is rotten");
        assert!(target.damaged().iter().any(|damaged| damaged.stripe == row.id));
        let began = Instant::now();
        while verify().await.is_err() {
            assert!(began.elapsed() < HEALED_WITHIN);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(target.damaged(), []);
        drop(repairs);
        drop(target);
        cluster.end().await;
    });
}
