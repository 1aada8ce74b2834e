//! Requests that end while they wait to be sent, where that moment can be had exactly: who holds the sealer holds everybody up.

use super::*;
use crate::native::{Client, GetOptions, Inner, Place, PutOptions};
use tenfour_rdma::{ClusterKey, DomainConfig, Provider};
use tenfour_types::native::{OPEN_DOOR_KEY_IS_PUBLIC, SLOT_BYTES};

const SOON: Duration = Duration::from_secs(10);

/// A client on a connection whose other end answers nothing, and granted one slot. Nobody listens any more where it connected to.
struct World {
    client: Client,
    link: Arc<Link>,
    gateway: Connection,
    _slot: Grant<Open>,
}

impl World {
    async fn new() -> Self {
        Self::with(ClientConfig::new("user", "secret")).await
    }

    async fn with(mut config: ClientConfig) -> Self {
        let key = ClusterKey::from_bytes(OPEN_DOOR_KEY_IS_PUBLIC);
        let open =
            |name: &str| Domain::open(DomainConfig::new(Provider::Tcp, name, key.clone(), 1 << 20)).unwrap();
        let (server, domain) = (open("gateway"), open("client"));
        let mut listener = server.listen(&"tcp:127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at = listener.local_endpoint();
        let accepted = async { listener.accept().await.unwrap().accept(Vec::new()).await.unwrap() };
        let (ours, gateway) = tokio::join!(domain.connect(&at, ConnectOptions::default()), accepted);
        drop(listener);
        let slot = gateway
            .grant_write(server.pool().try_lease(SLOT_BYTES).unwrap(), 0..SLOT_BYTES, GRANT_EXPIRES)
            .unwrap();
        let slots = vec![Slot { index: 0, remote: slot.remote() }];
        let welcome = Welcome { slots, requests_max: 8, carrier: "tcp".to_owned() };
        let link = Link::start(ours.unwrap(), [1; 32], Opener::new([2; 32]), welcome);
        config.endpoints = vec![at];
        config.retry.attempts_max = 2;
        config.retry.pause = Duration::from_millis(1);
        let place = Place { link: Some(link.clone()), ..Place::default() };
        let (place, copied_bytes) = (tokio::sync::Mutex::new(place), Default::default());
        let inner = Inner { config, domain, http: None, place, copied_bytes };
        Self { client: Client { inner: Arc::new(inner) }, link, gateway, _slot: slot }
    }

    fn counts(&self) -> (usize, usize) {
        let state = self.link.core.state();
        (state.pending.len(), state.slots.len())
    }

    async fn until(&self, counts: (usize, usize)) {
        let waiting = async {
            while self.counts() != counts {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, waiting).await.expect("requests and slots become so many");
    }
}

#[tokio::test]
async fn a_get_that_was_not_sent_gives_its_buffer_back_and_is_made_again() {
    let world = World::new().await;
    let held_up = world.link.sealer.lock().await;
    let (client, into) = (world.client.clone(), world.client.buffer(4096).await.unwrap());
    let get =
        tokio::spawn(async move { client.get_object("bucket", "key", into, &GetOptions::default()).await });
    world.until((1, 1)).await;
    world.link.core.connection.close().await;
    drop(held_up);
    let (buffer, got) = timeout(SOON, get).await.unwrap().unwrap();
    assert_eq!(buffer.map(|buffer| buffer.len()), Some(4096));
    assert!(matches!(got, Err(Error::Connect(_))), "the second try was to connect anew: {got:?}");
    assert_eq!(world.counts().0, 0);
}

#[tokio::test]
async fn a_get_that_is_never_sent_gives_its_buffer_back() {
    let world = World::new().await;
    let into = world.client.buffer(100).await.unwrap();
    let (buffer, got) =
        world.client.get_object(&"b".repeat(1 << 17), "key", into, &GetOptions::default()).await;
    assert!(matches!(got, Err(Error::Buffer(_))), "{got:?}");
    // A buffer of another client's memory is nobody's to lose either.
    let stranger = World::new().await.client.buffer(10).await.unwrap();
    let (stranger, got) = world.client.get_object("bucket", "key", stranger, &GetOptions::default()).await;
    assert!(matches!(got, Err(Error::Buffer(_))), "{got:?}");
    assert_eq!((buffer.unwrap().len(), stranger.unwrap().len()), (100, 10));
    assert_eq!(world.counts(), (0, 1));
}

#[tokio::test]
async fn a_small_put_that_is_given_up_before_it_was_sent_leaves_its_slot_to_the_next() {
    let world = World::new().await;
    let body = world.client.buffer(100).await.unwrap().freeze();
    let options = PutOptions::default();
    let held_up = world.link.sealer.lock().await;
    for _ in 0..3 {
        let mut put = Box::pin(world.client.put_object("bucket", "key", &body, &options));
        assert!(timeout(Duration::from_millis(20), &mut put).await.is_err());
        assert_eq!(world.counts(), (1, 0), "it waits to be sent");
        drop(put);
        assert_eq!(world.counts(), (0, 1));
    }
    drop(held_up);
    // The next one goes out in it.
    let mut put = Box::pin(world.client.put_object("bucket", "key", &body, &options));
    let received = tokio::select! {
        _ = &mut put => panic!("nobody answers it"),
        received = timeout(SOON, world.gateway.recv()) => received.unwrap().unwrap(),
    };
    assert!(matches!(received, Received::Immediate { value: 0, .. }), "{received:?}");
    drop(put);
    assert_eq!(world.counts(), (1, 0), "what was written is the gateway's to answer");
}

#[tokio::test]
async fn what_moves_bytes_has_the_time_for_them_and_nothing_else_has() {
    let mut config = ClientConfig::new("user", "secret");
    config.answer_deadline = Duration::from_millis(100);
    let world = World::with(config).await;
    let (large, small) =
        (world.client.buffer(512 << 10).await.unwrap(), world.client.buffer(10).await.unwrap());
    let options = GetOptions::default();
    let mut get = Box::pin(world.client.get_object("bucket", "key", large, &options));
    assert!(timeout(Duration::from_millis(500), &mut get).await.is_err(), "it waits");
    assert!(world.link.is_alive());
    let (_, got) = timeout(SOON, world.client.get_object("bucket", "key", small, &options)).await.unwrap();
    assert!(got.is_err() && !world.link.is_alive());
}
