//! A leader is lost, cut off, everything restarts: nothing acknowledged is lost, nothing happens twice, nothing stale is read.

use crate::harness::{Cluster, Writer, group_with_cluster_leader, leader_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tenfour_metadata::api::index::IndexDone;
use tenfour_metadata::api::{IndexQuery, Precondition};
use tenfour_metadata::{Metadata, MetadataConfig, MetadataError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_leader_is_lost_service_is_back_in_3_seconds_with_everything() {
    let mut cluster = Cluster::start().await;
    let writer = Arc::new(Writer::new(cluster.connect().await).await);
    let group = writer.group("0/0");
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..4u8)
        .map(|task| {
            let (writer, stop) = (Arc::clone(&writer), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut count, mut longest) = (0u8, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    writer.write(&format!("{task}/0"), count).await;
                    longest = longest.max(started.elapsed());
                    count = count.wrapping_add(1);
                }
                (count.wrapping_sub(1), longest)
            })
        })
        .collect();
    // A command that is decided before the leader is lost, and sent again after.
    let ticket = writer.lease.command();
    let envelope = writer.put(ticket.id(), "twice", 1, Precondition::Absent);
    let at = writer.group("twice");
    assert_eq!(writer.metadata.commit(at, envelope.clone()).await.unwrap(), Ok(IndexDone::Done));
    writer.write("twice", 2).await;

    cluster.stop(leader_of(&writer.metadata, group).await).await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    stop.store(true, Ordering::Relaxed);
    for (task, result) in futures::future::join_all(tasks).await.into_iter().enumerate() {
        let (last, longest) = result.unwrap();
        assert!(longest < Duration::from_secs(3), "a write took {longest:?}");
        assert_eq!(writer.tag(&format!("{task}/0")).await, Some(last));
    }
    assert_eq!(writer.metadata.commit(at, envelope).await.unwrap(), Ok(IndexDone::Done));
    assert_eq!(writer.tag("twice").await, Some(2));
    assert_eq!(writer.metadata.status().await.unwrap().losses_survived(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_cut_off_answers_no_reads_and_acknowledges_nothing() {
    let cluster = Cluster::start().await;
    let writer = Writer::new(cluster.connect().await).await;
    // A handle that knows this one replica only, and has never been told of another.
    let (group, old) = group_with_cluster_leader(&writer.metadata).await.expect("leaders have moved");
    let key = (0..).map(|number| format!("key-{number}")).find(|key| writer.group(key) == group).unwrap();
    let key = key.as_str();
    writer.write(key, 1).await;
    let only_old = MetadataConfig { peers: vec![cluster.addresses[&old]], ..cluster.client_config() };
    let only_old =
        Metadata::connect(MetadataConfig { deadline: Duration::from_secs(2), ..only_old }).await.unwrap();

    cluster.cut(old, true);
    let ticket = writer.lease.command();
    let lost = writer.put(ticket.id(), key, 66, Precondition::None);
    let to_old = tokio::spawn({
        let (only_old, lost) = (only_old.clone(), lost.clone());
        async move { only_old.commit(group, lost).await }
    });
    let others = cluster.addresses.iter().filter(|(id, _)| **id != old).map(|(_, address)| *address);
    let others = MetadataConfig { peers: others.collect(), ..cluster.client_config() };
    let deadline = Instant::now() + Duration::from_secs(8);
    let majority = loop {
        match Metadata::connect(others.clone()).await {
            Ok(metadata) => break metadata,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    let majority = Writer { metadata: majority, lease: writer.lease.clone(), bucket: writer.bucket.clone() };
    majority.write(key, 2).await;
    assert_eq!(majority.tag(key).await, Some(2));
    let query = IndexQuery::IsEmpty { bucket: writer.bucket.id };
    let read = only_old.query(group, query.clone()).await;
    assert!(matches!(read, Err(MetadataError::Unavailable(_))), "{read:?}");
    let written = to_old.await.unwrap();
    assert_eq!(written, Err(MetadataError::OutcomeUnknown));

    cluster.cut(old, false);
    // What was not acknowledged may be sent again and then is decided; it is never both.
    assert_eq!(majority.metadata.commit(group, lost).await.unwrap(), Ok(IndexDone::Done));
    assert_eq!(majority.tag(key).await, Some(66));
    ticket.decided();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_all_everything_is_there() {
    let mut cluster = Cluster::start().await;
    let writer = Writer::new(cluster.connect().await).await;
    for number in 0..100u8 {
        writer.write(&format!("key-{number}"), number).await;
    }
    let config = writer.metadata.refresh_config().await.unwrap();
    cluster.servers[&1].checkpoint().await;
    cluster.stop_all().await;
    cluster.start_all(false).await;
    let after = Writer {
        metadata: cluster.connect().await,
        lease: writer.lease.clone(),
        bucket: writer.bucket.clone(),
    };
    assert_eq!(after.metadata.config(), config);
    for number in 0..100u8 {
        assert_eq!(after.tag(&format!("key-{number}")).await, Some(number));
    }
    // The handle from before found its way, too, and so did its lease.
    writer.write("key-0", 200).await;
    assert_eq!(after.tag("key-0").await, Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_log_is_taken_away_under_it_says_that_it_must_exit() {
    let cluster = Cluster::start().await;
    let writer = Writer::new(cluster.connect().await).await;
    writer.write("key", 1).await;
    std::fs::remove_dir_all(cluster.folder(3).join("log")).unwrap();
    writer.write("key", 2).await;
    let why = tokio::time::timeout(Duration::from_secs(10), cluster.servers[&3].fatal()).await.unwrap();
    assert!(why.contains("taken away") || why.contains("log"), "{why}");
    writer.write("key", 3).await;
    assert_eq!(writer.tag("key").await, Some(3));
}
