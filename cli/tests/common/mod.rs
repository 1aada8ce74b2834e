//! Real clusters for tests: the binary that was just built, in a temporary folder, stopped when the test ends however it ends.

#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tenfour_cli::config::{self, Credentials};
use tenfour_client::S3;

/// How long a cluster may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// One cluster at a time: a cluster is 18 processes, and test machines are small.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The binary under test.
pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_tenfour")
}

/// A cluster that `tenfour up` runs.
pub struct Up {
    pub folder: PathBuf,
    pub credentials: Credentials,
    /// S3 endpoints, one a gateway.
    pub endpoints: Vec<String>,
    child: Child,
    /// Kept open: the cluster goes on writing.
    _stdout: BufReader<ChildStdout>,
}

/// Keeps other clusters of this test binary waiting, and holds the folder.
pub struct Place {
    _turn: MutexGuard<'static, ()>,
    folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Self { _turn: turn, folder: tempfile::tempdir().expect("a temporary folder") }
    }
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Up {
    /// Starts a cluster in `place`; the same place again is the same cluster.
    pub fn start(place: &Place, gateways: u16, more: &[&str]) -> Self {
        Self::try_start(place, gateways, more, &[])
            .unwrap_or_else(|text| panic!("the cluster did not start: {text}"))
    }

    /// Starts it with variables in its environment, which its processes inherit.
    pub fn try_start(
        place: &Place,
        gateways: u16,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Self, String> {
        let folder = place.path().join("data");
        let ports = free_ports(gateways);
        let mut child = Command::new(program())
            .args(["up", "--end-with-stdin", "--segment", "8MiB", "--data"])
            .arg(&folder)
            .args(["--s3", &format!("127.0.0.1:{ports}"), "--gateways", &gateways.to_string()])
            .args(more)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(place.path().join("up.log")).map_err(|error| error.to_string())?)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let is_up =
            stdout.by_ref().lines().map_while(Result::ok).any(|line| line.starts_with("tenfour is up"));
        if !is_up {
            child.wait().map_err(|error| error.to_string())?;
            return std::fs::read_to_string(place.path().join("up.log"))
                .map_or_else(|error| Err(error.to_string()), Err);
        }
        let credentials = config::read(&folder.join("credentials")).map_err(|error| error.to_string())?;
        let endpoints = (0..gateways).map(|offset| format!("http://127.0.0.1:{}", ports + offset)).collect();
        Ok(Self { folder, credentials, endpoints, child, _stdout: stdout })
    }

    pub fn client(&self, gateway: usize, bucket: &str) -> S3 {
        let keys = &self.credentials;
        S3::new(&self.endpoints[gateway], "us-east-1", bucket, &keys.access_key, &keys.secret_key)
            .expect("a client")
    }

    /// Stops it in order.
    pub fn stop(mut self) {
        self.end();
    }

    /// Process ids of this cluster by role, from /proc.
    pub fn pids(&self, role: &str) -> Vec<u32> {
        self.processes(role).into_iter().map(|(pid, _)| pid).collect()
    }

    /// The process ids of these nodes, by number.
    pub fn node_pids(&self, numbers: &[u32]) -> Vec<u32> {
        let folders: Vec<PathBuf> =
            numbers.iter().map(|number| self.folder.join(format!("node-{number:02}"))).collect();
        let is_named = |config: &Path| folders.iter().any(|folder| config.starts_with(folder));
        self.processes("node")
            .into_iter()
            .filter(|(_, config)| is_named(config))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Processes of this cluster by role, with the file that each was configured by.
    fn processes(&self, role: &str) -> Vec<(u32, PathBuf)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            let words: Vec<&str> = command.split('\0').collect();
            let config = words.get(3).map(PathBuf::from).unwrap_or_default();
            if words.get(1) == Some(&role) && config.starts_with(&self.folder) {
                found.push((pid, config));
            }
        }
        found
    }

    /// What a process has logged.
    pub fn log(&self, process: &str) -> String {
        std::fs::read_to_string(self.folder.join("logs").join(format!("{process}.log"))).unwrap_or_default()
    }

    fn end(&mut self) {
        drop(self.child.stdin.take());
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            for log in std::fs::read_dir(self.folder.join("logs")).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(8).collect();
                eprintln!(
                    "--- {}\n{}",
                    log.path().display(),
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
        }
    }
}

/// The first of so many free ports in a row.
pub fn free_ports(count: u16) -> u16 {
    (0..1000)
        .map(|_| rand::random_range(10_000..19_000u16))
        .find(|first| (0..count).all(|offset| TcpListener::bind(("127.0.0.1", first + offset)).is_ok()))
        .expect("free ports")
}

/// Runs `future` to its end, on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// A program of the Python environment that `./check` sets up, or `None` with a loud word when it is not there.
pub fn python_tool(name: &str) -> Option<PathBuf> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin").join(name);
    if tool.exists() {
        return Some(tool);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is missing: run ./check, which installs it",
        tool.display()
    );
    eprintln!("SKIPPED: {} is missing: run ./check, which installs it", tool.display());
    None
}
