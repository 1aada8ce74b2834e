//! What every provider refuses, and what becomes of both ends then.
#![allow(clippy::unwrap_used)] // The helpers of tests are tests too.

#[macro_use]
mod common;

use bytes::Bytes;
use common::{Fabric, LONG, endpoint, eventually, frozen, open, pattern, rounds, slow, tunables};
use std::time::Duration;
use tenfour_rdma::{
    ClusterKey, ConnectError, ConnectOptions, Connection, ConnectionError, GrantError, HandshakeError,
    ListenError, OperationError, Provider, Received, Remote,
};

on_every_provider!(
    a_wrong_key_range_or_right_is_refused,
    revoked_sealed_and_expired_grants_are_refused,
    a_key_is_worthless_on_another_connection,
    ten_thousand_random_keys_open_nothing,
    what_was_outstanding_is_flushed_in_order,
    memory_of_a_dropped_grant_is_never_written_after_its_reuse,
    local_mistakes_post_nothing,
    a_receiver_that_does_not_receive_is_not_ready,
    closing_flushes_and_tells_the_peer,
    dropping_the_last_clone_closes,
    another_cluster_is_kept_out,
    connections_can_be_rejected_or_time_out,
    silent_strangers_keep_nobody_waiting,
    connections_leave_nothing_behind,
);

const GRANTED: std::ops::Range<usize> = 4096..8192;

/// The responder's memory: a grant in the middle of a buffer.
struct Victim {
    client: Connection,
    server: Connection,
}

impl Victim {
    async fn new(fabric: &mut Fabric) -> Self {
        let (client, server) = fabric.connect().await;
        Self { client, server }
    }

    /// Both ends are in the error state, and stay there.
    async fn is_dead(&self, fabric: &Fabric) {
        self.client.closed().await;
        self.server.closed().await;
        assert!(!self.client.is_connected() && !self.server.is_connected());
        assert_eq!(self.client.error(), Some(ConnectionError::Operation(OperationError::RemoteAccess)));
        assert_eq!(self.server.error(), Some(ConnectionError::Refused(OperationError::RemoteAccess)));
        for end in [&self.client, &self.server] {
            assert_eq!(end.send(Bytes::from_static(b"later")).await, Err(OperationError::Flushed));
            assert!(end.recv().await.is_err());
        }
        let refused = self.server.grant_write(fabric.server.pool().try_lease(1).unwrap(), 0..1, LONG);
        assert_eq!(refused.err().map(|refused| refused.error), Some(GrantError::Disconnected));
    }
}

async fn a_wrong_key_range_or_right_is_refused(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    type Twist = (&'static str, fn(Remote) -> Remote);
    let twists: [Twist; 8] = [
        ("another key", |it| Remote { key: it.key ^ 1, ..it }),
        ("no key", |it| Remote { key: 0, ..it }),
        ("one byte before", |it| Remote { address: it.address - 1, bytes: 1, ..it }),
        ("across the beginning", |it| Remote { address: it.address - 1, ..it }),
        ("one byte after", |it| Remote { address: it.address + u64::from(it.bytes), bytes: 1, ..it }),
        ("across the end", |it| Remote { address: it.address + 1, ..it }),
        ("far away", |it| Remote { address: u64::MAX, bytes: 2, ..it }),
        ("the wrong right", |it| it),
    ];
    for (what, twist) in twists {
        // WRITE
        let victim = Victim::new(&mut fabric).await;
        let mut buffer = fabric.server.pool().lease(3 * 4096).await.unwrap();
        buffer.fill(0xee);
        let frozen_victim = buffer.freeze();
        let readable = victim.server.grant_read(frozen_victim.clone(), GRANTED, LONG).unwrap();
        let mut buffer = fabric.server.pool().lease(3 * 4096).await.unwrap();
        buffer.fill(0xee);
        let writable = victim.server.grant_write(buffer, GRANTED, LONG).unwrap();
        let to = if what == "the wrong right" { readable.remote() } else { twist(writable.remote()) };
        let source = frozen(&fabric.client, &vec![1; to.bytes as usize]);
        let refused = victim.client.write(source, to, Some(1)).await;
        assert_eq!(refused, Err(OperationError::RemoteAccess), "WRITE with {what}");
        victim.is_dead(&fabric).await;
        assert_eq!(
            victim.server.recv().await.err(),
            victim.server.error(),
            "no immediate of a refused WRITE"
        );
        let untouched = writable.seal().await.into_buffer();
        assert!(untouched.iter().chain(&frozen_victim[..]).all(|byte| *byte == 0xee), "WRITE with {what}");

        // READ
        let victim = Victim::new(&mut fabric).await;
        let readable = victim.server.grant_read(frozen_victim.clone(), GRANTED, LONG).unwrap();
        let writable = victim.server.grant_write(untouched, GRANTED, LONG).unwrap();
        let from = if what == "the wrong right" { writable.remote() } else { twist(readable.remote()) };
        let into = fabric.client.pool().lease(3 * 4096).await.unwrap();
        let refused = victim.client.read(into, from).await;
        assert_eq!(refused.err(), Some(OperationError::RemoteAccess), "READ with {what}");
        victim.is_dead(&fabric).await;
    }
    for pool in [fabric.server.pool().clone(), fabric.client.pool().clone()] {
        eventually("all memory returns", || pool.free_bytes() == pool.capacity_bytes()).await;
    }
}

async fn revoked_sealed_and_expired_grants_are_refused(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    for end in ["dropped", "sealed", "expired"] {
        let victim = Victim::new(&mut fabric).await;
        let expires = if end == "expired" { Duration::from_millis(1) } else { LONG };
        let buffer = fabric.server.pool().lease(3 * 4096).await.unwrap();
        let grant = victim.server.grant_write(buffer, GRANTED, expires).unwrap();
        let to = grant.remote();
        let mut kept = None;
        match end {
            "dropped" => drop(grant),
            "sealed" => drop(grant.seal().await),
            _ => {
                tokio::time::sleep(slow(Duration::from_millis(20))).await;
                kept = Some(grant);
            }
        }
        let refused = victim.client.write(frozen(&fabric.client, &[1; 10]), to, None).await;
        assert_eq!(refused, Err(OperationError::RemoteAccess), "WRITE to a grant that was {end}");
        victim.is_dead(&fabric).await;
        drop(kept);

        let victim = Victim::new(&mut fabric).await;
        let source = frozen(&fabric.server, &[1; 3 * 4096]);
        let grant = victim.server.grant_read(source, GRANTED, expires).unwrap();
        let from = grant.remote();
        let mut kept = None;
        match end {
            "dropped" => drop(grant),
            "sealed" => grant.revoke(),
            _ => {
                tokio::time::sleep(slow(Duration::from_millis(20))).await;
                kept = Some(grant);
            }
        }
        let into = fabric.client.pool().lease(4096).await.unwrap();
        let refused = victim.client.read(into, from).await;
        assert_eq!(refused.err(), Some(OperationError::RemoteAccess), "READ of a grant that was {end}");
        victim.is_dead(&fabric).await;
        drop(kept);
    }
}

async fn a_key_is_worthless_on_another_connection(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (owner, other) = (Victim::new(&mut fabric).await, Victim::new(&mut fabric).await);
    let buffer = fabric.server.pool().lease(4096).await.unwrap();
    let grant = owner.server.grant_write(buffer, 0..4096, LONG).unwrap();
    let refused = other.client.write(frozen(&fabric.client, &[1; 4096]), grant.remote(), None).await;
    assert_eq!(refused, Err(OperationError::RemoteAccess));
    other.is_dead(&fabric).await;
    // The granted connection lives on.
    owner.client.write(frozen(&fabric.client, &[7; 4096]), grant.remote(), None).await.unwrap();
    assert_eq!(&grant.seal().await[..], &[7; 4096]);
}

async fn ten_thousand_random_keys_open_nothing(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let source = frozen(&fabric.client, &[1; 64]);
    let mut opened = 0;
    // A device checks 32 bits of a key, and a connection to it costs more.
    let (tries, mask) =
        if provider == Provider::Verbs { (500, u64::from(u32::MAX)) } else { (10_000, u64::MAX) };
    for _ in 0..tries {
        let (client, server) = fabric.connect().await;
        let local = fabric.server.pool().lease(4096).await.unwrap();
        let local = server.grant_write(local, 0..4096, LONG).unwrap();
        let to = Remote { address: local.remote().address, bytes: 64, key: rand::random::<u64>() & mask };
        opened +=
            u32::from(client.write(source.clone(), to, None).await != Err(OperationError::RemoteAccess));
    }
    assert_eq!(opened, 0);
}

async fn what_was_outstanding_is_flushed_in_order(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let victim = Victim::new(&mut fabric).await;
    let buffer = fabric.server.pool().lease(4096).await.unwrap();
    let grant = victim.server.grant_write(buffer, 0..4096, LONG).unwrap();
    let source = frozen(&fabric.client, &[3; 4096]);
    let mut posted = Vec::new();
    for i in 0..40u32 {
        let mut to = grant.remote();
        to.key ^= u64::from(i == 20);
        match victim.client.post_write(source.clone(), to, None).await {
            Ok(completion) => posted.push(completion),
            Err(error) => assert!(i > 20 && error == OperationError::Flushed),
        }
    }
    for (i, completion) in posted.into_iter().enumerate() {
        let expected = match i {
            0..20 => Ok(()),
            20 => Err(OperationError::RemoteAccess),
            _ => Err(OperationError::Flushed),
        };
        assert_eq!(completion.await, expected, "operation {i}");
    }
    victim.is_dead(&fabric).await;
    // A chain of which the first fails reports it once.
    let victim = Victim::new(&mut fabric).await;
    let nowhere = Remote { key: 1, ..grant.remote() };
    let message = Bytes::from_static(b"never");
    let chain = victim.client.post_write_then_send(source.clone(), nowhere, message).await.unwrap();
    assert_eq!(chain.await, Err(OperationError::RemoteAccess));
    victim.is_dead(&fabric).await;
    drop(victim);
    let mut source = source;
    for _ in 0..1000 {
        match source.try_unfreeze() {
            Ok(_) => return,
            Err(shared) => source = shared,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("an operation still owns the source");
}

/// Grants are dropped at random moments under a storm of writes; whoever leases their memory next sees only its own bytes.
async fn memory_of_a_dropped_grant_is_never_written_after_its_reuse(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let source = frozen(&fabric.client, &[0xbb; 256 << 10]);
    for round in 0..u64::from(rounds(60)) {
        let (client, server) = fabric.connect().await;
        let buffer = fabric.server.pool().lease(256 << 10).await.unwrap();
        let grant = server.grant_write(buffer, 0..256 << 10, LONG).unwrap();
        let to = grant.remote();
        let mut posted = Vec::new();
        for _ in 0..8 {
            posted.push(client.post_write(source.clone(), to, None).await);
        }
        let storm = tokio::spawn(async move {
            for completion in posted.into_iter().flatten() {
                // Refused or flushed from the drop on.
                let _ = completion.await;
            }
        });
        tokio::time::sleep(Duration::from_micros(round * 17 % 700)).await;
        if round % 2 == 0 {
            drop(grant);
        } else {
            let sealed = grant.seal().await;
            let before = sealed.to_vec();
            tokio::time::sleep(Duration::from_micros(200)).await;
            assert!(sealed[..] == before[..], "sealed bytes changed");
        }
        let mut mine = fabric.server.pool().lease(15 << 20).await.unwrap();
        mine.fill(0xaa);
        storm.await.unwrap();
        assert!(mine.iter().all(|byte| *byte == 0xaa), "round {round}");
    }
}

async fn local_mistakes_post_nothing(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let too_long = Bytes::from(vec![0; tenfour_rdma::MESSAGE_BYTES_MAX + 1]);
    assert_eq!(client.send(too_long).await, Err(OperationError::MessageTooLong));
    let grant = server.grant_write(fabric.server.pool().try_lease(100).unwrap(), 0..100, LONG).unwrap();
    let longer = frozen(&fabric.client, &[0; 101]);
    assert_eq!(client.write(longer, grant.remote(), None).await, Err(OperationError::LocalProtection));
    let foreign = frozen(&fabric.server, &[0; 10]);
    assert_eq!(
        client.write(foreign.clone(), grant.remote(), None).await,
        Err(OperationError::LocalProtection)
    );
    let short = fabric.client.pool().try_lease(99).unwrap();
    assert_eq!(client.read(short, grant.remote()).await.err(), Some(OperationError::LocalProtection));
    let foreign_buffer = fabric.client.pool().try_lease(10).unwrap();
    let refused = server.grant_write(foreign_buffer, 0..10, LONG).err().unwrap();
    assert_eq!(refused.error, GrantError::OtherDomain);
    assert!(client.grant_write(refused.buffer, 0..10, LONG).is_ok(), "it came back");
    assert_eq!(client.grant_read(foreign, 0..10, LONG).err(), Some(GrantError::OtherDomain));
    client.send(Bytes::from_static(b"alive")).await.unwrap();
    assert!(client.is_connected() && server.is_connected());
}

async fn a_receiver_that_does_not_receive_is_not_ready(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let mut sent = 0u32;
    let error = loop {
        match client.send(sent.to_le_bytes().to_vec().into()).await {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 10_000, "the receive queue has a bound");
    };
    assert_eq!(error, OperationError::ReceiverNotReady);
    // Whichever end gave up, the other learns of it from a message.
    server.closed().await;
    assert_eq!(server.error(), Some(ConnectionError::Refused(OperationError::ReceiverNotReady)));
    // What had arrived is still there.
    for i in 0..sent {
        assert_eq!(server.recv().await, Ok(Received::Message(i.to_le_bytes().to_vec().into())));
    }
    assert!(server.recv().await.is_err());

    // A receiver that is only late is waited for.
    let (client, server) = fabric.connect().await;
    let late = async {
        tokio::time::sleep(slow(Duration::from_millis(25))).await;
        for i in 0..sent + 50 {
            assert_eq!(server.recv().await, Ok(Received::Message(i.to_le_bytes().to_vec().into())));
        }
    };
    let send = async {
        for i in 0..sent + 50 {
            client.send(i.to_le_bytes().to_vec().into()).await.unwrap();
        }
    };
    tokio::join!(late, send);
}

async fn closing_flushes_and_tells_the_peer(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    client.send(Bytes::from_static(b"last words")).await.unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.recv().await }
    });
    tokio::time::sleep(Duration::from_millis(5)).await;
    client.close().await;
    assert_eq!(waiting.await.unwrap(), Err(ConnectionError::Closed));
    assert_eq!(client.error(), Some(ConnectionError::Closed));
    server.closed().await;
    assert_eq!(server.recv().await, Ok(Received::Message(Bytes::from_static(b"last words"))));
    assert_eq!(server.recv().await, Err(ConnectionError::PeerClosed));
    assert_eq!(server.send(Bytes::new()).await, Err(OperationError::Flushed));
    server.close().await;
}

async fn dropping_the_last_clone_closes(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let (client, server) = fabric.connect().await;
    let clone = client.clone();
    drop(client);
    clone.send(Bytes::from_static(b"still here")).await.unwrap();
    drop(clone);
    server.closed().await;
    assert_eq!(server.error(), Some(ConnectionError::PeerClosed));
}

async fn another_cluster_is_kept_out(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let stranger = open(provider, &ClusterKey::generate(), "stranger", tunables());
    let at = fabric.listener.local_endpoint();
    for _ in 0..3 {
        let refused = stranger.connect(&at, ConnectOptions::default()).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Handshake(HandshakeError::WrongKey)), "{refused}");
        assert!(!refused.is_retryable());
    }
    // Nothing of the stranger reaches `accept`: the next to come out is ours.
    let (client, _server) = fabric.connect().await;
    client.send(Bytes::from_static(b"ours")).await.unwrap();
}

async fn connections_can_be_rejected_or_time_out(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let at = fabric.listener.local_endpoint();
    let options = ConnectOptions { private_data: vec![1; 56], ..Default::default() };
    let rejecting = async {
        let incoming = fabric.listener.accept().await.unwrap();
        assert_eq!(incoming.private_data(), [1; 56]);
        incoming.reject().await;
    };
    let (refused, ()) = tokio::join!(fabric.client.connect(&at, options), rejecting);
    assert!(matches!(refused, Err(ConnectError::Rejected)));

    let options = ConnectOptions { private_data: vec![1; 57], ..Default::default() };
    let refused = fabric.client.connect(&at, options).await;
    assert!(matches!(refused, Err(ConnectError::PrivateDataTooLong)));

    // Nobody takes the connection up.
    let options = ConnectOptions { deadline: Duration::from_millis(50), ..Default::default() };
    let refused = fabric.client.connect(&at, options).await;
    assert!(matches!(refused, Err(ConnectError::Timeout)));
    // It waits in the queue still, and its peer is gone.
    drop(fabric.listener.accept().await.unwrap().accept(Vec::new()).await);

    let other = match provider {
        Provider::Shm => Provider::Tcp,
        Provider::Tcp | Provider::Verbs => Provider::Shm,
    };
    let elsewhere = endpoint(other, &fabric.folder);
    let refused = fabric.client.connect(&elsewhere, ConnectOptions::default()).await;
    assert!(matches!(refused, Err(ConnectError::WrongProvider { .. })));
    assert!(matches!(fabric.server.listen(&elsewhere).await, Err(ListenError::WrongProvider { .. })));

    // Whoever listens keeps the place; whoever has gone leaves it.
    let second = fabric.server.listen(&at).await;
    assert!(matches!(second, Err(ListenError::InUse { .. })), "{second:?}");
    let Fabric { listener, server, client, folder: _folder, .. } = fabric;
    drop(listener);
    let mut again = None;
    for _ in 0..500 {
        match server.listen(&at).await {
            Ok(listener) => {
                again = Some(listener);
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    drop(again.expect("the place is free"));
    let mut refused = client.connect(&at, ConnectOptions::default()).await;
    for _ in 0..100 {
        if matches!(refused, Err(ConnectError::Io(_))) {
            break;
        }
        refused = client.connect(&at, ConnectOptions::default()).await;
    }
    assert!(matches!(refused, Err(ConnectError::Io(_))), "{refused:?}");
}

async fn silent_strangers_keep_nobody_waiting(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let at = fabric.listener.local_endpoint();
    let mut silent: Vec<Box<dyn std::any::Any>> = Vec::new();
    for _ in 0..20 {
        match &at {
            tenfour_rdma::Endpoint::Shm(path) => {
                silent.push(Box::new(std::os::unix::net::UnixStream::connect(path).unwrap()));
            }
            tenfour_rdma::Endpoint::Tcp(address) => {
                silent.push(Box::new(std::net::TcpStream::connect(address).unwrap()));
            }
            // Connection management has no connection without a word: these say the wrong one.
            tenfour_rdma::Endpoint::Verbs(_) => {
                let stranger = open(provider, &ClusterKey::generate(), "stranger", tunables());
                let at = at.clone();
                let connecting = async move { stranger.connect(&at, ConnectOptions::default()).await };
                silent.push(Box::new(tokio::spawn(connecting)));
            }
        }
    }
    let (client, _server) =
        tokio::time::timeout(slow(Duration::from_secs(2)), fabric.connect()).await.unwrap();
    client.send(Bytes::from_static(b"not kept waiting")).await.unwrap();
    drop(silent);
}

/// Files and mappings are counted in `processes.rs`.
async fn connections_leave_nothing_behind(provider: Provider) {
    let mut fabric = Fabric::new(provider).await;
    let data = pattern(5, 10_000);
    for i in 0..rounds(200) {
        let (client, server) = fabric.connect().await;
        let buffer = fabric.server.pool().lease(10_000).await.unwrap();
        let grant = server.grant_write(buffer, 0..10_000, LONG).unwrap();
        let posted = client.post_write(frozen(&fabric.client, &data), grant.remote(), None).await.unwrap();
        match i % 4 {
            0 => posted.await.unwrap(),
            1 => drop(client),
            2 => drop(server),
            _ => drop(grant),
        }
    }
    for pool in [fabric.server.pool().clone(), fabric.client.pool().clone()] {
        eventually("all memory returns", || pool.free_bytes() == pool.capacity_bytes()).await;
    }
}
