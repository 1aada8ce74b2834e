//! What is refused, declined or ignored, over the reference model; an old object and an upload must be as before, and nothing may have been stored.

use super::support::client::Call;
use super::support::model::Model;
use super::support::{ALICE, BOB, World};
use super::{DC, REPLY, TOKEN, by_http, ok, outcome, put, queue_pair, upload, with_bucket};
use hyper::StatusCode;
use std::sync::atomic::Ordering;
use tenfour_gateway::http::HttpConfig;
use tenfour_gateway::rdma::token::TokenConfig;
use tenfour_rdma::Provider;

const CONTROLS: [&str; 5] = [
    "/.s3rdma-rc/connect",
    "/.s3rdma-rc/disconnect",
    "/.hipobj-rc/prepare",
    "/.hipobj-rc/ready",
    "/.hipobj-rc/cancel",
];

/// Descriptors that are understood and cannot be served.
fn unservable() -> Vec<String> {
    let rc = format!("rc:{}:00007f12a4000000:00100000:0001a2b3", "5a".repeat(16));
    let longer = format!("{DC}:00007f12a4000000:0000000000100000");
    vec![
        DC.to_owned(),
        format!("{DC};"),
        longer.clone(),
        format!("{longer};"),
        queue_pair(),
        format!("{}:1:2", queue_pair()),
        rc,
    ]
}

async fn start() -> World {
    with_bucket(World::start().await).await
}

#[tokio::test]
async fn a_put_that_cannot_be_served_is_501_and_stores_nothing() {
    let world = start().await;
    ok(Call::new("PUT", "/photos/old", ALICE).body("old"), &world).await;
    let id = upload(&world, "/photos/parts").await;
    let before = (world.model.counts(), world.model.puts.load(Ordering::SeqCst));
    for token in unservable() {
        for path in ["/photos/new", "/photos/old", &format!("/photos/parts?partNumber=1&uploadId={id}")] {
            let answer = put(path, &token).send(world.address).await;
            assert_eq!(outcome(&answer), (501, "RDMANotSupported".into(), Some("501")), "{path} {token}");
            assert!(answer.text().contains("over HTTP"), "it says what to do: {}", answer.text());
        }
    }
    assert_eq!((world.model.counts(), world.model.puts.load(Ordering::SeqCst)), before);
    assert_eq!(by_http(&world, "/photos/new").await, None);
    assert_eq!(by_http(&world, "/photos/old").await.unwrap(), b"old");
    let parts = ok(Call::new("GET", &format!("/photos/parts?uploadId={id}"), ALICE), &world).await.text();
    assert!(!parts.contains("<Part>"), "{parts}");
    world.stop().await;
}

#[tokio::test]
async fn a_descriptor_that_is_none_is_400_everywhere_that_bytes_move() {
    let world = start().await;
    ok(Call::new("PUT", "/photos/old", ALICE).body("old"), &world).await;
    let id = upload(&world, "/photos/parts").await;
    let before = (world.model.counts(), world.model.puts.load(Ordering::SeqCst));
    let zero = format!("rc:{}:0:0:1", "00".repeat(16));
    for token in ["nonsense", "rc:", "rc:12:0:1:2", &DC[1..], &zero, &"0".repeat(87), "MDAwMA=="] {
        let part = format!("/photos/parts?partNumber=1&uploadId={id}");
        for path in ["/photos/new", "/photos/old", &part] {
            let answer = put(path, token).send(world.address).await;
            assert_eq!(outcome(&answer), (400, "InvalidRDMAToken".into(), None), "{path} {token}");
        }
        let body = put("/photos/new", token).body("a body beside it");
        let body = Call { headers: vec![(TOKEN.into(), token.into())], ..body };
        assert_eq!(outcome(&body.send(world.address).await).1, "InvalidRDMAToken", "{token}");
        let got = Call::new("GET", "/photos/old", ALICE).header(TOKEN, token).send(world.address).await;
        assert_eq!(outcome(&got), (400, "InvalidRDMAToken".into(), None), "{token}");
    }
    assert_eq!((world.model.counts(), world.model.puts.load(Ordering::SeqCst)), before);
    assert_eq!(by_http(&world, "/photos/old").await.unwrap(), b"old");
    world.stop().await;
}

#[tokio::test]
async fn the_descriptor_is_signed_and_comes_once() {
    let world = start().await;
    for token in unservable() {
        let unsigned =
            Call::new("PUT", "/photos/k", ALICE).header("content-length", "0").unsigned(TOKEN, &token);
        let answer = unsigned.send(world.address).await;
        assert_eq!(outcome(&answer), (403, "AccessDenied".into(), None));
        let got = Call::new("GET", "/photos/k", ALICE).unsigned(TOKEN, &token).send(world.address).await;
        assert_eq!(outcome(&got), (403, "AccessDenied".into(), None));
        let twice = put("/photos/k", &token).unsigned(TOKEN, &token).send(world.address).await;
        assert_eq!(outcome(&twice).1, "InvalidRequest");
        let wrong = Call { user: (ALICE.0.into(), "wrong".into()), ..put("/photos/k", &token) };
        assert_eq!(outcome(&wrong.send(world.address).await).1, "SignatureDoesNotMatch");
        let other = Call { user: (BOB.0.into(), BOB.1.into()), ..put("/photos/k", &token) };
        assert_eq!(outcome(&other.send(world.address).await).1, "AccessDenied");
    }
    assert_eq!(world.model.counts(), (0, 0));
    world.stop().await;
}

#[tokio::test]
async fn a_get_that_cannot_be_served_goes_over_http_and_says_so() {
    let world = start().await;
    ok(Call::new("PUT", "/photos/k", ALICE).body("hello world"), &world).await;
    ok(Call::new("PUT", "/photos/empty", ALICE).header("content-length", "0"), &world).await;
    for token in unservable() {
        let get = |path: &str| Call::new("GET", path, ALICE).header(TOKEN, &token);
        let got = ok(get("/photos/k"), &world).await;
        assert_eq!((got.status, got.text().as_str()), (StatusCode::OK, "hello world"), "{token}");
        assert_eq!(got.headers[REPLY], "501");
        assert_eq!(got.headers["content-length"], "11");
        assert!(got.headers["x-tenfour-transport"].to_str().unwrap().starts_with("http"));
        assert!(!got.headers["x-tenfour-transport"].to_str().unwrap().contains("verbs"));
        assert!(got.headers["x-tenfour-rdma-reason"].to_str().unwrap().contains("over HTTP"));
        assert!(!got.headers.contains_key("x-amz-rdma-bytes-transferred"));
        let part = ok(get("/photos/k").header("range", "bytes=6-"), &world).await;
        assert_eq!((part.status, part.text().as_str()), (StatusCode::PARTIAL_CONTENT, "world"));
        assert_eq!(part.headers[REPLY], "501");
        let whole = ok(get("/photos/k").header("range", "lines=1-2"), &world).await;
        assert_eq!((whole.text().as_str(), &whole.headers[REPLY]), ("hello world", &"501".parse().unwrap()));
        assert_eq!(ok(get("/photos/empty"), &world).await.text(), "");
        assert_eq!(outcome(&get("/photos/none").send(world.address).await).1, "NoSuchKey");
    }
    world.stop().await;
}

#[tokio::test]
async fn operations_without_a_data_path_ignore_the_descriptor() {
    let world = start().await;
    ok(Call::new("PUT", "/photos/k", ALICE).body("hello"), &world).await;
    for token in unservable().iter().map(String::as_str).chain(["nonsense"]) {
        let with = |method, path: &str| Call::new(method, path, ALICE).header(TOKEN, token);
        let head = ok(with("HEAD", "/photos/k"), &world).await;
        assert_eq!((&head.headers["content-length"], head.headers.get(REPLY)), (&"5".parse().unwrap(), None));
        ok(with("PUT", "/photos/copy").header("x-amz-copy-source", "/photos/k"), &world).await;
        assert_eq!(by_http(&world, "/photos/copy").await.unwrap(), b"hello");
        assert!(ok(with("GET", "/photos?list-type=2"), &world).await.text().contains("<KeyCount>2<"));
        ok(with("POST", "/photos/up?uploads"), &world).await;
        ok(with("HEAD", "/photos"), &world).await;
        ok(with("DELETE", "/photos/copy"), &world).await;
        assert_eq!(by_http(&world, "/photos/copy").await, None);
    }
    world.stop().await;
}

/// A body that is there is stored, and not taken for something that RDMA has to bring.
#[tokio::test]
async fn a_body_beside_the_descriptor_is_stored_or_refused_and_never_replaced() {
    let world = start().await;
    let with = |token: &str, path: &str| Call::new("PUT", path, ALICE).header(TOKEN, token).body("by http");
    for token in [DC.to_owned(), queue_pair()] {
        let stored = ok(with(&token, "/photos/k"), &world).await;
        assert_eq!(stored.headers[REPLY], "501");
        assert_eq!(by_http(&world, "/photos/k").await.unwrap(), b"by http");
        ok(Call::new("DELETE", "/photos/k", ALICE), &world).await;
    }
    let rc = unservable().pop().unwrap();
    assert_eq!(outcome(&with(&rc, "/photos/k").send(world.address).await).1, "InvalidRequest");
    // No body, in more words than there are to say it.
    let chunked = put("/photos/k", &rc);
    let chunked = Call { headers: vec![(TOKEN.into(), rc.clone())], ..chunked };
    let chunked = chunked
        .header("x-amz-decoded-content-length", "0")
        .header("x-amz-trailer", "x-amz-checksum-crc32")
        .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
        .body("0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n");
    assert_eq!(outcome(&chunked.send(world.address).await).1, "InvalidRequest");
    let hashed = put("/photos/k", &rc).payload(&"ab".repeat(32)).send(world.address).await;
    assert_eq!(outcome(&hashed).1, "InvalidRequest");
    assert_eq!(world.model.counts(), (0, 0));
    world.stop().await;
}

fn control(path: &str) -> Call {
    Call::new("POST", path, ALICE).header("content-length", "0")
}

fn connect() -> Call {
    control("/.s3rdma-rc/connect").header(TOKEN, &queue_pair()).header("x-amz-rdma-psn", "00a1b2")
}

fn prepare(target: &str, op: &str) -> Call {
    control("/.hipobj-rc/prepare")
        .header("x-amz-rdma-protocol", "hipobj-rc-v2")
        .header(TOKEN, &queue_pair())
        .header("x-amz-rdma-psn", "00a1b2")
        .header("x-amz-rdma-cookie", "deadbeef")
        .header("x-amz-rdma-op", op)
        .header("x-amz-rdma-target", target)
        .header("x-amz-rdma-size", "5")
}

fn session(path: &str) -> Call {
    control(path)
        .header("x-amz-rdma-protocol", "hipobj-rc-v2")
        .header("x-amz-rdma-session", &"5a".repeat(16))
        .header("x-amz-rdma-cookie", "deadbeef")
}

#[tokio::test]
async fn control_requests_are_signed_like_any_other() {
    let world = start().await;
    for path in CONTROLS {
        for method in ["POST", "GET", "PUT"] {
            let wrong = Call::new(method, path, (ALICE.0, "wrong")).send(world.address).await;
            assert_eq!(outcome(&wrong).1, "SignatureDoesNotMatch", "{path}");
            let nobody = Call::new(method, path, ("NOBODY", "wrong")).send(world.address).await;
            assert_eq!(outcome(&nobody).1, "InvalidAccessKeyId", "{path}");
            let unsigned =
                Call::new(method, path, ALICE).unsigned("x-amz-rdma-psn", "1").send(world.address).await;
            assert_eq!(outcome(&unsigned).1, "AccessDenied", "{path}");
        }
        for method in ["GET", "PUT", "DELETE", "HEAD"] {
            let answer = Call::new(method, path, ALICE).send(world.address).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
        let with_body = Call::new("POST", path, ALICE).body("x").send(world.address).await;
        assert_eq!(outcome(&with_body).1, "InvalidRequest", "{path}");
    }
    let other = control("/.s3rdma-rc/other").send(world.address).await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
    assert_eq!(control("/.other/connect").send(world.address).await.code(), "InvalidBucketName");
    assert_eq!(world.model.counts(), (0, 0));
    world.stop().await;
}

#[tokio::test]
async fn a_gateway_without_rdma_declines_connections_and_transfers_by_their_own_words() {
    let world = start().await;
    ok(Call::new("PUT", "/photos/k", ALICE).body("hello world"), &world).await;
    let declined = connect().send(world.address).await;
    assert_eq!(outcome(&declined), (501, "RDMANotSupported".into(), Some("501")));
    for (target, op) in [("/photos/k", "GET"), ("/photos/new", "PUT")] {
        let declined = prepare(target, op).send(world.address).await;
        assert_eq!(outcome(&declined), (501, "RDMANotSupported".into(), Some("501")), "{op}");
        assert_eq!(declined.headers["x-amz-rdma-protocol-status"], "unsupported");
    }
    let other = control("/.hipobj-rc/prepare").header("x-amz-rdma-protocol", "hipobj-rc-v3");
    let other = other.send(world.address).await;
    assert_eq!(
        (other.status.as_u16(), &other.headers["x-amz-rdma-protocol-status"]),
        (501, &"unsupported".parse().unwrap())
    );
    let ready = session("/.hipobj-rc/ready").header("x-amz-rdma-qpn", "12").send(world.address).await;
    assert_eq!(outcome(&ready), (404, "NoSuchRDMASession".into(), None));
    for path in ["/.hipobj-rc/cancel", "/.s3rdma-rc/disconnect"] {
        assert_eq!(session(path).send(world.address).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!((world.model.counts().0, by_http(&world, "/photos/new").await), (1, None));
    world.stop().await;
}

#[tokio::test]
async fn control_requests_that_make_no_sense_say_what_is_wrong() {
    let world = start().await;
    ok(Call::new("PUT", "/photos/k", ALICE).body("hello world"), &world).await;
    let replaced = |call: Call, name: &str, value: &str| {
        let mut call = call;
        call.headers.retain(|(known, _)| known != name);
        call.header(name, value)
    };
    for (call, expected) in [
        (control("/.s3rdma-rc/connect"), (400, "InvalidArgument")),
        (replaced(connect(), TOKEN, "nonsense"), (400, "InvalidRDMAToken")),
        (replaced(connect(), "x-amz-rdma-psn", "0"), (400, "InvalidRDMAToken")),
        (replaced(connect(), TOKEN, DC), (501, "RDMANotSupported")),
        (control("/.s3rdma-rc/disconnect"), (400, "InvalidArgument")),
        (prepare("/nowhere/k", "PUT"), (404, "NoSuchBucket")),
        (prepare("/Bad_Name/k", "PUT"), (400, "InvalidBucketName")),
        (prepare("/photos", "PUT"), (400, "InvalidArgument")),
        (prepare("/photos/", "PUT"), (400, "InvalidArgument")),
        (prepare("/photos/k%F", "PUT"), (400, "InvalidArgument")),
        (prepare("/photos/k?acl", "PUT"), (400, "InvalidArgument")),
        (prepare("/photos/k?partNumber=1", "PUT"), (400, "InvalidArgument")),
        (prepare("/photos/k", "DELETE"), (400, "InvalidArgument")),
        (prepare("/photos/k", "PUT").header("x-amz-rdma-offset", "1"), (400, "InvalidArgument")),
        (replaced(prepare("/photos/k", "PUT"), "x-amz-rdma-size", "0"), (400, "InvalidArgument")),
        (replaced(prepare("/photos/k", "PUT"), "x-amz-rdma-cookie", "1"), (400, "InvalidArgument")),
        (Call { user: (BOB.0.into(), BOB.1.into()), ..prepare("/photos/k", "GET") }, (403, "AccessDenied")),
        (Call { user: (BOB.0.into(), BOB.1.into()), ..prepare("/photos/k", "PUT") }, (403, "AccessDenied")),
    ] {
        let answer = call.send(world.address).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), expected, "{:?}", call.headers);
    }
    assert_eq!(world.model.counts(), (1, 0));
    world.stop().await;
}

/// Where buckets stand in the host's name, these paths are keys like any other.
#[tokio::test]
async fn a_key_of_a_bucket_in_the_host_may_look_like_a_control_request() {
    let model = Model::default();
    model.add_user(ALICE.0, ALICE.1, false);
    let config = HttpConfig { domain: Some("s3.test".to_owned()), ..HttpConfig::default() };
    let world = with_bucket(World::over(model, config).await).await;
    let address = world.address;
    let mut call = Call::new("PUT", "/.s3rdma-rc/connect", ALICE).body("a key");
    call.headers.push(("host".into(), "photos.s3.test".into()));
    let stored = call.send(address).await;
    assert_eq!(stored.status, StatusCode::OK, "{}", stored.text());
    assert_eq!(by_http(&world, "/photos/.s3rdma-rc/connect").await.unwrap(), b"a key");
    world.stop().await;
}

/// What a machine without a device says when its operator asked for RDMA.
#[tokio::test]
async fn a_gateway_that_has_no_device_says_why() {
    let Err(reason) = Provider::Verbs.available() else {
        println!("this machine has a device: nothing to see here");
        return;
    };
    let tokens = TokenConfig { memory_bytes: 16 << 20, ..TokenConfig::default() };
    let counters = tokens.counters.clone();
    let model = Model::default();
    model.add_user(ALICE.0, ALICE.1, false);
    let world = with_bucket(World::over(model, HttpConfig { tokens, ..HttpConfig::default() }).await).await;
    ok(Call::new("PUT", "/photos/k", ALICE).body("hello"), &world).await;
    for call in [connect(), prepare("/photos/k", "GET"), put("/photos/new", &unservable().pop().unwrap())] {
        let answer = call.send(world.address).await;
        assert_eq!(outcome(&answer), (501, "RDMANotSupported".into(), Some("501")));
        assert!(answer.text().contains(&reason.to_string()), "{} says {reason}", answer.text());
    }
    let got = Call::new("GET", "/photos/k", ALICE).header(TOKEN, &unservable().pop().unwrap());
    let got = ok(got, &world).await;
    assert_eq!((got.text().as_str(), &got.headers[REPLY]), ("hello", &"501".parse().unwrap()));
    assert_eq!(counters.declined.load(Ordering::SeqCst), 4);
    assert_eq!(world.model.counts(), (1, 0));
    world.stop().await;
}
