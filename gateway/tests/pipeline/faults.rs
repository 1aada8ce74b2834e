//! While nodes are dead, slow, full or lie.

use crate::harness::{Cluster, assert_same, pattern, put, read, round_trip};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tenfour_gateway::transfer::{ReadError, Wanted, WriteError};
use tenfour_node::disk::Faults;
use tenfour_types::TargetId;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_four_nodes_dead_everything_is_read_and_written_at_full_width() {
    let mut cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    let bodies: Vec<(String, Vec<u8>)> = [1, 4096, 100_000, MIB, 21 * MIB]
        .into_iter()
        .enumerate()
        .map(|(seed, bytes)| (format!("object-{bytes}"), pattern(seed as u64, bytes)))
        .collect();
    for (key, body) in &bodies {
        put(&gateway, key, body.clone()).await.unwrap();
    }
    for id in [0, 3, 7, 13] {
        cluster.stop_node(id).await;
    }
    let begun = Instant::now();
    for (key, body) in &bodies {
        assert_same(&gateway, key, body).await;
        let (middle, size) = (body.len() as u64 / 2, body.len() as u64);
        let part = read(&gateway, key, Wanted::From(middle, Some(size.min(middle + 70_000)))).await.unwrap();
        assert!(part == body[middle as usize..(size.min(middle + 70_000)) as usize], "{key}");
    }
    for (seed, bytes) in [0, 1, 4096, 12 * MIB].into_iter().enumerate() {
        round_trip(&gateway, &format!("new-{bytes}"), 100 + seed as u64, bytes).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(gateway.counters().reconstructions.load(Ordering::Relaxed) > 0);
    let rows = cluster.stripes().await;
    let whole = gateway.verify(&rows).await;
    let new: Vec<_> = rows.iter().zip(&whole).filter(|(row, _)| !row.overrides.is_empty()).collect();
    assert_eq!(new.len(), 1 + 1 + 2);
    assert!(new.iter().all(|(row, whole)| row.overrides.len() == 4 && **whole == 14), "{whole:?}");
    // A fifth one: what has a shard on it cannot all be read any more, and says so.
    cluster.stop_node(5).await;
    let refused = read(&gateway, "object-1048576", Wanted::All).await;
    assert!(matches!(refused, Err(ReadError::Unavailable(_))), "{:?}", refused.map(|bytes| bytes.len()));
    // They return.
    for id in [0, 3, 5, 7, 13] {
        cluster.start_node(id).await;
    }
    let connected = async {
        while gateway.connected_nodes() < 14 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), connected).await.expect("connected again");
    assert_eq!(gateway.verify(&rows).await, vec![14; rows.len()]);
    let reconstructions = gateway.counters().reconstructions.load(Ordering::Relaxed);
    assert_same(&gateway, &bodies[3].0, &bodies[3].1).await;
    assert_eq!(gateway.counters().reconstructions.load(Ordering::Relaxed), reconstructions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_while_it_is_written_to_is_replaced() {
    let mut cluster = Cluster::start(15, 1).await;
    let gateway = cluster.gateway().await;
    cluster.slow_disk(4, Duration::from_secs(30));
    let putting = tokio::spawn({
        let gateway = gateway.clone();
        async move { put(&gateway, "object", pattern(1, 31 * MIB)).await }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    cluster.slow_disk(4, Duration::ZERO);
    cluster.stop_node(4).await;
    putting.await.unwrap().unwrap();
    assert_same(&gateway, "object", &pattern(1, 31 * MIB)).await;
    let rows = cluster.stripes().await;
    let on_the_dead = rows.iter().any(|row| row.overrides.iter().any(|entry| entry.target == TargetId(4)));
    assert!(!on_the_dead);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_node_is_written_around_and_costs_one_delay() {
    let cluster = Cluster::start(14, 1).await;
    let mut config = cluster.gateway_config();
    config.hedge_min = Duration::from_millis(75);
    let gateway = cluster.gateway_with(config).await;
    round_trip(&gateway, "warm", 1, 100_000).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Far longer than 25 MiB take on a busy machine, so that waiting for it even once would tell.
    cluster.slow_disk(6, Duration::from_secs(6));
    let begun = Instant::now();
    put(&gateway, "object", pattern(2, 25 * MIB)).await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(gateway.counters().write_hedges.load(Ordering::Relaxed) >= 1);
    assert_same(&gateway, "object", &pattern(2, 25 * MIB)).await;
    let rows = cluster.stripes().await;
    let mut moved = rows.iter().filter(|row| row.data_bytes as usize > MIB);
    assert!(moved.clone().count() == 3 && moved.all(|row| !row.overrides.is_empty()));
    assert_eq!(gateway.verify(&rows).await, vec![14; rows.len()]);
    // It answers again, late; its staging slots come back, and it is written to as before.
    cluster.slow_disk(6, Duration::ZERO);
    let settled = async {
        while gateway.free_credits() < 14 * 16 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.expect("all slots are back");
    put(&gateway, "later", pattern(3, 1000)).await.unwrap();
    assert!(cluster.stripes().await.iter().any(|row| row.data_bytes == 1000 && row.overrides.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_that_hang_under_load_stop_nobody() {
    let cluster = Cluster::start(14, 1).await;
    let mut config = cluster.gateway_config();
    config.hedge_min = Duration::from_millis(75);
    config.pool_bytes = 96 * MIB;
    let gateway = cluster.gateway_with(config).await;
    round_trip(&gateway, "warm", 1, 10 * MIB).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for id in [1, 4, 6, 12] {
        cluster.slow_disk(id, Duration::from_secs(4));
    }
    let begun = Instant::now();
    let putting: Vec<_> = (0..32_u64)
        .map(|number| {
            let gateway = gateway.clone();
            let bytes = if number % 8 == 0 { 12 * MIB } else { 5000 };
            tokio::spawn(
                async move { round_trip(&gateway, &format!("object-{number}"), number, bytes).await },
            )
        })
        .collect();
    for put in putting {
        put.await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}, {:?}", begun.elapsed(), gateway.counters());
    let rows = cluster.stripes().await;
    assert!(rows.iter().filter(|row| row.data_bytes == 5000).all(|row| row.overrides.len() >= 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_target_is_passed_over_and_when_all_are_full_the_client_is_told() {
    let cluster = Cluster::start(15, 1).await;
    let gateway = cluster.gateway().await;
    round_trip(&gateway, "first", 1, 100_000).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let full = Faults { space_bytes: Some(0), ..Faults::default() };
    cluster.disks[&2].set_faults(full);
    let mut seed = 10;
    // What was zeroed ahead is filled first.
    while cluster.stripes().await.iter().all(|row| row.overrides.is_empty()) {
        round_trip(&gateway, &format!("object-{seed}"), seed, 10 * MIB).await;
        seed += 1;
        assert!(seed < 60, "the target never filled up");
    }
    let rows = cluster.stripes().await;
    assert_eq!(gateway.verify(&rows).await, vec![14; rows.len()]);
    for disk in cluster.disks.values() {
        disk.set_faults(full);
    }
    let refused = loop {
        match put(&gateway, "too much", pattern(seed, 10 * MIB)).await {
            Ok(_) => seed += 1,
            Err(error) => break error,
        }
        assert!(seed < 120, "the cluster never filled up");
    };
    assert!(matches!(refused, WriteError::Full), "{refused}");
    // What was stored is still read.
    assert_same(&gateway, "first", &pattern(1, 100_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_flush_is_no_durable_shard() {
    let cluster = Cluster::start(15, 1).await;
    let gateway = cluster.gateway().await;
    round_trip(&gateway, "first", 1, 100_000).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.disks[&9].set_faults(Faults { fail_flush_after: Some(0), ..Faults::default() });
    for seed in 0..4 {
        round_trip(&gateway, &format!("object-{seed}"), seed, 100_000).await;
    }
    let rows = cluster.stripes().await;
    let after: Vec<_> =
        rows.iter().filter(|row| row.overrides.iter().any(|entry| entry.target != TargetId(9))).collect();
    assert!(!after.is_empty(), "nothing was written elsewhere");
    let whole = gateway.verify(&rows).await;
    assert!(whole.iter().all(|whole| *whole >= 13), "{whole:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_shards_are_read_around_and_counted() {
    let cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    let body = pattern(1, 21 * MIB);
    put(&gateway, "object", body.clone()).await.unwrap();
    for id in [1, 5, 8, 11] {
        let disk = &cluster.disks[&id];
        for name in disk.names().into_iter().filter(|name| name.contains("seg")) {
            // A byte of every 100,000, past the head of the segment.
            disk.damage(&name, |bytes| {
                bytes.iter_mut().skip(8192).step_by(100_000).for_each(|byte| *byte ^= 0x40);
            });
        }
    }
    assert_same(&gateway, "object", &body).await;
    assert!(gateway.counters().bad_shards.load(Ordering::Relaxed) > 0);
    let rows = cluster.stripes().await;
    assert!(gateway.verify(&rows).await.iter().all(|whole| *whole == 10));
}
