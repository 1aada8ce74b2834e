//! What a PUT leaves behind when its gateway dies, and what happened on the disks before it was acknowledged.

mod common;

use common::{Place, Up, block_on, program};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tenfour_cli::config::{self, GatewayFile};
use tenfour_client::{ClientError, Pattern, S3};
use tenfour_gateway::points;

/// Two stripes, so that a crash can fall between them.
const OBJECT_BYTES: u64 = 11 << 20;

/// A gateway beside the cluster's own, with a point at which it dies.
struct Armed {
    child: Child,
    endpoint: String,
    file: PathBuf,
}

impl Armed {
    fn start(up: &Up, place: &Place, stop_at: &str) -> Self {
        let mut config: GatewayFile =
            config::read(&up.folder.join("gateway-1/config.toml")).expect("a configuration");
        config.name = Some("armed".to_owned());
        config.listen = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a port");
        let file = place.path().join("armed.toml");
        config::write_private(&file, &config).expect("written");
        let mut child = Command::new(program())
            .args(["gateway", "--end-with-stdin", "--config"])
            .arg(&file)
            .env("TENFOUR_STOP_AT", stop_at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a gateway");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut ready).expect("a line");
        assert_eq!(ready.trim(), "tenfour: ready");
        Self { child, endpoint: format!("http://{}", config.listen), file }
    }

    /// Waits until it has ended; whether it died by itself.
    fn died(mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if self.child.try_wait().expect("a child").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
        false
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Where the gateway dies, and what may be found afterwards.
fn crashes() -> Vec<(String, Found)> {
    let before = points::NAMES.iter().take_while(|name| **name != points::COMMITTING);
    let mut crashes: Vec<(String, Found)> = before.map(|name| ((*name).to_owned(), Found::Old)).collect();
    crashes.extend((1..=15).map(|time| (format!("{}:{time}", points::SENDING), Found::Old)));
    crashes.push((format!("{}:2", points::DURABLE), Found::Old));
    crashes.push((points::COMMITTING.to_owned(), Found::Either));
    crashes.push((points::COMMITTED.to_owned(), Found::New));
    crashes
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    Old,
    New,
    Either,
}

#[test]
fn a_gateway_that_dies_at_any_step_of_a_put_leaves_all_or_nothing() {
    let place = Place::new();
    let up = Up::start(&place, 1, &[]);
    block_on(async {
        let client = up.client(0, "crash");
        client.create_bucket().await.expect("bucket");
        for (number, (stop_at, found)) in crashes().into_iter().enumerate() {
            let (replaced, created) = (format!("replaced-{number}"), format!("created-{number}"));
            let old = Pattern::new(number as u64, 70_000);
            let new = Pattern::new(1000 + number as u64, OBJECT_BYTES);
            client.put(&replaced, old).await.expect("the first version");
            for (key, old) in [(&replaced, Some(&old)), (&created, None)] {
                let armed = Armed::start(&up, &place, &stop_at);
                let keys = &up.credentials;
                let doomed =
                    S3::new(&armed.endpoint, "us-east-1", "crash", &keys.access_key, &keys.secret_key)
                        .expect("client");
                let answer = doomed.put(key, new).await;
                assert!(answer.is_err(), "{stop_at}: acknowledged by a gateway that died before it answered");
                assert!(armed.died(), "{stop_at}: the gateway did not reach the point");
                let is_new = read(&client, key, old, &new)
                    .await
                    .unwrap_or_else(|what| panic!("{stop_at}: {key}: {what}"));
                assert!(
                    found == Found::Either || (found == Found::New) == is_new,
                    "{stop_at}: {key}: new is {is_new}, {found:?} expected"
                );
                let listed = client.list(key, None, None).await.expect("list").objects;
                let entries = |size: Option<u64>| -> Vec<(String, u64)> {
                    size.map(|size| (key.clone(), size)).into_iter().collect()
                };
                let (replaced, kept) = (entries(Some(new.len())), entries(old.map(Pattern::len)));
                // A commit that its gateway did not live to see may still be on its way between the read and the listing.
                let may_come = found == Found::Either && !is_new;
                assert!(
                    listed == if is_new { replaced.clone() } else { kept } || may_come && listed == replaced,
                    "{stop_at}: new is {is_new}, but listed is {listed:?}"
                );
            }
        }
    });
    let verify =
        Command::new(program()).args(["admin", "verify", "--data"]).arg(&up.folder).output().expect("verify");
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));
}

/// Whether the new version is there, by one read; an error when what is there is neither.
async fn read(client: &S3, key: &str, old: Option<&Pattern>, new: &Pattern) -> Result<bool, String> {
    let bytes = match client.get_bytes(key, None).await {
        Err(ClientError::Status { status, .. }) if old.is_none() && status == 404 => return Ok(false),
        found => found.map_err(|error| error.to_string())?,
    };
    let holds = |wanted: &Pattern| wanted.len() == bytes.len() as u64 && wanted.matches(0, &bytes);
    match (holds(new), old.is_some_and(holds)) {
        (true, _) => Ok(true),
        (false, true) => Ok(false),
        (false, false) => Err(format!("{} bytes that nobody stored", bytes.len())),
    }
}

/// Seen from outside, by the system calls: each of the 14 nodes has flushed between the request and the answer.
#[test]
fn fourteen_flushes_precede_the_answer() {
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "strace is missing: run ./check, which installs it");
        eprintln!("SKIPPED: strace is missing");
        return;
    }
    let place = Place::new();
    let up = Up::start(&place, 1, &[]);
    let client = up.client(0, "flushed");
    block_on(client.create_bucket()).expect("bucket");
    block_on(client.put("warm", Pattern::new(1, 5000))).expect("put");
    let nodes = up.pids("node");
    assert_eq!(nodes.len(), 14);
    for bytes in [1, 5000, 3 << 20] {
        let log = place.path().join("strace.log");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-ttt", "-q", "-e", "trace=fdatasync", "-o"]).arg(&log);
        for pid in &nodes {
            strace.args(["-p", &pid.to_string()]);
        }
        let mut strace = strace.stderr(Stdio::null()).spawn().expect("strace");
        wait_until_traced(&nodes);
        let began = now();
        block_on(client.put("traced", Pattern::new(2, bytes))).expect("put");
        let answered = now();
        Command::new("kill").args(["-INT", &strace.id().to_string()]).status().expect("kill");
        strace.wait().expect("strace");
        let told = std::fs::read_to_string(&log).expect("its log");
        let flushed = flushed_nodes(&told, &nodes, began, answered);
        assert_eq!(flushed, 14, "{bytes} bytes: nodes that flushed between {began} and {answered}:\n{told}");
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

fn wait_until_traced(pids: &[u32]) {
    let traced = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    let began = Instant::now();
    while !pids.iter().all(traced) {
        assert!(began.elapsed() < Duration::from_secs(10), "strace does not attach");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
}

/// How many of the processes have a successful fdatasync that ended in that time; a line is `thread time fdatasync(fd) = 0`.
fn flushed_nodes(log: &str, pids: &[u32], began: f64, answered: f64) -> usize {
    let flushing: Vec<u32> = log
        .lines()
        .filter(|line| line.contains("fdatasync") && line.trim_end().ends_with("= 0"))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let thread: u32 = words.next()?.parse().ok()?;
            let time: f64 = words.next()?.parse().ok()?;
            (began..=answered).contains(&time).then_some(thread)
        })
        .collect();
    let belongs =
        |thread: u32, pid: u32| std::path::Path::new(&format!("/proc/{pid}/task/{thread}")).exists();
    pids.iter().filter(|pid| flushing.iter().any(|thread| belongs(*thread, **pid))).count()
}
