//! `tenfour bench s3`: a closed loop of PUTs, then of GETs, against any S3 endpoint.
//!
//! The loop itself is in [`super::load`].

use super::Endpoint;
use super::load::{Measured, Objects, Operation, run as run_load};
use super::processes::Processes;
use crate::counters::{self, Counters, StageUse};
use crate::layout::cluster_section_of;
use crate::table;
use crate::units::ByteSize;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

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

struct Round {
    operation: Operation,
    size: ByteSize,
    concurrency: usize,
    measured: Measured,
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
            let concurrency = (*concurrency).max(1);
            let objects = Objects::new(format!("bench/{size}x{concurrency}"), *size);
            for operation in [Operation::Put, Operation::Get] {
                let before = counters(&arguments).await?;
                let ways = vec![client.clone(); concurrency];
                let (measured, _) = run_load(operation, &objects, ways, duration, &processes).await?;
                let stages = counters::stages(&before, &counters(&arguments).await?);
                eprintln!(
                    "{} {size} ×{concurrency}: {} in {:.1} s",
                    operation.name(),
                    measured.operations(),
                    measured.seconds
                );
                rounds.push(Round { operation, size: *size, concurrency, measured, stages });
            }
        }
    }
    print(&rounds, &processes);
    if let Some(path) = &arguments.json {
        let rows: Vec<Value> = rounds.iter().map(as_json).collect();
        let document = json!({ "endpoint": arguments.endpoint.endpoint, "rows": rows, "peak_mib": processes.peak_mib() });
        std::fs::write(path, serde_json::to_vec_pretty(&document)?)?;
    }
    let failures: u64 = rounds.iter().map(|round| round.measured.failures).sum();
    match rounds.iter().find_map(|round| round.measured.first_failure.as_deref()) {
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

impl Round {
    fn bytes(&self) -> f64 {
        self.measured.operations() as f64 * self.size.0 as f64
    }
    fn quantile_ms(&self, quantile: f64) -> f64 {
        self.measured.quantile_us(quantile) / 1e3
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
        let Measured { seconds, failures, cpu, .. } = &round.measured;
        let operations = round.measured.operations().max(1) as f64;
        let mut row = vec![
            round.operation.name().to_owned(),
            round.size.to_string(),
            round.concurrency.to_string(),
            format!("{:.0}", round.measured.operations_per_second()),
            format!("{:.1}", round.bytes() / 1e6 / seconds),
            format!("{:.2}", round.quantile_ms(0.5)),
            format!("{:.2}", round.quantile_ms(0.99)),
            format!("{:.2}", round.quantile_ms(0.999)),
            failures.to_string(),
        ];
        if measured {
            let by_role =
                cpu.iter().map(|(role, seconds)| format!("{role} {:.2}", seconds * 1e3 / operations));
            row.push(format!(
                "{:.2}",
                round.measured.cpu_seconds() / (round.bytes().max(1.0) / f64::from(1 << 30))
            ));
            row.push(format!("{:.3}", round.measured.cpu_seconds() * 1e3 / operations));
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
            columns.push(name);
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
    let Measured { seconds, failures, cpu, .. } = &round.measured;
    let operations = round.measured.operations();
    json!({
        "operation": round.operation.name(),
        "object_bytes": round.size.0,
        "concurrency": round.concurrency,
        "seconds": seconds,
        "operations": operations,
        "failures": failures,
        "operations_per_second": round.measured.operations_per_second(),
        "mb_per_s": round.bytes() / 1e6 / seconds,
        "p50_ms": round.quantile_ms(0.5),
        "p99_ms": round.quantile_ms(0.99),
        "p999_ms": round.quantile_ms(0.999),
        "cpu_seconds_per_gib": round.measured.cpu_seconds() / (round.bytes().max(1.0) / f64::from(1 << 30)),
        "cpu_ms_per_operation": round.measured.cpu_seconds() * 1e3 / operations.max(1) as f64,
        "cpu_seconds_by_role": cpu,
        "stages": round.stages.iter().map(|stage| json!({
            "name": stage.name, "times": stage.times, "cpu_seconds": stage.busy_seconds, "seconds": stage.wall_seconds,
        })).collect::<Vec<_>>(),
    })
}
