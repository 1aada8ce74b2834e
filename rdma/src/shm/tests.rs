//! A peer that lies: its control block, ring and pool hold anything, and change at any time. The link may fail, and only that.
#![cfg(test)]

use super::control::{CONTROL_BYTES, OwnControl, RING_BYTES, STOPPED, Word};
use super::descriptor::Descriptor;
use super::peer::PeerMapping;
use super::*;
use crate::config::Tunables;
use crate::connection::Link;
use crate::engine::grants::{grant_read, grant_write};
use crate::memory::{Mapping, Pool};
use crate::{ClusterKey, Connection, Domain, DomainConfig, Provider, Remote};
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use std::time::Duration;

const WORDS: [Word; 7] = [
    Word::Produced,
    Word::Completed,
    Word::Status,
    Word::ReadsDone,
    Word::Sleeping,
    Word::Wanted,
    Word::Closed,
];

/// Our link, and the peer's side of it in our hands.
struct Liar {
    link: Arc<ShmLink>,
    connection: Connection,
    control: OwnControl,
    socket: UnixStream,
}

impl Liar {
    fn new(pool: &Pool) -> Self {
        let (control, theirs) = (OwnControl::create().unwrap(), Mapping::create("liar", 1 << 16).unwrap());
        let peer = setup::Peer {
            control: PeerControl::map(control.file()).unwrap(),
            pool: PeerMapping::map(theirs.file(), 1 << 16).unwrap(),
            doorbell: Doorbell::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap()),
        };
        let (ours, socket) = UnixStream::pair().unwrap();
        let pair = QueuePair::new(1, pool.clone(), Tunables::default());
        let link = ShmLink::start(pair, OwnControl::create().unwrap(), Bell::new().unwrap(), peer, ours);
        let config = DomainConfig::new(Provider::Shm, "liar", ClusterKey::generate(), 4096);
        let connection = Connection::new(Link::Shm(link.clone()), Domain::open(config).unwrap());
        Self { link, connection, control, socket }
    }

    fn wake(&self) {
        rustix::io::write(self.link.bell.file(), &1u64.to_ne_bytes()).unwrap();
    }
}

fn descriptors() -> impl Strategy<Value = Vec<u8>> {
    let well_formed = (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>(), 0u8..3).prop_map(
        |(key, address, bytes, offset, kind)| {
            let descriptor = match kind {
                0 => Descriptor::Write { key, address, bytes, offset, immediate: Some(1) },
                1 => Descriptor::Read { key, address, bytes },
                _ => Descriptor::Send { bytes },
            };
            descriptor.encode().to_vec()
        },
    );
    prop_oneof![well_formed, prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_lying_peer_harms_only_itself(
        words in prop::array::uniform7(prop_oneof![Just(0), 0..200u64, any::<u64>()]),
        ring in descriptors(),
        outstanding in 0u32..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pool = Pool::create("test", 1 << 16).unwrap();
            let liar = Liar::new(&pool);
            let mut secret = pool.try_lease(4096).unwrap();
            secret.fill(0xee);
            let grant = grant_write(&liar.link.pair.grants, secret, 0..4096, Duration::from_secs(9), crate::engine::grants::random_key).unwrap();
            let mut waiting = Vec::new();
            for _ in 0..outstanding {
                let into = pool.try_lease(64).unwrap();
                let from = Remote { address: words[0], bytes: 64, key: 0 };
                waiting.push(liar.connection.post_read(into, from).await.unwrap());
            }
            liar.control.write_ring(0, &ring);
            for (word, value) in WORDS.into_iter().zip(words) {
                liar.control.store(word, value);
            }
            liar.wake();
            tokio::time::sleep(Duration::from_millis(1)).await;
            // Whatever was said: hanging up ends it, and all memory comes back.
            drop(liar.socket);
            tokio::time::timeout(Duration::from_secs(5), async {
                liar.connection.closed().await;
                for completion in waiting {
                    let _ = completion.await;
                }
                liar.link.ended.wait().await;
            }).await.unwrap();
            let sealed = grant.seal().await;
            assert!(sealed.iter().all(|byte| *byte == 0xee), "nobody had the key");
            drop(sealed);
            assert_eq!(pool.free_bytes(), pool.capacity_bytes());
        });
    }
}

async fn violation(lie: impl FnOnce(&Liar)) -> ConnectionError {
    let pool = Pool::create("test", 4096).unwrap();
    let liar = Liar::new(&pool);
    lie(&liar);
    liar.wake();
    tokio::time::timeout(Duration::from_secs(5), liar.connection.closed()).await.unwrap();
    let error = liar.connection.error().unwrap();
    liar.control.store(Word::Closed, STOPPED);
    liar.wake();
    tokio::time::timeout(Duration::from_secs(5), liar.link.ended.wait()).await.unwrap();
    error
}

#[tokio::test]
async fn each_lie_is_told_apart() {
    let malformed = ConnectionError::Refused(OperationError::RemoteOperation);
    assert_eq!(violation(|liar| liar.control.store(Word::Produced, RING_BYTES + 1)).await, malformed);
    assert_eq!(violation(|liar| liar.control.store(Word::Produced, 39)).await, malformed);
    assert_eq!(violation(|liar| liar.control.store(Word::Produced, 40)).await, malformed);
    let message = |bytes, produced| {
        violation(move |liar| {
            liar.control.write_ring(0, &Descriptor::Send { bytes }.encode());
            liar.control.store(Word::Produced, produced);
        })
    };
    assert_eq!(message(64, 48).await, malformed);
    assert_eq!(message(17_000, 60_000).await, ConnectionError::Refused(OperationError::MessageTooLong));
    assert_eq!(
        violation(|liar| liar.control.store(Word::Completed, 1)).await,
        ConnectionError::Operation(OperationError::RemoteOperation)
    );
    assert_eq!(
        violation(|liar| liar.control.store(Word::Status, 10)).await,
        ConnectionError::Operation(OperationError::RemoteAccess)
    );
    assert_eq!(violation(|liar| liar.control.store(Word::Closed, 1)).await, ConnectionError::PeerClosed);
    assert_eq!(CONTROL_BYTES, 4096 + RING_BYTES as usize);
}

/// A source outside the initiator's own pool is its own mistake, even with a good grant.
#[tokio::test]
async fn a_source_beyond_the_pool_is_refused() {
    let pool = Pool::create("test", 8192).unwrap();
    for (offset, good) in [(0, true), ((1 << 16) - 64, true), ((1 << 16) - 63, false), (u64::MAX, false)] {
        let liar = Liar::new(&pool);
        let grants = &liar.link.pair.grants;
        let grant = grant_write(
            grants,
            pool.try_lease(64).unwrap(),
            0..64,
            Duration::from_secs(9),
            crate::engine::grants::random_key,
        )
        .unwrap();
        let Remote { key, address, bytes } = grant.remote();
        let descriptor = Descriptor::Write { key, address, bytes, offset, immediate: Some(3) };
        liar.control.write_ring(0, &descriptor.encode());
        liar.control.store(Word::Produced, descriptor.ring_bytes());
        liar.wake();
        let received = tokio::time::timeout(Duration::from_secs(5), liar.connection.recv()).await.unwrap();
        assert_eq!(received.is_ok(), good, "offset {offset}");
    }
}

/// Memory of a failed WRITE stays in quarantine until the peer says that it stopped.
#[tokio::test]
async fn quarantine_lasts_until_the_peer_has_stopped() {
    let pool = Pool::create("test", 4096).unwrap();
    let liar = Liar::new(&pool);
    let nowhere = Remote { address: 0, bytes: 4096, key: 0 };
    let source = pool.try_lease(4096).unwrap().freeze();
    let posted = liar.connection.post_write(source, nowhere, None).await.unwrap();
    liar.link.fail(ConnectionError::Closed, OperationError::Flushed);
    assert_eq!(posted.await, Err(OperationError::Flushed));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(pool.free_bytes(), 0);
    assert_eq!(liar.link.own.load(Word::Closed), STOPPED);
    liar.control.store(Word::Closed, STOPPED);
    liar.wake();
    tokio::time::timeout(Duration::from_secs(5), liar.link.ended.wait()).await.unwrap();
    assert_eq!(pool.free_bytes(), 4096);
}

/// Counters that run backwards are no work: the reactor sleeps, and the link serves the rest.
#[tokio::test]
async fn counters_that_run_backwards_keep_nobody_awake() {
    let pool = Pool::create("test", 8192).unwrap();
    let liar = Liar::new(&pool);
    let from = Remote { address: crate::engine::grants::ADDRESS_BASE, bytes: 64, key: 0 };
    let read = liar.connection.post_read(pool.try_lease(64).unwrap(), from).await.unwrap();
    let source = pool.try_lease(64).unwrap().freeze();
    let grant = grant_read(
        &liar.link.pair.grants,
        &source,
        0..64,
        Duration::from_secs(9),
        crate::engine::grants::random_key,
    )
    .unwrap();
    let Remote { key, address, bytes } = grant.remote();
    let descriptor = Descriptor::Read { key, address, bytes };
    liar.control.write_ring(0, &descriptor.encode());
    liar.control.write_ring(descriptor.ring_bytes(), &descriptor.encode());
    liar.control.store(Word::Completed, 1);
    liar.control.store(Word::Produced, descriptor.ring_bytes());
    liar.wake();
    assert!(read.await.is_ok());
    liar.control.store(Word::ReadsDone, 1);
    liar.control.store(Word::Produced, 2 * descriptor.ring_bytes());
    liar.wake();
    while liar.link.own.load(Word::Completed) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    liar.control.store(Word::Completed, 0);
    liar.control.store(Word::ReadsDone, 0);
    liar.wake();
    // On this one thread, a reactor that does not sleep would never let the timer fire.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(liar.connection.is_connected());
    assert_eq!(liar.link.own.load(Word::Sleeping) & 1, 1);
}
