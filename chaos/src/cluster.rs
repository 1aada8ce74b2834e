//! A cluster of processes, started by `tenfour up` and found again by what `/proc` says of them.
//!
//! `up` starts again what dies, so that a kill needs no second step. Whatever happens here, closing its standard input ends all of it.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// How long a start or an orderly stop may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// The root user's keys.
pub const KEYS: (&str, &str) = ("chaos-harness", "chaos-harness-secret");
/// The kinds of processes, as they are called on the command line.
const ROLES: [&str; 3] = ["meta", "node", "gateway"];

/// What to start.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// The binary.
    pub program: PathBuf,
    /// Node processes.
    pub nodes: u32,
    /// Gateway processes.
    pub gateways: u16,
}

/// A cluster that runs.
pub struct Cluster {
    /// Where its data and logs are.
    pub folder: PathBuf,
    /// S3 over HTTP, one a gateway.
    pub http: Vec<String>,
    /// S3 over RDMA, one a gateway: the first by TCP, the next by shared memory, and so on in turn.
    pub rdma: Vec<String>,
    log: PathBuf,
    child: Child,
    /// Kept open: the cluster goes on writing.
    _stdout: BufReader<ChildStdout>,
}

impl Cluster {
    /// Starts one in `folder`, which is created, and waits until it serves.
    pub async fn start(folder: &Path, wishes: &Wishes) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let (data, log) = (folder.join("cluster"), folder.join("up.log"));
        let (s3, rdma) = (free_ports(wishes.gateways)?, free_ports(wishes.gateways)?);
        let mut child = Command::new(&wishes.program)
            .args(["up", "--end-with-stdin", "--segment", "8MiB", "--data"])
            .arg(&data)
            .args(["--s3", &format!("127.0.0.1:{s3}"), "--rdma", &format!("127.0.0.1:{rdma}")])
            .args(["--nodes", &wishes.nodes.to_string(), "--gateways", &wishes.gateways.to_string()])
            .env("TENFOUR_ACCESS_KEY", KEYS.0)
            .env("TENFOUR_SECRET_KEY", KEYS.1)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", wishes.program.display()))?;
        let mut stdout = BufReader::new(child.stdout.take().context("its output was piped")?);
        let places = timeout(PATIENCE, welcome(&mut stdout)).await.context("the cluster does not start")?;
        let Some(places) = places else {
            let told = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the cluster did not start: {}", told.trim());
        };
        let of =
            |kind: &str| places.iter().filter(|place| place.starts_with(kind)).cloned().collect::<Vec<_>>();
        let (http, tcp, shm) = (of("http:"), of("tcp:"), of("shm:"));
        let by_turns = tcp.iter().zip(&shm).enumerate();
        let rdma = by_turns.map(|(turn, (tcp, shm))| if turn % 2 == 0 { tcp } else { shm }.clone()).collect();
        Ok(Self { folder: data, http, rdma, log, child, _stdout: stdout })
    }

    /// The processes that run, by name.
    pub fn pids(&self) -> BTreeMap<String, i32> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let command = String::from_utf8_lossy(&command).into_owned();
                let words: Vec<&str> = command.split('\0').collect();
                let (role, config) = (words.get(1)?, Path::new(words.get(3)?));
                let name = config.parent()?.strip_prefix(&self.folder).ok()?;
                ROLES.contains(role).then(|| (name.display().to_string(), pid))
            })
            .collect()
    }

    /// What ended that its supervisor noticed: the lines that it logged.
    pub fn ends(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("a process ended")).map(str::to_owned).collect()
    }

    /// The log of each process, by name.
    pub fn logs(&self) -> BTreeMap<String, String> {
        let entries = std::fs::read_dir(self.folder.join("logs")).into_iter().flatten().flatten();
        let name = |path: &Path| path.file_stem().map(|name| name.to_string_lossy().into_owned());
        let read = |path: PathBuf| Some((name(&path)?, std::fs::read_to_string(&path).ok()?));
        entries.filter_map(|entry| read(entry.path())).collect()
    }

    /// Stops all of it in order; what does not end in time is killed.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            self.child.kill().await?;
            bail!("the cluster did not stop within {} s", PATIENCE.as_secs());
        }
        Ok(())
    }
}

/// Reads what `up` prints when it serves: the places where it does. Nothing when it ended before.
async fn welcome(stdout: &mut BufReader<ChildStdout>) -> Option<Vec<String>> {
    let mut places = Vec::new();
    let mut lines = stdout.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with("  S3 ") || line.starts_with("  over RDMA ") {
            places.extend(line.split_whitespace().filter(|word| word.contains(':')).map(str::to_owned));
        }
        if line.starts_with("  data ") {
            return Some(places);
        }
    }
    None
}

/// The first of so many free ports in a row.
fn free_ports(count: u16) -> Result<u16> {
    let is_free =
        |first: &u16| (0..count).all(|offset| TcpListener::bind(("127.0.0.1", first + offset)).is_ok());
    let mut tries = (0..1000).map(|_| rand::random_range(10_000..19_000u16));
    tries.find(is_free).context("there are no free ports")
}
