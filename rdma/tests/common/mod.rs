//! What every test of the fabric needs: two domains and connections between them, on a provider of choice.
#![allow(dead_code)] // Each test binary uses its part.

use std::time::Duration;
use tempfile::TempDir;
use tenfour_rdma::{
    ClusterKey, ConnectOptions, Connection, Domain, DomainConfig, Endpoint, Frozen, Listener, Provider,
    Tunables,
};
use tokio::time::timeout;

/// Runs each case once for each provider; another provider joins here.
macro_rules! on_every_provider {
    ($($case:ident),* $(,)?) => {
        mod shm {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::common::soon(super::$case(super::Provider::Shm)).await; })*
        }
        mod tcp {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::common::soon(super::$case(super::Provider::Tcp)).await; })*
        }
    };
}

pub const POOL_BYTES: usize = 16 << 20;
pub const LONG: Duration = Duration::from_secs(60);
/// No step of a test takes longer.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// A server's domain with its listener, and a client's domain.
pub struct Fabric {
    pub server: Domain,
    pub client: Domain,
    pub listener: Listener,
    pub key: ClusterKey,
    pub provider: Provider,
    pub folder: TempDir,
}

pub fn tunables() -> Tunables {
    Tunables {
        receiver_not_ready_timer: Duration::from_millis(10),
        receiver_not_ready_retries: 5,
        ..Tunables::default()
    }
}

pub fn open(provider: Provider, key: &ClusterKey, name: &str, tunables: Tunables) -> Domain {
    let mut config = DomainConfig::new(provider, name, key.clone(), POOL_BYTES);
    config.tunables = tunables;
    Domain::open(config).unwrap()
}

pub fn endpoint(provider: Provider, folder: &TempDir) -> Endpoint {
    match provider {
        Provider::Shm => Endpoint::Shm(folder.path().join("fabric.sock")),
        Provider::Tcp => "tcp:127.0.0.1:0".parse().unwrap(),
        Provider::Verbs => "verbs:10.77.0.1:0".parse().unwrap(),
    }
}

impl Fabric {
    pub async fn new(provider: Provider) -> Self {
        Self::with(provider, tunables()).await
    }

    pub async fn with(provider: Provider, tunables: Tunables) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = ClusterKey::generate();
        let server = open(provider, &key, "server", tunables.clone());
        let client = open(provider, &key, "client", tunables);
        let listener = server.listen(&endpoint(provider, &folder)).await.unwrap();
        Self { server, client, listener, key, provider, folder }
    }

    /// (client's end, server's end)
    pub async fn connect(&mut self) -> (Connection, Connection) {
        let at = self.listener.local_endpoint();
        let accepted = async {
            let incoming = self.listener.accept().await.unwrap();
            incoming.accept(b"from the server".to_vec()).await.unwrap()
        };
        let options = ConnectOptions { private_data: b"from the client".to_vec(), ..Default::default() };
        let (client, server) = tokio::join!(self.client.connect(&at, options), accepted);
        (client.unwrap(), server)
    }
}

/// Frozen memory of a domain that holds these bytes.
pub fn frozen(domain: &Domain, bytes: &[u8]) -> Frozen {
    let mut buffer = domain.pool().try_lease(bytes.len()).unwrap();
    buffer.copy_from_slice(bytes);
    buffer.freeze()
}

/// Bytes that differ everywhere and between seeds.
pub fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Bounded in time.
pub async fn soon<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE, future).await.expect("no step takes so long")
}

/// Until a condition holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
