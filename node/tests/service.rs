//! The shard service over the real fabric: a real domain and connection on both providers, real disks below.
#![allow(clippy::unwrap_used)] // Also in the helpers, which are no tests themselves.

mod support;

use bytes::Bytes;
use std::time::Duration;
use support::{CLUSTER, NODE, TARGET, header_for, payload, write_record};
use tenfour_node::disk::{Call, Faults, FaultyDisk};
use tenfour_node::{Node, NodeConfig, StartError, TargetConfig};
use tenfour_rdma::{
    Buffer, ClusterKey, ConnectError, ConnectOptions, Connection, Domain, DomainConfig, Endpoint, Provider,
    Received, Remote,
};
use tenfour_types::limits::{CRC_BLOCK_BYTES, SHARD_BYTES_MAX, SHARD_BYTES_MIN};
use tenfour_types::record::{RECORD_BYTES_MAX, ShardHeader};
use tenfour_types::shard_service::{FromNode, Hello, ShardError, ShardRef, ShardTable, ToNode};
use tenfour_types::{ClusterId, Epoch, NodeId, TargetId, Wire};

const EXPIRES: Duration = Duration::from_secs(30);

struct Cluster {
    node: Option<Node>,
    config: NodeConfig,
    _folder: tempfile::TempDir,
}

fn key() -> ClusterKey {
    ClusterKey::from_bytes([3; 32])
}

fn config(folder: &tempfile::TempDir, provider: Provider) -> NodeConfig {
    let mut config = NodeConfig::new(CLUSTER, key(), NODE);
    let endpoint = match provider {
        Provider::Shm => Endpoint::Shm(folder.path().join("fabric.sock")),
        _ => "tcp:127.0.0.1:0".parse().unwrap(),
    };
    config.fabric = vec![endpoint.into()];
    let target = folder.path().join("target");
    std::fs::create_dir_all(&target).unwrap();
    config.targets =
        vec![TargetConfig { id: TARGET, folder: target, capacity_bytes: 256 << 20, create: true }];
    config.segment_bytes = 16 << 20;
    config.staging_bytes = 40 << 20;
    config
}

impl Cluster {
    async fn start(provider: Provider) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, provider);
        let node = Some(Node::start(config.clone()).await.unwrap());
        Self { node, config, _folder: folder }
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    async fn client(&self, provider: Provider) -> Client {
        Client::connect(self.node(), provider, &Hello { cluster: CLUSTER, node: NODE, stores: true })
            .await
            .unwrap()
    }

    async fn restart(&mut self) {
        self.node.take().unwrap().shutdown().await;
        self.node = Some(Node::start(self.config.clone()).await.unwrap());
    }
}

struct Client {
    domain: Domain,
    connection: Connection,
    slots: Vec<Remote>,
    epoch: Epoch,
    next_request: u32,
}

impl Client {
    async fn connect(node: &Node, provider: Provider, hello: &Hello) -> Result<Self, ConnectError> {
        let domain = Domain::open(DomainConfig::new(provider, "client", key(), 64 << 20)).unwrap();
        let options = ConnectOptions { private_data: hello.to_bytes(), deadline: Duration::from_secs(5) };
        let connection = domain.connect(&node.endpoints()[0], options).await?;
        assert_eq!(Hello::from_bytes(connection.peer_private_data()).as_ref(), Ok(hello));
        let mut client = Self { domain, connection, slots: Vec::new(), epoch: Epoch(0), next_request: 0 };
        let FromNode::Slots { slots, epoch } = client.next().await.unwrap() else {
            panic!("the slots come first")
        };
        (client.slots, client.epoch) = (slots, epoch);
        Ok(client)
    }

    async fn next(&self) -> Option<FromNode> {
        let received =
            tokio::time::timeout(Duration::from_secs(10), self.connection.recv()).await.expect("in time");
        match received {
            Ok(Received::Message(message)) => Some(FromNode::from_bytes(&message).unwrap()),
            Ok(other) => panic!("a node never writes with immediate data: {other:?}"),
            Err(_) => None,
        }
    }

    fn request(&mut self) -> u32 {
        self.next_request += 1;
        self.next_request
    }

    async fn send(&self, message: &ToNode) {
        self.connection.send(Bytes::from(message.to_bytes())).await.unwrap();
    }

    /// Writes what `fill` makes to a slot, without waiting for the answer.
    async fn write(&self, slot: u16, fill: impl FnOnce(&mut Buffer) -> usize) {
        let mut buffer = self.domain.pool().lease(RECORD_BYTES_MAX).await.unwrap();
        let length = fill(&mut buffer);
        let source = buffer.freeze().slice(0..length).unwrap();
        let to = self.slots[usize::from(slot)].sub(0, length as u32).unwrap();
        drop(self.connection.post_write(source, to, Some(u32::from(slot))).await.unwrap());
    }

    /// The next `Stored`: its slot and result; the slot is granted anew.
    async fn stored(&mut self) -> Option<(u16, Result<(), ShardError>)> {
        match self.next().await? {
            FromNode::Stored { slot, result, next } => {
                let old = std::mem::replace(&mut self.slots[usize::from(slot)], next);
                assert_ne!(old.key, next.key, "a grant is never used twice");
                Some((slot, result))
            }
            other => panic!("expected Stored, found {other:?}"),
        }
    }

    async fn store(&mut self, number: u64, bytes: usize) -> Result<(), ShardError> {
        self.store_for(number, bytes, TARGET).await
    }

    async fn store_for(&mut self, number: u64, bytes: usize, target: TargetId) -> Result<(), ShardError> {
        self.write(0, |buffer| write_record(buffer, number, bytes, target).1).await;
        let (slot, result) = self.stored().await.unwrap();
        assert_eq!(slot, 0);
        result
    }

    async fn fetch(
        &mut self,
        shard: ShardRef,
        offset: u32,
        bytes: u32,
    ) -> Result<(Vec<u8>, ShardTable), ShardError> {
        let request = self.request();
        let buffer = self.domain.pool().lease(bytes as usize).await.unwrap();
        let grant = self.connection.grant_write(buffer, 0..bytes as usize, EXPIRES).unwrap();
        self.send(&ToNode::Fetch { request, shard, offset, bytes, into: grant.remote() }).await;
        match self.next().await.unwrap() {
            FromNode::Fetched { request: echoed, result } => {
                assert_eq!(echoed, request);
                let sealed = grant.seal().await;
                result.map(|table| (sealed.to_vec(), table))
            }
            other => panic!("expected Fetched, found {other:?}"),
        }
    }

    async fn fetch_whole(&mut self, number: u64, bytes: usize) -> Result<(), ShardError> {
        let (found, table) = self.fetch(shard(number, bytes), 0, bytes as u32).await?;
        assert!(found == payload(number, bytes));
        assert_eq!(table.block_sums, tenfour_erasure::block_sums(&found).to_vec());
        Ok(())
    }
}

fn shard(number: u64, bytes: usize) -> ShardRef {
    let ShardHeader { stripe, index, target, digest, .. } =
        header_for(number, &payload(number, bytes), TARGET);
    ShardRef { stripe, index, target, digest }
}

fn run<F: Future<Output = ()>>(each: impl Fn(Provider) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for provider in [Provider::Shm, Provider::Tcp] {
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(15), each(provider)).await.expect("in time");
        });
    }
}

#[test]
fn a_shard_goes_there_and_back_and_survives_a_restart() {
    run(async |provider| {
        let mut cluster = Cluster::start(provider).await;
        cluster.node().set_epoch(Epoch(6));
        let mut client = cluster.client(provider).await;
        assert_eq!((client.slots.len(), client.epoch), (16, Epoch(6)));
        let sizes = [SHARD_BYTES_MIN, 64, 100_032, SHARD_BYTES_MAX];
        for (number, bytes) in sizes.into_iter().enumerate() {
            assert_eq!(client.store(number as u64, bytes).await, Ok(()));
        }
        for restarted in [false, true] {
            for (number, bytes) in sizes.into_iter().enumerate() {
                assert_eq!(client.fetch_whole(number as u64, bytes).await, Ok(()), "restarted {restarted}");
            }
            let block = CRC_BLOCK_BYTES as u32;
            let (found, _) = client.fetch(shard(3, SHARD_BYTES_MAX), 7 * block, 3 * block).await.unwrap();
            assert!(found == payload(3, SHARD_BYTES_MAX)[7 * block as usize..10 * block as usize]);
            if !restarted {
                cluster.restart().await;
                client = cluster.client(provider).await;
            }
        }
        cluster.node.take().unwrap().shutdown().await;
    });
}

#[test]
fn all_slots_at_once_share_flushes() {
    run(async |provider| {
        let cluster = Cluster::start(provider).await;
        let mut client = cluster.client(provider).await;
        for round in 0..4 {
            for slot in 0..16_u16 {
                let number = round * 100 + u64::from(slot);
                client.write(slot, |buffer| write_record(buffer, number, SHARD_BYTES_MIN, TARGET).1).await;
            }
            let mut slots = Vec::new();
            for _ in 0..16 {
                let (slot, result) = client.stored().await.unwrap();
                assert_eq!(result, Ok(()));
                slots.push(slot);
            }
            slots.sort_unstable();
            assert_eq!(slots, (0..16).collect::<Vec<_>>());
        }
        let [status] = &cluster.node().targets()[..] else { panic!("one target") };
        assert_eq!((status.shards, status.healthy), (64, true));
        assert!((1..=64).contains(&status.flushes), "{} flushes", status.flushes);
    });
}

#[test]
fn many_fetches_at_once_are_all_answered() {
    run(async |provider| {
        let cluster = Cluster::start(provider).await;
        let mut client = cluster.client(provider).await;
        for number in 0..4 {
            assert_eq!(client.store(number, SHARD_BYTES_MAX).await, Ok(()));
        }
        // More than the node has memory for at once.
        let bytes = SHARD_BYTES_MAX;
        let mut grants = Vec::new();
        for request in 0..40_u32 {
            let buffer = client.domain.pool().lease(bytes).await.unwrap();
            let grant = client.connection.grant_write(buffer, 0..bytes, EXPIRES).unwrap();
            let shard = shard(u64::from(request % 4), bytes);
            client
                .send(&ToNode::Fetch { request, shard, offset: 0, bytes: bytes as u32, into: grant.remote() })
                .await;
            grants.push(Some(grant));
        }
        for _ in 0..40 {
            let Some(FromNode::Fetched { request, result }) = client.next().await else {
                panic!("expected Fetched")
            };
            assert!(result.is_ok());
            let sealed = grants[request as usize].take().unwrap().seal().await;
            assert!(sealed[..] == payload(u64::from(request % 4), bytes)[..]);
        }
    });
}

#[test]
fn what_is_wrong_is_answered_and_the_slot_lives_on() {
    run(async |provider| {
        let cluster = Cluster::start(provider).await;
        let mut client = cluster.client(provider).await;
        assert_eq!(client.store_for(1, 4096, TargetId(99)).await, Err(ShardError::UnknownTarget));
        let flipped = |at: usize| {
            move |buffer: &mut Buffer| {
                let (_, length) = write_record(buffer, 1, 4096, TARGET);
                buffer[at] ^= 1;
                length
            }
        };
        for (at, expected) in [
            (70, ShardError::Malformed),
            (130, ShardError::ChecksumMismatch),
            (2000, ShardError::ChecksumMismatch),
        ] {
            client.write(0, flipped(at)).await;
            assert_eq!(client.stored().await, Some((0, Err(expected))));
        }
        for length in [0, 1, 127, 500] {
            client
                .write(0, |buffer| {
                    write_record(buffer, 1, 4096, TARGET);
                    length
                })
                .await;
            assert_eq!(client.stored().await, Some((0, Err(ShardError::Malformed))));
        }
        assert_eq!(client.fetch(shard(1, 4096), 0, 4096).await.unwrap_err(), ShardError::NotFound);
        assert_eq!(client.store(1, 4096).await, Ok(()));
        // What the last record left in the slot is not taken for a new one.
        client
            .connection
            .write(
                client.domain.pool().lease(4096).await.unwrap().freeze().slice(0..0).unwrap(),
                client.slots[0].sub(0, 0).unwrap(),
                Some(0),
            )
            .await
            .unwrap();
        assert_eq!(client.stored().await, Some((0, Err(ShardError::Malformed))));
        let unknown = ShardRef { target: TargetId(99), ..shard(1, 4096) };
        assert_eq!(client.fetch(unknown, 0, 4096).await.unwrap_err(), ShardError::UnknownTarget);
        assert_eq!(client.fetch(shard(1, 4096), 64, 4032).await.unwrap_err(), ShardError::Malformed);
        let other_digest = ShardRef { digest: tenfour_types::Digest([0; 16]), ..shard(1, 4096) };
        assert_eq!(client.fetch(other_digest, 0, 4096).await.unwrap_err(), ShardError::NotFound);
        let request = client.request();
        client.send(&ToNode::Verify { request, shards: vec![shard(1, 4096), shard(2, 4096), unknown] }).await;
        let results = vec![Ok(()), Err(ShardError::NotFound), Err(ShardError::UnknownTarget)];
        assert_eq!(client.next().await, Some(FromNode::Verified { request, results }));
        client.send(&ToNode::Verify { request, shards: Vec::new() }).await;
        assert_eq!(client.next().await, Some(FromNode::Verified { request, results: Vec::new() }));
        client.send(&ToNode::Status { request }).await;
        assert_eq!(
            client.next().await,
            Some(FromNode::Status { request, targets: cluster.node().targets() })
        );
    });
}

#[test]
fn a_peer_that_breaks_the_protocol_loses_its_connection_and_nobody_else_does() {
    run(async |provider| {
        let cluster = Cluster::start(provider).await;
        let mut good = cluster.client(provider).await;
        for how in 0..4 {
            let mut bad = cluster.client(provider).await;
            let empty = bad.domain.pool().lease(64).await.unwrap().freeze().slice(0..0).unwrap();
            match how {
                0 => drop(bad.connection.post_send(Bytes::from_static(b"\x01\xff\xff\xff")).await),
                1 => {
                    drop(bad.connection.post_write(empty, bad.slots[0].sub(0, 0).unwrap(), Some(9999)).await);
                }
                2 => drop(
                    bad.connection.post_write(empty, bad.slots[0].sub(0, 0).unwrap(), Some(1 << 20)).await,
                ),
                _ => {
                    let shards = vec![shard(1, 64); 257];
                    bad.send(&ToNode::Verify { request: 1, shards }).await;
                }
            }
            assert_eq!(bad.next().await, None, "case {how}");
            assert_eq!(good.store(how, 4096).await, Ok(()));
            bad.slots.clear();
        }
    });
}

#[test]
fn peers_of_another_cluster_or_for_another_node_are_refused() {
    run(async |provider| {
        let cluster = Cluster::start(provider).await;
        let others = [(ClusterId([1; 16]), NODE), (CLUSTER, NodeId(99))].map(|(cluster, node)| Hello {
            cluster,
            node,
            stores: true,
        });
        for hello in others {
            let refused = Client::connect(cluster.node(), provider, &hello).await.err();
            assert!(matches!(refused, Some(ConnectError::Rejected)), "{refused:?}");
        }
        let domain = Domain::open(DomainConfig::new(provider, "client", key(), 1 << 20)).unwrap();
        let options = ConnectOptions { private_data: b"nonsense".to_vec(), deadline: EXPIRES };
        let refused = domain.connect(&cluster.node().endpoints()[0], options).await.err();
        assert!(matches!(refused, Some(ConnectError::Rejected)), "{refused:?}");
    });
}

#[test]
fn clients_that_die_at_any_moment_leave_nothing_behind() {
    run(async |provider| {
        let cluster = Cluster::start(provider).await;
        // Each takes 16 slots of the 30 MiB there are for slots: the third would not get any if the others' were not returned.
        for round in 0..12_u64 {
            let client = loop {
                let hello = Hello { cluster: CLUSTER, node: NODE, stores: true };
                match Client::connect(cluster.node(), provider, &hello).await {
                    Ok(client) if client.slots.len() == 16 => break client,
                    // The one before is still being cleaned up.
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            for slot in 0..round as u16 {
                client
                    .write(slot, |buffer| {
                        write_record(buffer, 100 * round + u64::from(slot), 40_000, TARGET).1
                    })
                    .await;
            }
            drop(client);
        }
        let mut client = cluster.client(provider).await;
        assert_eq!(client.store(1, 4096).await, Ok(()));
    });
}

#[test]
fn a_poisoned_target_answers_so_and_is_reported() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(&folder.path().join("index"));
        let config = config(&folder, Provider::Shm);
        let shared = disk.clone();
        let node = Node::start_on(config, move |_| Ok(shared.clone())).await.unwrap();
        let mut client =
            Client::connect(&node, Provider::Shm, &Hello { cluster: CLUSTER, node: NODE, stores: true })
                .await
                .unwrap();
        assert_eq!(client.store(1, 4096).await, Ok(()));
        let mut poisoned = node.poisoned();
        assert!(poisoned.borrow_and_update().is_empty());
        // The zeroes ahead are done: what fails is the record's own flush.
        support::settle(&disk);
        disk.set_faults(Faults { fail_flush_after: Some(0), ..Faults::default() });
        assert_eq!(client.store(2, 4096).await, Err(ShardError::TargetOut));
        poisoned.changed().await.unwrap();
        assert_eq!(*poisoned.borrow_and_update(), vec![TARGET]);
        assert!(!node.targets()[0].healthy && node.poison_reason(TARGET).is_some());
        assert_eq!(client.store(2, 4096).await, Err(ShardError::TargetOut));
        node.shutdown().await;
    });
}

#[test]
fn a_peer_whose_store_died_with_its_thread_is_not_left_waiting() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(&folder.path().join("index"));
        let shared = disk.clone();
        let node = Node::start_on(config(&folder, Provider::Shm), move |_| Ok(shared.clone())).await.unwrap();
        let hello = Hello { cluster: CLUSTER, node: NODE, stores: true };
        let mut client = Client::connect(&node, Provider::Shm, &hello).await.unwrap();
        assert_eq!(client.store(1, 4096).await, Ok(()));
        support::settle(&disk);
        disk.set_faults(Faults { panic_at: Some(Call::Write), ..Faults::default() });
        client.write(0, |buffer| write_record(buffer, 2, 4096, TARGET).1).await;
        assert_eq!(client.stored().await, None, "the connection ends");
        node.poisoned().wait_for(|poisoned| *poisoned == [TARGET]).await.unwrap();
        let mut client = Client::connect(&node, Provider::Shm, &hello).await.unwrap();
        assert_eq!(client.store(3, 4096).await, Err(ShardError::TargetOut));
        node.shutdown().await;
    });
}

#[test]
fn an_empty_folder_is_no_known_target() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder, Provider::Shm);
        config.targets[0].create = false;
        let refused = Node::start(config.clone()).await.err();
        assert!(refused.as_ref().unwrap().to_string().contains("no superblock"), "{refused:?}");
        config.targets[0].create = true;
        for _ in 0..2 {
            Node::start(config.clone()).await.unwrap().shutdown().await;
        }
        config.cluster = ClusterId([1; 16]);
        let refused = Node::start(config.clone()).await.err();
        assert!(refused.as_ref().unwrap().to_string().contains("belongs to cluster"), "{refused:?}");
        config.staging_bytes = 1 << 20;
        assert!(matches!(Node::start(config).await.err(), Some(StartError::Config(_))));
    });
}

#[test]
fn a_target_that_cannot_be_opened_keeps_no_other_from_being_served() {
    run(|provider| async move {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder, provider);
        let good = config.targets[0].clone();
        let other = |id, name: &str, create| {
            let folder = folder.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            TargetConfig { id: TargetId(id), folder, create, ..good.clone() }
        };
        // Two new ones, of which one is then wiped; and one whose folder turns out to be another's.
        config.targets = vec![good.clone(), other(20, "wiped", true), other(21, "taken", true)];
        Node::start(config.clone()).await.unwrap().shutdown().await;
        std::fs::remove_dir_all(folder.path().join("wiped")).unwrap();
        let gone = TargetConfig { folder: folder.path().join("gone"), ..other(23, "unused", false) };
        config.targets = vec![good.clone(), other(20, "wiped", false), other(22, "taken", false), gone];
        let node = Node::start(config.clone()).await.unwrap();
        let mut lost = node.poisoned().borrow().clone();
        lost.sort_unstable();
        assert_eq!(lost, [TargetId(20), TargetId(23)]);
        let unopened: Vec<_> = node.unopened().iter().map(|(target, _)| *target).collect();
        assert_eq!(unopened, [TargetId(20), TargetId(22), TargetId(23)]);
        assert!(node.unopened()[0].1.contains("no superblock"), "{:?}", node.unopened());
        assert!(node.unopened()[1].1.contains("21"), "{:?}", node.unopened());
        let healthy = |status: &tenfour_types::shard_service::TargetStatus| status.healthy;
        assert_eq!(node.targets().iter().filter(|status| healthy(status)).count(), 1);
        assert_eq!(node.targets().len(), 4);
        let hello = Hello { cluster: CLUSTER, node: NODE, stores: true };
        let mut client = Client::connect(&node, provider, &hello).await.unwrap();
        assert_eq!(client.store(1, SHARD_BYTES_MIN).await, Ok(()));
        drop(client);
        node.shutdown().await;
        config.targets.remove(0);
        assert!(matches!(Node::start(config).await, Err(StartError::Target { .. })));
    });
}

#[test]
fn the_slots_of_a_peer_fit_into_one_message() {
    run(|provider| async move {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder, provider);
        config.slots_per_peer = u16::MAX;
        assert!(matches!(Node::start(config).await, Err(StartError::Config(why)) if why.contains("slots")));
    });
}
