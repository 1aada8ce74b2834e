//! A node's folder is lost: its shards are made anew without anybody's doing, and they are real.

mod common;

use common::{Place, Up, block_on, program};
use std::process::Command;
use std::time::{Duration, Instant};
use tenfour_client::Pattern;

/// One wiped node of 14 is back to full width within this.
const HEALED_WITHIN: Duration = Duration::from_secs(90);
const OBJECTS: u64 = 24;

/// From an empty object to one of several stripes.
fn objects() -> Vec<(String, Pattern)> {
    (0..OBJECTS)
        .map(|number| {
            let bytes = [0, 1, 5_000, 70_000, 600_000, 3 << 20, 11 << 20][(number % 7) as usize] + number;
            (format!("object-{number}"), Pattern::new(number, bytes))
        })
        .collect()
}

fn status(up: &Up) -> serde_json::Value {
    let output = Command::new(program())
        .args(["status", "--json", "--data"])
        .arg(&up.folder)
        .output()
        .expect("the status");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn is_full(status: &serde_json::Value) -> bool {
    status["groups"] == status["groups_at_full_width"] && status["stripes_below_full_width"] == 0
}

fn wait_until(up: &Up, what: &str, holds: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let began = Instant::now();
    loop {
        let status = status(up);
        if holds(&status) {
            return status;
        }
        assert!(began.elapsed() < HEALED_WITHIN, "{what}: not after {HEALED_WITHIN:?}: {status:#}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn a_wiped_node_is_made_whole_unasked_and_four_others_may_die_then() {
    let place = Place::new();
    let up = Up::start(&place, 1, &[]);
    let client = up.client(0, "healed");
    block_on(async {
        client.create_bucket().await.expect("bucket");
        for (key, pattern) in objects() {
            client.put(&key, pattern).await.expect(&key);
        }
    });
    let before = wait_until(&up, "at first", is_full);
    std::fs::remove_dir_all(up.folder.join("node-05/target")).expect("wiped");
    wait_until(&up, "the loss is noticed", |status| {
        status["stripes_below_full_width"].as_u64() > Some(0) && status["worst_stripe_survives"] == 3
            || status["repair"]["shards_rebuilt"].as_u64() > Some(0)
    });
    let after = wait_until(&up, "healed", is_full);
    assert!(after["epoch"].as_u64() > before["epoch"].as_u64());
    assert!(after["repair"]["shards_rebuilt"].as_u64() > Some(0), "{after:#}");
    let verify = Command::new(program()).args(["admin", "verify", "--data"]).arg(&up.folder).output();
    let verify = verify.expect("verify");
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));

    // Without what was made anew, ten shards of a stripe would not be left.
    let stopped: Vec<u32> = up.node_pids(&[1, 2, 3, 4]);
    assert_eq!(stopped.len(), 4);
    signal(&stopped, "-STOP");
    block_on(async {
        for (key, pattern) in objects() {
            client.get_compare(&key, &pattern).await.expect(&key);
        }
    });
    signal(&stopped, "-CONT");
}

fn signal(pids: &[u32], which: &str) {
    let pids = pids.iter().map(u32::to_string);
    let status = Command::new("kill").arg(which).args(pids).status().expect("kill");
    assert!(status.success());
}
