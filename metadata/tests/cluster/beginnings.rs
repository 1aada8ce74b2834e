//! Who may begin a cluster, and who may not come back.

use crate::harness::{Cluster, Writer, free_address};
use tenfour_metadata::{MetadataServer, MetadataServerConfig, StartError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lost_its_store_does_not_come_back_under_its_id() {
    let mut cluster = Cluster::start().await;
    let writer = Writer::new(cluster.connect().await).await;
    writer.write("key", 1).await;
    cluster.stop(3).await;

    // The log alone is gone: the folder itself tells.
    let (log, aside) = (cluster.folder(3).join("log"), cluster.folder(3).join("aside"));
    std::fs::rename(&log, &aside).unwrap();
    let error = cluster.start_one(3).await.unwrap_err();
    assert!(matches!(error, StartError::Identity(_)), "{error}");
    assert!(error.to_string().contains("under a new id"), "{error}");

    // Everything is gone: its peers tell.
    std::fs::remove_dir_all(cluster.folder(3)).unwrap();
    let error = cluster.start_one(3).await.unwrap_err();
    assert!(matches!(error, StartError::LostStore { id: 3 }), "{error}");
    let begin = MetadataServerConfig { bootstrap: true, ..cluster.config(3) };
    let error = MetadataServer::start(begin).await.err().unwrap();
    assert!(matches!(error, StartError::LostStore { .. } | StartError::ClusterExists { .. }), "{error}");
    writer.write("key", 2).await;
    assert_eq!(writer.tag("key").await, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cluster_is_begun_beside_another_nor_in_anothers_folder() {
    let mut cluster = Cluster::start().await;
    cluster.connect().await;
    let newcomer = |cluster: &Cluster, id| {
        let mut config =
            MetadataServerConfig { bootstrap: true, id, folder: cluster.folder(id), ..cluster.config(1) };
        config.listen = free_address();
        config.peers.insert(id, config.listen);
        config
    };
    let error = MetadataServer::start(newcomer(&cluster, 4)).await.err().unwrap();
    assert!(matches!(error, StartError::ClusterExists { .. }), "{error}");

    cluster.stop(2).await;
    let foreign = MetadataServerConfig { folder: cluster.folder(2), ..newcomer(&cluster, 5) };
    let error = MetadataServer::start(foreign).await.err().unwrap();
    assert!(error.to_string().contains("belongs to replica 2"), "{error}");
    let taken = MetadataServerConfig { listen: cluster.addresses[&1], ..cluster.config(2) };
    let error = MetadataServer::start(taken).await.err().unwrap();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_flipped_in_the_log_is_found_and_not_served() {
    let mut cluster = Cluster::start().await;
    let writer = Writer::new(cluster.connect().await).await;
    for number in 0..50 {
        writer.write(&format!("key-{number}"), number).await;
    }
    cluster.stop(2).await;
    let file = cluster.folder(2).join("log/db");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(6).position(|window| window == b"key-20").expect("the entry is in the log");
    bytes[at + 4] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = cluster.start_one(2).await.unwrap_err();
    assert!(error.to_string().contains("under a new id"), "{error}");
    writer.write("key-20", 99).await;
    assert_eq!(writer.tag("key-20").await, Some(99));
}
