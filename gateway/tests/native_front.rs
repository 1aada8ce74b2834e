//! S3 over RDMA over the reference model: logins, frames and memory, by clients that speak the protocol by hand and wrongly.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as a test may")]
#![allow(dead_code, reason = "what the tests of the fronts share is used in part")]

#[path = "support/door.rs"]
mod door;
#[path = "support/model.rs"]
mod model;

use door::{Door, Raw, answer_to, eventually, knock, login, secrets, today};
use model::Model;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tenfour_client::native::{Client, Error, GetOptions, PutMode, PutOptions};
use tenfour_gateway::ops::Backend as _;
use tenfour_metadata::api::ClusterCommand;
use tenfour_rdma::{Endpoint, OperationError, Provider, Remote};
use tenfour_types::native::{
    Answer, Content, HEAD_BYTES, How, LoginAnswer, Operation, Precondition, REQUESTS_MAX, Read, Request,
    SLOT_BYTES, ToClient, ToGateway, slot_body_offset,
};
use tenfour_types::{BucketName, Headers, Wire as _};
use tokio::time::timeout;

const ALICE: (&str, &str) = ("ALICE", "alice-secret-key");
const BOB: (&str, &str) = ("BOB", "bob-secret-key");
const BOTH: [Provider; 2] = [Provider::Shm, Provider::Tcp];
/// Set for the process that is to be killed: where the door is.
const VICTIM: &str = "TENFOUR_NATIVE_VICTIM";

async fn model() -> Model {
    let model = Model::default();
    model.add_user(ALICE.0, ALICE.1, false);
    model.add_user(BOB.0, BOB.1, false);
    let name = BucketName::new("photos").unwrap();
    model.cluster(ClusterCommand::CreateBucket { name, owner: ALICE.0.into(), created_ms: 1 }).await.unwrap();
    model.refresh_config().await.unwrap();
    model
}

fn request(key: &str, operation: Operation) -> Request {
    Request { bucket: "photos".into(), key: key.into(), expected_owner: None, operation }
}

fn put(bytes: &[u8], size: u64, how: How) -> Operation {
    let digest = *blake3::hash(bytes).as_bytes();
    let content = Content { size, digest, md5: None, checksum: None, keep: None, how };
    Operation::Put { headers: Headers::default(), precondition: Precondition::None, content }
}

fn head() -> Operation {
    Operation::Head(Read::default())
}

/// Head, message and bytes as they lie in a slot.
fn in_slot(raw: &mut Raw, id: u32, request: Request, bytes: &[u8]) -> Vec<u8> {
    let message = ToGateway::Request { id, request };
    let mut slot = raw.frame(&message);
    slot.resize(slot_body_offset(slot.len() - HEAD_BYTES), 0);
    slot.extend_from_slice(bytes);
    slot
}

async fn store(client: &Client, key: &str, bytes: &[u8]) -> Result<(), Error> {
    let mut buffer = client.buffer(bytes.len()).await?;
    buffer.copy_from_slice(bytes);
    client.put_object("photos", key, &buffer.freeze(), &PutOptions::default()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_knows_the_secret_gets_in_and_all_others_hear_the_same() {
    let door = Door::open(model().await, |_| {}).await;
    for provider in BOTH {
        assert!(Raw::enter(&door.at(provider), ALICE).await.is_ok());
        let mut texts = Vec::new();
        for user in
            [("ALICE", "another secret"), ("NOBODY", "alice-secret-key"), ("", "x"), (&"A".repeat(500), "x")]
        {
            let refusal = Raw::enter(&door.at(provider), user).await.err().unwrap();
            texts.push(refusal);
        }
        assert!(texts.iter().all(|text| text.code == "AccessDenied" && *text == texts[0]), "{texts:?}");
        let domain = door::domain(provider);
        for date in ["19700101", "nonsense", "99999999"] {
            let (connection, ours, theirs) = knock(&domain, &door.at(provider)).await;
            let secrets = secrets(&connection, (&ours, &theirs), ALICE, date);
            let answer = answer_to(&connection, &login(&secrets, ALICE.0, date)).await;
            assert!(matches!(answer, Some(LoginAnswer::Refused(_))), "{date}");
        }
        // A login that was recorded is worth nothing on another connection, nor is one for another carrier.
        let date = today();
        let (first, ours, theirs) = knock(&domain, &door.at(provider)).await;
        let recorded = login(&secrets(&first, (&ours, &theirs), ALICE, &date), ALICE.0, &date);
        let (second, ..) = knock(&domain, &door.at(provider)).await;
        assert!(matches!(answer_to(&second, &recorded).await, Some(LoginAnswer::Refused(_))));
        assert!(matches!(answer_to(&first, &recorded).await, Some(LoginAnswer::Proved(_))));
    }
    assert!(matches!(
        Client::connect(door.config(Provider::Tcp, ("ALICE", "wrong"))).await,
        Err(Error::Refused(refusal)) if refusal.code == "AccessDenied"
    ));
    door.is_empty_again().await;
    door.stop().await;
}

/// The time to refuse an unknown user and a wrong proof: medians of many, which may differ by noise and not by a kind of work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_user_costs_the_same_time_as_a_wrong_proof() {
    let door = Door::open(model().await, |_| {}).await;
    let domain = door::domain(Provider::Tcp);
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..60 {
        let which = round % 2;
        let user = [("ALICE", "wrong"), ("NOBODY", "wrong")][which];
        let (connection, ours, theirs) = knock(&domain, &door.tcp).await;
        let date = today();
        let login = login(&secrets(&connection, (&ours, &theirs), user, &date), user.0, &date);
        let begun = Instant::now();
        assert!(matches!(answer_to(&connection, &login).await, Some(LoginAnswer::Refused(_))));
        times[which].push(begun.elapsed());
    }
    let [wrong, unknown] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    let ratio = wrong.as_secs_f64() / unknown.as_secs_f64();
    assert!((0.25..4.0).contains(&ratio), "{wrong:?} against {unknown:?}");
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_or_nonsense_is_hung_up_on() {
    let door = Door::open(model().await, |config| config.strangers_max = 4).await;
    for provider in BOTH {
        let domain = door::domain(provider);
        // Nonsense instead of a login.
        let (connection, ..) = knock(&domain, &door.at(provider)).await;
        connection.send(vec![7; 5000].into()).await.unwrap();
        timeout(Duration::from_secs(5), connection.closed()).await.unwrap();
        // A request before the login.
        let (connection, ..) = knock(&domain, &door.at(provider)).await;
        let message = ToGateway::Request { id: 1, request: request("k", head()) }.to_bytes();
        connection.send(message.into()).await.unwrap();
        timeout(Duration::from_secs(5), connection.closed()).await.unwrap();
    }
    door.is_empty_again().await;
    // Silence: so many may be silent at once, for so long; the next is rejected, and gets in when they were hung up on.
    let domain = door::domain(Provider::Tcp);
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(knock(&domain, &door.tcp).await);
    }
    assert!(
        domain
            .connect(
                &door.tcp,
                tenfour_rdma::ConnectOptions {
                    private_data: silent[0].1.encode().to_vec(),
                    ..Default::default()
                }
            )
            .await
            .is_err()
    );
    let begun = Instant::now();
    for (connection, ..) in &silent {
        timeout(Duration::from_secs(10), connection.closed()).await.unwrap();
    }
    assert!(begun.elapsed() > Duration::from_secs(3), "they had their time");
    eventually("there is room again", || door.status.connections() == 0).await;
    assert!(Raw::enter(&door.tcp, ALICE).await.is_ok());
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_not_the_next_one_ends_the_session() {
    let door = Door::open(model().await, |_| {}).await;
    for provider in BOTH {
        let at = door.at(provider);
        // Tampered with: one bit, anywhere.
        for flipped in [0, 5, 9, 20, HEAD_BYTES, HEAD_BYTES + 3] {
            let mut raw = Raw::enter(&at, ALICE).await.unwrap();
            let mut frame = raw.frame(&ToGateway::Request { id: 1, request: request("k", head()) });
            frame[flipped] ^= 1;
            raw.connection.send(frame.into()).await.unwrap();
            raw.is_shown_out().await;
        }
        // Replayed.
        let mut raw = Raw::enter(&at, ALICE).await.unwrap();
        let frame = raw.frame(&ToGateway::Request { id: 1, request: request("k", head()) });
        raw.connection.send(frame.clone().into()).await.unwrap();
        assert!(matches!(raw.receive().await, Some(ToClient::Reply { id: 1, .. })));
        raw.connection.send(frame.into()).await.unwrap();
        raw.is_shown_out().await;
        // Reordered.
        let mut raw = Raw::enter(&at, ALICE).await.unwrap();
        let _first = raw.frame(&ToGateway::Request { id: 1, request: request("k", head()) });
        let second = raw.frame(&ToGateway::Request { id: 2, request: request("k", head()) });
        raw.connection.send(second.into()).await.unwrap();
        raw.is_shown_out().await;
        // Reflected: what the gateway sent.
        let raw = Raw::enter(&at, ALICE).await.unwrap();
        let mut mirrored = Raw::enter(&at, ALICE).await.unwrap();
        mirrored.ask(1, request("k", head())).await;
        let tenfour_rdma::Received::Message(theirs) = mirrored.connection.recv().await.unwrap() else {
            panic!()
        };
        mirrored.connection.send(theirs).await.unwrap();
        mirrored.is_shown_out().await;
        // Of another session of the same user.
        let mut other = Raw::enter(&at, ALICE).await.unwrap();
        let frame = other.frame(&ToGateway::Request { id: 1, request: request("k", head()) });
        raw.connection.send(frame.into()).await.unwrap();
        timeout(Duration::from_secs(5), raw.connection.closed()).await.unwrap();
        // A message with something behind it, and one that is none.
        let mut raw = Raw::enter(&at, ALICE).await.unwrap();
        let mut frame = raw.frame(&ToGateway::Request { id: 1, request: request("k", head()) });
        frame.push(0);
        raw.connection.send(frame.into()).await.unwrap();
        raw.is_shown_out().await;
        let mut raw = Raw::enter(&at, ALICE).await.unwrap();
        let head = raw.sealer.head(&[1, 200, 200]).unwrap();
        raw.connection.send([&head[..], &[1, 200, 200]].concat().into()).await.unwrap();
        raw.is_shown_out().await;
    }
    door.is_empty_again().await;
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_hold_and_what_is_refused_stores_nothing() {
    let model = model().await;
    let door = Door::open(model.clone(), |config| config.silence_max = Duration::from_millis(300)).await;
    for provider in BOTH {
        let at = door.at(provider);
        // More requests than are allowed: pushes that nobody writes to keep them unanswered.
        let mut raw = Raw::enter(&at, ALICE).await.unwrap();
        for id in 0..=REQUESTS_MAX as u32 {
            let frame = raw.frame(&ToGateway::Request { id, request: request("k", put(b"x", 1, How::Push)) });
            if raw.connection.send(frame.into()).await.is_err() {
                break;
            }
        }
        raw.is_shown_out().await;
        // The id of a request that runs.
        let mut raw = Raw::enter(&at, ALICE).await.unwrap();
        for _ in 0..2 {
            let frame =
                raw.frame(&ToGateway::Request { id: 7, request: request("k", put(b"x", 1, How::Push)) });
            let _ = raw.connection.send(frame.into()).await;
        }
        raw.is_shown_out().await;
        // A slot twice: its grant ended with the first.
        let mut raw = Raw::enter(&at, ALICE).await.unwrap();
        let slot = raw.welcome.slots[0];
        let bytes = in_slot(&mut raw, 1, request("slot", put(b"hello", 5, How::Here)), b"hello");
        let source = raw.frozen(&bytes).await;
        raw.connection.write(source.clone(), slot.remote, Some(0)).await.unwrap();
        let Some(ToClient::Reply { slot: Some(next), result: Ok(Answer::Stored { .. }), .. }) =
            raw.receive().await
        else {
            panic!("stored")
        };
        assert_ne!(next.remote.key, slot.remote.key, "a new key each time");
        assert_eq!(
            raw.connection.write(source, slot.remote, Some(0)).await,
            Err(OperationError::RemoteAccess),
            "the old grant is dead"
        );
        raw.is_shown_out().await;
        // An immediate for a slot that is not there, and a slot whose bytes are cut off.
        let raw = Raw::enter(&at, ALICE).await.unwrap();
        let nothing = raw.frozen(&[0; 64]).await;
        let _ = raw.connection.write(nothing, raw.welcome.slots[1].remote, Some(99)).await;
        timeout(Duration::from_secs(5), raw.connection.closed()).await.unwrap();
        let mut raw = Raw::enter(&at, ALICE).await.unwrap();
        let slot = raw.welcome.slots[0];
        let bytes = in_slot(&mut raw, 1, request("cut", put(b"hello", 5, How::Here)), b"hell");
        let source = raw.frozen(&bytes).await;
        raw.connection.write(source, slot.remote, Some(0)).await.unwrap();
        let reply = raw.receive().await;
        assert!(
            matches!(&reply, Some(ToClient::Reply { result: Err(refusal), .. }) if refusal.code == "IncompleteBody"),
            "{reply:?}"
        );
        // Bytes that are not those that the message says.
        let next = match reply {
            Some(ToClient::Reply { slot: Some(next), .. }) => next,
            other => panic!("{other:?}"),
        };
        let bytes = in_slot(&mut raw, 2, request("forged", put(b"hello", 5, How::Here)), b"hallo");
        let source = raw.frozen(&bytes).await;
        raw.connection.write(source, next.remote, Some(0)).await.unwrap();
        let reply = raw.receive().await;
        assert!(
            matches!(&reply, Some(ToClient::Reply { result: Err(refusal), .. }) if refusal.code == "XAmzContentSHA256Mismatch"),
            "{reply:?}"
        );
        // A client that says it will write and does not.
        raw.ask(3, request("slow", put(b"x", 1, How::Push))).await;
        assert!(matches!(raw.receive().await, Some(ToClient::WriteHere { id: 3, chunk: 0, .. })));
        let begun = Instant::now();
        let reply = raw.receive().await;
        assert!(
            matches!(&reply, Some(ToClient::Reply { id: 3, result: Err(refusal), .. }) if refusal.code == "RequestTimeout"),
            "{reply:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
        // The connection lives on; what it may not is told.
        raw.ask(4, Request { bucket: "BAD".into(), ..request("k", head()) }).await;
        assert!(
            matches!(raw.receive().await, Some(ToClient::Reply { id: 4, result: Err(refusal), .. }) if refusal.code == "InvalidBucketName")
        );
        raw.ask(5, request("slow", head())).await;
        assert!(
            matches!(raw.receive().await, Some(ToClient::Reply { id: 5, result: Err(refusal), .. }) if refusal.code == "NoSuchKey")
        );
    }
    assert_eq!(model.counts().0, 1, "one object: the one in a slot");
    door.is_empty_again().await;
    door.stop().await;
}

async fn nobody_gets_at_somebody_elses(providers: &[Provider]) {
    let door = Door::open(model().await, |_| {}).await;
    for &provider in providers {
        let alice = door.client(provider, ALICE).await;
        store(&alice, "mine", &[1; 1000]).await.unwrap();
        let bob = door.client(provider, BOB).await;
        let into = bob.buffer(1000).await.unwrap();
        let (_, got) = bob.get_object("photos", "mine", into, &GetOptions::default()).await;
        assert_eq!(got.unwrap_err().code(), Some("AccessDenied"));
        assert_eq!(store(&bob, "his", b"x").await.unwrap_err().code(), Some("AccessDenied"));
        // A slot's key is worth nothing on another connection, even of the same user.
        let victim = Raw::enter(&door.at(provider), ALICE).await.unwrap();
        let slot = victim.welcome.slots[0].remote;
        for user in [ALICE, BOB] {
            let raw = Raw::enter(&door.at(provider), user).await.unwrap();
            let source = raw.frozen(&[9; 64]).await;
            assert_eq!(raw.connection.write(source, slot, None).await, Err(OperationError::RemoteAccess));
            let raw = Raw::enter(&door.at(provider), user).await.unwrap();
            let into = raw.domain.pool().lease(64).await.unwrap();
            let read = raw.connection.read(into, Remote { bytes: 64, ..slot }).await;
            assert!(matches!(read, Err(OperationError::RemoteAccess)), "nor is a slot ever readable");
        }
        assert!(victim.connection.is_connected());
    }
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_at_somebody_elses_objects_or_memory() {
    nobody_gets_at_somebody_elses(&BOTH).await;
}

/// Tries keys at random against memory that is granted: on connections that have logged in, since nothing is granted on others.
async fn random_keys(providers: &[Provider], attempts: usize) {
    let door = Door::open(model().await, |config| config.connections_max = 400).await;
    for &provider in providers {
        let domain = door::domain(provider);
        let source = {
            let mut buffer = domain.pool().lease(64).await.unwrap();
            buffer.fill(9);
            buffer.freeze()
        };
        let mut opened = 0;
        for _ in 0..attempts {
            let raw = Raw::enter_with(domain.clone(), &door.at(provider), ALICE).await.unwrap();
            let slot = raw
                .welcome
                .slots
                .first()
                .map_or(Remote { address: 1 << 32, bytes: 64, key: 0 }, |slot| slot.remote);
            let to = Remote { key: rand::random(), bytes: 64, ..slot };
            opened += usize::from(
                raw.connection.write(source.clone(), to, None).await != Err(OperationError::RemoteAccess),
            );
        }
        assert_eq!(opened, 0, "{provider}: of {attempts} random keys");
        println!("{provider}: {attempts} random keys, {opened} opened anything");
    }
    door.is_empty_again().await;
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_keys_open_nothing() {
    random_keys(&BOTH, 500).await;
}

/// A hundred thousand on each provider take minutes: `cargo test -p tenfour-gateway --test native_front -- --ignored hundred`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn a_hundred_thousand_random_keys_open_nothing() {
    random_keys(&BOTH, 100_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_nothing_any_more_is_out_within_a_second() {
    type Change = fn(&mut tenfour_metadata::api::Config);
    let changes: [Change; 3] = [
        |config| config.users.get_mut("ALICE").unwrap().enabled = false,
        |config| config.users.get_mut("ALICE").unwrap().secret_key = "a new secret".into(),
        |config| drop(config.users.remove("ALICE")),
    ];
    for change in changes {
        let model = model().await;
        let door = Door::open(model.clone(), |_| {}).await;
        let mut raws = Vec::new();
        for provider in BOTH {
            raws.push(Raw::enter(&door.at(provider), ALICE).await.unwrap());
        }
        let bob = Raw::enter(&door.tcp, BOB).await.unwrap();
        model.change(change);
        let begun = Instant::now();
        for raw in &mut raws {
            let told = timeout(Duration::from_secs(1), raw.receive()).await.expect("within a second");
            assert!(matches!(told, Some(ToClient::Closing(refusal)) if refusal.code == "AccessDenied"));
        }
        for raw in &mut raws {
            raw.is_shown_out().await;
        }
        let elapsed = begun.elapsed();
        assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
        assert!(bob.connection.is_connected(), "others stay");
        assert!(Raw::enter(&door.tcp, ALICE).await.is_err());
        door.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_on_one_connection() {
    let door = Door::open(model().await, |_| {}).await;
    for provider in BOTH {
        let client = door.client(provider, ALICE).await;
        let calls = (0..200_usize).map(|number| {
            let client = client.clone();
            async move {
                let bytes: Vec<u8> = (0..number * 137).map(|at| (at + number) as u8).collect();
                let key = format!("{number:03}");
                store(&client, &key, &bytes).await.unwrap();
                let into = client.buffer(bytes.len() + 5).await.unwrap();
                let (buffer, got) = client.get_object("photos", &key, into, &GetOptions::default()).await;
                let got = got.unwrap();
                assert_eq!(&buffer.unwrap()[..got.bytes], &bytes[..]);
                assert_eq!((got.served.carrier, got.served.fabric.as_str()), (provider.to_string(), ""));
            }
        });
        futures::future::join_all(calls).await;
        assert_eq!(door.status.connections(), 1);
        drop(client);
        door.is_empty_again().await;
    }
    door.stop().await;
}

/// Those that wait for a place on the connection when it ends are lost as little as those that run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_outlive_the_connection_that_they_began_on() {
    let door = Door::open(model().await, |_| {}).await;
    for provider in BOTH {
        let client = door.client(provider, ALICE).await;
        store(&client, "k", &[7; 1000]).await.unwrap();
        let reads = (0..4 * REQUESTS_MAX).map(|_| {
            let client = client.clone();
            async move {
                let into = client.buffer(1000).await.unwrap();
                let (buffer, got) = client.get_object("photos", "k", into, &GetOptions::default()).await;
                let buffer = buffer.expect("the buffer comes back");
                assert_eq!((got.unwrap().bytes, &buffer[..]), (1000, &[7; 1000][..]));
            }
        });
        let reads = tokio::spawn(futures::future::join_all(reads));
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            client.disconnect().await;
        }
        timeout(Duration::from_secs(30), reads).await.unwrap().unwrap();
        drop(client);
        door.is_empty_again().await;
    }
    door.stop().await;
}

/// What an earlier client left in the memory that all share, a later one neither reads nor stores by writing less than it may.
async fn granted_memory_is_zeros(providers: &[Provider]) {
    let door = Door::open(model().await, |_| {}).await;
    for &provider in providers {
        let earlier = door.client(provider, ALICE).await;
        let secret = [0xa5; 60_000];
        futures::future::join_all((0..16).map(|_| store(&earlier, "secret", &secret))).await;
        let mut large = earlier.buffer(6 << 20).await.unwrap();
        large.fill(0xa5);
        let push = PutOptions { mode: PutMode::Push, ..PutOptions::default() };
        earlier.put_object("photos", "secret", &large.freeze(), &push).await.unwrap();
        drop(earlier);
        door.is_empty_again().await;
        // A push of which only the first bytes are written.
        let mut raw = Raw::enter(&door.at(provider), ALICE).await.unwrap();
        let mut expected = vec![0; 1_300_000];
        expected[..5].copy_from_slice(b"hello");
        raw.ask(1, request("pushed", put(&expected, expected.len() as u64, How::Push))).await;
        let hello = raw.frozen(b"hello").await;
        let reply = loop {
            match raw.receive().await {
                Some(ToClient::WriteHere { chunk, remote, .. }) => {
                    if chunk == 0 {
                        raw.connection.write(hello.clone(), remote.sub(0, 5).unwrap(), None).await.unwrap();
                    }
                    raw.send(&ToGateway::Written { id: 1, chunk }).await;
                }
                other => break other,
            }
        };
        assert!(
            matches!(&reply, Some(ToClient::Reply { result: Ok(Answer::Stored { .. }), .. })),
            "{reply:?}"
        );
        // A slot whose bytes are said to be there, and were never written: the WRITE that says so goes to the slot's end.
        let slot = raw.welcome.slots[0].remote;
        let whole = in_slot(&mut raw, 2, request("in-slot", put(&[0; 1000], 1000, How::Here)), &[0; 1000]);
        let head = raw.frozen(&whole[..whole.len() - 1000]).await;
        raw.connection.write(head, slot, None).await.unwrap();
        let rest = raw.frozen(&vec![9; whole.len()]).await;
        let end = slot.sub((SLOT_BYTES - whole.len()) as u32, whole.len() as u32).unwrap();
        raw.connection.write(rest, end, Some(0)).await.unwrap();
        let reply = raw.receive().await;
        assert!(
            matches!(&reply, Some(ToClient::Reply { result: Ok(Answer::Stored { .. }), .. })),
            "{reply:?}"
        );
        drop(raw);
        let client = door.client(provider, ALICE).await;
        for (key, expected) in [("pushed", &expected[..]), ("in-slot", &[0; 1000][..])] {
            let into = client.buffer(expected.len()).await.unwrap();
            let (buffer, got) = client.get_object("photos", key, into, &GetOptions::default()).await;
            assert!(&buffer.unwrap()[..got.unwrap().bytes] == expected, "{provider} {key}");
        }
        drop(client);
        door.is_empty_again().await;
    }
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn granted_memory_begins_as_zeros() {
    granted_memory_is_zeros(&BOTH).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_outcome_is_sent_again_only_where_that_is_safe() {
    use std::sync::atomic::Ordering::Relaxed;
    let model = model().await;
    let door = Door::open(model.clone(), |_| {}).await;
    let mut config = door.config(Provider::Tcp, ALICE);
    config.answer_deadline = Duration::from_millis(300);
    let client = Client::connect(config.clone()).await.unwrap();
    let body = client.buffer(100).await.unwrap().freeze();
    let with = |precondition| PutOptions { precondition, ..PutOptions::default() };
    // Without a condition: once, and the caller hears that nobody knows.
    model.hangs_next.store(true, Relaxed);
    let unknown = client.put_object("photos", "a", &body, &with(Precondition::None)).await;
    assert!(matches!(unknown, Err(Error::OutcomeUnknown)), "{unknown:?}");
    assert_eq!(model.puts.load(Relaxed), 1);
    // With one: the second try finds an object there, which may be of the first or of somebody else.
    model.hangs_next.store(true, Relaxed);
    let unknown = client.put_object("photos", "b", &body, &with(Precondition::Absent)).await;
    assert!(matches!(unknown, Err(Error::OutcomeUnknown)), "{unknown:?}");
    assert_eq!(model.puts.load(Relaxed), 2, "and does not do it again");
    let stored = client.head_object("photos", "b", &GetOptions::default()).await.unwrap().object;
    let newer = client.buffer(50).await.unwrap().freeze();
    model.hangs_next.store(true, Relaxed);
    let replaced = with(Precondition::Match(vec![stored.etag]));
    let unknown = client.put_object("photos", "b", &newer, &replaced).await;
    assert!(matches!(unknown, Err(Error::OutcomeUnknown)), "{unknown:?}");
    assert_eq!(model.puts.load(Relaxed), 3);
    // What was there before is not ours.
    let taken = client.put_object("photos", "b", &body, &with(Precondition::Absent)).await.unwrap_err();
    assert_eq!(taken.code(), Some("PreconditionFailed"));
    // Removals: the same.
    model.hangs_next.store(true, Relaxed);
    let unknown = client.delete_object("photos", "a", &Precondition::None).await;
    assert!(matches!(unknown, Err(Error::OutcomeUnknown)), "{unknown:?}");
    // Who says so may overwrite.
    config.retry.overwrite = true;
    let bold = Client::connect(config).await.unwrap();
    let body = bold.buffer(100).await.unwrap().freeze();
    model.hangs_next.store(true, Relaxed);
    bold.put_object("photos", "a", &body, &with(Precondition::None)).await.unwrap();
    assert_eq!(model.puts.load(Relaxed), 5);
    // A push that breaks before its last byte did nothing, and is sent again whatever its condition.
    drop((bold, client));
    door.is_empty_again().await;
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_refuses_a_later_try_tells_nothing_of_an_earlier_one() {
    use std::sync::atomic::Ordering::Relaxed;
    let model = model().await;
    let door = Door::open(model.clone(), |_| {}).await;
    let mut config = door.config(Provider::Tcp, ALICE);
    config.retry.overwrite = true;
    let client = Client::connect(config).await.unwrap();
    let body = client.buffer(100).await.unwrap().freeze();
    model.hangs_next.store(true, Relaxed);
    let options = PutOptions::default();
    let disabled = async {
        eventually("the object is stored", || model.puts.load(Relaxed) == 1).await;
        model.change(|config| config.users.get_mut("ALICE").unwrap().enabled = false);
    };
    let (stored, ()) = tokio::join!(client.put_object("photos", "a", &body, &options), disabled);
    assert!(matches!(stored, Err(Error::OutcomeUnknown)), "{stored:?}");
    let refused = client.put_object("photos", "a", &body, &options).await.unwrap_err();
    assert_eq!(refused.code(), Some("AccessDenied"), "nothing is unknown of a call that was never made");
    drop((client, body));
    door.is_empty_again().await;
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_waits_for_memory_of_the_client_as_long_as_for_an_answer() {
    let door = Door::open(model().await, |_| {}).await;
    let mut config = door.config(Provider::Shm, ALICE);
    (config.pool_bytes, config.answer_deadline) = (1 << 20, Duration::from_millis(300));
    config.retry.attempts_max = 1;
    let client = Client::connect(config).await.unwrap();
    let all = client.buffer(1 << 20).await.unwrap();
    let source = client.adopt_bytes(vec![7; 3 << 20].into_boxed_slice()).freeze();
    let options = PutOptions::default();
    let put = timeout(Duration::from_secs(20), client.put_object("photos", "k", &source, &options)).await;
    assert!(matches!(put, Ok(Err(Error::Memory(_)))), "{put:?}");
    drop(all);
    client.put_object("photos", "k", &source, &options).await.unwrap();
    drop((client, source));
    door.is_empty_again().await;
    door.stop().await;
}

/// The process that is killed in the middle of a PUT; not a test of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn victim() {
    let Ok(at) = std::env::var(VICTIM) else { return };
    door::scale_times();
    let at: Endpoint = at.parse().unwrap();
    let mut raw = Raw::enter(&at, ALICE).await.unwrap();
    raw.ask(1, request("half", put(b"?", 40 << 20, How::Push))).await;
    let Some(ToClient::WriteHere { chunk, remote, .. }) = raw.receive().await else { panic!() };
    let source = raw.frozen(&vec![5; remote.bytes as usize]).await;
    let written = raw.frame(&ToGateway::Written { id: 1, chunk });
    raw.connection.post_write_then_send(source, remote, written.into()).await.unwrap().await.unwrap();
    println!("half way");
    std::future::pending::<()>().await;
}

async fn kill_one(door: &Door, provider: Provider) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
        .env(VICTIM, door.at(provider).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let half_way = tokio::task::spawn_blocking(move || {
        use std::io::BufRead as _;
        std::io::BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line.contains("half way"))
    });
    assert!(timeout(door::slow(Duration::from_secs(20)), half_way).await.unwrap().unwrap());
    assert!(door.status.used_bytes() > 0);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_killed_leaves_nothing() {
    let model = model().await;
    let door = Door::open(model.clone(), |_| {}).await;
    for provider in BOTH {
        kill_one(&door, provider).await;
        door.is_empty_again().await;
        assert_eq!(model.counts().0, 0);
    }
    door.stop().await;
}

/// So many connections on each, of which every hundredth is killed.
async fn memory_is_at_its_baseline(providers: &[Provider], connections: usize) {
    let model = model().await;
    let door = Door::open(model.clone(), |_| {}).await;
    assert_eq!((door.status.used_bytes(), door.status.connections()), (0, 0));
    for &provider in providers {
        for round in 0..connections {
            let mut raw = Raw::enter(&door.at(provider), ALICE).await.unwrap();
            match round % 5 {
                // In order.
                0 => raw.connection.close().await,
                // With an object half way.
                1 => raw.ask(1, request("half", put(b"?", 4 << 20, How::Push))).await,
                // With a request on its way.
                2 => raw.ask(1, request("k", head())).await,
                // After a whole object.
                3 => {
                    let slot = raw.welcome.slots[0];
                    let bytes = in_slot(&mut raw, 1, request("k", put(b"hello", 5, How::Here)), b"hello");
                    assert!(bytes.len() < SLOT_BYTES);
                    let source = raw.frozen(&bytes).await;
                    raw.connection.write(source, slot.remote, Some(0)).await.unwrap();
                    assert!(matches!(raw.receive().await, Some(ToClient::Reply { result: Ok(_), .. })));
                }
                // Without a word.
                _ => {}
            }
            if round % 100 == 99 {
                kill_one(&door, provider).await;
            }
        }
    }
    door.is_empty_again().await;
    println!("memory is at its baseline after {connections} connections on each of {providers:?}");
    // And it serves as before.
    let client = door.client(providers[0], ALICE).await;
    store(&client, "after", &[1; 100_000]).await.unwrap();
    let options = PutOptions { mode: PutMode::Push, ..PutOptions::default() };
    let body = client.buffer(3 << 20).await.unwrap().freeze();
    client.put_object("photos", "after", &body, &options).await.unwrap();
    drop((client, body));
    door.is_empty_again().await;
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_at_its_baseline_after_a_thousand_connections() {
    memory_is_at_its_baseline(&BOTH, 500).await;
}

/// In a virtual machine that has a device: `tools/with-rxe -- target/release/deps/native_front-… --ignored verbs::`.
#[cfg(feature = "verbs")]
mod verbs {
    use super::*;

    const DEVICE: [Provider; 1] = [Provider::Verbs];

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs an RDMA device: tools/with-rxe"]
    async fn nobody_gets_at_somebody_elses_objects_or_memory() {
        nobody_gets_at_somebody_elses(&DEVICE).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs an RDMA device: tools/with-rxe"]
    async fn random_keys_open_nothing() {
        random_keys(&DEVICE, 500).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs an RDMA device: tools/with-rxe"]
    async fn granted_memory_begins_as_zeros() {
        granted_memory_is_zeros(&DEVICE).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs an RDMA device: tools/with-rxe"]
    async fn memory_is_at_its_baseline_after_a_thousand_connections() {
        memory_is_at_its_baseline(&DEVICE, 1000).await;
    }
}
