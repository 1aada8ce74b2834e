//! One run: a cluster, its load, its faults, the reads at the end, the judgement.

use crate::check;
use crate::check::Violation;
use crate::cluster::{Cluster, KEYS, Wishes};
use crate::door::{BUCKET, Door, Versions};
use crate::faults::{all_back, inject};
use crate::history::{Action, Outcome, Record, save};
use crate::report::Run;
use crate::schedule::{Kind, Processes, plan};
use crate::workload::{Journal, Worker, keys};
use crate::{page, resources};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tenfour_client::S3;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep};

/// Metadata replicas that `tenfour up` starts.
const METAS: u32 = 3;
/// Load before the first and after the last fault.
const CALM: Duration = Duration::from_secs(4);
/// After the last fault, everything serves again within this time, or that is a violation.
const HEALED_WITHIN: Duration = Duration::from_secs(60);
/// The number of the client that reads at the end.
const READER: u16 = 1000;

/// Options of `tenfour-chaos run`.
#[derive(clap::Args, Clone, Debug)]
pub struct RunArguments {
    /// What the run is made from; drawn when absent.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// How long the load runs.
    #[arg(long, value_name = "M", default_value_t = 1.0)]
    pub minutes: f64,
    /// Nodes of the cluster.
    #[arg(long, value_name = "N", default_value_t = 14)]
    pub nodes: u32,
    /// Gateways of the cluster.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=8))]
    pub gateways: u16,
    /// Clients of each gateway over each of HTTP and RDMA.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub clients: u16,
    /// Kinds of faults; all when absent, `none` for none.
    #[arg(long, value_name = "LIST")]
    pub faults: Option<String>,
    /// Keep the history, the logs and the report here, and the cluster's data if a promise was broken.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// The binary under test [default: `tenfour` beside this one].
    #[arg(long, value_name = "FILE")]
    pub tenfour: Option<PathBuf>,
}

impl RunArguments {
    fn program(&self) -> Result<PathBuf> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("tenfour"));
        let program = self.tenfour.clone().map_or_else(beside, Ok)?;
        if !program.is_file() {
            bail!(
                "{} is not there: build it (cargo build --release), or name one with --tenfour",
                program.display()
            );
        }
        Ok(program)
    }

    fn kinds(&self) -> Result<Vec<Kind>> {
        let all = || Kind::value_variants().to_vec();
        let Some(list) = &self.faults else { return Ok(all()) };
        let kind = |name: &str| {
            Kind::from_str(name, false).map_err(|_| {
                let known: Vec<&str> = Kind::value_variants().iter().map(|kind| kind.name()).collect();
                anyhow::anyhow!("--faults: {name:?} is no fault; they are {}, or none", known.join(", "))
            })
        };
        match list.as_str() {
            "none" => Ok(Vec::new()),
            list => list.split(',').map(kind).collect(),
        }
    }
}

/// Runs; returns how many promises were broken.
pub async fn run(arguments: RunArguments) -> Result<usize> {
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    println!("seed {seed}");
    let kinds = arguments.kinds()?;
    let minutes = arguments.minutes;
    if !(0.2..=24.0 * 60.0).contains(&minutes) {
        bail!("--minutes {minutes}: between 0.2 and 1440");
    }
    let load = Duration::from_secs_f64(minutes * 60.0);
    let wishes =
        Wishes { program: arguments.program()?, nodes: arguments.nodes, gateways: arguments.gateways };
    let temporary = arguments.keep.is_none().then(tempfile::tempdir).transpose()?;
    let given = arguments.keep.as_deref();
    let folder = given.or(temporary.as_ref().map(tempfile::TempDir::path)).context("a folder")?.to_path_buf();
    let cluster = Cluster::start(&folder, &wishes).await?;
    let played = LocalSet::new().run_until(play(&cluster, &arguments, seed, load, &kinds)).await;
    let stopped = cluster.stop().await;
    let mut run = played?;
    if let Err(error) = stopped {
        run.violations.push(Violation::new("I9", format!("{error:#}")));
    }
    save(&folder.join("history.jsonl"), &run.history)?;
    save_faults(&folder.join("faults.jsonl"), &run)?;
    std::fs::write(folder.join("report.html"), page::page(&run))?;
    println!("{}", run.text());
    if run.violations.is_empty() {
        remove_data(&folder.join("cluster"))?;
    }
    if let Some(temporary) = temporary.filter(|_| !run.violations.is_empty()) {
        println!("kept: {}", temporary.keep().display());
    }
    Ok(run.violations.len())
}

fn save_faults(path: &Path, run: &Run) -> Result<()> {
    let lines: Result<Vec<String>, _> = run.faults.iter().map(serde_json::to_string).collect();
    Ok(std::fs::write(path, lines?.join("\n") + "\n")?)
}

/// Removes what processes stored, and leaves their logs.
fn remove_data(cluster: &Path) -> Result<()> {
    for entry in std::fs::read_dir(cluster)?.flatten().filter(|entry| entry.file_name() != "logs") {
        match entry.path() {
            folder if folder.is_dir() => std::fs::remove_dir_all(folder)?,
            file => std::fs::remove_file(file)?,
        }
    }
    Ok(())
}

async fn play(
    cluster: &Cluster,
    arguments: &RunArguments,
    seed: u64,
    load: Duration,
    kinds: &[Kind],
) -> Result<Run> {
    let http = cluster.http.first().context("no gateway serves HTTP")?;
    S3::new(http, "us-east-1", BUCKET, KEYS.0, KEYS.1)?.create_bucket().await?;
    let doors = doors(cluster).await?;
    let journal = Journal::default();
    let (all, before) = (cluster.pids().len(), resources::usage(cluster));
    let end = Instant::now() + load;
    let mut workers = JoinSet::new();
    let per_door = doors.iter().flat_map(|door| std::iter::repeat_n(door, arguments.clients.into()));
    for (client, door) in (0..).zip(per_door) {
        workers.spawn_local(Worker::new(client, door.clone(), journal.clone(), seed).work(end));
    }
    let processes = Processes { nodes: arguments.nodes, metas: METAS, gateways: arguments.gateways.into() };
    let planned = plan(seed, load.saturating_sub(2 * CALM), kinds, processes);
    sleep(CALM.min(load / 4)).await;
    let faults = inject(cluster, planned, &journal, seed).await;
    let over = Instant::now();
    let back = all_back(cluster, all, HEALED_WITHIN).await;
    workers.join_all().await;
    let mut violations = Vec::new();
    if let Err(error) = &back {
        violations.push(Violation::new("I9", format!("{error:#}")));
    }
    let (verified, unread) = read_all(&doors, &journal, seed).await;
    violations.extend(unread.into_iter().map(|text| Violation::new("I7", text)));
    // The load went on for a while after the faults: what counts is when the first reads of all could begin.
    let healed =
        back.ok().filter(|_| violations.is_empty()).map(|back| back.max(served_again(&journal, over)));
    let usage = resources::usage(cluster);
    violations.extend(resources::check(cluster, &before, &usage, &faults));
    let history = journal.records();
    violations.extend(check::check(&history));
    Ok(Run { seed, load, history, faults, healed, verified, usage, violations })
}

/// Every gateway over HTTP and over RDMA.
async fn doors(cluster: &Cluster) -> Result<Vec<Door>> {
    let versions = Versions::default();
    let mut doors = Vec::new();
    for (number, (http, rdma)) in (1..).zip(cluster.http.iter().zip(&cluster.rdma)) {
        let carrier = rdma.split(':').next().unwrap_or_default();
        for (name, address) in [("http", http), (carrier, rdma)] {
            doors.push(Door::open(format!("gateway-{number} {name}"), address, versions.clone()).await?);
        }
    }
    Ok(doors)
}

/// How long after the last fault an operation still failed.
fn served_again(journal: &Journal, over: Instant) -> Duration {
    let over = journal.now().saturating_sub(u64::try_from(over.elapsed().as_micros()).unwrap_or(0));
    let bad = |record: &Record| matches!(record.outcome.kind(), "failed" | "unknown");
    let last = journal.records().iter().filter(|record| bad(record)).map(|record| record.ended).max();
    Duration::from_micros(last.unwrap_or(0).saturating_sub(over))
}

/// Reads every key through every door, and lists; returns how many reads went well, and what could not be read.
async fn read_all(doors: &[Door], journal: &Journal, seed: u64) -> (usize, Vec<String>) {
    let (mut verified, mut unread) = (0, Vec::new());
    let end = Instant::now() + HEALED_WITHIN;
    for (number, door) in (0..).zip(doors) {
        let mut reader = Worker::new(READER + number, door.clone(), journal.clone(), seed);
        let gets = keys().into_iter().map(|key| (key, Action::Get));
        for (key, action) in gets.chain([(String::new(), Action::List)]) {
            loop {
                match reader.perform(&key, action.clone()).await {
                    Outcome::Failed(_) if Instant::now() < end => sleep(Duration::from_millis(200)).await,
                    Outcome::Failed(why) => {
                        unread.push(format!("{} {key} through {}: {why}", action.kind(), door.name));
                        break;
                    }
                    _ => {
                        verified += 1;
                        break;
                    }
                }
            }
        }
    }
    (verified, unread)
}
