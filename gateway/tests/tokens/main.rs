//! S3 over RDMA by HTTP headers. What must be refused, and that nothing is stored then, runs everywhere; what moves bytes needs an RDMA
//! device, as the virtual machine of `tools/with-rxe` has: `tools/with-rxe -- target/release/deps/tokens-… --ignored verbs::`.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as a test may")]
#![allow(dead_code, reason = "what the tests of the pipelines and of the fronts share is used in part")]

#[path = "../pipeline/harness.rs"]
mod harness;
mod refused;
#[path = "../support/mod.rs"]
mod support;
mod verbs;

use hyper::StatusCode;
use support::client::{Answer, Call};
use support::{ALICE, World};

const TOKEN: &str = "x-amz-rdma-token";
const REPLY: &str = "x-amz-rdma-reply";
/// As cuObject sends it, 81 characters.
const DC: &str = "00007f12a4000000:00100000:0001a2b3:0000:0012ab:1:00000000000000000000ffff0a4d0001";

/// A queue pair as hipObject sends it.
fn queue_pair() -> String {
    let mut gid = [0; 16];
    gid[10..].copy_from_slice(&[0xff, 0xff, 10, 77, 0, 1]);
    tenfour_types::rdma_token::QueuePairToken::of(0x1234, gid, 1, 0).to_string()
}

async fn ok(call: Call, world: &World) -> Answer {
    let answer = call.send(world.address).await;
    assert!(answer.status.is_success(), "{} {}", answer.status, answer.text());
    answer
}

async fn with_bucket(world: World) -> World {
    ok(Call::new("PUT", "/photos", ALICE), &world).await;
    world
}

fn put(path: &str, token: &str) -> Call {
    Call::new("PUT", path, ALICE).header("content-length", "0").header(TOKEN, token)
}

/// Status, S3 code, and `x-amz-rdma-reply`.
fn outcome(answer: &Answer) -> (u16, String, Option<&str>) {
    let reply = answer.headers.get(REPLY).map(|value| value.to_str().unwrap());
    (answer.status.as_u16(), answer.code(), reply)
}

/// What plain HTTP says of an object: its bytes, or `None`.
async fn by_http(world: &World, path: &str) -> Option<Vec<u8>> {
    let answer = Call::new("GET", path, ALICE).send(world.address).await;
    match answer.status {
        StatusCode::OK => Some(answer.body.unwrap().to_vec()),
        StatusCode::NOT_FOUND => None,
        other => panic!("{other}"),
    }
}

/// An upload's id.
async fn upload(world: &World, path: &str) -> String {
    let text = ok(Call::new("POST", &format!("{path}?uploads"), ALICE), world).await.text();
    let id = text.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>"));
    id.unwrap().0.to_owned()
}
