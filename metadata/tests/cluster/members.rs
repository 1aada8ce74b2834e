//! Replicas that fall behind, join, and leave.

use crate::harness::{Cluster, Writer, free_address};
use std::time::{Duration, Instant};
use tenfour_metadata::{Metadata, MetadataConfig, MetadataServer, MetadataServerConfig};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_fell_behind_the_log_catches_up_by_a_snapshot() {
    let mut cluster = Cluster::prepare(5).await;
    cluster.start_all(true).await;
    let writer = Writer::new(cluster.connect().await).await;
    cluster.stop(3).await;
    for number in 0..60u8 {
        writer.write(&format!("key-{number}"), number).await;
    }
    purge(&cluster, &writer.metadata).await;
    cluster.start_one(3).await.unwrap();
    // The replica that was away is needed for a majority now.
    caught_up(&writer.metadata, 3).await;
    cluster.stop(1).await;
    for number in 0..60u8 {
        assert_eq!(writer.tag(&format!("key-{number}")).await, Some(number));
    }
    writer.write("after", 1).await;
    assert_eq!(writer.tag("after").await, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_replica_is_replaced_by_a_new_one() {
    let mut cluster = Cluster::prepare(5).await;
    cluster.start_all(true).await;
    let writer = Writer::new(cluster.connect().await).await;
    for number in 0..40u8 {
        writer.write(&format!("key-{number}"), number).await;
    }
    purge(&cluster, &writer.metadata).await;
    cluster.stop(3).await;

    let listen = free_address();
    let mut config = MetadataServerConfig { id: 4, listen, folder: cluster.folder(4), ..cluster.config(1) };
    config.peers = [(1, cluster.addresses[&1]), (2, cluster.addresses[&2]), (4, listen)].into();
    let fourth = MetadataServer::start(config).await.unwrap();
    writer.metadata.add_replica(4, listen).await.unwrap();
    writer.metadata.set_voters(&[1, 2, 4].into()).await.unwrap();
    let status = writer.metadata.status().await.unwrap();
    for group in writer.metadata.index_groups() {
        assert_eq!(status.group(group).unwrap().voters, [1, 2, 4]);
    }
    // One of the old is lost as well: the new one votes and has everything.
    cluster.stop(1).await;
    let peers = vec![cluster.addresses[&2], listen];
    let config = MetadataConfig { peers, ..cluster.client_config() };
    let metadata = Metadata::connect(config).await.unwrap();
    let after = Writer { metadata, lease: writer.lease.clone(), bucket: writer.bucket.clone() };
    for number in 0..40u8 {
        assert_eq!(after.tag(&format!("key-{number}")).await, Some(number));
    }
    after.write("after", 1).await;
    assert_eq!(after.tag("after").await, Some(1));
    fourth.shutdown().await;
}

/// Has all logs purged, and waits until they are.
async fn purge(cluster: &Cluster, metadata: &Metadata) {
    for server in cluster.servers.values() {
        server.checkpoint().await;
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let status = metadata.status().await.unwrap();
        if status.replicas.iter().flat_map(|(_, replica)| &replica.groups).all(|group| group.purged_index > 0)
        {
            return;
        }
        assert!(Instant::now() < deadline, "the logs are not purged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn caught_up(metadata: &Metadata, id: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status = metadata.status().await.unwrap();
        let replica = status.replicas.iter().find(|(_, replica)| replica.replica == id);
        let level = |group: &tenfour_metadata::GroupStatus| {
            status.group(group.group).is_some_and(|leader| leader.applied_index <= group.applied_index)
        };
        if replica.is_some_and(|(_, replica)| replica.groups.iter().all(level)) {
            return;
        }
        assert!(Instant::now() < deadline, "replica {id} does not catch up: {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
