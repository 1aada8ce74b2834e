//! Commits and linearizable reads through the handle, against three replicas over loopback TCP with real flushes.
//!
//! `cargo bench -p tenfour-metadata` (or `--profile release`): for 1, 16 and 64 callers at once, operations a second, median
//! latency, and CPU per operation of everything together: the caller, and all three replicas.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_metadata::api::cluster::ClusterDone;
use tenfour_metadata::api::{ClusterCommand, Envelope, IndexCommand, IndexQuery, Precondition};
use tenfour_metadata::{Lease, Metadata, MetadataConfig, MetadataServer, MetadataServerConfig};
use tenfour_rdma::ClusterKey;
use tenfour_types::{
    Body, BucketId, BucketName, ClusterId, CommandId, Digest, ETag, Epoch, Extent, GroupId, Headers,
    Manifest, ObjectKey, StripeRow,
};

const SECONDS: Duration = Duration::from_secs(3);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run());
}

async fn run() {
    let folder = tempfile::tempdir_in(std::env::var_os("TENFOUR_BENCH_DIR").unwrap_or_else(|| ".".into()))
        .expect("a folder");
    let (cluster, key) = (ClusterId([1; 16]), ClusterKey::from_bytes([2; 32]));
    let peers: BTreeMap<u64, SocketAddr> = (1..=3).map(|id| (id, free_address())).collect();
    let servers = (1..=3).map(|id| {
        let place = folder.path().join(id.to_string());
        let mut config =
            MetadataServerConfig::new(id, cluster, key.clone(), peers.clone(), peers[&id], place);
        config.bootstrap = id == 1;
        MetadataServer::start(config)
    });
    let servers = futures::future::try_join_all(servers).await.expect("replicas");
    let config = MetadataConfig::new(cluster, key, peers.values().copied().collect());
    let metadata = loop {
        match Metadata::connect(config.clone()).await {
            Ok(metadata) if !metadata.index_groups().is_empty() => break metadata,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let name = BucketName::new("bench").expect("a name");
    let user = tenfour_metadata::api::User {
        access_key: "bench".to_owned(),
        secret_key: "bench".to_owned(),
        display_name: "bench".to_owned(),
        enabled: true,
        root: false,
    };
    metadata.cluster(ClusterCommand::PutUser { user }).await.expect("an answer").expect("a user");
    let create = ClusterCommand::CreateBucket { name, owner: "bench".to_owned(), created_ms: 0 };
    let Ok(ClusterDone::Bucket(bucket)) = metadata.cluster(create).await.expect("an answer") else {
        panic!("no bucket")
    };
    metadata.refresh_config().await.expect("the config");
    let lease = metadata.lease("bench").await.expect("a lease");

    tokio::time::sleep(Duration::from_secs(1)).await;
    let (cpu, idle) = (cpu_time(), Duration::from_secs(3));
    tokio::time::sleep(idle).await;
    let busy = (cpu_time() - cpu).as_secs_f64() / idle.as_secs_f64();
    println!("idle: 3 replicas, 3 groups and a handle take {:.2} % of a core", busy * 100.0);

    println!("{:>8} {:>8} {:>12} {:>10} {:>12}", "what", "callers", "ops/s", "p50 us", "CPU us/op");
    let caller = Arc::new(Caller { metadata, lease, bucket: bucket.id });
    for callers in [1, 16, 64] {
        measure("commit", callers, &caller, Caller::commit).await;
    }
    for callers in [1, 16, 64] {
        measure("read", callers, &caller, Caller::read).await;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: unknown").to_owned();
    let log = std::fs::metadata(folder.path().join("1/log/db")).map_or(0, |file| file.len());
    println!(
        "{} for everything together; the log of a replica takes {} MiB of disk",
        peak.replace('\t', ""),
        log >> 20
    );
    for server in servers {
        server.shutdown().await;
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

struct Caller {
    metadata: Metadata,
    lease: Lease,
    bucket: BucketId,
}

impl Caller {
    /// A PUT of 4 KiB: one stripe, one object.
    async fn commit(self: Arc<Self>, caller: usize, round: u64) {
        let key = ObjectKey::new(&format!("caller-{caller}/object-{}", round % 64)).expect("a key");
        let group = self.metadata.group_of(self.bucket, &key);
        let (ticket, mut stripe) = (self.lease.command(), self.lease.stripe(group));
        let row = StripeRow {
            id: stripe.id(),
            group: GroupId(1),
            epoch: Epoch(0),
            data_bytes: 4096,
            live_bytes: 4096,
            digests: [Digest([5; 16]); 14],
            overrides: Vec::new(),
        };
        let command = put(self.bucket, key, ticket.id(), row);
        let envelope = Envelope { id: ticket.id(), config: self.metadata.config().version, command };
        stripe.named();
        self.metadata.commit(group, envelope).await.expect("an answer").expect("a commit");
        ticket.decided();
        stripe.committed();
    }

    async fn read(self: Arc<Self>, caller: usize, round: u64) {
        let key = ObjectKey::new(&format!("caller-{caller}/object-{}", round % 8)).expect("a key");
        let group = self.metadata.group_of(self.bucket, &key);
        let query = IndexQuery::Object { bucket: self.bucket, key, range: Some((0, 4096)) };
        let (answer, ticket) = self.lease.query(group, query).await.expect("an answer");
        drop((answer, ticket));
    }
}

fn put(bucket: BucketId, key: ObjectKey, id: CommandId, row: StripeRow) -> IndexCommand {
    let manifest = Manifest {
        version: id,
        size: 4096,
        etag: ETag { md5: [3; 16], parts: None },
        modified_ms: 0,
        checksums: Vec::new(),
        headers: Headers(vec![("content-type".to_owned(), "application/octet-stream".to_owned())]),
        body: Body::Extents(vec![Extent { stripe: row.id, offset: 0, bytes: 4096 }]),
    };
    IndexCommand::PutObject { bucket, key, precondition: Precondition::None, manifest, stripes: vec![row] }
}

async fn measure<F, R>(what: &str, callers: usize, caller: &Arc<Caller>, operation: F)
where
    F: Fn(Arc<Caller>, usize, u64) -> R + Copy + Send + 'static,
    R: Future<Output = ()> + Send,
{
    let (cpu, started) = (cpu_time(), Instant::now());
    let tasks = (0..callers).map(|number| {
        let caller = Arc::clone(caller);
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < SECONDS {
                let begun = Instant::now();
                operation(Arc::clone(&caller), number, latencies.len() as u64).await;
                latencies.push(begun.elapsed());
            }
            latencies
        })
    });
    let latencies = futures::future::try_join_all(tasks).await.expect("callers");
    let (elapsed, cpu) = (started.elapsed(), cpu_time() - cpu);
    let mut latencies: Vec<Duration> = latencies.into_iter().flatten().collect();
    latencies.sort_unstable();
    let count = latencies.len().max(1);
    println!(
        "{what:>8} {callers:>8} {:>12.0} {:>10} {:>12.0}",
        count as f64 / elapsed.as_secs_f64(),
        latencies.get(count / 2).map_or(0, Duration::as_micros),
        cpu.as_secs_f64() * 1e6 / count as f64,
    );
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
