//! What the handle promises while nothing fails.

use crate::harness::{Cluster, Writer, key, read};
use std::time::Duration;
use tenfour_metadata::api::cluster::{ClusterDone, Heartbeat, RepairProgress};
use tenfour_metadata::api::index::IndexDone;
use tenfour_metadata::api::{
    ClusterAnswer, ClusterCommand, ClusterQuery, ClusterRefusal, IndexRefusal, ListEntry, ListRequest,
    Precondition,
};
use tenfour_metadata::{Metadata, MetadataConfig, MetadataError};
use tenfour_placement::NodeState;
use tenfour_rdma::ClusterKey;
use tenfour_types::{BucketName, ClusterId, ConfigVersion, ETag, NodeId, TargetId};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_handle_committed_the_other_reads_at_once() {
    let cluster = Cluster::start().await;
    let writer = Writer::new(cluster.connect().await).await;
    let other = cluster.connect().await;
    for round in 0..50u8 {
        let key = format!("key-{}", round % 5);
        writer.write(&key, round).await;
        let seen = read(&other, &writer.bucket, &key).await.unwrap();
        assert_eq!(seen.manifest.etag.md5[0], round);
    }
    let request = ListRequest {
        bucket: writer.bucket.id,
        prefix: "key-".to_owned(),
        delimiter: None,
        after: Some("key-0".to_owned()),
        most: 3,
    };
    let (_, page) = other.list(request).await.unwrap();
    assert_eq!(page.entries.iter().map(ListEntry::sort_key).collect::<Vec<_>>(), ["key-1", "key-2", "key-3"]);
    assert!(page.more);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_sent_twice_happens_once() {
    let cluster = Cluster::start().await;
    let writer = Writer::new(cluster.connect().await).await;
    let ticket = writer.lease.command();
    let envelope = writer.put(ticket.id(), "key", 1, Precondition::Absent);
    let group = writer.group("key");
    let first = writer.metadata.commit(group, envelope.clone()).await.unwrap();
    assert_eq!(first, Ok(IndexDone::Done));
    writer.write("key", 2).await;
    assert_eq!(writer.metadata.commit(group, envelope).await.unwrap(), first);
    assert_eq!(writer.tag("key").await, Some(2));
    let refused = writer.put(writer.lease.command().id(), "key", 3, Precondition::Absent);
    assert_eq!(writer.metadata.commit(group, refused).await.unwrap(), Err(IndexRefusal::PreconditionFailed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commands_at_once_share_entries() {
    let cluster = Cluster::start().await;
    let writer = std::sync::Arc::new(Writer::new(cluster.connect().await).await);
    let before = applied(&writer.metadata).await;
    let tasks = (0..64).map(|task| {
        let writer = std::sync::Arc::clone(&writer);
        tokio::spawn(async move {
            for round in 0..8 {
                writer.write(&format!("{task}/{round}"), task).await;
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    for task in 0..64 {
        assert_eq!(writer.tag(&format!("{task}/7")).await, Some(task));
    }
    let entries = applied(&writer.metadata).await - before;
    assert!(entries < 400, "512 commands took {entries} entries");
}

async fn applied(metadata: &Metadata) -> u64 {
    let status = metadata.status().await.unwrap();
    metadata.index_groups().iter().map(|group| status.group(*group).unwrap().applied_index).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_answered_when_every_group_has_its_fence() {
    let cluster = Cluster::start().await;
    let metadata = cluster.connect().await;
    let name = BucketName::new("fenced").unwrap();
    let create = ClusterCommand::CreateBucket { name, owner: "root".to_owned(), created_ms: 1 };
    let Ok(ClusterDone::Bucket(bucket)) = metadata.cluster(create.clone()).await.unwrap() else { panic!() };
    let ClusterAnswer::Status(status) = metadata.cluster_query(ClusterQuery::Status).await.unwrap() else {
        panic!()
    };
    assert_eq!(status.fences_pending, []);
    let config = metadata.refresh_config().await.unwrap();
    assert_eq!(config.buckets.values().next(), Some(&bucket));
    // What has not changed does not travel again.
    let since = async |known| metadata.cluster_query(ClusterQuery::ConfigSince { known }).await.unwrap();
    assert_eq!(since(config.version).await, ClusterAnswer::ConfigIsNewest);
    let older = ConfigVersion(config.version.0 - 1);
    assert_eq!(since(older).await, ClusterAnswer::Config(config.clone()));
    assert!(std::sync::Arc::ptr_eq(&metadata.refresh_config().await.unwrap(), &metadata.config()));
    let query = tenfour_metadata::api::IndexQuery::IsEmpty { bucket: bucket.id };
    for group in metadata.index_groups() {
        assert_eq!(metadata.query(group, query.clone()).await.unwrap().config, config.version);
    }
    let again = ClusterRefusal::BucketOwnedByYou;
    assert_eq!(metadata.cluster(create).await.unwrap(), Err(again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_and_another_cluster_are_refused() {
    let cluster = Cluster::start().await;
    cluster.connect().await;
    let deadline = Duration::from_millis(1500);
    let good = MetadataConfig { deadline, ..cluster.client_config() };
    let other_key = MetadataConfig { cluster_key: ClusterKey::from_bytes([8; 32]), ..good.clone() };
    let other_cluster = MetadataConfig { cluster: ClusterId([9; 16]), ..good.clone() };
    for wrong in [other_key, other_cluster] {
        let error = Metadata::connect(wrong).await.err();
        assert!(matches!(error, Some(MetadataError::Stranger(_))), "{error:?}");
    }
    assert!(Metadata::connect(MetadataConfig { cluster_key: key(), ..good }).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_marked_down_and_up_again_when_it_is_heard() {
    let cluster = Cluster::start().await;
    let metadata = cluster.connect().await;
    let node = NodeId(1);
    let register = ClusterCommand::RegisterNode {
        node,
        endpoints: vec!["tcp:127.0.0.1:1".to_owned()],
        rack: "r".to_owned(),
        targets: vec![(TargetId(1), 1)],
    };
    metadata.cluster(register.clone()).await.unwrap().unwrap();
    let repair = RepairProgress { shards_left: 3, ..RepairProgress::default() };
    let beat = || Heartbeat { node, epoch: metadata.map().epoch, poisoned: Vec::new(), repair };
    // The state reaches this handle through its own follower.
    let becomes = async |state: NodeState, beating: bool| {
        for _ in 0..100 {
            if beating {
                metadata.heartbeat(beat()).await.unwrap();
            }
            if metadata.map().nodes.get(&node).is_some_and(|known| known.state == state) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    };
    assert!(becomes(NodeState::Up, true).await);
    assert!(becomes(NodeState::Down, false).await, "a silent node stays up");
    assert!(becomes(NodeState::Up, true).await, "a node that is heard stays down");
    // One that registers again is up at once, and is not judged by when it was heard of before.
    assert!(becomes(NodeState::Down, false).await);
    let up = metadata.cluster(register).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let map = metadata.refresh_map().await.unwrap();
    assert_eq!((map.nodes[&node].state, ClusterDone::Epoch(map.epoch)), (NodeState::Up, up));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watermarks_let_replies_go_and_never_pass_what_is_undecided() {
    let cluster = Cluster::start().await;
    let writer = Writer::new(cluster.connect().await).await;
    let group = writer.group("key");
    let first = writer.lease.command();
    let envelope = writer.put(first.id(), "key", 1, Precondition::None);
    assert_eq!(writer.metadata.commit(group, envelope.clone()).await.unwrap(), Ok(IndexDone::Done));
    writer.write("other", 2).await;
    writer.lease.publish().await.unwrap();
    assert_eq!(writer.metadata.commit(group, envelope.clone()).await.unwrap(), Ok(IndexDone::Done));
    first.decided();
    writer.lease.publish().await.unwrap();
    assert_eq!(writer.metadata.commit(group, envelope).await.unwrap(), Err(IndexRefusal::BelowWatermark));
    let late = writer.put(writer.lease.command().id(), "key", 3, Precondition::None);
    writer.lease.clone().end().await.unwrap();
    assert_eq!(writer.metadata.commit(group, late).await.unwrap(), Err(IndexRefusal::LeaseEnded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_may_be_as_large_as_an_entry_and_no_larger() {
    let cluster = Cluster::start().await;
    let writer = Writer::new(cluster.connect().await).await;
    let group = writer.group("large");
    let with_etags = |count: usize| {
        let etag = ETag { md5: [9; 16], parts: Some(1) };
        writer.put(writer.lease.command().id(), "large", 1, Precondition::Match(vec![etag; count]))
    };
    // The largest that fit take a log entry each, and all replicas take them.
    for _ in 0..6 {
        let reply = writer.metadata.commit(group, with_etags(57_000)).await.unwrap();
        assert_eq!(reply, Err(IndexRefusal::NoSuchKey));
    }
    let error = writer.metadata.commit(group, with_etags(60_000)).await;
    assert!(matches!(error, Err(MetadataError::Refused(_))), "{error:?}");
    writer.write("large", 2).await;
    assert_eq!(writer.tag("large").await, Some(2));
    for (_, replica) in writer.metadata.status().await.unwrap().replicas {
        assert!(replica.groups.iter().any(|view| view.group == group && view.last_log_index >= 7));
    }
}
