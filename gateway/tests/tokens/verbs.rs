//! Bytes over RDMA, on a real device, by a client of ours in both public shapes; what is stored is compared with what plain HTTP reads.
// In a build without verbs what is dropped here holds nothing.
#![allow(clippy::drop_non_drop)]

use super::harness::{Cluster, pattern};
use super::support::client::{Answer, Call};
use super::support::model::Model;
use super::support::{ALICE, BOB, World};
use super::{TOKEN, by_http, ok, outcome, put, upload, with_bucket};
use hyper::StatusCode;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tenfour_client::token::{TokenCallError, TokenClient, TokenClientConfig, TokenConnection};
use tenfour_gateway::doors::open_http;
use tenfour_gateway::http::HttpConfig;
use tenfour_gateway::rdma::token::TokenConfig;
use tenfour_rdma::{
    Admits, ForeignConfig, ForeignDomain, Frozen, OperationError, PairAddress, Place, Tunables,
};
use tenfour_types::TimeScale;
use tokio::sync::oneshot;
use tokio::time::timeout;

const NEEDS: &str = "needs an RDMA device: tools/with-rxe";
const DEADLINE: Duration = Duration::from_secs(60);

/// How many times slower than a real machine this one is taken to be; its times are scaled by it.
fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| {
        let slowness = if std::env::var_os("RXE_GUEST").is_some() { 8 } else { 1 };
        TimeScale::try_from(f64::from(slowness)).unwrap().set_for_process();
        slowness
    })
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE * slowness(), future).await.expect(NEEDS)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 * slowness() {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn tokens() -> TokenConfig {
    slowness();
    TokenConfig { memory_bytes: 64 << 20, ..TokenConfig::default() }
}

async fn start(tokens: TokenConfig) -> World {
    let model = Model::default();
    model.add_user(ALICE.0, ALICE.1, false);
    model.add_user(BOB.0, BOB.1, false);
    with_bucket(World::over(model, HttpConfig { tokens, ..HttpConfig::default() }).await).await
}

fn client(address: SocketAddr, user: (&str, &str), pool_bytes: usize) -> TokenClient {
    let mut config = TokenClientConfig::new(&format!("http://{address}"), user.0, user.1);
    config.pool_bytes = pool_bytes;
    TokenClient::open(config).unwrap()
}

async fn memory(client: &TokenClient, bytes: &[u8]) -> Frozen {
    let mut buffer = client.buffer(bytes.len()).await.unwrap();
    buffer.copy_from_slice(bytes);
    buffer.freeze()
}

/// Everything that clients held is back.
async fn is_empty_again(world: &World) {
    let tokens = world.tokens.clone();
    eventually("all sessions have ended", || tokens.session_count() == 0 && tokens.used_bytes() == 0).await;
}

/// A PUT with a descriptor of one's own making.
async fn put_with(
    world: &World,
    connection: &TokenConnection<'_>,
    place: Place,
    bytes: u64,
    path: &str,
) -> Answer {
    put(path, &connection.token(place, bytes).to_string()).send(world.address).await
}

async fn objects_go_in_and_out(address: SocketAddr, user: (&str, &str), bucket: &str, sizes: &[usize]) {
    let client = client(address, user, 80 << 20);
    let connection = client.connect().await.unwrap();
    for &size in sizes {
        let bytes = pattern(size as u64 + 1, size);
        let http = async |key: &str| {
            let answer = Call::new("GET", &format!("/{bucket}/{key}"), user).send(address).await;
            assert_eq!(answer.status, StatusCode::OK, "{key}");
            answer.body.unwrap().to_vec()
        };
        let body = memory(&client, &bytes).await;
        let connected = format!("connected-{size}");
        let stored =
            connection.put_object(bucket, &connected, &body, &[("x-amz-meta-of", "me")]).await.unwrap();
        assert_eq!(
            (&stored.headers["x-amz-rdma-reply"], stored.headers["content-length"].to_str().unwrap()),
            (&"200".parse().unwrap(), "0")
        );
        assert!(stored.headers["x-tenfour-transport"].to_str().unwrap().starts_with("http+verbs"));
        assert!(stored.headers.contains_key("x-amz-checksum-crc64nvme"));
        assert!(http(&connected).await == bytes, "{connected} over HTTP");
        let agreed = format!("agreed/{size} of ä");
        let stored_again = client.put_agreed((bucket, &agreed), None, &body).await.unwrap();
        assert_eq!(stored_again.etag, stored.etag);
        let path = format!("agreed/{size}%20of%20%C3%A4");
        assert!(http(&path).await == bytes, "{agreed} over HTTP");
        drop(body);
        // Out again, each by the other way.
        let into = client.buffer(size + 7).await.unwrap();
        let read =
            connection.get_object(bucket, &agreed, into, None).await.map_err(|(_, error)| error).unwrap();
        assert!(read.bytes == size && read.buffer[..size] == bytes, "{agreed}");
        assert_eq!(read.headers["content-length"], "0");
        assert_eq!(read.headers["x-amz-rdma-reply"], "200");
        let into = {
            let mut whole = read.buffer;
            whole.truncate(size);
            whole
        };
        let read =
            client.get_agreed((bucket, &connected), into, 0).await.map_err(|(_, error)| error).unwrap();
        assert!(read.bytes == size && read.buffer[..] == bytes, "{connected}");
        let read = connection.get_object(bucket, &connected, read.buffer, Some(0..1)).await;
        let read = read.map_err(|(_, error)| error).unwrap();
        assert_eq!((read.bytes, read.buffer[0]), (1, bytes[0]));
        assert_eq!(read.headers["x-amz-rdma-reply"], "206");
        assert_eq!(read.headers["x-amz-meta-of"], "me");
        assert_eq!(read.headers["content-range"], format!("bytes 0-0/{size}"));
        println!("{size} bytes went both ways in both shapes");
    }
    connection.disconnect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an RDMA device: tools/with-rxe"]
async fn objects_of_every_size_go_both_ways_in_both_shapes() {
    soon(async {
        let world = start(tokens()).await;
        objects_go_in_and_out(world.address, ALICE, "photos", &[1, 4 << 10, 1 << 20, 32 << 20]).await;
        is_empty_again(&world).await;
        world.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an RDMA device: tools/with-rxe"]
async fn a_real_cluster_stores_what_came_by_rdma() {
    slowness();
    soon(async {
        let cluster = Cluster::start(14, 1).await;
        let gateway = cluster.gateway().await;
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = HttpConfig { listen, tokens: tokens(), ..HttpConfig::default() };
        let server = open_http(gateway.clone(), config).await.unwrap();
        let address = server.at;
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.serve(async move {
            let _ = stopped.await;
        }));
        let free_before = gateway.free_bytes();
        objects_go_in_and_out(address, ("root", "secret"), "bucket", &[1, 4 << 10, 1 << 20, 32 << 20]).await;
        let counted =
            |name: &str| gateway.counters().all().into_iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!((counted("rdma_token_puts"), counted("rdma_token_gets")), (8, 12));
        assert_eq!((counted("rdma_token_declined"), counted("rdma_token_failed")), (0, 0));
        assert!(gateway.free_bytes() >= free_before, "the pipelines' memory is back");
        let _ = stop.send(());
        running.await.unwrap();
        gateway.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an RDMA device: tools/with-rxe"]
async fn ranges_checksums_conditions_and_parts_are_those_of_s3() {
    soon(async {
        let world = start(tokens()).await;
        let client = client(world.address, ALICE, 32 << 20);
        let connection = client.connect().await.unwrap();
        let bytes = pattern(9, 3_000_000);
        let body = memory(&client, &bytes).await;
        let crc = |value: u32| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(value.to_be_bytes())
        };
        let right = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes) as u32;
        let wrong = [
            ("x-amz-checksum-crc32c", crc(right ^ 1)),
            ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==".to_owned()),
        ];
        for (name, value) in &wrong {
            let refused = connection.put_object("photos", "k", &body, &[(name, value)]).await.unwrap_err();
            assert!(refused.to_string().contains("BadDigest"), "{refused}");
            assert_eq!(by_http(&world, "/photos/k").await, None);
        }
        let checksum = crc(right);
        let headers = [("x-amz-checksum-crc32c", checksum.as_str()), ("if-none-match", "*")];
        let stored = connection.put_object("photos", "k", &body, &headers).await.unwrap();
        assert_eq!(stored.headers["x-amz-checksum-crc32c"], checksum);
        let again = connection.put_object("photos", "k", &body, &headers).await.unwrap_err();
        assert!(again.to_string().contains("PreconditionFailed"), "{again}");
        // A range lands at the beginning of the memory, across chunks and in the last of them.
        for range in [10..20, 1_000_000..2_500_000, 2_999_990..3_000_000] {
            let (start, end) = (range.start as usize, range.end as usize);
            let into = client.buffer(end - start).await.unwrap();
            let read = connection.get_object("photos", "k", into, Some(range.clone())).await;
            let read = read.map_err(|(_, error)| error).unwrap();
            assert!(read.buffer[..read.bytes] == bytes[start..end], "{range:?}");
            let into = {
                let mut rest = read.buffer;
                rest.truncate(end - start);
                rest
            };
            let read = client
                .get_agreed(("photos", "k"), into, range.start)
                .await
                .map_err(|(_, error)| error)
                .unwrap();
            assert!(read.buffer[..] == bytes[start..end], "{range:?}, agreed on");
        }
        let code = |error: TokenCallError| error.to_string();
        let into = client.buffer(100).await.unwrap();
        let (into, error) = connection.get_object("photos", "k", into, None).await.unwrap_err();
        assert!(code(error).contains("InvalidRDMAToken"), "an object that does not fit");
        let (into, error) = connection.get_object("photos", "none", into.unwrap(), None).await.unwrap_err();
        assert!(code(error).contains("NoSuchKey"));
        let (_, error) = client.get_agreed(("photos", "k"), into.unwrap(), 2_999_999).await.unwrap_err();
        assert!(code(error).contains("InvalidRange"));
        let into = client.buffer(5).await.unwrap();
        let (_, error) = client.get_agreed(("photos", "none"), into, 0).await.unwrap_err();
        assert!(code(error).contains("NoSuchKey"));
        // An upload of a part by each way.
        let id = upload(&world, "/photos/parts").await;
        let parts = [pattern(1, 5 << 20), pattern(2, 5 << 20), pattern(3, 1000)];
        let memories = [memory(&client, &parts[0]).await, memory(&client, &parts[1]).await];
        let first = connection.upload_part(("photos", "parts"), (&id, 1), &memories[0]).await.unwrap();
        let second = client.put_agreed(("photos", "parts"), Some((&id, 2)), &memories[1]).await.unwrap();
        let third = Call::new("PUT", &format!("/photos/parts?partNumber=3&uploadId={id}"), ALICE);
        let third = ok(third.body(parts[2].clone()), &world).await;
        let tags =
            [first.etag, second.etag, third.headers["etag"].to_str().unwrap().trim_matches('"').to_owned()];
        let named: String = tags
            .iter()
            .enumerate()
            .map(|(i, tag)| format!("<Part><PartNumber>{}</PartNumber><ETag>\"{tag}\"</ETag></Part>", i + 1))
            .collect();
        let complete = Call::new("POST", &format!("/photos/parts?uploadId={id}"), ALICE);
        ok(complete.body(format!("<CompleteMultipartUpload>{named}</CompleteMultipartUpload>")), &world)
            .await;
        assert!(by_http(&world, "/photos/parts").await.unwrap() == parts.concat());
        drop((body, memories));
        connection.disconnect().await.unwrap();
        is_empty_again(&world).await;
        world.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an RDMA device: tools/with-rxe"]
async fn a_transfer_that_fails_is_500_and_leaves_the_old_object() {
    soon(async {
        let tokens = tokens();
        let counters = tokens.counters.clone();
        let world = start(tokens).await;
        ok(Call::new("PUT", "/photos/old", ALICE).body("old"), &world).await;
        let client = client(world.address, ALICE, 16 << 20);
        let bytes = pattern(4, 2 << 20);
        let body = memory(&client, &bytes).await;
        let mut failures = 0;
        // The key is another, the memory too short, or open the other way only.
        for wrong in ["key", "range", "right"] {
            let connection = client.connect().await.unwrap();
            let pair = connection.pair();
            let (place, size): (fn(Place) -> Place, u64) = match wrong {
                "right" => {
                    let exposed = pair.expose_to_write(client.buffer(bytes.len()).await.unwrap()).unwrap();
                    let answer =
                        put_with(&world, &connection, exposed.place(), bytes.len() as u64, "/photos/old")
                            .await;
                    assert_eq!(outcome(&answer), (500, "RDMATransferFailed".into(), None), "{wrong}");
                    failures += 1;
                    continue;
                }
                "key" => (|place| Place { key: place.key ^ 0x5500, ..place }, bytes.len() as u64),
                _ => (|place| place, bytes.len() as u64 + 1),
            };
            let exposed = pair.expose_to_read(body.clone()).unwrap();
            let answer = put_with(&world, &connection, place(exposed.place()), size, "/photos/old").await;
            assert_eq!(outcome(&answer), (500, "RDMATransferFailed".into(), None), "{wrong}");
            failures += 1;
            // The connection has gone with it.
            let again =
                put_with(&world, &connection, exposed.place(), bytes.len() as u64, "/photos/old").await;
            assert_eq!(outcome(&again).1, "InvalidRDMAToken");
        }
        // A GET into memory that is not open to it.
        let connection = client.connect().await.unwrap();
        let exposed = connection.pair().expose_to_read(body.clone()).unwrap();
        let token = connection.token(exposed.place(), bytes.len() as u64).to_string();
        let got = Call::new("GET", "/photos/old", ALICE).header(TOKEN, &token).send(world.address).await;
        assert_eq!(outcome(&got), (500, "RDMATransferFailed".into(), None));
        assert!(exposed.end().unwrap()[..] == bytes, "untouched");
        failures += 1;
        assert_eq!(counters.failed.load(Ordering::SeqCst), failures);
        assert_eq!(by_http(&world, "/photos/old").await.unwrap(), b"old");
        assert_eq!(world.model.counts(), (1, 0));
        // What comes after is served as if nothing had been.
        let connection = client.connect().await.unwrap();
        connection.put_object("photos", "old", &body, &[]).await.unwrap();
        assert!(by_http(&world, "/photos/old").await.unwrap() == bytes);
        connection.disconnect().await.unwrap();
        is_empty_again(&world).await;
        world.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an RDMA device: tools/with-rxe"]
async fn a_client_that_vanishes_costs_nothing_but_its_own_transfer() {
    soon(async {
        let mut tokens = tokens();
        (tokens.ready_within, tokens.written_within) =
            (Duration::from_millis(500), Duration::from_millis(500));
        tokens.idle = Duration::from_secs(2);
        let world = start(tokens).await;
        ok(Call::new("PUT", "/photos/old", ALICE).body("old"), &world).await;
        let client = client(world.address, ALICE, 24 << 20);
        let bytes = pattern(5, 8 << 20);
        let body = memory(&client, &bytes).await;
        // In mid transfer: its queue pair goes while the gateway reads.
        let connection = client.connect().await.unwrap();
        let exposed = connection.pair().expose_to_read(body.clone()).unwrap();
        let pair = connection.pair().clone();
        let vanishing = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            pair.close();
        };
        let call = put_with(&world, &connection, exposed.place(), bytes.len() as u64, "/photos/old");
        let (answer, ()) = tokio::join!(call, vanishing);
        assert_eq!(outcome(&answer), (500, "RDMATransferFailed".into(), None));
        drop(exposed);
        // Connected, and never heard of again.
        let idle = client.connect().await.unwrap();
        // Prepared, and never ready: memory that was open to it is closed and comes back.
        let gone = client.connect().await.unwrap();
        gone.pair().close();
        let prepared = Prepared::ask(&world, &client, "/photos/new", 1 << 20).await;
        assert!(world.tokens.used_bytes() >= 1 << 20);
        is_empty_again(&world).await;
        prepared.cannot_write().await;
        // Ready, and never written.
        let silent = Prepared::ask(&world, &client, "/photos/new", 1 << 20).await;
        let answer = silent.ready(&world).await;
        assert_eq!(outcome(&answer), (500, "RDMATransferFailed".into(), None));
        silent.cannot_write().await;
        drop((idle, gone));
        is_empty_again(&world).await;
        assert_eq!(by_http(&world, "/photos/old").await.unwrap(), b"old");
        assert_eq!(by_http(&world, "/photos/new").await, None);
        world.stop().await;
    })
    .await;
}

/// A transfer by hand, so that it can also be done wrongly.
struct Prepared {
    domain: ForeignDomain,
    pair: tenfour_rdma::ForeignPair,
    session: String,
    to: Place,
    bytes: usize,
}

impl Prepared {
    async fn ask(world: &World, _: &TokenClient, target: &str, bytes: usize) -> Self {
        let domain = ForeignDomain::open(ForeignConfig {
            name: "by-hand".to_owned(),
            pool_bytes: 4 << 20,
            address: None,
            tunables: Tunables::default(),
        });
        let domain = domain.unwrap();
        let pair = domain.queue_pair(Admits::Everything, None).unwrap();
        let local = pair.local();
        let token =
            tenfour_types::rdma_token::QueuePairToken::of(local.number, local.gid, local.port, local.lid);
        let call = Call::new("POST", "/.hipobj-rc/prepare", ALICE)
            .header("content-length", "0")
            .header("x-amz-rdma-protocol", "hipobj-rc-v2")
            .header(TOKEN, &token.to_string())
            .header("x-amz-rdma-psn", &format!("{:06x}", local.psn))
            .header("x-amz-rdma-cookie", "0000c00c")
            .header("x-amz-rdma-op", "PUT")
            .header("x-amz-rdma-target", target)
            .header("x-amz-rdma-size", &bytes.to_string());
        let answer = ok(call, world).await;
        let text = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
        let number = |name: &str| u64::from_str_radix(&text(name), 16).unwrap();
        let server: tenfour_types::rdma_token::QueuePairToken =
            text("x-amz-rdma-reply").strip_prefix("200:").unwrap().parse().unwrap();
        assert_eq!(u64::from(server.number), number("x-amz-rdma-qpn"));
        let peer = PairAddress {
            number: server.number,
            gid: server.gid,
            psn: number("x-amz-rdma-psn") as u32,
            port: server.port,
            lid: server.lid,
        };
        pair.connect(peer).await.unwrap();
        let to = Place { address: number("x-amz-rdma-mr-addr"), key: number("x-amz-rdma-mr-rkey") as u32 };
        Self { domain, pair, session: text("x-amz-rdma-session"), to, bytes }
    }

    async fn ready(&self, world: &World) -> Answer {
        self.ready_call("0000c00c").send(world.address).await
    }

    fn ready_call(&self, cookie: &str) -> Call {
        Call::new("POST", "/.hipobj-rc/ready", ALICE)
            .header("content-length", "0")
            .header("x-amz-rdma-protocol", "hipobj-rc-v2")
            .header("x-amz-rdma-session", &self.session)
            .header("x-amz-rdma-cookie", cookie)
            .header("x-amz-rdma-qpn", &format!("{:x}", self.pair.local().number))
    }

    async fn write(&self, bytes: usize, to: Place, immediate: Option<u32>) -> Result<(), OperationError> {
        let mut buffer = self.domain.pool().try_lease(bytes).unwrap();
        buffer.fill(7);
        self.pair.post_write(buffer.freeze(), to, immediate).await?.done().await
    }

    async fn cannot_write(&self) {
        assert!(self.write(self.bytes, self.to, Some(0xc00c)).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an RDMA device: tools/with-rxe"]
async fn memory_that_a_client_may_write_is_its_own_and_exactly_so_long() {
    soon(async {
        let world = start(TokenConfig { ready_within: Duration::from_secs(2), ..tokens() }).await;
        let client = client(world.address, ALICE, 4 << 20);
        let size = 8192;
        let failing = async |wrong: &str| {
            let prepared = Prepared::ask(&world, &client, "/photos/k", size).await;
            let other = Prepared::ask(&world, &client, "/photos/other", size).await;
            let ready = prepared.ready_call("0000c00c");
            let address = world.address;
            let answering = tokio::spawn(async move { ready.send(address).await });
            tokio::time::sleep(Duration::from_millis(100) * slowness()).await;
            let to = prepared.to;
            let written = match wrong {
                "beyond the end" => {
                    prepared.write(size, Place { address: to.address + 1, ..to }, Some(0xc00c)).await
                }
                "another's memory" => prepared.write(size, other.to, Some(0xc00c)).await,
                "too short" => prepared.write(size - 1, to, Some(0xc00c)).await,
                "without the cookie" => prepared.write(size, to, Some(0xbad)).await,
                _ => panic!("{wrong}"),
            };
            let is_access = ["beyond the end", "another's memory"].contains(&wrong);
            assert_eq!(written.is_err(), is_access, "{wrong}: {written:?}");
            if is_access {
                assert_eq!(written, Err(OperationError::RemoteAccess), "{wrong}");
            }
            let answer = answering.await.unwrap();
            assert_eq!(outcome(&answer), (500, "RDMATransferFailed".into(), None), "{wrong}");
            assert_eq!(by_http(&world, "/photos/k").await, None, "{wrong}");
            prepared.cannot_write().await;
        };
        for wrong in ["beyond the end", "another's memory", "too short", "without the cookie"] {
            failing(wrong).await;
        }
        // A wrong cookie ends it before a byte is written; somebody else finds nothing there.
        let prepared = Prepared::ask(&world, &client, "/photos/k", size).await;
        let stolen = Call { user: (BOB.0.into(), BOB.1.into()), ..prepared.ready_call("0000c00c") };
        assert_eq!(outcome(&stolen.send(world.address).await), (404, "NoSuchRDMASession".into(), None));
        assert_eq!(outcome(&prepared.ready_call("deadbeef").send(world.address).await).1, "AccessDenied");
        assert_eq!(outcome(&prepared.ready(&world).await), (404, "NoSuchRDMASession".into(), None));
        prepared.cannot_write().await;
        // In order: written, stored, and closed.
        let prepared = Prepared::ask(&world, &client, "/photos/k", size).await;
        let (ready, address) = (prepared.ready_call("0000c00c"), world.address);
        let answering = tokio::spawn(async move { ready.send(address).await });
        tokio::time::sleep(Duration::from_millis(100) * slowness()).await;
        prepared.write(size, prepared.to, Some(0xc00c)).await.unwrap();
        let answer = answering.await.unwrap();
        assert_eq!(
            (answer.status, &answer.headers["x-amz-rdma-cookie"]),
            (StatusCode::OK, &"0000c00c".parse().unwrap())
        );
        assert_eq!(answer.headers["x-amz-rdma-bytes-transferred"], "8192");
        assert_eq!(by_http(&world, "/photos/k").await.unwrap(), vec![7; size]);
        prepared.cannot_write().await;
        // Others that were prepared meanwhile are given up.
        is_empty_again(&world).await;
        world.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an RDMA device: tools/with-rxe"]
async fn sessions_are_their_users_and_bounded_and_so_is_memory() {
    soon(async {
        let mut tokens = tokens();
        (tokens.sessions_max, tokens.memory_bytes) = (4, 2 << 20);
        let world = start(tokens).await;
        ok(Call::new("PUT", "/bobs", BOB), &world).await;
        let (alice, bob) = (client(world.address, ALICE, 4 << 20), client(world.address, BOB, 4 << 20));
        let connection = alice.connect().await.unwrap();
        let body = memory(&alice, &pattern(6, 4096)).await;
        let exposed = connection.pair().expose_to_read(body.clone()).unwrap();
        let token = connection.token(exposed.place(), 4096).to_string();
        let stolen = Call { user: (BOB.0.into(), BOB.1.into()), ..put("/bobs/k", &token) };
        assert_eq!(outcome(&stolen.send(world.address).await), (400, "InvalidRDMAToken".into(), None));
        drop(exposed);
        // More than one transfer may have, and more than is left.
        let refused =
            alice.put_agreed(("photos", "k"), None, &memory(&alice, &vec![1; (1 << 20) + 1]).await).await;
        assert!(refused.unwrap_err().to_string().contains("EntityTooLarge"));
        let more =
            [alice.connect().await.unwrap(), alice.connect().await.unwrap(), alice.connect().await.unwrap()];
        let Err(refused) = bob.connect().await else { panic!("a fifth session") };
        assert!(refused.to_string().contains("SlowDown") && refused.is_retryable(), "{refused}");
        for connection in more {
            connection.disconnect().await.unwrap();
        }
        // Objects larger than all the memory there is go through it in chunks.
        let bytes = pattern(8, 3 << 20);
        let body = memory(&alice, &bytes).await;
        connection.put_object("photos", "large", &body, &[]).await.unwrap();
        assert!(by_http(&world, "/photos/large").await.unwrap() == bytes);
        connection.disconnect().await.unwrap();
        let bobs = bob.connect().await.unwrap();
        bobs.disconnect().await.unwrap();
        is_empty_again(&world).await;
        world.stop().await;
    })
    .await;
}
