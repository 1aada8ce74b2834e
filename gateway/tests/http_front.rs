//! The HTTP front over the reference model, by requests signed by hand: what must be refused, and what a broken client or
//! a broken object must not lead to.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as a test may")]

mod support;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::client::{Call, send};
use support::model::{BREAKS, Model};
use support::{ALICE, BOB, World};
use tenfour_gateway::http::{HEALTH_PATH, HttpConfig, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn with_bucket() -> World {
    let world = World::start().await;
    let made = Call::new("PUT", "/photos", ALICE).send(world.address).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    world
}

#[tokio::test]
async fn health_is_told_to_everybody_and_nothing_else() {
    let world = with_bucket().await;
    let plain = |uri: &str| Request::get(uri).header("host", "x").body(Full::new(Bytes::new())).unwrap();
    let health = send(world.address, plain(HEALTH_PATH)).await;
    assert_eq!((health.status, health.text().as_str()), (StatusCode::OK, "ok\n"));
    for path in ["/", "/photos", "/photos/k", "/-/other"] {
        let refused = send(world.address, plain(path)).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (StatusCode::FORBIDDEN, "AccessDenied"),
            "{path}"
        );
        assert_eq!(refused.headers["x-amz-request-id"].len(), 16);
    }
    world.stop().await;
}

#[tokio::test]
async fn objects_come_back_with_what_was_said_of_them() {
    let world = with_bucket().await;
    let put = Call::new("PUT", "/photos/a/b", ALICE).header("x-amz-meta-of", "me").body("hello world");
    let stored = put.send(world.address).await;
    assert_eq!(stored.status, StatusCode::OK, "{}", stored.text());
    assert_eq!(stored.headers["etag"], "\"5eb63bbbe01eeed093cb22bb8f5acdc3\"");
    assert!(stored.headers.contains_key("x-amz-checksum-crc64nvme"));
    let got = Call::new("GET", "/photos/a/b", ALICE).send(world.address).await;
    assert_eq!((got.text().as_str(), &got.headers["x-amz-meta-of"]), ("hello world", &"me".parse().unwrap()));
    let part = Call::new("GET", "/photos/a/b", ALICE).header("range", "bytes=6-").send(world.address).await;
    assert_eq!((part.status, part.text().as_str()), (StatusCode::PARTIAL_CONTENT, "world"));
    assert_eq!(part.headers["content-range"], "bytes 6-10/11");
    let known = Call::new("GET", "/photos/a/b", ALICE)
        .header("if-none-match", "\"5eb63bbbe01eeed093cb22bb8f5acdc3\"");
    let known = known.send(world.address).await;
    assert_eq!((known.status, known.text().as_str()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!(known.headers["etag"], "\"5eb63bbbe01eeed093cb22bb8f5acdc3\"");
    world.stop().await;
}

#[tokio::test]
async fn a_range_that_means_nothing_is_ignored() {
    let world = with_bucket().await;
    Call::new("PUT", "/photos/k", ALICE).body("hello world").send(world.address).await;
    for range in ["bytes=5-2", "bytes=0-1,4-5", "bytes=a-b", "lines=1-2", "bytes"] {
        for method in ["GET", "HEAD"] {
            let call = Call::new(method, "/photos/k?response-content-type=a%2Fb", ALICE);
            let signed = call.clone().header("range", range).send(world.address).await;
            let unsigned = call.unsigned("range", range).send(world.address).await;
            for got in [signed, unsigned] {
                assert_eq!(got.status, StatusCode::OK, "{method} {range} {}", got.text());
                assert_eq!(got.headers["content-length"], "11");
                assert_eq!(got.headers["content-type"], "a/b", "{method}");
                assert_eq!(got.text(), if method == "GET" { "hello world" } else { "" });
            }
        }
        // It is no way round the signature, nor into somebody else's bucket.
        let wrong = Call::new("GET", "/photos/k", (ALICE.0, "wrong")).header("range", range);
        assert_eq!(wrong.send(world.address).await.code(), "SignatureDoesNotMatch");
        let other = Call::new("GET", "/photos/k", BOB).header("range", range).send(world.address).await;
        assert_eq!((other.status, other.code().as_str()), (StatusCode::FORBIDDEN, "AccessDenied"));
        let none = Call::new("GET", "/photos/none", ALICE).header("range", range).send(world.address).await;
        assert_eq!((none.status, none.code().as_str()), (StatusCode::NOT_FOUND, "NoSuchKey"));
    }
    world.stop().await;
}

#[tokio::test]
async fn conditions_are_judged_before_the_range() {
    let world = with_bucket().await;
    let tag = "\"5eb63bbbe01eeed093cb22bb8f5acdc3\"";
    let put = Call::new("PUT", "/photos/k", ALICE).body("hello world").send(world.address).await;
    assert_eq!(put.headers["etag"], tag);
    let list = format!("\"{}\", {tag}", "0".repeat(32));
    for method in ["GET", "HEAD"] {
        let status = |headers: &[(&str, &str)]| {
            let base = Call::new(method, "/photos/k", ALICE);
            let call = headers.iter().fold(base, |call, (name, value)| call.header(name, value));
            let address = world.address;
            async move { call.send(address).await.status.as_u16() }
        };
        assert_eq!(status(&[("range", "bytes=99-")]).await, 416);
        assert_eq!(status(&[("range", "bytes=99-"), ("if-none-match", tag)]).await, 304);
        assert_eq!(status(&[("range", "bytes=99-"), ("if-match", "\"a\"")]).await, 412);
        assert_eq!(status(&[("range", "bytes=0-1"), ("if-none-match", &list)]).await, 304);
        assert_eq!(status(&[("range", "bytes=0-1"), ("if-match", &list)]).await, 206);
        assert_eq!(status(&[("range", "bytes=0-1"), ("if-range", tag)]).await, 206);
        assert_eq!(status(&[("range", "bytes=99-"), ("if-range", tag)]).await, 416);
        for other in ["\"a\"", &format!("W/{tag}"), "Sun, 06 Nov 1994 08:49:37 GMT", "rubbish"] {
            assert_eq!(status(&[("range", "bytes=0-1"), ("if-range", other)]).await, 200, "{other}");
            assert_eq!(status(&[("range", "bytes=99-"), ("if-range", other)]).await, 200, "{other}");
        }
    }
    let modified = put_date(&world).await;
    let call = Call::new("GET", "/photos/k", ALICE).header("range", "bytes=6-").header("if-range", &modified);
    assert_eq!(call.send(world.address).await.text(), "world");
    let part = Call::new("GET", "/photos/k?partNumber=1", ALICE).send(world.address).await;
    assert_eq!((part.status, part.text().as_str()), (StatusCode::PARTIAL_CONTENT, "hello world"));
    assert_eq!(part.headers["content-range"], "bytes 0-10/11");
    world.stop().await;
}

async fn put_date(world: &World) -> String {
    let head = Call::new("HEAD", "/photos/k", ALICE).send(world.address).await;
    head.headers["last-modified"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_copy_heeds_the_conditions_of_its_target() {
    let world = with_bucket().await;
    Call::new("PUT", "/photos/a", ALICE).body("a").send(world.address).await;
    let there = Call::new("PUT", "/photos/b", ALICE).body("b").send(world.address).await;
    let tag = there.headers["etag"].to_str().unwrap().to_owned();
    let copy = |to: &str, name: &str, value: &str| {
        let call = Call::new("PUT", to, ALICE).header("x-amz-copy-source", "/photos/a").header(name, value);
        let address = world.address;
        async move { call.send(address).await.status.as_u16() }
    };
    assert_eq!(copy("/photos/b", "if-none-match", "*").await, 412);
    assert_eq!(copy("/photos/b", "if-match", "\"a\"").await, 412);
    assert_eq!(copy("/photos/b", "if-none-match", &tag).await, 501);
    assert_eq!(copy("/photos/b", "if-none-match", "\"").await, 400);
    assert_eq!(Call::new("GET", "/photos/b", ALICE).send(world.address).await.text(), "b");
    assert_eq!(copy("/photos/b", "if-match", &tag).await, 200);
    assert_eq!(copy("/photos/c", "if-none-match", "*").await, 200);
    assert_eq!(Call::new("GET", "/photos/b", ALICE).send(world.address).await.text(), "a");
    world.stop().await;
}

#[tokio::test]
async fn uploads_of_any_key_are_listed_to_an_end() {
    let world = with_bucket().await;
    // The third is behind the marker by which a rolled-up prefix is passed.
    for key in ["a/1", "a/2", "a/%F4%8F%BF%BF%F4%8F%BF%BF", "b", "c/1"] {
        let made = Call::new("POST", &format!("/photos/{key}?uploads"), ALICE).send(world.address).await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    }
    let list = async |more: &str| {
        let call = Call::new("GET", &format!("/photos?uploads&delimiter=%2F{more}"), ALICE);
        timeout(Duration::from_secs(5), call.send(world.address)).await.expect("an end").text()
    };
    let all = list("").await;
    let shown = |text: &str| (text.matches("<Prefix>").count(), text.matches("<Upload>").count());
    assert_eq!(shown(&all), (2, 1), "{all}");
    let first = list("&max-uploads=1").await;
    assert_eq!(shown(&first), (1, 0), "{first}");
    assert!(first.contains("<NextKeyMarker>a/</NextKeyMarker>"), "{first}");
    for marker in ["a%2F", "a%2F1"] {
        let rest = list(&format!("&key-marker={marker}")).await;
        assert_eq!(shown(&rest), (1, 1), "{rest}");
    }
    world.stop().await;
}

#[tokio::test]
async fn conditions_that_are_not_supported_are_not_ignored() {
    let world = with_bucket().await;
    Call::new("PUT", "/photos/k", ALICE).body("x").send(world.address).await;
    for condition in ["<Size>7</Size>", "<LastModifiedTime>Sun, 06 Nov 1994 08:49:37 GMT</LastModifiedTime>"]
    {
        let body = format!("<Delete><Object><Key>k</Key>{condition}</Object></Delete>");
        let answer = Call::new("POST", "/photos?delete", ALICE).body(body).send(world.address).await;
        assert!(answer.text().contains("NotImplemented"), "{}", answer.text());
    }
    let single = Call::new("DELETE", "/photos/k", ALICE).header("x-amz-if-match-size", "7");
    assert_eq!(single.send(world.address).await.code(), "NotImplemented");
    assert_eq!(world.model.counts(), (1, 0));
    world.stop().await;
}

#[tokio::test]
async fn a_header_added_after_signing_is_refused_and_does_nothing() {
    let world = with_bucket().await;
    Call::new("PUT", "/photos/secret", ALICE).body("secret").send(world.address).await;
    for (name, value) in
        [("x-amz-acl", "private"), ("x-amz-copy-source", "/photos/secret"), ("x-amz-meta-a", "b")]
    {
        let call = Call::new("PUT", "/photos/new", ALICE).unsigned(name, value).body("x");
        let refused = call.send(world.address).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (StatusCode::FORBIDDEN, "AccessDenied"),
            "{name}"
        );
    }
    assert_eq!(world.model.counts(), (1, 0));
    world.stop().await;
}

#[tokio::test]
async fn users_get_in_at_once_and_only_into_what_is_theirs() {
    let world = with_bucket().await;
    Call::new("PUT", "/photos/k", ALICE).body("x").send(world.address).await;
    let code = |method, path: &str, user: (&str, &str)| {
        // An empty body would go without a length.
        let call = Call::new(method, path, user).body(if path.ends_with("/k") { "x" } else { "" });
        let address = world.address;
        async move { call.send(address).await.code() }
    };
    assert_eq!(code("GET", "/photos/k", BOB).await, "AccessDenied");
    assert_eq!(code("PUT", "/photos/k", BOB).await, "AccessDenied");
    assert_eq!(code("DELETE", "/photos", BOB).await, "AccessDenied");
    assert_eq!(code("PUT", "/photos", BOB).await, "BucketAlreadyExists");
    assert_eq!(code("GET", "/photos/k", (ALICE.0, "wrong")).await, "SignatureDoesNotMatch");
    assert_eq!(code("GET", "/photos/k", ("CAROL", "carol")).await, "InvalidAccessKeyId");
    world.model.add_user("CAROL", "carol", true);
    assert_eq!(
        code("GET", "/photos/k", ("CAROL", "carol")).await,
        "",
        "the administrator, made a moment ago"
    );
    world.model.add_user("CAROL", "other", true);
    // The front still has the old secret cached: the newer version of users refuses what was signed with it.
    assert_eq!(code("GET", "/photos/k", ("CAROL", "carol")).await, "AccessDenied");
    world.stop().await;
}

#[tokio::test]
async fn an_object_that_breaks_off_never_ends_cleanly() {
    let world = with_bucket().await;
    let path = format!("/photos/k{BREAKS}");
    let put = Call::new("PUT", &path, ALICE).body(vec![7; 1_000_000]).send(world.address).await;
    assert_eq!(put.status, StatusCode::OK);
    let got = Call::new("GET", &path, ALICE).send(world.address).await;
    assert_eq!(got.status, StatusCode::OK);
    assert!(got.body.is_err(), "the connection broke");
    world.stop().await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_at_all_is_an_error_and_no_broken_answer() {
    let world = with_bucket().await;
    let path = format!("/photos/k{BREAKS}");
    Call::new("PUT", &path, ALICE).body(vec![7; 1000]).send(world.address).await;
    let got = Call::new("GET", &path, ALICE).send(world.address).await;
    assert_eq!(got.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(got.headers.contains_key("retry-after"));
    assert_eq!(got.code(), "ServiceUnavailable");
    world.stop().await;
}

#[tokio::test]
async fn a_name_that_no_bucket_can_have_is_refused_with_what_one_looks_like() {
    let world = with_bucket().await;
    for path in ["/b", "/Bad_Name", "/b/key"] {
        let put = Call::new("PUT", path, ALICE).header("content-length", "0").send(world.address).await;
        assert_eq!(
            (put.status, put.code()),
            (StatusCode::BAD_REQUEST, "InvalidBucketName".to_owned()),
            "{path}"
        );
        assert!(put.text().contains("3 to 63"), "{}", put.text());
    }
    world.stop().await;
}

#[tokio::test]
async fn a_body_that_ends_early_leaves_nothing() {
    let world = with_bucket().await;
    let call = Call::new("PUT", "/photos/cut", ALICE).header("content-length", "100000");
    let request = call.request(world.address);
    let mut text = format!("PUT {} HTTP/1.1\r\n", request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
    stream.write_all(&[7; 50_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(world.model.counts(), (0, 0));
    world.stop().await;
}

#[tokio::test]
async fn one_chunk_of_any_size_is_streamed() {
    let world = with_bucket().await;
    let data = vec![3; 40 << 20];
    let mut body = format!("{:x}\r\n", data.len()).into_bytes();
    body.extend_from_slice(&data);
    body.extend_from_slice(b"\r\n0\r\n\r\n");
    let call = Call::new("PUT", "/photos/chunk", ALICE)
        .header("x-amz-decoded-content-length", &data.len().to_string())
        .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    // Without x-amz-trailer the library refuses it; with one that is announced, it must come.
    let refused = call.clone().body(body.clone()).send(world.address).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let call = call.header("x-amz-trailer", "x-amz-checksum-crc32");
    let refused = call.clone().body(body.clone()).send(world.address).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::BAD_REQUEST, "InvalidRequest"));
    body.truncate(body.len() - 2);
    body.extend_from_slice(format!("x-amz-checksum-crc32:{}\r\n\r\n", crc32(&data)).as_bytes());
    let stored = call.body(body).send(world.address).await;
    assert_eq!(stored.status, StatusCode::OK, "{}", stored.text());
    world.stop().await;
}

fn crc32(bytes: &[u8]) -> String {
    use base64::Engine as _;
    let value = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes);
    base64::engine::general_purpose::STANDARD.encode((value as u32).to_be_bytes())
}

#[tokio::test]
async fn a_taken_port_is_told_clearly() {
    let world = World::start().await;
    let config = HttpConfig { listen: world.address, ..HttpConfig::default() };
    let error = Server::bind(Model::default(), config).await.err().unwrap().to_string();
    assert!(error.contains("Another process has the port"), "{error}");
    world.stop().await;
}

#[tokio::test]
async fn a_stop_lets_a_running_request_finish_and_closes_idle_connections() {
    let world = with_bucket().await;
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    let call = Call::new("PUT", "/photos/slow", ALICE).header("content-length", "10");
    let request = call.request(world.address);
    let mut text = format!("PUT {} HTTP/1.1\r\n", request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    let mut slow = TcpStream::connect(world.address).await.unwrap();
    slow.write_all(format!("{text}\r\nhello").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let model = world.model.clone();
    let address = world.address;
    let stopping = tokio::spawn(world.stop());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody new is let in");
    slow.write_all(b"world").await.unwrap();
    let mut answer = [0; 15];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let begun = Instant::now();
    stopping.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(model.counts(), (1, 0));
    assert_eq!(idle.read(&mut answer).await.unwrap_or(0), 0);
}

/// Whether Python has boto3 here. `./check` installs it; elsewhere this file's test has nothing to run.
fn has_boto3() -> bool {
    Command::new("python3").args(["-c", "import boto3"]).output().is_ok_and(|output| output.status.success())
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boto3_finds_every_operation_as_s3_has_it() {
    if !has_boto3() {
        eprintln!("python3 has no boto3: not run (pip install boto3)");
        return;
    }
    let world = World::start().await;
    let mut command = tokio::process::Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3_clients.py"));
    command.args([&format!("http://{}", world.address), ALICE.0, ALICE.1, "--big", "20000000"]);
    command.args(["--other-access-key", BOB.0, "--other-secret-key", BOB.1]);
    if let Ok(only) = std::env::var("ONLY") {
        command.args(["--only", &only]);
    }
    let output = timeout(Duration::from_secs(110), command.kill_on_drop(true).output()).await;
    let output = output.expect("boto3 takes too long").unwrap();
    println!("{}", text(&output));
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(world.model.counts(), (0, 0), "everything was removed");
    world.stop().await;
}
