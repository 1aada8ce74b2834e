//! The fabric between real processes: peers that are killed, that pause, and that wake late.
//!
//! The peer is this very test binary, started again with `TENFOUR_FABRIC_PEER` set.
#![allow(clippy::unwrap_used)] // The helpers of tests are tests too.

#[macro_use]
mod common;

use bytes::Bytes;
use common::{LONG, endpoint, eventually, frozen, open, pattern, rounds, slow, soon};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tenfour_rdma::{
    ClusterKey, ConnectOptions, Connection, ConnectionError, Domain, Endpoint, Frozen, Listener,
    OperationError, Provider, Received, Remote, Tunables,
};

const PEER: &str = "TENFOUR_FABRIC_PEER";
const KEY: [u8; 32] = [42; 32];

struct Parent {
    domain: Domain,
    listener: Listener,
    child: Child,
    _folder: TempDir,
}

impl Parent {
    /// Starts a peer in a role, and takes its connection.
    async fn new(provider: Provider, role: &str, tunables: Tunables) -> (Self, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let domain = open(provider, &ClusterKey::from_bytes(KEY), "parent", tunables);
        let mut listener = domain.listen(&endpoint(provider, &folder)).await.unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "peer", "--nocapture", "--test-threads=1"])
            .env(PEER, format!("{role} {}", listener.local_endpoint()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let incoming = soon(listener.accept()).await.unwrap();
        let connection = incoming.accept(Vec::new()).await.unwrap();
        (Self { domain, listener, child, _folder: folder }, connection)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    async fn all_memory_returns(&self) {
        let pool = self.domain.pool();
        eventually("all memory returns", || pool.free_bytes() == pool.capacity_bytes()).await;
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of its own: the other process of those below. Ends at once when nobody asked for it.
#[test]
fn peer() {
    let Ok(task) = std::env::var(PEER) else { return };
    let (role, at) = task.split_once(' ').unwrap();
    let at: Endpoint = at.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let domain = open(at.provider(), &ClusterKey::from_bytes(KEY), "peer", common::tunables());
        let connection = domain.connect(&at, ConnectOptions::default()).await.unwrap();
        match role {
            "grants" => grants(&domain, &connection).await,
            "writes" => writes(&domain, &connection).await,
            "receives" => while connection.recv().await.is_ok() {},
            other => panic!("no such role: {other}"),
        }
    });
}

fn encode(remote: Remote) -> Bytes {
    let mut bytes = remote.address.to_le_bytes().to_vec();
    bytes.extend_from_slice(&remote.key.to_le_bytes());
    bytes.extend_from_slice(&remote.bytes.to_le_bytes());
    bytes.into()
}

fn decode(bytes: &[u8]) -> Remote {
    Remote {
        address: u64::from_le_bytes(bytes[..8].try_into().unwrap()),
        key: u64::from_le_bytes(bytes[8..16].try_into().unwrap()),
        bytes: u32::from_le_bytes(bytes[16..20].try_into().unwrap()),
    }
}

/// Grants a mebibyte, and a page to READ, tells the peer, and waits to be killed.
async fn grants(domain: &Domain, connection: &Connection) {
    let writable = domain.pool().lease(1 << 20).await.unwrap();
    let writable = connection.grant_write(writable, 0..1 << 20, LONG).unwrap();
    let readable = connection.grant_read(frozen(domain, &pattern(8, 4096)), 0..4096, LONG).unwrap();
    connection.send(encode(writable.remote())).await.unwrap();
    connection.send(encode(readable.remote())).await.unwrap();
    connection.closed().await;
}

/// Writes to what the peer grants, for ever.
async fn writes(domain: &Domain, connection: &Connection) {
    let Ok(Received::Message(message)) = connection.recv().await else { return };
    let source = frozen(domain, &[0xbb; 1 << 20]);
    while connection.write(source.clone(), decode(&message), Some(1)).await.is_ok() {}
}

async fn message(connection: &Connection) -> Bytes {
    match soon(connection.recv()).await.unwrap() {
        Received::Message(message) => message,
        other @ Received::Immediate { .. } => panic!("{other:?}"),
    }
}

async fn data_crosses_and_death_is_noticed(provider: Provider) {
    let (mut parent, connection) = Parent::new(provider, "grants", common::tunables()).await;
    let to = decode(&message(&connection).await);
    let from = decode(&message(&connection).await);
    let source = frozen(&parent.domain, &pattern(1, 1 << 20));
    connection.write(source.clone(), to, None).await.unwrap();
    let into = parent.domain.pool().lease(4096).await.unwrap();
    assert_eq!(&connection.read(into, from).await.unwrap()[..], pattern(8, 4096));

    // A storm, in the middle of which the peer is shot.
    let storm = tokio::spawn({
        let connection = connection.clone();
        async move {
            let mut last = Ok(());
            while last.is_ok() {
                let mut posted = Vec::new();
                for _ in 0..16 {
                    posted.push(connection.post_write(source.clone(), to, None).await);
                }
                for posted in posted {
                    last = match posted {
                        Ok(completion) => completion.await,
                        Err(error) => Err(error),
                    };
                }
            }
            last
        }
    });
    tokio::time::sleep(slow(Duration::from_millis(30))).await;
    parent.signal(rustix::process::Signal::KILL);
    let shot = Instant::now();
    let last = soon(storm).await.unwrap();
    assert!(matches!(last, Err(OperationError::Flushed | OperationError::RetryExceeded)), "{last:?}");
    soon(connection.closed()).await;
    assert!(shot.elapsed() < slow(Duration::from_secs(2)), "noticed after {:?}", shot.elapsed());
    assert_eq!(connection.error(), Some(ConnectionError::PeerGone));
    assert_eq!(connection.recv().await, Err(ConnectionError::PeerGone));
    parent.child.wait().unwrap();
    parent.all_memory_returns().await;
    assert!(parent.listener.local_endpoint().to_string().starts_with(&provider.to_string()));
}

async fn memory_granted_to_a_killed_peer_comes_back(provider: Provider) {
    let (parent, connection) = Parent::new(provider, "writes", common::tunables()).await;
    let buffer = parent.domain.pool().lease(1 << 20).await.unwrap();
    let grant = connection.grant_write(buffer, 0..1 << 20, LONG).unwrap();
    connection.send(encode(grant.remote())).await.unwrap();
    for _ in 0..5 {
        soon(connection.recv()).await.unwrap();
    }
    parent.signal(rustix::process::Signal::KILL);
    // Grants to the dead are refused from the moment that it is noticed; the old one still seals.
    loop {
        if let Err(error) = soon(connection.recv()).await {
            assert_eq!(error, ConnectionError::PeerGone);
            break;
        }
    }
    let sealed = soon(grant.seal()).await;
    assert!(sealed.iter().all(|byte| *byte == 0xbb));
    drop(sealed);
    parent.all_memory_returns().await;
}

fn impatient() -> Tunables {
    Tunables { operation_timeout: Duration::from_millis(300), ..common::tunables() }
}

async fn a_paused_peer_times_out(provider: Provider) {
    if provider == Provider::Verbs {
        return a_paused_peer_is_served_by_its_device().await;
    }
    let (parent, connection) = Parent::new(provider, "grants", impatient()).await;
    let to = decode(&message(&connection).await);
    parent.signal(rustix::process::Signal::STOP);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let source: Frozen = frozen(&parent.domain, &pattern(1, 1 << 20));
    let first = connection.post_write(source.clone(), to, None).await.unwrap();
    let second = connection.post_write(source, to, None).await.unwrap();
    // It may be that a stream took in all of the first write: only the acknowledgement is missing then, and does not come.
    assert_eq!(soon(first).await, Err(OperationError::RetryExceeded));
    assert_eq!(soon(second).await, Err(OperationError::Flushed));
    let pool = parent.domain.pool();
    if provider == Provider::Shm {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(
            pool.capacity_bytes() - pool.free_bytes(),
            1 << 20,
            "in quarantine while the peer may read it"
        );
    }
    parent.signal(rustix::process::Signal::CONT);
    parent.all_memory_returns().await;
}

/// A device executes what one-sided operations ask whether or not the process runs; only what needs the process waits.
#[cfg_attr(not(feature = "verbs"), allow(dead_code))]
async fn a_paused_peer_is_served_by_its_device() {
    let (parent, connection) = Parent::new(Provider::Verbs, "grants", common::tunables()).await;
    let to = decode(&message(&connection).await);
    parent.signal(rustix::process::Signal::STOP);
    let source = frozen(&parent.domain, &pattern(1, 1 << 20));
    connection.write(source, to, None).await.unwrap();
    let error = loop {
        if let Err(error) = soon(connection.send(Bytes::from_static(b"anyone there?"))).await {
            break error;
        }
    };
    assert_eq!(error, OperationError::ReceiverNotReady);
    parent.signal(rustix::process::Signal::CONT);
    parent.all_memory_returns().await;
}

/// Files and mappings go with their connections; this process runs nothing else meanwhile.
async fn a_thousand_dead_peers_leave_nothing_behind(provider: Provider) {
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().matches("tenfour-connection").count();
    let mut fabric = common::Fabric::new(provider).await;
    drop(fabric.connect().await);
    let baseline = files();
    for _ in 0..rounds(1000) {
        let (client, server) = fabric.connect().await;
        client.send(Bytes::from_static(b"hello")).await.unwrap();
        drop(server);
    }
    // A few may still be saying good-bye, and other tests hold theirs.
    eventually("files are closed", || files() < baseline + 100).await;
    eventually("control blocks are unmapped", || maps() < 100).await;
}

on_every_provider!(
    data_crosses_and_death_is_noticed,
    memory_granted_to_a_killed_peer_comes_back,
    a_paused_peer_times_out,
    a_thousand_dead_peers_leave_nothing_behind,
);
