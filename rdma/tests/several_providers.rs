//! A domain that carries several providers: one pool, a connection of each.
#![allow(clippy::unwrap_used)] // The helpers of tests are tests too.

#[macro_use]
#[allow(dead_code, unused_macros)] // The other suites use the rest.
mod common;

use common::{LONG, POOL_BYTES, endpoint, frozen, pattern, soon, tunables};
use tenfour_rdma::{
    ClusterKey, ConnectError, ConnectOptions, Connection, Domain, DomainConfig, ListenError, OpenError,
    Provider,
};

const BOTH: [Provider; 2] = [Provider::Shm, Provider::Tcp];

fn carrying(providers: &[Provider], key: &ClusterKey) -> Domain {
    let mut config = DomainConfig::carrying(providers.to_vec(), "several", key.clone(), POOL_BYTES);
    config.tunables = tunables();
    Domain::open(config).unwrap()
}

/// (client's end, server's end)
async fn connect(client: &Domain, server: &Domain, provider: Provider) -> (Connection, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let mut listener = server.listen(&endpoint(provider, &folder)).await.unwrap();
    let at = listener.local_endpoint();
    let accepted = async {
        let incoming = listener.accept().await.unwrap();
        assert_eq!(incoming.provider(), provider);
        incoming.accept(Vec::new()).await.unwrap()
    };
    let (client, server) = tokio::join!(client.connect(&at, ConnectOptions::default()), accepted);
    (client.unwrap(), server)
}

#[tokio::test]
async fn one_pool_serves_connections_of_every_provider() {
    one_pool_serves(&BOTH).await;
}

#[cfg(feature = "verbs")]
mod verbs {
    use super::*;

    #[tokio::test]
    #[ignore = "needs an RDMA device: tools/with-rxe"]
    async fn one_pool_serves_a_device_too() {
        one_pool_serves(&[Provider::Shm, Provider::Tcp, Provider::Verbs]).await;
    }
}

/// The same frozen bytes go out over every provider, into memory of one pool.
async fn one_pool_serves(providers: &[Provider]) {
    soon(async {
        let key = ClusterKey::generate();
        let (client, server) = (carrying(providers, &key), carrying(providers, &key));
        let free = (client.pool().free_bytes(), server.pool().free_bytes());
        let data = pattern(7, 100_000);
        let source = frozen(&client, &data);
        let mut connections = Vec::new();
        for provider in providers.iter().copied() {
            let (near, far) = connect(&client, &server, provider).await;
            assert_eq!((near.provider(), far.provider()), (provider, provider));
            let grant = far.grant_write(server.pool().lease(data.len()).await.unwrap(), 0..data.len(), LONG);
            let grant = grant.unwrap();
            near.write(source.clone(), grant.remote(), Some(3)).await.unwrap();
            far.recv().await.unwrap();
            assert_eq!(&grant.seal().await[..], &data[..]);
            connections.push((near, far));
        }
        // A grant of one connection is worth nothing over the other, though the pool is the same.
        let [(_, shm), (tcp, _), ..] = &connections[..] else { panic!("two connections") };
        let grant = shm.grant_write(server.pool().lease(4096).await.unwrap(), 0..4096, LONG).unwrap();
        assert!(tcp.write(frozen(&client, &[1; 8]), grant.remote(), None).await.is_err());
        drop((source, grant, connections));
        common::eventually("all memory is back", || {
            (client.pool().free_bytes(), server.pool().free_bytes()) == free
        })
        .await;
    })
    .await;
}

/// A peer that carries one provider reaches one that carries several, and nobody goes beyond what it carries.
#[tokio::test]
async fn a_provider_that_is_not_carried_is_refused() {
    soon(async {
        let key = ClusterKey::generate();
        let (several, tcp_only) = (carrying(&BOTH, &key), carrying(&[Provider::Tcp], &key));
        assert!(several.carries(Provider::Shm) && !tcp_only.carries(Provider::Shm));
        assert_eq!(several.providers(), BOTH);
        connect(&tcp_only, &several, Provider::Tcp).await;
        let folder = tempfile::tempdir().unwrap();
        let at = endpoint(Provider::Shm, &folder);
        let _listener = several.listen(&at).await.unwrap();
        let refused = tcp_only.connect(&at, ConnectOptions::default()).await;
        assert!(matches!(refused, Err(ConnectError::WrongProvider { endpoint: Provider::Shm })));
        let refused = tcp_only.listen(&at).await;
        assert!(matches!(refused, Err(ListenError::WrongProvider { endpoint: Provider::Shm })));
        let none = DomainConfig::carrying(Vec::new(), "none", key, POOL_BYTES);
        assert!(matches!(Domain::open(none), Err(OpenError::NoProvider)));
    })
    .await;
}
