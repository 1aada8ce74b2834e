//! Real clients (boto3) against the HTTP front over the reference model: every operation, and every way to get it wrong.

mod support;

use std::process::{Command, Output};
use std::time::Duration;
use support::{ALICE, BOB, World};
use tokio::time::timeout;

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
