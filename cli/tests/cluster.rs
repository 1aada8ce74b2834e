//! Whole clusters, driven from outside: S3 clients, two gateways, restarts, the demo, bad starts.

mod common;

use common::{Place, Up, block_on, program, python_tool};
use std::path::Path;
use std::process::{Command, Output};
use tenfour_client::{ClientError, Pattern};

#[test]
fn the_demo_in_small() {
    let _place = Place::new();
    let output =
        Command::new(program()).args(["demo", "--small", "--seed", "104"]).output().expect("the demo");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("4 of 14 nodes killed") && !told.contains('✘'), "{told}");
}

#[test]
fn everything_is_there_after_a_restart() {
    let place = Place::new();
    let objects: Vec<(String, Pattern)> = [0, 1, 3904, 3905, 100_000, 10 << 20, (10 << 20) + 1, 25 << 20]
        .map(|len| (format!("object-{len}"), Pattern::new(len, len)))
        .to_vec();
    let up = Up::start(&place, 1, &[]);
    block_on(async {
        let client = up.client(0, "kept");
        client.create_bucket().await.expect("bucket");
        for (key, pattern) in &objects {
            client.put(key, *pattern).await.expect(key);
        }
        client.put("replaced", Pattern::new(1, 1000)).await.expect("put");
        client.put("replaced", Pattern::new(2, 2000)).await.expect("put");
        client.put("deleted", Pattern::new(3, 3000)).await.expect("put");
        client.delete("deleted").await.expect("delete");
    });
    let keys = up.credentials.clone();
    up.stop();
    let up = Up::start(&place, 1, &[]);
    assert_eq!(up.credentials.secret_key, keys.secret_key);
    block_on(async {
        let client = up.client(0, "kept");
        for (key, pattern) in &objects {
            client.get_compare(key, pattern).await.expect(key);
        }
        client.get_compare("replaced", &Pattern::new(2, 2000)).await.expect("the second version");
        assert!(
            matches!(client.get_bytes("deleted", None).await, Err(ClientError::Status { status, .. }) if status == 404)
        );
        assert_eq!(client.list("", None, None).await.expect("list").objects.len(), objects.len() + 1);
    });
}

#[test]
fn two_gateways_read_each_others_writes_at_once() {
    let place = Place::new();
    let up = Up::start(&place, 2, &[]);
    block_on(async {
        let clients = [up.client(0, "shared"), up.client(1, "shared")];
        clients[0].create_bucket().await.expect("bucket");
        for round in 0..100u64 {
            let (writer, reader) = (&clients[(round % 2) as usize], &clients[(1 - round % 2) as usize]);
            let pattern = Pattern::new(round, 1 + round * 37 % 9000);
            writer.put("hot", pattern).await.expect("put");
            reader.get_compare("hot", &pattern).await.expect("the other gateway sees what was acknowledged");
            let listed = reader.list("hot", None, None).await.expect("list");
            assert_eq!(listed.objects, [("hot".to_owned(), pattern.len())]);
            if round % 10 == 9 {
                reader.delete("hot").await.expect("delete");
                assert!(writer.get_bytes("hot", None).await.is_err(), "the other gateway sees the deletion");
            }
        }
    });
}

#[test]
fn unmodified_s3_clients() {
    let (Some(python), Some(aws)) = (python_tool("python"), python_tool("aws")) else { return };
    let place = Place::new();
    let up = Up::start(&place, 1, &[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/tests/s3_clients.py");
    let keys = &up.credentials;
    let endpoint = &up.endpoints[0];
    let checked = Command::new(python)
        .arg(script)
        .args([endpoint, &keys.access_key, &keys.secret_key])
        .output()
        .expect("boto3");
    succeeded(&checked);

    let files = place.path().join("files");
    std::fs::create_dir_all(files.join("deep")).expect("folder");
    for number in 0..60u64 {
        let name = if number % 2 == 0 { format!("{number}.bin") } else { format!("deep/{number}.bin") };
        std::fs::write(files.join(name), Pattern::new(number, number * 997).to_bytes()).expect("file");
    }
    std::fs::write(place.path().join("large"), Pattern::new(9, 30 << 20).to_bytes()).expect("file");
    let s3 = |arguments: &[&str]| {
        let output = Command::new(&aws)
            .args(["--endpoint-url", endpoint, "--region", "us-east-1", "s3"])
            .args(arguments)
            .current_dir(place.path())
            .env("AWS_ACCESS_KEY_ID", &keys.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &keys.secret_key)
            .output()
            .expect("aws");
        succeeded(&output);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    s3(&["mb", "s3://work"]);
    s3(&["cp", "large", "s3://work/large"]);
    s3(&["cp", "s3://work/large", "back"]);
    assert!(std::fs::read(place.path().join("back")).expect("back") == Pattern::new(9, 30 << 20).to_bytes());
    s3(&["sync", "files", "s3://work/files"]);
    assert_eq!(s3(&["ls", "--recursive", "s3://work/files/"]).lines().count(), 60);
    s3(&["sync", "s3://work/files", "again"]);
    succeeded(
        &Command::new("diff")
            .args(["-r", "files", "again"])
            .current_dir(place.path())
            .output()
            .expect("diff"),
    );
    s3(&["rm", "--recursive", "s3://work/files/"]);
    assert_eq!(s3(&["ls", "--recursive", "s3://work/"]).lines().count(), 1);
    s3(&["rb", "--force", "s3://work"]);
}

#[test]
fn a_second_cluster_in_the_same_folder_or_on_the_same_port_is_refused() {
    let place = Place::new();
    let up = Up::start(&place, 1, &["--nodes", "3"]);
    let Err(refused) = Up::try_start(&place, 1, &[], &[]) else { panic!("two clusters in one folder") };
    assert!(refused.contains("is running in"), "{refused}");
    let port = up.endpoints[0].trim_start_matches("http://");
    let other = place.path().join("other");
    let output =
        Command::new(program()).args(["up", "--s3", port, "--data"]).arg(&other).output().expect("up");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("--s3"), "{told}");
    up.stop();
    let output = Command::new(program())
        .args(["up", "--nodes", "5", "--data"])
        .arg(place.path().join("data"))
        .output()
        .expect("up");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("3 nodes"), "{told}");
}

#[test]
fn users_own_their_buckets() {
    let place = Place::new();
    let up = Up::start(&place, 2, &["--nodes", "3"]);
    let admin = |arguments: &[&str]| {
        let output = Command::new(program())
            .arg("admin")
            .args(arguments)
            .arg("--data")
            .arg(&up.folder)
            .output()
            .expect("admin");
        succeeded(&output);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for name in ["alice", "bobby"] {
        admin(&["user", "add", name, "--access-key", name, "--secret-key", "a-secret-of-sixteen"]);
    }
    block_on(async {
        let client = |gateway: usize, user: &str, secret: &str| {
            tenfour_client::S3::new(&up.endpoints[gateway], "us-east-1", "alices", user, secret)
                .expect("client")
        };
        let denied = |result: Result<_, ClientError>| matches!(result, Err(ClientError::Status { status, .. }) if status == 403);
        let alice = client(0, "alice", "a-secret-of-sixteen");
        alice.create_bucket().await.expect("her bucket");
        alice.put("key", Pattern::new(1, 10)).await.expect("her object");
        assert!(
            denied(client(1, "bobby", "a-secret-of-sixteen").get_bytes("key", None).await),
            "another user"
        );
        assert!(
            denied(client(1, "alice", "a-secret-of-sixteeN").get_bytes("key", None).await),
            "a wrong secret"
        );
        assert!(
            denied(client(1, "nobody", "a-secret-of-sixteen").get_bytes("key", None).await),
            "an unknown user"
        );
        up.client(1, "alices").get_compare("key", &Pattern::new(1, 10)).await.expect("root");
        admin(&["user", "disable", "alice"]);
        for gateway in 0..2 {
            assert!(
                denied(client(gateway, "alice", "a-secret-of-sixteen").get_bytes("key", None).await),
                "disabled"
            );
        }
        admin(&["user", "enable", "alice"]);
        client(1, "alice", "a-secret-of-sixteen")
            .get_compare("key", &Pattern::new(1, 10))
            .await
            .expect("enabled again");
    });
}

fn succeeded(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
}
