//! Queue pairs that are connected by hand: what they move, what they refuse, and that nothing of them is left.
// In a build without verbs what is dropped here holds nothing.
#![allow(clippy::drop_non_drop)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[allow(unused_macros, reason = "each test binary uses its part of what they share")]
mod common;

use common::{eventually, pattern, slowness, soon};
use std::time::Duration;
use tenfour_rdma::{
    Admits, ForeignConfig, ForeignDomain, ForeignError, ForeignPair, Frozen, OpenError, OperationError,
    Place, Provider, Tunables,
};

const POOL_BYTES: usize = 8 << 20;

fn open(name: &str) -> ForeignDomain {
    slowness();
    let tunables = Tunables { operation_timeout: Duration::from_secs(2), ..Tunables::default() };
    let config = ForeignConfig { name: name.to_owned(), pool_bytes: POOL_BYTES, address: None, tunables };
    ForeignDomain::open(config).unwrap()
}

#[test]
fn a_machine_without_a_device_says_so() {
    let Err(reason) = Provider::Verbs.available() else { return };
    let tunables = Tunables::default();
    let config = ForeignConfig { name: "none".to_owned(), pool_bytes: 4096, address: None, tunables };
    match ForeignDomain::open(config) {
        Err(OpenError::Unavailable(error)) => assert_eq!(error, reason),
        other => panic!("{other:?}"),
    }
}

/// Both ends of a connection.
async fn connect(
    (ours, admits): (&ForeignDomain, Admits),
    (theirs, they_admit): (&ForeignDomain, Admits),
) -> (ForeignPair, ForeignPair) {
    let a = ours.queue_pair(admits, None).unwrap();
    let b = theirs.queue_pair(they_admit, Some(&a.local().gid)).unwrap();
    let (to_b, to_a) = tokio::join!(a.connect(b.local()), b.connect(a.local()));
    to_b.unwrap();
    to_a.unwrap();
    (a, b)
}

fn frozen(domain: &ForeignDomain, bytes: &[u8]) -> Frozen {
    let mut buffer = domain.pool().try_lease(bytes.len()).unwrap();
    buffer.copy_from_slice(bytes);
    buffer.freeze()
}

async fn read(
    pair: &ForeignPair,
    domain: &ForeignDomain,
    bytes: usize,
    from: Place,
) -> Result<Vec<u8>, OperationError> {
    let into = domain.pool().try_lease(bytes).unwrap();
    let buffer = pair.post_read(into, bytes, from).await?.done().await?;
    Ok(buffer[..bytes].to_vec())
}

async fn write(
    pair: &ForeignPair,
    bytes: Frozen,
    to: Place,
    immediate: Option<u32>,
) -> Result<(), OperationError> {
    pair.post_write(bytes, to, immediate).await?.done().await
}

async fn nothing_is_held(domains: [&ForeignDomain; 2]) {
    eventually("all memory is back", || {
        domains.iter().all(|domain| domain.pool().free_bytes() == POOL_BYTES)
    })
    .await;
}

mod verbs {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs an RDMA device: tools/with-rxe"]
    async fn bytes_are_read_and_written_and_arrivals_told() {
        soon(async {
            let (server, client) = (open("server"), open("client"));
            let (ours, theirs) = connect((&server, Admits::Nothing), (&client, Admits::Everything)).await;
            for size in [1, 4096, 300_000] {
                let bytes = pattern(size as u64, size);
                let exposed = theirs.expose_to_read(frozen(&client, &bytes)).unwrap();
                assert!(read(&ours, &server, size, exposed.place()).await.unwrap() == bytes, "{size}");
                drop(exposed);
                let exposed = theirs.expose_to_write(client.pool().try_lease(size).unwrap()).unwrap();
                write(&ours, frozen(&server, &bytes), exposed.place(), None).await.unwrap();
                assert!(exposed.end().unwrap()[..] == bytes, "{size}");
            }
            // A transfer that the other end writes, and says that it has.
            let (alone, theirs) = connect((&server, Admits::WritesOnly), (&client, Admits::Everything)).await;
            let exposed = alone.expose_to_write(server.pool().try_lease(5000).unwrap()).unwrap();
            alone.post_receive().unwrap();
            let bytes = pattern(7, 5000);
            write(&theirs, frozen(&client, &bytes), exposed.place(), Some(0xdead_beef)).await.unwrap();
            let arrival = alone.arrival().await.unwrap();
            assert_eq!((arrival.value, arrival.bytes), (0xdead_beef, 5000));
            let place = exposed.place();
            assert!(exposed.end().unwrap()[..] == bytes);
            // It is closed now, though the connection stands.
            assert!(!alone.is_broken());
            let late = write(&theirs, frozen(&client, &bytes), place, None).await;
            assert_eq!(late, Err(OperationError::RemoteAccess));
            drop((ours, alone, theirs));
            nothing_is_held([&server, &client]).await;
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs an RDMA device: tools/with-rxe"]
    async fn nothing_is_reached_that_was_not_opened_to_this_end() {
        soon(async {
            let (server, client) = (open("server"), open("client"));
            let bytes = pattern(3, 4096);
            for wrong in 0..50 {
                let (alone, theirs) =
                    connect((&server, Admits::WritesOnly), (&client, Admits::Everything)).await;
                let (other, _others) =
                    connect((&server, Admits::WritesOnly), (&client, Admits::Everything)).await;
                let exposed = alone.expose_to_write(server.pool().try_lease(4096).unwrap()).unwrap();
                let others = other.expose_to_write(server.pool().try_lease(4096).unwrap()).unwrap();
                let Place { address, key } = exposed.place();
                let to = match wrong {
                    0 => Place { address: address + 1, key },
                    1 => Place { address: address - 1, key },
                    2 => others.place(),
                    _ => Place { address, key: rand::random::<u32>() },
                };
                if to == exposed.place() {
                    continue;
                }
                let refused = write(&theirs, frozen(&client, &bytes), to, None).await;
                assert_eq!(refused, Err(OperationError::RemoteAccess), "{wrong}: {to:?}");
                assert!(exposed.end().unwrap().iter().all(|byte| *byte == 0) || wrong > 2, "{wrong}");
                assert!(others.end().is_some());
            }
            // The right to write is not the right to read, and a connection without rights has neither.
            let (alone, theirs) = connect((&server, Admits::WritesOnly), (&client, Admits::Everything)).await;
            let exposed = alone.expose_to_write(server.pool().try_lease(4096).unwrap()).unwrap();
            let refused = read(&theirs, &client, 4096, exposed.place()).await;
            // The queue pair refuses it before a key is looked at.
            let is_refused =
                matches!(refused, Err(OperationError::RemoteOperation | OperationError::RemoteAccess));
            assert!(is_refused, "{refused:?}");
            drop(exposed);
            let (ours, theirs) = connect((&server, Admits::Nothing), (&client, Admits::Everything)).await;
            let exposed = ours.expose_to_write(server.pool().try_lease(4096).unwrap()).unwrap();
            assert!(write(&theirs, frozen(&client, &bytes), exposed.place(), None).await.is_err());
            drop(exposed);
            nothing_is_held([&server, &client]).await;
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs an RDMA device: tools/with-rxe"]
    async fn memory_stays_with_the_device_until_it_is_done_and_comes_back_from_the_dead() {
        soon(async {
            let (server, client) = (open("server"), open("client"));
            let (ours, theirs) = connect((&server, Admits::Nothing), (&client, Admits::Everything)).await;
            let exposed = theirs.expose_to_read(frozen(&client, &pattern(1, 1 << 20))).unwrap();
            // Nobody waits for it.
            let into = server.pool().try_lease(1 << 20).unwrap();
            drop(ours.post_read(into, 1 << 20, exposed.place()).await.unwrap());
            eventually("the READ is done", || server.pool().free_bytes() == POOL_BYTES).await;
            assert!(!ours.is_broken());
            // The other end goes without a word.
            let place = exposed.place();
            drop(exposed);
            theirs.close();
            let lost = read(&ours, &server, 4096, place).await;
            assert!(matches!(lost, Err(OperationError::RetryExceeded | OperationError::Flushed)), "{lost:?}");
            assert!(ours.is_broken());
            assert_eq!(read(&ours, &server, 1, place).await, Err(OperationError::Flushed));
            assert!(ours.arrival().await.is_err() && ours.post_receive().is_err());
            // What is refused before it begins.
            let (ours, theirs) = connect((&server, Admits::Nothing), (&client, Admits::Everything)).await;
            assert!(matches!(ours.connect(theirs.local()).await, Err(ForeignError::State)));
            let foreign = client.pool().try_lease(10).unwrap();
            assert!(matches!(ours.expose_to_write(foreign), Err(ForeignError::OtherDomain)));
            let short = server.pool().try_lease(10).unwrap();
            let refused = ours.post_read(short, 11, place).await.map(drop);
            assert_eq!(refused, Err(OperationError::LocalProtection));
            let fresh = server.queue_pair(Admits::Nothing, None).unwrap();
            assert_eq!(read(&fresh, &server, 1, place).await, Err(OperationError::Flushed));
            drop((ours, theirs, fresh));
            nothing_is_held([&server, &client]).await;
        })
        .await;
    }
}
