//! A peer that lies on a stream: any bytes after a genuine set-up. The link may fail, and only that.
#![cfg(test)]

use super::frame::{Frame, HEAD_BYTES};
use super::*;
use crate::config::Tunables;
use crate::engine::grants::grant_write;
use crate::memory::Pool;
use crate::{ConnectionError, Domain, DomainConfig, Grant, Open, Provider, Received, Remote};
use proptest::prelude::*;
use tokio::net::TcpListener;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

struct Liar {
    link: Arc<TcpLink>,
    connection: Connection,
    stream: TcpStream,
}

impl Liar {
    async fn new(pool: &Pool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let pair = QueuePair::new(1, pool.clone(), Tunables::default());
        let link = TcpLink::start(pair, ours);
        let config = DomainConfig::new(Provider::Tcp, "liar", ClusterKey::generate(), 4096);
        let connection = Connection::new(Link::Tcp(link.clone()), Domain::open(config).unwrap());
        Self { link, connection, stream }
    }

    /// Opens a page full of `byte` to it.
    fn grant_page(&self, pool: &Pool, byte: u8, expires: Duration) -> Grant<Open> {
        let mut page = pool.try_lease(4096).unwrap();
        page.fill(byte);
        let key = crate::engine::grants::random_key;
        grant_write(&self.link.pair.grants, page, 0..4096, expires, key).unwrap()
    }

    async fn say(&mut self, frames: &[Frame]) {
        for frame in frames {
            self.stream.write_all(&frame.encode()).await.unwrap();
        }
    }

    async fn hear(&mut self) -> Frame {
        let mut head = [0; HEAD_BYTES];
        timeout(SOON, self.stream.read_exact(&mut head)).await.unwrap().unwrap();
        Frame::decode(&head).unwrap()
    }
}

fn parts() -> impl Strategy<Value = Vec<u8>> {
    let frame = (1u8..8, any::<u8>(), 0u32..70_000, 0u64..4, any::<u64>()).prop_map(
        |(kind, flags, bytes, sequence, key)| {
            let frame = match kind {
                1 => Frame::Write {
                    sequence,
                    key,
                    address: key,
                    bytes,
                    immediate: (flags & 1 == 1).then_some(9),
                },
                2 => Frame::Read { sequence, key, address: key, bytes },
                3 => Frame::Send { sequence, bytes },
                4 => Frame::Ack { sequence },
                5 => Frame::ReadData { sequence, bytes },
                6 => Frame::Refuse { sequence, code: u32::from(flags) },
                _ => Frame::Bye,
            };
            frame.encode().to_vec()
        },
    );
    prop_oneof![3 => frame, 1 => prop::collection::vec(any::<u8>(), 0..100)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_lying_peer_harms_only_itself(said in prop::collection::vec(parts(), 0..6), outstanding in 0u32..4) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pool = Pool::create("test", 1 << 16).unwrap();
            let mut liar = Liar::new(&pool).await;
            let grant = liar.grant_page(&pool, 0xee, SOON);
            let mut waiting = Vec::new();
            for _ in 0..outstanding {
                let from = Remote { address: 0, bytes: 64, key: 0 };
                let posted = liar.connection.post_read(pool.try_lease(64).unwrap(), from).await;
                waiting.extend(posted);
            }
            for part in said {
                // Broken off when it was believed as little as it deserved.
                let _ = liar.stream.write_all(&part).await;
            }
            drop(liar.stream);
            timeout(SOON, async {
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

#[tokio::test]
async fn out_of_turn_is_refused_and_said() {
    let pool = Pool::create("test", 1 << 16).unwrap();
    let refused = |sequence| Frame::Refuse { sequence, code: OperationError::RemoteOperation.code() };
    let mut liar = Liar::new(&pool).await;
    liar.say(&[Frame::Send { sequence: 2, bytes: 0 }]).await;
    assert_eq!(liar.hear().await, refused(1));
    let mut liar = Liar::new(&pool).await;
    liar.say(&[Frame::Send { sequence: 1, bytes: 0 }, Frame::Send { sequence: 1, bytes: 0 }]).await;
    assert_eq!(
        timeout(SOON, liar.connection.recv()).await.unwrap(),
        Ok(Received::Message(Default::default()))
    );
    assert_eq!(liar.hear().await, refused(2));
    let mut liar = Liar::new(&pool).await;
    liar.say(&[Frame::Send { sequence: 1, bytes: u32::MAX }]).await;
    let too_long = Frame::Refuse { sequence: 1, code: OperationError::MessageTooLong.code() };
    assert_eq!(liar.hear().await, too_long);
    let mut liar = Liar::new(&pool).await;
    liar.say(&[Frame::Ack { sequence: 1 }]).await;
    assert_eq!(liar.hear().await, Frame::Bye);
    assert_eq!(liar.connection.error(), Some(ConnectionError::Operation(OperationError::RemoteOperation)));
}

/// Half a WRITE has landed when its grant is sealed: the rest never does, and the sealer does not wait for the peer.
#[tokio::test]
async fn sealing_cuts_a_slow_write_off() {
    let pool = Pool::create("test", 1 << 16).unwrap();
    let mut liar = Liar::new(&pool).await;
    let grant = liar.grant_page(&pool, 0, Duration::from_secs(60));
    let Remote { key, address, bytes } = grant.remote();
    liar.say(&[Frame::Write { sequence: 1, key, address, bytes, immediate: Some(1) }]).await;
    liar.stream.write_all(&[7; 2048]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    let sealed = timeout(SOON, grant.seal()).await.unwrap();
    assert_eq!((&sealed[..2048], &sealed[2048..]), (&[7; 2048][..], &[0; 2048][..]));
    liar.stream.write_all(&[7; 2048]).await.unwrap();
    let refused = Frame::Refuse { sequence: 1, code: OperationError::RemoteAccess.code() };
    assert_eq!(liar.hear().await, refused);
    assert!(liar.connection.recv().await.is_err(), "no immediate");
    assert_eq!(&sealed[2048..], &[0; 2048]);
}

/// A grant that expires under a slow WRITE takes no byte more.
#[tokio::test]
async fn expiry_cuts_a_slow_write_off() {
    let pool = Pool::create("test", 1 << 16).unwrap();
    let mut liar = Liar::new(&pool).await;
    let grant = liar.grant_page(&pool, 0, Duration::from_millis(50));
    let Remote { key, address, bytes } = grant.remote();
    liar.say(&[Frame::Write { sequence: 1, key, address, bytes, immediate: None }]).await;
    liar.stream.write_all(&[7; 100]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    liar.stream.write_all(&[7; 3996]).await.unwrap();
    assert_eq!(liar.hear().await, Frame::Refuse { sequence: 1, code: OperationError::RemoteAccess.code() });
    let sealed = grant.seal().await;
    assert_eq!((&sealed[..100], &sealed[100..]), (&[7; 100][..], &[0; 3996][..]));
}

/// A peer that asks and never reads: what it makes us queue is bounded, and closing does not wait for it for ever.
#[tokio::test]
async fn a_peer_that_does_not_read_is_dropped() {
    let pool = Pool::create("test", 1 << 20).unwrap();
    let mut liar = Liar::new(&pool).await;
    let source = pool.try_lease(1 << 20).unwrap().freeze();
    let grants = &liar.link.pair.grants;
    let grant = crate::engine::grants::grant_read(
        grants,
        &source,
        0..1 << 20,
        Duration::from_secs(60),
        crate::engine::grants::random_key,
    )
    .unwrap();
    let Remote { key, address, bytes } = grant.remote();
    for sequence in 1..5000 {
        let asked = Frame::Read { sequence, key, address, bytes }.encode();
        if timeout(Duration::from_secs(1), liar.stream.write_all(&asked)).await.is_err() {
            break;
        }
        if !liar.connection.is_connected() {
            break;
        }
        tokio::task::yield_now().await;
    }
    timeout(SOON, liar.connection.closed()).await.unwrap();
    drop((grant, source));
    timeout(SOON, liar.link.ended.wait()).await.unwrap();
    assert_eq!(pool.free_bytes(), pool.capacity_bytes());
}
