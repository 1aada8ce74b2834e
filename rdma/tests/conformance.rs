//! What every provider does, told once: the operations that succeed.
//!
//! A provider joins in `on_every_provider!`; the refusals are in `conformance_refusals.rs`.
#![allow(clippy::unwrap_used)] // The helpers of tests are tests too.

#[macro_use]
mod common;

use bytes::Bytes;
use common::{Fabric, LONG, frozen, pattern, rounds, slowness, soon};
use tenfour_rdma::{Connection, Grant, GrantError, Open, OperationError, Provider, Received, Remote};

on_every_provider!(
    connecting_exchanges_private_data,
    a_write_lands_exactly_where_it_was_granted,
    a_read_fetches_exactly_what_was_granted,
    an_immediate_comes_after_its_bytes,
    messages_arrive_whole_and_in_order,
    a_write_is_placed_before_the_message_after_it,
    sixty_four_operations_are_outstanding_in_both_directions,
    far_more_than_the_send_queue_is_posted_in_order,
    a_mebibyte_travels_both_ways,
    empty_operations_need_no_grant,
    many_connections_share_a_domain,
    one_frozen_buffer_fans_out_to_fourteen,
    a_cancelled_wait_cancels_nothing,
    a_completion_nobody_awaits_returns_its_memory,
    memory_is_let_go_when_someone_waits_for_it,
    a_sealed_grant_hands_its_buffer_over,
    memory_of_the_caller_is_written_and_read_where_it_lies,
    memory_of_the_caller_is_the_source_and_target_of_operations,
    memory_of_the_caller_is_held_until_its_grants_have_ended,
);

async fn granted(connection: &Connection, domain: &tenfour_rdma::Domain, bytes: usize) -> Grant<Open> {
    let mut buffer = domain.pool().lease(bytes).await.unwrap();
    buffer.fill(0);
    connection.grant_write(buffer, 0..bytes, LONG).unwrap()
}

async fn connecting_exchanges_private_data(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    assert_eq!(client.peer_private_data(), b"from the server");
    assert_eq!(server.peer_private_data(), b"from the client");
    assert_eq!((client.provider(), server.provider()), (provider, provider));
    assert_ne!(client.id(), server.id());
    assert!(client.is_connected() && server.is_connected());
}

async fn a_write_lands_exactly_where_it_was_granted(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let mut buffer = fabric.server.pool().lease(8192).await.unwrap();
    buffer.fill(0xee);
    let grant = server.grant_write(buffer, 1000..3000, LONG).unwrap();
    assert_eq!(grant.remote().bytes, 2000);
    let data = pattern(1, 2000);
    client.write(frozen(&fabric.client, &data), grant.remote(), None).await.unwrap();
    let part = grant.remote().sub(500, 10).unwrap();
    client.write(frozen(&fabric.client, &[5; 10]), part, None).await.unwrap();
    let sealed = grant.seal().await;
    assert_eq!(&sealed[..500], &data[..500]);
    assert_eq!(&sealed[500..510], &[5; 10]);
    assert_eq!(&sealed[510..], &data[510..]);
    let buffer = sealed.into_buffer();
    assert!(buffer[..1000].iter().chain(&buffer[3000..]).all(|byte| *byte == 0xee));
}

async fn a_read_fetches_exactly_what_was_granted(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let data = pattern(2, 10_000);
    let grant = server.grant_read(frozen(&fabric.server, &data), 100..9000, LONG).unwrap();
    let mut into = fabric.client.pool().lease(9000).await.unwrap();
    into.fill(0xee);
    let got = client.read(into, grant.remote()).await.unwrap();
    assert_eq!(&got[..8900], &data[100..9000]);
    assert_eq!(&got[8900..], &[0xee; 100]);
    let part = grant.remote().sub(17, 3).unwrap();
    let got = client.read(got, part).await.unwrap();
    assert_eq!(&got[..3], &data[117..120]);
    // The memory comes back once the grant is gone and no READ can touch it.
    grant.revoke();
    let pool = fabric.server.pool().clone();
    common::eventually("the granted memory returns", || pool.free_bytes() == pool.capacity_bytes()).await;
}

async fn an_immediate_comes_after_its_bytes(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    for round in 0..rounds(200) {
        let grant = granted(&server, &fabric.server, 6000).await;
        let data = pattern(u64::from(round), 6000);
        let posted =
            client.post_write(frozen(&fabric.client, &data), grant.remote(), Some(round)).await.unwrap();
        assert_eq!(server.recv().await, Ok(Received::Immediate { value: round, bytes: 6000 }));
        assert_eq!(&grant.seal().await[..], &data[..]);
        posted.await.unwrap();
    }
}

async fn messages_arrive_whole_and_in_order(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let lengths: Vec<usize> =
        (0..rounds(300) as usize).map(|i| (i * 7919) % 16_385).chain([16_384, 0, 1]).collect();
    let send = async {
        for (i, bytes) in lengths.iter().enumerate() {
            // Awaiting only now and then keeps many in flight.
            let posted = client.post_send(pattern(i as u64, *bytes).into()).await.unwrap();
            if i % 50 == 0 {
                posted.await.unwrap();
            }
        }
    };
    let receive = async {
        for (i, bytes) in lengths.iter().enumerate() {
            let Ok(Received::Message(message)) = server.recv().await else { panic!("message {i}") };
            assert_eq!(message, pattern(i as u64, *bytes), "message {i}");
        }
    };
    tokio::join!(send, receive);
}

async fn a_write_is_placed_before_the_message_after_it(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    for round in 0..u64::from(rounds(100)) {
        let grant = granted(&server, &fabric.server, 100_000).await;
        let data = pattern(round, 100_000);
        let source = frozen(&fabric.client, &data);
        let posted =
            client.post_write_then_send(source, grant.remote(), Bytes::from_static(b"placed")).await.unwrap();
        assert_eq!(server.recv().await, Ok(Received::Message(Bytes::from_static(b"placed"))));
        assert_eq!(&grant.seal().await[..], &data[..]);
        posted.await.unwrap();
    }
}

/// Writes, reads and messages, all of them in flight at once, from both ends.
async fn sixty_four_operations_are_outstanding_in_both_directions(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let one_way = |from: Connection,
                   here: tenfour_rdma::Domain,
                   to: Connection,
                   there: tenfour_rdma::Domain| async move {
        let mut writes = Vec::new();
        let mut reads = Vec::new();
        let mut grants = Vec::new();
        for i in 0..32u64 {
            let grant = granted(&to, &there, 5000).await;
            let source = frozen(&here, &pattern(i, 5000));
            writes.push(from.post_write(source, grant.remote(), Some(i as u32)).await.unwrap());
            let readable = to.grant_read(frozen(&there, &pattern(i + 100, 3000)), 0..3000, LONG).unwrap();
            let into = here.pool().lease(3000).await.unwrap();
            reads.push(from.post_read(into, readable.remote()).await.unwrap());
            grants.push((grant, readable));
        }
        for (i, read) in reads.into_iter().enumerate() {
            assert_eq!(&read.await.unwrap()[..], pattern(i as u64 + 100, 3000));
        }
        for (i, write) in writes.into_iter().enumerate() {
            write.await.unwrap();
            assert_eq!(to.recv().await, Ok(Received::Immediate { value: i as u32, bytes: 5000 }));
        }
        for (i, (grant, _)) in grants.into_iter().enumerate() {
            assert_eq!(&grant.seal().await[..], pattern(i as u64, 5000));
        }
    };
    tokio::join!(
        one_way(client.clone(), fabric.client.clone(), server.clone(), fabric.server.clone()),
        one_way(server, fabric.server.clone(), client, fabric.client.clone()),
    );
}

async fn far_more_than_the_send_queue_is_posted_in_order(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let grant = granted(&server, &fabric.server, 64).await;
    let source = frozen(&fabric.client, &[1; 64]);
    let send = async {
        let mut last = None;
        for value in 0..rounds(5000) {
            last = Some(client.post_write(source.clone(), grant.remote(), Some(value)).await.unwrap());
        }
        last.unwrap().await.unwrap();
    };
    let receive = async {
        for value in 0..rounds(5000) {
            assert_eq!(server.recv().await, Ok(Received::Immediate { value, bytes: 64 }));
        }
    };
    tokio::join!(send, receive);
}

async fn a_mebibyte_travels_both_ways(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let data = pattern(9, 1 << 20);
    let source = frozen(&fabric.client, &data);
    for _ in 0..rounds(20) {
        let grant = granted(&server, &fabric.server, 1 << 20).await;
        client.write(source.clone(), grant.remote(), None).await.unwrap();
        let written = grant.seal().await.into_buffer().freeze();
        assert!(written[..] == data[..]);
        let readable = server.grant_read(written, 0..1 << 20, LONG).unwrap();
        let into = fabric.client.pool().lease(1 << 20).await.unwrap();
        let got = client.read(into, readable.remote()).await.unwrap();
        assert!(got[..] == data[..]);
    }
}

async fn empty_operations_need_no_grant(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let nowhere = Remote { address: 0, bytes: 0, key: 0 };
    let nothing = frozen(&fabric.client, &[]);
    client.write(nothing, nowhere, Some(77)).await.unwrap();
    assert_eq!(server.recv().await, Ok(Received::Immediate { value: 77, bytes: 0 }));
    client.send(Bytes::new()).await.unwrap();
    assert_eq!(server.recv().await, Ok(Received::Message(Bytes::new())));
}

async fn many_connections_share_a_domain(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let mut ends = Vec::new();
    for _ in 0..40 {
        ends.push(fabric.connect().await);
    }
    let work = ends.iter().enumerate().map(|(i, (client, server))| {
        let fabric = &fabric;
        async move {
            for round in 0..u64::from(rounds(20)) {
                let grant = granted(server, &fabric.server, 4096).await;
                let data = pattern(i as u64 * 1000 + round, 4096);
                client.write(frozen(&fabric.client, &data), grant.remote(), Some(i as u32)).await.unwrap();
                assert_eq!(server.recv().await, Ok(Received::Immediate { value: i as u32, bytes: 4096 }));
                assert_eq!(&grant.seal().await[..], &data[..]);
            }
        }
    });
    let tasks: Vec<_> = work.collect();
    for task in tasks {
        task.await;
    }
    drop(ends);
    let pool = fabric.server.pool().clone();
    common::eventually("all memory returns", || pool.free_bytes() == pool.capacity_bytes()).await;
}

async fn one_frozen_buffer_fans_out_to_fourteen(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let mut ends = Vec::new();
    for _ in 0..14 {
        ends.push(fabric.connect().await);
    }
    let data = pattern(3, 14 * 4096);
    let whole = frozen(&fabric.client, &data);
    let (mut grants, mut posted) = (Vec::new(), Vec::new());
    for (i, (client, server)) in ends.iter().enumerate() {
        let grant = granted(server, &fabric.server, 4096).await;
        let shard = whole.slice(i * 4096..(i + 1) * 4096).unwrap();
        posted.push(client.post_write(shard, grant.remote(), Some(i as u32)).await.unwrap());
        grants.push(grant);
    }
    for ((i, grant), posted) in grants.into_iter().enumerate().zip(posted) {
        posted.await.unwrap();
        assert_eq!(&grant.seal().await[..], &data[i * 4096..(i + 1) * 4096]);
    }
    assert!(whole.try_unfreeze().is_ok(), "every operation has let go of its part");
}

async fn a_cancelled_wait_cancels_nothing(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let data = pattern(4, 1 << 20);
    for round in 0..rounds(20) {
        let grant = granted(&server, &fabric.server, 1 << 20).await;
        let posted =
            client.post_write(frozen(&fabric.client, &data), grant.remote(), Some(round)).await.unwrap();
        drop(posted);
        // Scribbling over what is free shows whether the operation still owns its own.
        if let Some(mut free) = fabric.client.pool().try_lease(1 << 20) {
            free.fill(0xdd);
        }
        assert_eq!(server.recv().await, Ok(Received::Immediate { value: round, bytes: 1 << 20 }));
        assert!(grant.seal().await[..] == data[..]);

        let readable = server.grant_read(frozen(&fabric.server, &data), 0..1 << 20, LONG).unwrap();
        let into = fabric.client.pool().lease(1 << 20).await.unwrap();
        drop(client.post_read(into, readable.remote()).await.unwrap());
        client.send(Bytes::from_static(b"after the read")).await.unwrap();
        server.recv().await.unwrap();
    }
    let pool = fabric.client.pool().clone();
    common::eventually("the memory returns", || pool.free_bytes() == pool.capacity_bytes()).await;
    assert!(client.is_connected());
}

async fn a_completion_nobody_awaits_returns_its_memory(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let grant = granted(&server, &fabric.server, 4096).await;
    let held = client.post_write(frozen(&fabric.client, &[1; 4096]), grant.remote(), None).await.unwrap();
    let dropped = client.post_write(frozen(&fabric.client, &[2; 4096]), grant.remote(), None).await.unwrap();
    drop(dropped);
    let pool = fabric.client.pool().clone();
    common::eventually("the memory returns", || pool.free_bytes() == pool.capacity_bytes()).await;
    assert_eq!(soon(held).await, Ok(()));
    assert_eq!(&grant.seal().await[..], &[2; 4096]);
}

async fn a_sealed_grant_hands_its_buffer_over(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let mut grant = granted(&server, &fabric.server, 4096).await;
    for round in 0..rounds(50) as u8 {
        client.write(frozen(&fabric.client, &[round; 4096]), grant.remote(), None).await.unwrap();
        let stale = grant.remote();
        let mut buffer = grant.seal().await.into_buffer();
        assert_eq!(&buffer[..], &[round; 4096]);
        buffer[0] = 0xff;
        grant = server.grant_write(buffer, 0..4096, LONG).unwrap();
        assert_ne!(stale.key, grant.remote().key, "a key is never used again");
    }
    let stale = grant.remote();
    drop(grant.seal().await);
    let refused = client.write(frozen(&fabric.client, &[0; 1]), stale, None).await;
    assert_eq!(refused, Err(OperationError::RemoteAccess));
}

/// Twenty times the pool (less on a slow machine) goes through it, with nobody awaiting a completion and no message coming back.
async fn memory_is_let_go_when_someone_waits_for_it(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let grant = granted(&server, &fabric.server, 1 << 20).await;
    let started = std::time::Instant::now();
    let last = rounds(320);
    for round in 1..=last {
        let mut buffer = fabric.client.pool().lease(1 << 20).await.unwrap();
        buffer.fill(round as u8);
        drop(client.post_write(buffer.freeze(), grant.remote(), None).await.unwrap());
    }
    let seconds = started.elapsed().as_secs();
    assert!(seconds < 5 * u64::from(slowness()), "took {seconds} s");
    client.send(Bytes::from_static(b"done")).await.unwrap();
    assert!(grant.seal().await.iter().all(|byte| *byte == last as u8));
}

/// Not as long as pages, and nowhere near the beginning of one.
const ODD: usize = 100_003;

async fn memory_of_the_caller_is_written_and_read_where_it_lies(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let (pool, free) = (fabric.server.pool().clone(), fabric.server.pool().free_bytes());
    let mut buffer = pool.adopt_bytes(vec![0xee; ODD].into_boxed_slice());
    let at = buffer.as_ptr();
    for round in 0..3 {
        let grant = server.grant_write(buffer, 1000..ODD - 1000, LONG).unwrap();
        let data = pattern(round, ODD - 2000);
        client.write(frozen(&fabric.client, &data), grant.remote(), None).await.unwrap();
        buffer = grant.seal().await.into_buffer();
        assert!(buffer.as_ptr() == at && buffer[1000..ODD - 1000] == data[..]);
        assert!(buffer[..1000].iter().chain(&buffer[ODD - 1000..]).all(|byte| *byte == 0xee));
    }
    assert_eq!(pool.free_bytes(), free, "nothing of the pool was used");
    let data = pattern(2, ODD - 2000);
    let source = buffer.freeze();
    assert_eq!(server.can_send(&source), provider != Provider::Shm);
    match server.grant_read(source.clone(), 1000..ODD - 1000, LONG) {
        Ok(grant) => {
            let into = fabric.client.pool().lease(data.len()).await.unwrap();
            assert_eq!(&client.read(into, grant.remote()).await.unwrap()[..], &data[..]);
        }
        Err(refused) => assert_eq!((refused, provider), (GrantError::NotShared, Provider::Shm)),
    }
    let counters = pool.host_counters();
    let transfers = if provider == Provider::Verbs { 4 } else { 0 };
    assert_eq!((counters.held_bytes, counters.device_transfers), (ODD as u64, transfers));
    drop(source);
    common::eventually("the memory is let go", || pool.host_counters().held_bytes == 0).await;
}

async fn memory_of_the_caller_is_the_source_and_target_of_operations(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let (data, pool) = (pattern(5, ODD), fabric.client.pool().clone());
    let source = pool.adopt_bytes(data.clone().into_boxed_slice()).freeze();
    let part = source.slice(1..ODD - 1).unwrap();
    let grant = granted(&server, &fabric.server, ODD).await;
    let written = client.write(part, grant.remote(), None).await;
    if provider == Provider::Shm {
        assert_eq!(written, Err(OperationError::LocalProtection), "nothing is posted");
    } else {
        written.unwrap();
        assert_eq!(&grant.seal().await[..ODD - 2], &data[1..ODD - 1]);
    }
    let grant = server.grant_read(frozen(&fabric.server, &data), 0..ODD, LONG).unwrap();
    let into = pool.adopt_bytes(vec![0; ODD + 5].into_boxed_slice());
    let at = into.as_ptr();
    let into = client.read(into, grant.remote()).await.unwrap();
    assert!(into.as_ptr() == at && into[..ODD] == data[..] && into[ODD..] == [0; 5]);
    drop((source, into));
    common::eventually("the memory is let go", || pool.host_counters().held_bytes == 0).await;
}

async fn memory_of_the_caller_is_held_until_its_grants_have_ended(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let pool = fabric.server.pool().clone();
    let held = |bytes: usize| pool.host_counters().held_bytes == bytes as u64;
    for round in 0..rounds(40) {
        let (client, server) = fabric.connect().await;
        let buffer = pool.adopt_bytes(vec![0; ODD].into_boxed_slice());
        let grant = server.grant_write(buffer, 0..ODD, LONG).unwrap();
        assert!(held(ODD));
        let source = frozen(&fabric.client, &pattern(7, ODD));
        let posted = client.post_write(source, grant.remote(), None).await.unwrap();
        if round % 2 == 0 {
            posted.await.unwrap();
            assert!(held(ODD));
        }
        // Whether the WRITE was through before or is cut off, the memory goes when nothing can touch it any more.
        drop(grant);
        common::eventually("the memory is let go", || held(0)).await;
    }
    // One that is refused comes back at once.
    let (_client, server) = fabric.connect().await;
    let buffer = pool.adopt_bytes(vec![4; 10].into_boxed_slice());
    let refused = server.grant_write(buffer, 5..11, LONG).unwrap_err();
    assert_eq!((refused.error, &refused.buffer[..]), (GrantError::OutOfRange, &[4; 10][..]));
}
