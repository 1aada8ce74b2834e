//! The benchmarks of RDMA, as an operator runs them: they print their tables, and what they read is what was stored.

mod common;

use common::{Place, Up, free_ports, program};
use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> (String, Output) {
    let output = Command::new(program()).arg("bench").args(arguments).output().expect("bench");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output)
}

fn succeeded(arguments: &[&str]) -> String {
    let (text, output) = bench(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn the_fabric_is_measured_on_shm_and_tcp() {
    let text = succeeded(&["fabric", "--fabric", "shm,tcp", "--sizes", "4KiB", "--milliseconds", "50"]);
    for kind in ["WRITE", "WRITE+imm", "READ", "SEND", "grant"] {
        for fabric in ["shm", "tcp"] {
            let is_row = |line: &str| line.split_whitespace().take(3).eq([fabric, "event", kind]);
            assert!(text.lines().any(is_row), "{fabric} {kind}: {text}");
        }
    }
}

#[test]
fn s3_over_rdma_is_measured_beside_http() {
    let place = Place::new();
    let rdma = format!("127.0.0.1:{}", free_ports(1));
    let up = Up::start(&place, 1, &["--nodes", "3", "--timeout-scale", "2", "--rdma", &rdma]);
    let (folder, json) = (up.folder.display().to_string(), place.path().join("rows.json"));
    let json_file = json.display().to_string();
    let options = ["--concurrency", "2", "--seconds", "1", "--rounds", "2", "--json", &json_file];
    let text = succeeded(&[&["rdma", "--data", &folder, "--fabric", "shm,tcp"], &options[..]].concat());
    assert!(text.contains("native / http") && text.contains("where the time goes"), "{text}");
    let rows: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).expect("rows")).expect("JSON");
    let rows = rows["rows"].as_array().expect("rows");
    for operation in ["PUT", "GET"] {
        for bytes in [4 << 10, 1 << 20] {
            for over in ["http", "shm", "tcp"] {
                let row = rows.iter().find(|row| {
                    row["operation"] == operation && row["object_bytes"] == bytes && row["over"] == over
                });
                let row = row.unwrap_or_else(|| panic!("{operation} {bytes} {over}: {text}"));
                assert_eq!(row["failures"], 0);
                for positive in ["operations_per_second", "p50_us", "client_and_gateway_cpu_us_per_operation"]
                {
                    assert!(row[positive].as_f64().is_some_and(|value| value > 0.0), "{positive}: {row}");
                }
                let breakdown = &row["breakdown"];
                assert!(breakdown["metadata_us"].as_f64().is_some_and(|us| us > 0.0), "{row}");
                assert!(breakdown["nodes_us"].as_f64().is_some_and(|us| us > 0.0), "{row}");
                let copy_us = breakdown["copy_us"].as_f64();
                assert_eq!(copy_us.is_some_and(|us| us > 0.0), operation == "PUT", "{row}");
                assert!(
                    copy_us.is_some() || breakdown["copy_us"].is_null(),
                    "not counted, not nothing: {row}"
                );
            }
        }
    }
    // By hand, as for a gateway of another machine.
    let endpoint = format!("tcp:{rdma}");
    let keys = ["--access-key", &up.credentials.access_key, "--secret-key", &up.credentials.secret_key];
    let named = ["rdma", "--at", &endpoint, "--endpoint", &up.endpoints[0], "--sizes", "1B"];
    let text =
        succeeded(&[&named[..], &keys, &["--concurrency", "1", "--seconds", "1", "--rounds", "1"]].concat());
    assert!(text.contains("native / http"), "{text}");
    let wrong = bench(&["rdma", "--data", &folder, "--fabric", "verbs"]).1;
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("--fabric verbs"));
    up.stop();
}

#[test]
fn what_is_missing_is_said() {
    let stderr = |arguments: &[&str]| {
        let output = bench(arguments).1;
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(stderr(&["rdma"]).contains("--data DIR"));
    assert!(stderr(&["rdma", "--data", "/nowhere"]).contains("holds no cluster"));
    assert!(stderr(&["rdma", "--data", "/nowhere", "--sizes", "1GiB"]).contains("64MiB at most"));
    let short = stderr(&["rdma", "--data", "/nowhere", "--seconds", "6", "--rounds", "1000"]);
    assert!(short.contains("slices of 6 ms") && short.contains("500 ms or more"), "{short}");
}
