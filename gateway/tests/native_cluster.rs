//! S3 over RDMA over a real gateway, real nodes and real metadata replicas, all in this process, by the SDK; and the same objects over
//! HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "what the tests of the pipelines and of the fronts share is used in part")]

#[path = "support/client.rs"]
mod client;
#[path = "support/door.rs"]
mod door;
#[path = "pipeline/harness.rs"]
mod harness;

use client::Call;
use door::Door;
use harness::{Cluster, pattern};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tenfour_client::native::{
    Checksum, ChecksumKind, Client, ClientConfig, CompleteOptions, Conditions, Entry, Error, From, Frozen,
    GetOptions, Headers, ListOptions, NamedPart, Precondition, PutMode, PutOptions, Range, Tag,
};
use tenfour_gateway::Gateway;
use tenfour_gateway::doors::open_http;
use tenfour_gateway::http::HttpConfig;
use tenfour_metadata::api::{ClusterCommand, User};
use tenfour_rdma::Provider;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const ROOT: (&str, &str) = ("root", "secret");
const BOTH: [Provider; 2] = [Provider::Shm, Provider::Tcp];
const MODES: [PutMode; 3] = [PutMode::Auto, PutMode::Push, PutMode::Pull];

struct World {
    cluster: Cluster,
    gateway: Gateway,
    http: SocketAddr,
    door: Door,
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<()>,
}

impl World {
    async fn start() -> Self {
        Self::start_with(14).await
    }

    async fn start_with(nodes: u32) -> Self {
        door::scale_times();
        let cluster = Cluster::start(nodes, 1).await;
        let gateway = cluster.gateway().await;
        let config = HttpConfig { listen: "127.0.0.1:0".parse().unwrap(), ..HttpConfig::default() };
        let server = open_http(gateway.clone(), config).await.unwrap();
        let http = server.at;
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.serve(async move {
            let _ = stopped.await;
        }));
        let door = Door::at_gateway(gateway.clone()).await;
        Self { cluster, gateway, http, door, stop, running }
    }

    async fn client(&self, provider: Provider) -> Client {
        let mut config = self.door.config(provider, ROOT);
        config.pool_bytes = 160 << 20;
        Client::connect(config).await.unwrap()
    }

    /// What HTTP reads.
    async fn by_http(&self, key: &str) -> Vec<u8> {
        let answer = Call::new("GET", &format!("/bucket/{key}"), ROOT).send(self.http).await;
        assert!(answer.status.is_success(), "{} {}", answer.status, answer.text());
        answer.body.unwrap().to_vec()
    }

    async fn stop(self) {
        self.door.is_empty_again().await;
        self.door.stop().await;
        let _ = self.stop.send(());
        self.running.await.unwrap();
        self.gateway.shutdown().await;
    }
}

async fn body(client: &Client, bytes: &[u8]) -> Frozen {
    let mut buffer = client.buffer(bytes.len()).await.unwrap();
    buffer.copy_from_slice(bytes);
    buffer.freeze()
}

async fn read(client: &Client, key: &str, room: usize, range: Range) -> Result<Vec<u8>, Error> {
    let into = client.buffer(room).await.unwrap();
    let options = GetOptions { range, ..GetOptions::default() };
    let (buffer, got) = client.get_object("bucket", key, into, &options).await;
    let got = got?;
    assert_eq!(got.range.1 - got.range.0, got.bytes as u64);
    Ok(buffer.unwrap()[..got.bytes].to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_every_size_go_in_and_out_both_ways() {
    let world = World::start().await;
    for provider in BOTH {
        let client = world.client(provider).await;
        assert_eq!(client.transport().await.unwrap(), provider.to_string());
        for size in [0, 1, 4 << 10, 64 << 10, 1 << 20, 32 << 20] {
            let bytes = pattern(size as u64 + 1, size);
            for mode in MODES {
                if size == 32 << 20 && mode == PutMode::Auto {
                    continue;
                }
                let key = format!("{provider}-{size}-{mode:?}");
                let options = PutOptions { mode, ..PutOptions::default() };
                let stored = client.put_object("bucket", &key, &body(&client, &bytes).await, &options).await;
                let stored = stored.unwrap_or_else(|error| panic!("{key}: {error}"));
                assert_eq!(stored.checksums[0].kind, ChecksumKind::Crc64Nvme);
                assert_eq!(
                    (stored.served.carrier.as_str(), stored.served.fabric.as_str()),
                    (&*provider.to_string(), if size == 0 { "" } else { "shm" })
                );
                assert!(read(&client, &key, size + 7, Range::All).await.unwrap() == bytes, "{key}");
                assert!(world.by_http(&key).await == bytes, "{key} over HTTP");
                let head = client.head_object("bucket", &key, &GetOptions::default()).await.unwrap();
                assert_eq!((head.object.size, head.object.etag), (size as u64, stored.etag));
            }
        }
        // What HTTP stored.
        let bytes = pattern(77, 3_000_000);
        let call =
            Call::new("PUT", "/bucket/by-http", ROOT).header("content-length", "3000000").body(bytes.clone());
        assert!(call.send(world.http).await.status.is_success());
        assert!(read(&client, "by-http", 3_000_000, Range::All).await.unwrap() == bytes);
        for (range, expected) in [
            (Range::From(10, Some(20)), 10..20),
            (Range::From(2_999_990, None), 2_999_990..3_000_000),
            (Range::Last(700_000), 2_300_000..3_000_000),
            (Range::From(1_000_000, Some(2_500_000)), 1_000_000..2_500_000),
        ] {
            let part = read(&client, "by-http", 1_500_000, range).await.unwrap();
            assert!(part == bytes[expected.clone()], "{range:?}");
        }
        let refused =
            |error: Result<Vec<u8>, Error>| error.unwrap_err().code().unwrap_or_default().to_owned();
        assert_eq!(refused(read(&client, "by-http", 100, Range::All).await), "InvalidRequest");
        assert_eq!(
            refused(read(&client, "by-http", 100, Range::From(3_000_000, None)).await),
            "InvalidRange"
        );
        assert_eq!(refused(read(&client, "absent", 100, Range::All).await), "NoSuchKey");
    }
    assert_eq!(world.gateway.free_bytes(), world.cluster.gateway_config().pool_bytes - held(&world).await);
    world.stop().await;
}

/// Memory that is not the client's pool's, which is far too small for any of this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_the_caller_is_used_where_it_lies() {
    let world = World::start().await;
    for provider in BOTH {
        let mut config = world.door.config(provider, ROOT);
        config.pool_bytes = 1 << 20;
        let client = Client::connect(config).await.unwrap();
        let mut moved = 0;
        for size in [0, 1, 4 << 10, 64 << 10, 5 << 20] {
            let bytes = pattern(size as u64 + 3, size);
            let source = client.adopt_bytes(bytes.clone().into_boxed_slice()).freeze();
            for mode in MODES {
                let key = format!("own-{provider}-{size}-{mode:?}");
                let options = PutOptions { mode, ..PutOptions::default() };
                client.put_object("bucket", &key, &source, &options).await.unwrap();
                assert!(world.by_http(&key).await == bytes, "{key} over HTTP");
                let into = client.adopt_bytes(vec![0xee; size + 9].into_boxed_slice());
                let at = into.as_ptr();
                let (into, got) = client.get_object("bucket", &key, into, &GetOptions::default()).await;
                let (into, got) = (into.unwrap(), got.unwrap());
                assert!(got.bytes == size && into[..size] == bytes[..] && into[size..] == [0xee; 9], "{key}");
                assert_eq!(into.as_ptr(), at);
                moved += 2 * size as u64;
            }
        }
        let counters = client.host_memory_counters();
        assert_eq!((counters.zero_copy_bytes, counters.copied_bytes), (0, moved));
        // Whoever stops waiting frees nothing that the gateway may still touch, and all is freed in the end.
        let source = client.adopt_bytes(pattern(1, 5 << 20).into_boxed_slice()).freeze();
        for wait_ms in [0, 1, 3, 10] {
            let wait = Duration::from_millis(wait_ms);
            let options = PutOptions::default();
            let put = client.put_object("bucket", "given-up", &source, &options);
            let _ = tokio::time::timeout(wait, put).await;
            let into = client.adopt_bytes(vec![0; 5 << 20].into_boxed_slice());
            let key = format!("own-{provider}-{}-Pull", 5 << 20);
            let options = GetOptions::default();
            let get = client.get_object("bucket", &key, into, &options);
            let _ = tokio::time::timeout(wait, get).await;
        }
        drop(source);
        let began = Instant::now();
        while client.host_memory_counters().held_bytes > 0 {
            assert!(began.elapsed() < Duration::from_secs(30), "memory stays held");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(read(&client, &format!("own-{provider}-1-Push"), 5, Range::All).await.unwrap().len() == 1);
    }
    world.stop().await;
}

/// What the gateway keeps aside from its start on; anything more would be a leak.
async fn held(world: &World) -> usize {
    let fresh = world.cluster.gateway().await;
    let held = world.cluster.gateway_config().pool_bytes - fresh.free_bytes();
    fresh.shutdown().await;
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_checksums_and_headers_are_those_of_s3() {
    let world = World::start().await;
    let client = world.client(Provider::Shm).await;
    let text = body(&client, b"hello world").await;
    let crc = Checksum { kind: ChecksumKind::Crc32, value: vec![0x0d, 0x4a, 0x11, 0x85], parts: None };
    let options = PutOptions {
        headers: Headers(vec![
            ("content-type".into(), "text/plain".into()),
            ("x-amz-meta-of".into(), "me".into()),
        ]),
        precondition: Precondition::Absent,
        checksum: Some(crc.clone()),
        ..PutOptions::default()
    };
    let stored = client.put_object("bucket", "k", &text, &options).await.unwrap();
    assert_eq!(stored.etag.to_string(), "5eb63bbbe01eeed093cb22bb8f5acdc3");
    assert_eq!(stored.checksums, std::slice::from_ref(&crc));
    let head = client.head_object("bucket", "k", &GetOptions::default()).await.unwrap().object;
    assert_eq!((head.headers, head.checksums), (options.headers.clone(), vec![crc.clone()]));
    let code = |error: Error| error.code().unwrap_or("none").to_owned();
    // Again: it is there now.
    let again = client.put_object("bucket", "k", &text, &options).await.unwrap_err();
    assert_eq!(code(again), "PreconditionFailed");
    let with = |change: fn(&mut PutOptions)| {
        let mut options = PutOptions::default();
        change(&mut options);
        options
    };
    for (options, expected) in [
        (
            with(|options| {
                options.checksum =
                    Some(Checksum { kind: ChecksumKind::Crc32, value: vec![0; 4], parts: None });
            }),
            "BadDigest",
        ),
        (
            with(|options| {
                options.checksum =
                    Some(Checksum { kind: ChecksumKind::Sha1, value: vec![0; 4], parts: None });
            }),
            "InvalidRequest",
        ),
        (with(|options| options.md5 = Some([0; 16])), "BadDigest"),
        (with(|options| options.headers.0.push(("host".into(), "x".into()))), "InvalidArgument"),
        (
            with(|options| options.headers.0.push(("x-amz-meta-a".into(), "x".repeat(3000)))),
            "MetadataTooLarge",
        ),
    ] {
        for mode in MODES {
            let options = PutOptions { mode, ..options.clone() };
            let error = client.put_object("bucket", "other", &text, &options).await.unwrap_err();
            assert_eq!(code(error), expected, "{mode:?}");
        }
    }
    for kind in [
        ChecksumKind::Crc32,
        ChecksumKind::Crc32c,
        ChecksumKind::Crc64Nvme,
        ChecksumKind::Sha1,
        ChecksumKind::Sha256,
    ] {
        let options = PutOptions { keep: Some(kind), ..PutOptions::default() };
        let kept = client.put_object("bucket", "kept", &text, &options).await.unwrap().checksums;
        assert_eq!((kept[0].kind, kept[0].value.len()), (kind, kind.bytes()));
        let options = PutOptions { checksum: Some(kept[0].clone()), ..PutOptions::default() };
        assert_eq!(client.put_object("bucket", "kept", &text, &options).await.unwrap().checksums, kept);
    }
    let conditions = |matches, none_matches| GetOptions {
        conditions: Conditions { matches, none_matches, ..Conditions::default() },
        ..GetOptions::default()
    };
    let into = client.buffer(100).await.unwrap();
    let known = conditions(None, Some(Tag::OneOf(vec![stored.etag])));
    let (into, got) = client.get_object("bucket", "k", into, &known).await;
    assert!(matches!(got, Err(Error::NotModified)));
    let other = tenfour_client::native::ETag { md5: [0; 16], parts: None };
    let (_, got) = client
        .get_object("bucket", "k", into.unwrap(), &conditions(Some(Tag::OneOf(vec![other])), None))
        .await;
    assert_eq!(code(got.unwrap_err()), "PreconditionFailed");
    let gone = client.delete_object("bucket", "k", &Precondition::Match(vec![other])).await.unwrap_err();
    assert_eq!(code(gone), "PreconditionFailed");
    client.delete_object("bucket", "k", &Precondition::Match(vec![stored.etag])).await.unwrap();
    assert_eq!(
        code(client.head_object("bucket", "k", &GetOptions::default()).await.unwrap_err()),
        "NoSuchKey"
    );
    drop((client, text));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_stream_and_uploads_complete() {
    let world = World::start().await;
    let clients = [world.client(Provider::Shm).await, world.client(Provider::Tcp).await];
    let [client, other] = &clients;
    let empty = body(client, b"").await;
    // Long keys, so that a listing takes many messages.
    let keys: Vec<String> = (0..300).map(|number| format!("list/{number:04}/{}", "k".repeat(700))).collect();
    let options = PutOptions::default();
    let puts = keys.iter().map(|key| client.put_object("bucket", key, &empty, &options));
    for put in futures::future::join_all(puts).await {
        put.unwrap();
    }
    let all = ListOptions { prefix: "list/".into(), most: u64::MAX, ..ListOptions::default() };
    let key_of = |entry: &Entry| match entry {
        Entry::Object { key, .. } => key.clone(),
        Entry::CommonPrefix(prefix) => prefix.clone(),
    };
    for client in &clients {
        let listed = client.list("bucket", &all).await.unwrap();
        assert_eq!(listed.entries.iter().map(key_of).collect::<Vec<_>>(), keys);
        assert_eq!(listed.next, None);
        let rolled = ListOptions { delimiter: "/".into(), most: 3, ..all.clone() };
        let first = client.list("bucket", &rolled).await.unwrap();
        assert_eq!(
            first.entries.iter().map(key_of).collect::<Vec<_>>(),
            ["list/0000/", "list/0001/", "list/0002/"]
        );
        let rest = ListOptions { from: From::Token(first.next.unwrap()), most: u64::MAX, ..rolled };
        assert_eq!(client.list("bucket", &rest).await.unwrap().entries.len(), 297);
        let after = ListOptions { from: From::After(keys[297].clone()), ..all.clone() };
        assert_eq!(client.list("bucket", &after).await.unwrap().entries.len(), 2);
        let bad = ListOptions { from: From::Token("?".into()), ..all.clone() };
        assert_eq!(client.list("bucket", &bad).await.unwrap_err().code(), Some("InvalidArgument"));
    }
    // An upload: parts by both ways and both providers, more than one message can name.
    let upload = client.create_upload("bucket", "big", &Headers::default(), None).await.unwrap();
    let large = pattern(5, 5 << 20);
    let small = pattern(6, 1000);
    let mut parts = Vec::new();
    for (number, (client, mode)) in
        [(client, PutMode::Push), (other, PutMode::Pull), (client, PutMode::Auto)].into_iter().enumerate()
    {
        let bytes = if number == 2 { &small } else { &large };
        let options = PutOptions { mode, ..PutOptions::default() };
        let number = number as u32 + 1;
        let stored = client
            .upload_part("bucket", "big", &upload, number, &body(client, bytes).await, &options)
            .await
            .unwrap();
        parts.push(NamedPart { number, etag: stored.etag, checksum: stored.checksums.first().cloned() });
    }
    let wrong = [parts[1].clone(), parts[0].clone()];
    let refused = client.complete_upload("bucket", "big", &upload, &wrong, &CompleteOptions::default()).await;
    assert_eq!(refused.unwrap_err().code(), Some("InvalidPartOrder"));
    let many: Vec<NamedPart> = (1..=1000).map(|number| NamedPart { number, ..parts[0].clone() }).collect();
    let refused = client.complete_upload("bucket", "big", &upload, &many, &CompleteOptions::default()).await;
    assert_eq!(
        refused.unwrap_err().code(),
        Some("InvalidPart"),
        "a thousand parts arrived, in many messages"
    );
    let options = CompleteOptions { size: Some((10 << 20) + 1000), ..CompleteOptions::default() };
    let done = other.complete_upload("bucket", "big", &upload, &parts, &options).await.unwrap();
    assert_eq!(done.etag.parts, Some(3));
    let again =
        client.complete_upload("bucket", "big", &upload, &parts, &CompleteOptions::default()).await.unwrap();
    assert_eq!(again.etag, done.etag, "completing again answers as before");
    let whole = [&large[..], &large, &small].concat();
    assert!(world.by_http("big").await == whole);
    assert!(read(client, "big", whole.len(), Range::All).await.unwrap() == whole);
    assert!(read(other, "big", 1000, Range::Part(3)).await.unwrap() == small);
    let upload = client.create_upload("bucket", "gone", &Headers::default(), None).await.unwrap();
    client.abort_upload("bucket", "gone", &upload).await.unwrap();
    assert_eq!(
        client.abort_upload("bucket", "gone", &upload).await.unwrap_err().code(),
        Some("NoSuchUpload")
    );
    drop((clients, empty));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_calls_go_over_http_when_there_is_no_rdma() {
    let world = World::start().await;
    let mut config = ClientConfig::new(ROOT.0, ROOT.1);
    config.endpoints = vec!["tcp:127.0.0.1:1".parse().unwrap()];
    assert!(matches!(Client::connect(config.clone()).await, Err(Error::Connect(_))), "never in silence");
    config.fallback_http = Some(format!("http://{}", world.http));
    let client = Client::connect(config).await.unwrap();
    assert_eq!(client.transport().await.unwrap(), "http");
    let bytes = pattern(9, 300_000);
    let options = PutOptions {
        headers: Headers(vec![("x-amz-meta-of".into(), "me".into())]),
        keep: Some(ChecksumKind::Sha256),
        precondition: Precondition::Absent,
        ..PutOptions::default()
    };
    let content = body(&client, &bytes).await;
    let stored = client.put_object("bucket", "http", &content, &options).await.unwrap();
    assert_eq!((stored.served.carrier.as_str(), stored.checksums[0].kind), ("http", ChecksumKind::Sha256));
    let again = client.put_object("bucket", "http", &content, &options).await.unwrap_err();
    assert_eq!(again.code(), Some("PreconditionFailed"));
    assert!(read(&client, "http", 300_000, Range::All).await.unwrap() == bytes);
    assert!(read(&client, "http", 10, Range::Last(10)).await.unwrap() == bytes[299_990..]);
    let native = world.client(Provider::Tcp).await;
    let there = native.head_object("bucket", "http", &GetOptions::default()).await.unwrap();
    let here = client.head_object("bucket", "http", &GetOptions::default()).await.unwrap();
    assert_eq!(here.object.headers.get("x-amz-meta-of"), Some("me"));
    assert_eq!(
        (here.object.etag, here.object.size, here.object.modified_ms / 1000),
        (there.object.etag, there.object.size, there.object.modified_ms / 1000)
    );
    let listed = client.list("bucket", &ListOptions::default()).await.unwrap();
    assert_eq!(listed.entries.len(), 1);
    refused_alike(&client, &native).await;
    for key in ["http/../http", "x/..", "..", "./http", "/http", "//", "%2e%2e/http", "a b+c?d#e&f=g"] {
        let (text, options) = (body(&client, key.as_bytes()).await, PutOptions::default());
        client.put_object("bucket", key, &text, &options).await.unwrap();
        for reader in [&client, &native] {
            assert_eq!(read(reader, key, 100, Range::All).await.unwrap(), key.as_bytes(), "{key}");
        }
        client.delete_object("bucket", key, &Precondition::None).await.unwrap();
        let gone = native.head_object("bucket", key, &GetOptions::default()).await.unwrap_err();
        assert_eq!(gone.code(), Some("NoSuchKey"), "{key}");
        assert!(read(&client, "http", 300_000, Range::All).await.unwrap() == bytes, "{key}");
    }
    let upload = client.create_upload("bucket", "parts", &Headers::default(), None).await.unwrap();
    let part =
        client.upload_part("bucket", "parts", &upload, 7, &content, &PutOptions::default()).await.unwrap();
    let parts = [NamedPart { number: 7, etag: part.etag, checksum: None }];
    let done = client
        .complete_upload("bucket", "parts", &upload, &parts, &CompleteOptions::default())
        .await
        .unwrap();
    assert_eq!(done.etag.parts, Some(1));
    assert!(read(&native, "parts", 300_000, Range::All).await.unwrap() == bytes);
    client.delete_object("bucket", "parts", &Precondition::None).await.unwrap();
    assert_eq!(
        client.head_object("bucket", "parts", &GetOptions::default()).await.unwrap_err().code(),
        Some("NoSuchKey")
    );
    drop((client, native, content));
    world.stop().await;
}

/// What makes no sense is refused with the same code over HTTP and natively.
async fn refused_alike(client: &Client, native: &Client) {
    let code = |error: Error| error.code().unwrap_or("none").to_owned();
    for client in [client, native] {
        for (first, end) in [(0, 0), (5, 5), (5, 2)] {
            let range = Range::From(first, Some(end));
            assert_eq!(code(read(client, "http", 300_000, range).await.unwrap_err()), "InvalidArgument");
            let options = GetOptions { range, ..GetOptions::default() };
            let head = client.head_object("bucket", "http", &options).await;
            assert_eq!(code(head.unwrap_err()), "InvalidArgument");
        }
        let text = body(client, b"x").await;
        for (bucket, key, header, expected) in [
            ("..", "k", ("x-amz-meta-a", "v"), "InvalidBucketName"),
            ("bucket/http", "k", ("x-amz-meta-a", "v"), "InvalidBucketName"),
            ("bucket", "", ("x-amz-meta-a", "v"), "KeyTooLongError"),
            ("bucket", "k", ("x-amz-meta-a b", "v"), "InvalidArgument"),
            ("bucket", "k", ("x-amz-meta-a", "two\nlines"), "InvalidArgument"),
        ] {
            let headers = Headers(vec![(header.0.into(), header.1.into())]);
            let options = PutOptions { headers, ..PutOptions::default() };
            let refused = client.put_object(bucket, key, &text, &options).await.unwrap_err();
            assert_eq!(code(refused), expected, "{bucket} {key} {header:?}");
        }
    }
}

/// Changes bytes on their way, both ways, that no head of a request or an answer has.
async fn tamperer(to: SocketAddr) -> SocketAddr {
    async fn tamper(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            bytes[..read].iter_mut().filter(|byte| **byte == 0xee).for_each(|byte| *byte = 0xef);
            if to.write_all(&bytes[..read]).await.is_err() {
                break;
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (from, back) = client.into_split();
            let (answers, onwards) = TcpStream::connect(to).await.unwrap().into_split();
            tokio::spawn(tamper(from, onwards));
            tokio::spawn(tamper(answers, back));
        }
    });
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_change_on_their_way_over_http_are_not_taken_for_the_object() {
    let world = World::start().await;
    let mut config = ClientConfig::new(ROOT.0, ROOT.1);
    config.fallback_http = Some(format!("http://{}", tamperer(world.http).await));
    let client = Client::connect(config).await.unwrap();
    let text = body(&client, &[0xee; 1000]).await;
    let stored = client.put_object("bucket", "k", &text, &PutOptions::default()).await;
    assert_eq!(stored.unwrap_err().code(), Some("XAmzContentSHA256Mismatch"));
    let native = world.client(Provider::Tcp).await;
    let head = native.head_object("bucket", "k", &GetOptions::default()).await;
    assert_eq!(head.unwrap_err().code(), Some("NoSuchKey"));
    native
        .put_object("bucket", "k", &body(&native, &[0xee; 1000]).await, &PutOptions::default())
        .await
        .unwrap();
    let got = read(&client, "k", 1000, Range::All).await;
    assert!(matches!(got, Err(Error::Corrupt)), "{:?}", got.map(|bytes| bytes.len()));
    drop((client, native, text));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_is_disabled_is_out_within_a_second_and_a_client_comes_back() {
    let world = World::start().await;
    let user = |enabled| User {
        access_key: "alice".into(),
        secret_key: "alice-secret".into(),
        display_name: "alice".into(),
        enabled,
        root: false,
    };
    let metadata = world.gateway.metadata();
    metadata.cluster(ClusterCommand::PutUser { user: user(true) }).await.unwrap().unwrap();
    let mut raw = door::Raw::enter(&world.door.tcp, ("alice", "alice-secret")).await.unwrap();
    let client = world.door.client(Provider::Shm, ("alice", "alice-secret")).await;
    metadata.cluster(ClusterCommand::PutUser { user: user(false) }).await.unwrap().unwrap();
    let begun = Instant::now();
    tokio::time::timeout(Duration::from_secs(1), raw.receive()).await.expect("within a second");
    assert!(begun.elapsed() < Duration::from_secs(1));
    raw.is_shown_out().await;
    let refused = client.head_object("bucket", "k", &GetOptions::default()).await.unwrap_err();
    assert_eq!(refused.code(), Some("AccessDenied"));
    // Enabled again: the same client connects anew by itself.
    metadata.cluster(ClusterCommand::PutUser { user: user(true) }).await.unwrap().unwrap();
    let denied = client.head_object("bucket", "k", &GetOptions::default()).await.unwrap_err();
    assert_eq!(denied.code(), Some("AccessDenied"), "somebody else's bucket, on a new connection");
    let root = world.client(Provider::Tcp).await;
    let text = body(&root, b"hello").await;
    root.put_object("bucket", "k", &text, &PutOptions::default()).await.unwrap();
    root.disconnect().await;
    assert_eq!(read(&root, "k", 5, Range::All).await.unwrap(), b"hello");
    drop((raw, client, root, text));
    world.stop().await;
}

/// In a virtual machine that has a device: `tools/with-rxe -- target/release/deps/native_cluster-… --ignored verbs::`.
#[cfg(feature = "verbs")]
mod verbs {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs an RDMA device: tools/with-rxe"]
    async fn objects_go_in_and_out_both_ways() {
        let world = World::start_with(3).await;
        let client = world.client(Provider::Verbs).await;
        assert_eq!(client.transport().await.unwrap(), "verbs");
        for size in [1, 4 << 10, 1 << 20, 32 << 20] {
            let bytes = pattern(size as u64 + 1, size);
            for mode in [PutMode::Push, PutMode::Pull] {
                let key = format!("{size}-{mode:?}");
                let begun = Instant::now();
                let options = PutOptions { mode, ..PutOptions::default() };
                let stored = client.put_object("bucket", &key, &body(&client, &bytes).await, &options).await;
                let stored = stored.unwrap_or_else(|error| panic!("{key}: {error}"));
                assert_eq!((&*stored.served.carrier, &*stored.served.fabric), ("verbs", "shm"));
                assert!(read(&client, &key, size, Range::All).await.unwrap() == bytes, "{key}");
                assert!(world.by_http(&key).await == bytes, "{key} over HTTP");
                println!("{key}: the same over verbs and HTTP, {:?}", begun.elapsed());
            }
        }
        drop(client);
        world.stop().await;
    }
}
