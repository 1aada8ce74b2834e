//! While everything works: sizes, ranges, memory, what is counted, what is refused.

use crate::harness::{Body, Cluster, Root, assert_same, object, pattern, put, read, round_trip};
use md5::{Digest as _, Md5};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tenfour_gateway::transfer::{Destination, ReadError, SourceError, Wanted, WriteError};
use tenfour_gateway::{EtagKind, GatewayConfig};
use tenfour_metadata::api::{Bucket, IndexCommand, Precondition};
use tenfour_types::{CommandId, ETag, Headers, Manifest, ObjectKey, PartRef, UploadId};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_every_size_read_back_and_are_on_fourteen_disks() {
    let cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    let sizes = [0, 1, 3904, 4096, 64 << 10, MIB, 10 * MIB - 1, 10 * MIB, 10 * MIB + 1, 25 * MIB];
    for (seed, bytes) in sizes.into_iter().enumerate() {
        round_trip(&gateway, &format!("object-{bytes}"), seed as u64, bytes).await;
    }
    let rows = cluster.stripes().await;
    assert_eq!(rows.len(), 12);
    assert!(rows.iter().all(|row| row.overrides.is_empty()));
    assert_eq!(gateway.verify(&rows).await, vec![14; rows.len()]);
    assert_eq!(cluster.shards(), 14 * rows.len() as u64);
    gateway.shutdown().await;
}

fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_etag_is_the_md5_also_of_many_objects_at_once() {
    let cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    let sizes = [0, 1, 64 << 10, (64 << 10) + 1, MIB + 7, 10 * MIB, 10 * MIB + 1, 33 * MIB + 333];
    let puts = sizes.iter().chain(&sizes).enumerate().map(|(seed, bytes)| {
        let (gateway, body) = (gateway.clone(), pattern(seed as u64, *bytes));
        tokio::spawn(async move {
            let expected = ETag { md5: md5(&body), parts: None };
            let stored = put(&gateway, &format!("object-{seed}"), body).await.unwrap();
            assert_eq!(stored.summary.etag, expected);
        })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap();
    }
    let hashed = gateway.counters().hash_bytes.load(Ordering::Relaxed);
    let side_by_side = sizes.iter().filter(|bytes| **bytes > 64 << 10).sum::<usize>();
    assert_eq!(hashed, 2 * side_by_side as u64);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_etag_is_of_the_bytes_and_no_md5_and_a_given_md5_is_verified_all_the_same() {
    let cluster = Cluster::start(14, 1).await;
    let gateway =
        cluster.gateway_with(GatewayConfig { etag: EtagKind::Fast, ..cluster.gateway_config() }).await;
    let mut seen = std::collections::BTreeSet::new();
    for bytes in [0, 1, 2, 5000, 12 * MIB, 12 * MIB + 1] {
        let body = pattern(3, bytes);
        let first = put(&gateway, "object", body.clone()).await.unwrap().summary.etag;
        assert_eq!(
            put(&gateway, "object", body.clone()).await.unwrap().summary.etag,
            first,
            "of the same bytes"
        );
        assert!(first.to_string().ends_with("-1") && first.md5 != md5(&body), "{first}");
        assert!(seen.insert(first.to_string()), "{bytes} bytes");
        if let Some(last) = bytes.checked_sub(1) {
            let mut other = body.clone();
            other[last] ^= 1;
            let other = put(&gateway, "object", other).await.unwrap().summary.etag;
            assert!(seen.insert(other.to_string()), "the last of {bytes} bytes is another");
        }
        let given = |md5| {
            let mut source = Body::new(body.clone());
            source.md5 = Some(md5);
            source
        };
        gateway.put(&Root, object("object"), &mut given(md5(&body))).await.unwrap();
        let wrong = gateway.put(&Root, object("object"), &mut given([0; 16])).await;
        assert!(matches!(wrong, Err(WriteError::Source(SourceError::Md5Mismatch))), "{wrong:?}");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_the_bytes_of_the_object() {
    let cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    let body = pattern(1, 21 * MIB + 12_345);
    let size = body.len() as u64;
    put(&gateway, "object", body.clone()).await.unwrap();
    let edges =
        [0, 1, MIB as u64, 10 * MIB as u64 - 1, 10 * MIB as u64, 15 * MIB as u64 + 77, size - 1, size];
    for (number, first) in edges.iter().enumerate() {
        for end in edges.iter().skip(number + 1) {
            let found = read(&gateway, "object", Wanted::From(*first, Some(*end))).await.unwrap();
            assert!(found == body[*first as usize..*end as usize], "{first}..{end}");
        }
    }
    assert!(read(&gateway, "object", Wanted::Last(10)).await.unwrap() == body[body.len() - 10..]);
    assert!(read(&gateway, "object", Wanted::From(size - 5, None)).await.unwrap() == body[body.len() - 5..]);
    let refused = read(&gateway, "object", Wanted::From(size, None)).await;
    assert!(matches!(refused, Err(ReadError::Range { size: told }) if told == size), "{refused:?}");
    assert!(read(&gateway, "object", Wanted::Head).await.unwrap().is_empty());
    assert!(matches!(read(&gateway, "none", Wanted::All).await, Err(ReadError::NoSuchKey)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_read_each_others_writes_at_once_from_three_replicas() {
    let cluster = Cluster::start(14, 3).await;
    let (one, other) = (cluster.gateway().await, cluster.gateway().await);
    for seed in 0..20 {
        let (writer, reader) = if seed % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let body = pattern(seed, 5000 + seed as usize);
        put(writer, "shared", body.clone()).await.unwrap();
        assert_same(reader, "shared", &body).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_finishes_the_version_that_it_began() {
    let cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    let old = pattern(1, 25 * MIB);
    put(&gateway, "object", old.clone()).await.unwrap();
    let key = ObjectKey::new("object").unwrap();
    let mut reading = gateway.get(&Root, &key, Wanted::All).await.unwrap();
    put(&gateway, "object", pattern(2, 100)).await.unwrap();
    let mut found = Vec::new();
    while let Some(bytes) = tenfour_gateway::transfer::Sink::next(&mut reading.body).await {
        found.extend_from_slice(&bytes.unwrap());
    }
    assert!(found == old);
    assert_same(&gateway, "object", &pattern(2, 100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_client_did_not_keep_is_not_visible() {
    let cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    let cut = gateway.put(&Root, object("cut"), &mut Body::new(pattern(1, 11 * MIB)).cut(1)).await;
    assert!(matches!(cut, Err(WriteError::Source(SourceError::Truncated))), "{cut:?}");
    let mut wrong = Body::new(pattern(1, 5000));
    wrong.verdict = Err(SourceError::Md5Mismatch);
    let wrong = gateway.put(&Root, object("wrong"), &mut wrong).await;
    assert!(matches!(wrong, Err(WriteError::Source(SourceError::Md5Mismatch))), "{wrong:?}");
    let large = gateway.put(&Root, object("large"), &mut Body::new(Vec::new()).cut(6 << 30)).await;
    assert!(matches!(large, Err(WriteError::TooLarge)), "{large:?}");
    let only_new = Destination::Object {
        key: ObjectKey::new("once").unwrap(),
        headers: Headers::default(),
        precondition: Precondition::Absent,
    };
    assert!(gateway.put(&Root, only_new.clone(), &mut Body::new(pattern(3, 10))).await.is_ok());
    let again = gateway.put(&Root, only_new, &mut Body::new(pattern(4, 10))).await;
    assert!(matches!(again, Err(WriteError::PreconditionFailed)), "{again:?}");
    assert_same(&gateway, "once", &pattern(3, 10)).await;
    for key in ["cut", "wrong", "large"] {
        assert!(matches!(read(&gateway, key, Wanted::All).await, Err(ReadError::NoSuchKey)), "{key}");
    }
    assert_eq!(cluster.stripes().await.len(), 1, "only what is named has a row");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_become_one_object_and_can_be_read_alone() {
    let cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    let key = ObjectKey::new("object").unwrap();
    let created = std::sync::Mutex::new(None);
    let create = |bucket: &Bucket, id: CommandId| {
        *created.lock().unwrap() = Some(UploadId(id));
        let (bucket, key, headers) = (bucket.id, key.clone(), Headers::default());
        IndexCommand::CreateUpload { bucket, key, headers, checksum: None, created_ms: 1 }
    };
    gateway.commit(&Root, &key, create).await.unwrap();
    let upload = created.lock().unwrap().take().unwrap();
    let bodies = [pattern(1, 6 * MIB), pattern(2, 5 * MIB + 1), pattern(3, 12 * MIB)];
    let mut parts = Vec::new();
    for (number, body) in (1..).zip(&bodies) {
        let to = Destination::Part { key: key.clone(), upload, number };
        let stored = gateway.put(&Root, to, &mut Body::new(body.clone())).await.unwrap();
        parts.push(PartRef { number, version: stored.version, bytes: body.len() as u64 });
    }
    let lost = Destination::Part { key: key.clone(), upload: UploadId(parts[0].version), number: 1 };
    let refused = gateway.put(&Root, lost, &mut Body::new(pattern(1, 10))).await;
    assert!(matches!(refused, Err(WriteError::NoSuchUpload)), "{refused:?}");
    let whole = bodies.concat();
    let complete = |bucket: &Bucket, id: CommandId| {
        let manifest = Manifest {
            version: id,
            size: whole.len() as u64,
            etag: ETag { md5: [2; 16], parts: Some(3) },
            modified_ms: 1,
            checksums: Vec::new(),
            headers: Headers::default(),
            body: tenfour_types::Body::Parts { upload, parts: parts.clone() },
        };
        let (bucket, key, precondition) = (bucket.id, key.clone(), Precondition::None);
        IndexCommand::CompleteUpload { bucket, key, upload, precondition, manifest }
    };
    gateway.commit(&Root, &key, complete).await.unwrap();
    assert_same(&gateway, "object", &whole).await;
    for (number, body) in (1..).zip(&bodies) {
        assert!(read(&gateway, "object", Wanted::Part(number)).await.unwrap() == *body, "part {number}");
    }
    assert!(matches!(read(&gateway, "object", Wanted::Part(4)).await, Err(ReadError::NoSuchPart)));
    let seam = Wanted::From(6 * MIB as u64 - 3, Some(6 * MIB as u64 + 3));
    assert!(read(&gateway, "object", seam).await.unwrap() == whole[6 * MIB - 3..6 * MIB + 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_there_is_memory_for_all_finish() {
    let cluster = Cluster::start(14, 1).await;
    let mut config = cluster.gateway_config();
    // Room for two full stripes, beside the spares.
    config.pool_bytes = 36 * MIB;
    let gateway = cluster.gateway_with(config).await;
    let requests = (0..8).map(|number| {
        let gateway = gateway.clone();
        tokio::spawn(async move { round_trip(&gateway, &format!("object-{number}"), number, 12 * MIB).await })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_over_many_operations() {
    let cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    round_trip(&gateway, "first", 0, 20_000).await;
    let free = gateway.free_bytes();
    let credits = gateway.free_credits();
    assert_eq!(credits, 14 * 16);
    for seed in 0..200_u64 {
        round_trip(&gateway, &format!("object-{}", seed % 10), seed, 1 + seed as usize * 97).await;
    }
    let settled = async {
        while gateway.free_bytes() != free || gateway.free_credits() != credits {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(3), settled).await;
    assert!(
        waited.is_ok(),
        "{} of {free} bytes, {} of {credits} credits",
        gateway.free_bytes(),
        gateway.free_credits()
    );
    assert_eq!(gateway.counters().write_hedges.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fourteen_nodes_that_take_50_ms_each_take_less_than_100_ms_together() {
    let cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    round_trip(&gateway, "warm", 1, 100_000).await;
    // The zeroes ahead are written by then.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for id in 0..14 {
        cluster.slow_disk(id, Duration::from_millis(50));
    }
    let before = gateway.counters().fanout.wall_nanos.load(Ordering::Relaxed);
    let begun = Instant::now();
    put(&gateway, "object", pattern(2, 100_000)).await.unwrap();
    let whole = begun.elapsed();
    let fanout = Duration::from_nanos(gateway.counters().fanout.wall_nanos.load(Ordering::Relaxed) - before);
    assert!(fanout >= Duration::from_millis(50), "{fanout:?}: nobody waited for the flushes");
    assert!(fanout < Duration::from_millis(100), "{fanout:?} of {whole:?}");
}
