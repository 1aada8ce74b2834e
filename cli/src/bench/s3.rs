//! `tenfour bench s3`: a closed loop of PUTs, then of GETs, against any S3 endpoint.
//!
//! Every object's content follows from its key, and every byte that comes back is compared. The load generator's own work is
//! kept small (contents are slices of one block), but it shares the machine with the servers: rates are lower bounds.

use super::Endpoint;
use super::processes::{CpuSeconds, Processes};
use crate::counters::{self, Counters, StageUse};
use crate::layout::cluster_section_of;
use crate::table;
use crate::units::ByteSize;
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tenfour_client::{Pattern, S3};

/// Most keys that one measurement spreads its PUTs over: later ones replace earlier ones.
const KEYS_MAX: u64 = 4096;
/// Bytes that the keys of one measurement hold at most together.
const KEPT_BYTES_MAX: u64 = 4 << 30;
/// A round that fails more often is given up.
const FAILURES_MAX: u64 = 100;

/// Options of `tenfour bench s3`.
#[derive(clap::Args, Clone, Debug)]
pub struct S3Arguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Object sizes.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "4KiB,1MiB,64MiB")]
    sizes: Vec<ByteSize>,
    /// Requests in flight.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "1,16")]
    concurrency: Vec<usize>,
    /// How long each PUT and each GET measurement runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u64,
    /// Server processes whose CPU time and memory are measured.
    #[arg(long, value_name = "PIDS", value_delimiter = ',', conflicts_with = "data")]
    pids: Vec<u32>,
    /// Instead: measure the processes of the cluster that `tenfour up` runs in this folder, by role.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// With --data: also what each stage of the gateways' data path took, CPU seconds a GiB.
    #[arg(long, requires = "data")]
    stages: bool,
    /// Also write the results here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Put,
    Get,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get => "GET",
        }
    }
}

struct Round {
    operation: Operation,
    size: ByteSize,
    concurrency: usize,
    seconds: f64,
    latency_us: Histogram<u64>,
    failures: u64,
    first_failure: Option<String>,
    cpu: CpuSeconds,
    stages: Vec<StageUse>,
}

/// Loads the endpoint and prints the table.
pub async fn run(arguments: S3Arguments) -> Result<()> {
    if let Some(folder) = &arguments.data {
        cluster_section_of(folder)?.timeout_scale.set_for_process();
    }
    let processes = match &arguments.data {
        Some(folder) => Processes::of_cluster(folder)?,
        None => Processes::of_pids(&arguments.pids)?,
    };
    let client = arguments.endpoint.client().await?;
    let duration = Duration::from_secs(arguments.seconds.max(1));
    let mut rounds = Vec::new();
    for size in &arguments.sizes {
        for concurrency in &arguments.concurrency {
            let written = Arc::new(AtomicU64::new(0));
            for operation in [Operation::Put, Operation::Get] {
                let round = Load {
                    client: &client,
                    size: *size,
                    concurrency: (*concurrency).max(1),
                    written: &written,
                };
                let before = counters(&arguments).await?;
                let mut round = round.run(operation, duration, &processes).await?;
                round.stages = counters::stages(&before, &counters(&arguments).await?);
                eprintln!(
                    "{} {size} ×{concurrency}: {} in {:.1} s",
                    operation.name(),
                    round.latency_us.len(),
                    round.seconds
                );
                rounds.push(round);
            }
        }
    }
    print(&rounds, &processes);
    if let Some(path) = &arguments.json {
        let rows: Vec<Value> = rounds.iter().map(as_json).collect();
        let document = json!({ "endpoint": arguments.endpoint.endpoint, "rows": rows, "peak_mib": processes.peak_mib() });
        std::fs::write(path, serde_json::to_vec_pretty(&document)?)?;
    }
    let failures: u64 = rounds.iter().map(|round| round.failures).sum();
    match rounds.iter().find_map(|round| round.first_failure.as_deref()) {
        Some(failure) => bail!("{failures} requests failed, the first with: {failure}"),
        None => Ok(()),
    }
}

/// The gateways' counters, when they are wanted.
async fn counters(arguments: &S3Arguments) -> Result<Counters> {
    match arguments.data.as_deref().filter(|_| arguments.stages) {
        Some(folder) => counters::of_cluster(folder)
            .await?
            .with_context(|| format!("no gateway of {} shows its counters", folder.display())),
        None => Ok(Counters::new()),
    }
}

struct Load<'a> {
    client: &'a S3,
    size: ByteSize,
    concurrency: usize,
    /// Objects that this load has stored.
    written: &'a Arc<AtomicU64>,
}

impl Load<'_> {
    async fn run(self, operation: Operation, duration: Duration, processes: &Processes) -> Result<Round> {
        let keys = (KEPT_BYTES_MAX / self.size.0.max(1)).clamp(1, KEYS_MAX);
        let next = Arc::new(AtomicU64::new(0));
        let cpu_before = processes.cpu();
        let began = Instant::now();
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..self.concurrency {
            let worker = Worker {
                client: self.client.clone(),
                operation,
                size: self.size.0,
                prefix: format!("bench/{}x{}", self.size, self.concurrency),
                keys,
                next: Arc::clone(&next),
                written: Arc::clone(self.written),
                end: began + duration,
            };
            workers.spawn(worker.run());
        }
        let mut round = Round {
            operation,
            size: self.size,
            concurrency: self.concurrency,
            seconds: 0.0,
            latency_us: Histogram::new(3)?,
            failures: 0,
            first_failure: None,
            cpu: CpuSeconds::new(),
            stages: Vec::new(),
        };
        while let Some(result) = workers.join_next().await {
            let Tally { latency_us, failures, first_failure } = result??;
            round.latency_us.add(latency_us)?;
            round.failures += failures;
            round.first_failure = round.first_failure.or(first_failure);
        }
        round.seconds = began.elapsed().as_secs_f64();
        let used = |(role, after): (String, f64)| {
            let before = cpu_before.get(&role).copied().unwrap_or(0.0);
            (role, after - before)
        };
        round.cpu = processes.cpu().into_iter().map(used).collect();
        Ok(round)
    }
}

struct Worker {
    client: S3,
    operation: Operation,
    size: u64,
    prefix: String,
    keys: u64,
    next: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    end: Instant,
}

struct Tally {
    latency_us: Histogram<u64>,
    failures: u64,
    first_failure: Option<String>,
}

impl Worker {
    async fn run(self) -> Result<Tally> {
        let mut tally = Tally { latency_us: Histogram::new(3)?, failures: 0, first_failure: None };
        while Instant::now() < self.end && tally.failures < FAILURES_MAX {
            let began = Instant::now();
            match self.once().await {
                Ok(()) => tally.latency_us.record(began.elapsed().as_micros() as u64)?,
                Err(error) => {
                    tally.failures += 1;
                    tally.first_failure.get_or_insert_with(|| format!("{} {error}", self.operation.name()));
                }
            }
        }
        Ok(tally)
    }

    async fn once(&self) -> Result<(), tenfour_client::ClientError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match self.operation {
            Operation::Put => {
                let key = number % self.keys;
                let pattern = Pattern::new(key, self.size);
                let name = self.key(key);
                if self.size <= 64 << 10 {
                    self.client.put(&name, pattern.to_bytes()).await?;
                } else {
                    self.client.put(&name, pattern).await?;
                }
                self.written.fetch_max(key + 1, Ordering::Relaxed);
                Ok(())
            }
            Operation::Get => {
                let known = self.written.load(Ordering::Relaxed).max(1);
                let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % known;
                self.client.get_compare(&self.key(key), &Pattern::new(key, self.size)).await.map(|_| ())
            }
        }
    }

    fn key(&self, number: u64) -> String {
        format!("{}/{number:08}", self.prefix)
    }
}

impl Round {
    fn operations_per_second(&self) -> f64 {
        self.latency_us.len() as f64 / self.seconds
    }
    fn bytes(&self) -> f64 {
        self.latency_us.len() as f64 * self.size.0 as f64
    }
    fn cpu_total(&self) -> f64 {
        self.cpu.values().sum()
    }
    fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1e3
    }
}

fn print(rounds: &[Round], processes: &Processes) {
    let measured = !processes.is_empty();
    let mut header =
        vec!["operation", "size", "in flight", "ops/s", "MB/s", "p50 ms", "p99 ms", "p99.9 ms", "failed"];
    if measured {
        header.extend(["CPU s/GiB", "CPU ms/op", "by role (ms/op)"]);
    }
    let row = |round: &Round| {
        let operations = round.latency_us.len().max(1) as f64;
        let mut row = vec![
            round.operation.name().to_owned(),
            round.size.to_string(),
            round.concurrency.to_string(),
            format!("{:.0}", round.operations_per_second()),
            format!("{:.1}", round.bytes() / 1e6 / round.seconds),
            format!("{:.2}", round.quantile_ms(0.5)),
            format!("{:.2}", round.quantile_ms(0.99)),
            format!("{:.2}", round.quantile_ms(0.999)),
            round.failures.to_string(),
        ];
        if measured {
            let by_role =
                round.cpu.iter().map(|(role, seconds)| format!("{role} {:.2}", seconds * 1e3 / operations));
            row.push(format!("{:.2}", round.cpu_total() / (round.bytes().max(1.0) / f64::from(1 << 30))));
            row.push(format!("{:.3}", round.cpu_total() * 1e3 / operations));
            row.push(by_role.collect::<Vec<_>>().join(", "));
        }
        row
    };
    table::print(&header, &rounds.iter().map(row).collect::<Vec<_>>());
    print_stages(rounds);
    if measured {
        let peaks = processes.peak_mib();
        println!(
            "\n  peak memory of one process, MiB: {}",
            peaks.iter().map(|(role, peak)| format!("{role} {peak}")).collect::<Vec<_>>().join(", ")
        );
    }
}

/// What the gateways' stages took, one row for each round.
fn print_stages(rounds: &[Round]) {
    let names: Vec<&str> =
        rounds.iter().flat_map(|round| round.stages.iter().map(|stage| stage.name)).collect();
    let mut columns: Vec<&str> = Vec::new();
    names.into_iter().for_each(|name| {
        if !columns.contains(&name) {
            columns.push(name)
        }
    });
    if columns.is_empty() {
        return;
    }
    println!("\n  by stage of the gateway, CPU seconds a GiB (and ms from begin to end, each time):");
    let row = |round: &Round| {
        let gib = round.bytes().max(1.0) / f64::from(1 << 30);
        let cell = |name: &&str| {
            let stage = round.stages.iter().find(|stage| stage.name == *name);
            stage.map_or("-".to_owned(), |stage| {
                let each_ms = stage.wall_seconds * 1e3 / stage.times as f64;
                format!("{:.3} ({each_ms:.2})", stage.busy_seconds / gib)
            })
        };
        let mut row =
            vec![round.operation.name().to_owned(), round.size.to_string(), round.concurrency.to_string()];
        row.extend(columns.iter().map(cell));
        row
    };
    let header: Vec<&str> =
        ["operation", "size", "in flight"].into_iter().chain(columns.iter().copied()).collect();
    table::print(&header, &rounds.iter().map(row).collect::<Vec<_>>());
}

fn as_json(round: &Round) -> Value {
    let operations = round.latency_us.len();
    json!({
        "operation": round.operation.name(),
        "object_bytes": round.size.0,
        "concurrency": round.concurrency,
        "seconds": round.seconds,
        "operations": operations,
        "failures": round.failures,
        "operations_per_second": round.operations_per_second(),
        "mb_per_s": round.bytes() / 1e6 / round.seconds,
        "p50_ms": round.quantile_ms(0.5),
        "p99_ms": round.quantile_ms(0.99),
        "p999_ms": round.quantile_ms(0.999),
        "cpu_seconds_per_gib": round.cpu_total() / (round.bytes().max(1.0) / f64::from(1 << 30)),
        "cpu_ms_per_operation": round.cpu_total() * 1e3 / operations.max(1) as f64,
        "cpu_seconds_by_role": round.cpu,
        "stages": round.stages.iter().map(|stage| json!({
            "name": stage.name, "times": stage.times, "cpu_seconds": stage.busy_seconds, "seconds": stage.wall_seconds,
        })).collect::<Vec<_>>(),
    })
}
