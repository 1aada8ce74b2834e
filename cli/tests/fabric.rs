//! The choice of transport, as an operator and a client see it.

mod common;

use common::{Place, Up, block_on, program};
use std::process::Command;
use tenfour_client::Pattern;

fn transport_of(up: &Up, key: &str) -> String {
    let client = up.client(0, "moved");
    let answer = block_on(async move { client.get(key, None).await.expect("get") });
    answer.headers()["x-tenfour-transport"].to_str().expect("text").to_owned()
}

fn store(up: &Up, key: &str) {
    let client = up.client(0, "moved");
    block_on(async {
        // There after a restart.
        let _ = client.create_bucket().await;
        client.put(key, Pattern::new(4, 200_000)).await.expect("put");
        client.get_compare(key, &Pattern::new(4, 200_000)).await.expect("the same");
    });
}

fn status(up: &Up) -> serde_json::Value {
    let output = Command::new(program()).args(["status", "--json", "--data"]).arg(&up.folder).output();
    serde_json::from_slice(&output.expect("status").stdout).expect("JSON")
}

/// `auto` is shared memory on one machine; the same cluster serves over TCP when that is named, and then never otherwise.
#[test]
fn what_moved_a_request_is_told() {
    let place = Place::new();
    for (fabric, others) in [("auto", "tcp"), ("tcp", "shm")] {
        let carried = if fabric == "auto" { "shm" } else { fabric };
        let up = Up::start(&place, 1, &["--nodes", "3", "--fabric", fabric, "--timeout-scale", "2"]);
        store(&up, "object");
        assert_eq!(transport_of(&up, "object"), format!("http; fabric={carried}"));
        let counters = &status(&up)["gateways"];
        let count = |name: String| counters[name].as_u64().expect("a counter");
        assert!(count(format!("{carried}_stored_shards")) >= 14, "{counters}");
        assert!(
            count(format!("{carried}_fetched_bytes")) > 0 && count("encode_times".to_owned()) > 0,
            "{counters}"
        );
        assert_eq!(count(format!("{others}_stored_shards")), 0);
        up.stop();
    }
}

#[test]
fn what_cannot_be_had_is_said_before_anything_starts() {
    let place = Place::new();
    let up = |arguments: &[&str]| {
        let data = place.path().join("never");
        let output =
            Command::new(program()).args(["up", "--data"]).arg(&data).args(arguments).output().expect("up");
        assert!(!output.status.success() && !data.exists(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(up(&["--fabric", "infiniband"]).contains("it is auto, verbs, shm or tcp"));
    assert!(up(&["--timeout-scale", "0"]).contains("between 0.1 and 1000"));
    let told = up(&["--fabric", "verbs"]);
    assert!(told.contains("fabric = verbs: ") || told.contains("--node-addresses"), "{told}");
}
