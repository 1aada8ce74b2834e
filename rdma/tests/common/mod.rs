//! What every test of the fabric needs: two domains and connections between them, on a provider of choice.
#![allow(dead_code)] // Each test binary uses its part.

use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;
use tenfour_rdma::{
    ClusterKey, ConnectOptions, Connection, Domain, DomainConfig, Endpoint, Frozen, Listener, Provider,
    Tunables,
};
use tenfour_types::TimeScale;
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
        /// In a virtual machine that has a device: `tools/with-rxe -- target/release/deps/conformance-… --ignored`.
        #[cfg(feature = "verbs")]
        mod verbs {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs an RDMA device: tools/with-rxe"]
            async fn $case() { super::common::soon(super::$case(super::Provider::Verbs)).await; })*
        }
    };
}

pub const POOL_BYTES: usize = 16 << 20;
pub const LONG: Duration = Duration::from_secs(600);
/// No step of a test takes longer, on a machine that is not emulated.
const DEADLINE: Duration = Duration::from_secs(15);

/// How many times slower than a real machine this one is taken to be: `TENFOUR_TEST_SLOWNESS`, or 8 in an emulated one. The times
/// of the fabric are scaled by it too.
pub fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| {
        let slowness = match std::env::var("TENFOUR_TEST_SLOWNESS") {
            Ok(text) => text.parse().expect("TENFOUR_TEST_SLOWNESS is a number"),
            Err(_) if std::env::var_os("RXE_GUEST").is_some() => 8,
            Err(_) => 1,
        };
        TimeScale::try_from(f64::from(slowness)).expect("a sensible factor").set_for_process();
        slowness
    })
}

/// A time, longer where the machine is slow.
pub fn slow(time: Duration) -> Duration {
    time * slowness()
}

/// As many rounds of something that is repeated for good measure, or some where the machine is slow.
pub fn rounds(many: u32) -> u32 {
    (many / slowness()).clamp(2, many)
}

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
    slowness();
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
    timeout(slow(DEADLINE), future).await.expect("no step takes so long")
}

/// Until a condition holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1500 * slowness() {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
