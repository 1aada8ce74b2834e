//! The HTTP front over a real gateway, real nodes and real metadata replicas, all in this process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "what the tests of the pipelines and of the front share is used in part")]

#[path = "support/client.rs"]
mod client;
#[path = "pipeline/harness.rs"]
mod harness;

use client::Call;
use harness::{Cluster, pattern};
use hyper::StatusCode;
use std::net::SocketAddr;
use tenfour_gateway::doors::open_http;
use tenfour_gateway::http::HttpConfig;
use tokio::sync::oneshot;

const ROOT: (&str, &str) = ("root", "secret");

async fn ok(call: Call, address: SocketAddr) -> client::Answer {
    let answer = call.send(address).await;
    assert!(answer.status.is_success(), "{} {}", answer.status, answer.text());
    answer
}

/// Runs the Python clients too, when `S3_CLIENTS` is set: they take longer than a test should.
async fn python(address: SocketAddr) {
    let Ok(only) = std::env::var("S3_CLIENTS") else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3_clients.py");
    let endpoint = format!("http://{address}");
    let status = tokio::process::Command::new("python3")
        .args([script, &endpoint, ROOT.0, ROOT.1, "--only", &only])
        .status()
        .await
        .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_survive_the_loss_of_four_nodes_over_http() {
    let mut cluster = Cluster::start(14, 1).await;
    let gateway = cluster.gateway().await;
    let config = HttpConfig { listen: "127.0.0.1:0".parse().unwrap(), ..HttpConfig::default() };
    let server = open_http(gateway.clone(), config).await.unwrap();
    let address = server.at;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.serve(async move {
        let _ = stopped.await;
    }));
    ok(Call::new("PUT", "/photos", ROOT), address).await;
    let body = pattern(1, 11_000_000);
    for key in ["/photos/large", "/photos/empty", "/photos/small"] {
        let bytes = if key.ends_with("large") {
            body.clone()
        } else {
            body[..usize::from(key.ends_with("small"))].to_vec()
        };
        let call = Call::new("PUT", key, ROOT).header("content-length", &bytes.len().to_string()).body(bytes);
        ok(call, address).await;
    }
    python(address).await;
    let listed = ok(Call::new("GET", "/photos?list-type=2", ROOT), address).await.text();
    assert!(listed.contains("<KeyCount>3</KeyCount>") && listed.contains("<Key>large</Key>"), "{listed}");
    for id in [0, 3, 7, 13] {
        cluster.stop_node(id).await;
    }
    let got = ok(Call::new("GET", "/photos/large", ROOT), address).await;
    assert!(got.body.unwrap() == body, "the same bytes");
    let part = Call::new("GET", "/photos/large", ROOT).header("range", "bytes=10485750-10485770");
    let part = ok(part, address).await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.body.unwrap(), body[10_485_750..10_485_771]);
    let copy = Call::new("PUT", "/photos/copy", ROOT).header("x-amz-copy-source", "/photos/large");
    ok(copy, address).await;
    assert!(ok(Call::new("GET", "/photos/copy", ROOT), address).await.body.unwrap() == body);
    for key in ["/photos/large", "/photos/empty", "/photos/small", "/photos/copy", "/photos"] {
        ok(Call::new("DELETE", key, ROOT), address).await;
    }
    let gone = Call::new("GET", "/photos/large", ROOT).send(address).await;
    assert_eq!((gone.status, gone.code().as_str()), (StatusCode::NOT_FOUND, "NoSuchBucket"));
    let _ = stop.send(());
    running.await.unwrap();
    gateway.shutdown().await;
}
