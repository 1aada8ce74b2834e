//! Which transport a gateway uses to each node: the best that can be had, told honestly, and the one that was named or none.

use super::harness::{Cluster, Root, assert_same, pattern, put};
use std::time::{Duration, Instant};
use tenfour_gateway::transfer::Wanted;
use tenfour_gateway::{Gateway, StartError};
use tenfour_rdma::{Fabric, Provider};
use tenfour_types::ObjectKey;

const BODY_BYTES: usize = 3 << 20;

/// What the shards of a PUT and of a GET went by.
async fn transports(gateway: &Gateway, key: &str) -> (String, String) {
    let body = pattern(7, BODY_BYTES);
    let stored = put(gateway, key, body.clone()).await.unwrap();
    let reading = gateway.get(&Root, &ObjectKey::new(key).unwrap(), Wanted::All).await.unwrap();
    let read = reading.transports.to_string();
    drop(reading);
    assert_same(gateway, key, &body).await;
    (stored.transports.to_string(), read)
}

async fn start(cluster: &Cluster, fabric: Fabric) -> Result<Gateway, StartError> {
    let mut config = cluster.gateway_config();
    config.fabric = fabric;
    config.better_fabric_every = Duration::from_millis(200);
    Gateway::start(config).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_is_reached_by_the_best_way_to_it() {
    let cluster = Cluster::start_hybrid(14, |id, mut endpoints| {
        let path = endpoints[0].split_once(":/").unwrap().1.to_owned();
        match id {
            // A socket of another host: it is there, by accident, and is not tried.
            0 => endpoints[0] = format!("shm@0123456789abcdef:/{path}"),
            // The socket of another node: it is tried, and the node there says that it is not the one.
            1 => endpoints[0] = endpoints[0].replace("node-1.sock", "node-2.sock"),
            _ => {}
        }
        endpoints
    })
    .await;
    let auto = start(&cluster, Fabric::Auto).await.unwrap();
    assert_eq!(auto.connected_nodes(), 14);
    let (stored, _) = transports(&auto, "auto").await;
    assert_eq!(stored, "shm,tcp");
    let counters = auto.counters();
    let carried =
        |provider| counters.traffic.of(provider).stored_shards.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((carried(Provider::Shm), carried(Provider::Tcp)), (12, 2));
    let all = counters.all();
    assert!(all.contains(&("tcp_stored_shards".to_owned(), 2)), "{all:?}");

    let tcp = start(&cluster, Fabric::Only(Provider::Tcp)).await.unwrap();
    assert_eq!(transports(&tcp, "tcp").await, ("tcp".to_owned(), "tcp".to_owned()));
    // Two nodes cannot be reached by shared memory: they are absent for who named it, not reached by other ways.
    let shm = start(&cluster, Fabric::Only(Provider::Shm)).await.unwrap();
    assert_eq!(shm.connected_nodes(), 12);
    for gateway in [auto, tcp, shm] {
        gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_better_way_that_comes_back_is_taken_again() {
    let cluster = Cluster::start_hybrid(14, |_, endpoints| endpoints).await;
    let hidden = cluster.socket(5).with_extension("hidden");
    std::fs::rename(cluster.socket(5), &hidden).unwrap();
    let gateway = start(&cluster, Fabric::Auto).await.unwrap();
    assert_eq!(gateway.connected_nodes(), 14);
    assert_eq!(transports(&gateway, "fallen-back").await.0, "shm,tcp");

    std::fs::rename(&hidden, cluster.socket(5)).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let mut number = 0;
    // Nothing fails while the connection is replaced.
    while transports(&gateway, &format!("meanwhile-{number}")).await != ("shm".to_owned(), "shm".to_owned()) {
        assert!(Instant::now() < end, "the node is still reached over TCP");
        number += 1;
    }
    assert_eq!(gateway.connected_nodes(), 14);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_named_and_cannot_be_had_is_an_error_that_says_so() {
    let cluster = Cluster::start(1, 1).await;
    let refused = start(&cluster, Fabric::Only(Provider::Tcp)).await.err().unwrap();
    assert!(matches!(refused, StartError::NotOffered { named: Provider::Tcp, .. }), "{refused}");
    assert!(refused.to_string().contains("registered: shm"), "{refused}");
    if Provider::Verbs.available().is_err() {
        let refused = start(&cluster, Fabric::Only(Provider::Verbs)).await.err().unwrap();
        assert!(refused.to_string().starts_with("fabric = verbs: "), "{refused}");
    }
}
