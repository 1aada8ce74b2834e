//! The tables of `tenfour bench rdma`, and its JSON.

use super::{GATEWAY, Operation, Row};
use crate::bench::processes::{NAMED, Processes};
use crate::counters::{self, StageUse};
use crate::table;
use serde_json::{Value, json};
use tenfour_types::limits::STRIPE_DATA_BYTES_MAX;

/// Columns that say what a row is about.
const WHAT: [&str; 4] = ["operation", "size", "in flight", "over"];

pub(super) fn print(rows: &[Row], processes: &Processes) {
    print_measured(rows, processes);
    print_ratios(rows, processes);
    print_breakdown(rows);
}

fn what(row: &Row) -> Vec<String> {
    vec![row.operation.name().to_owned(), row.size.to_string(), row.concurrency.to_string(), row.over.clone()]
}

fn print_measured(rows: &[Row], processes: &Processes) {
    let mut header =
        [&WHAT[..], &["ops/s", "MB/s", "p50 µs", "p99 µs", "p99.9 µs", "failed", "client"]].concat();
    let roles = processes.roles();
    header.extend(roles.iter().map(String::as_str));
    header.push("all");
    let row = |row: &Row| {
        let measured = &row.measured;
        let mut cells = what(row);
        cells.extend([
            format!("{:.0}", measured.operations_per_second()),
            format!("{:.1}", measured.operations_per_second() * row.size.0 as f64 / 1e6),
            format!("{:.0}", measured.quantile_us(0.5)),
            format!("{:.0}", measured.quantile_us(0.99)),
            format!("{:.0}", measured.quantile_us(0.999)),
            measured.failures.to_string(),
            format!("{:.0}", row.client_us()),
        ]);
        cells.extend(roles.iter().map(|role| format!("{:.0}", row.role_us(role))));
        cells.push(format!("{:.0}", row.all_us()));
        cells
    };
    table::print(&header, &rows.iter().map(row).collect::<Vec<_>>());
    println!(
        "\n  client … all: CPU µs for each operation, of this process and of all server processes of each role. That of the client and \
         ops/s\n  count all that it does, also to have a PUT's bytes in memory and, as the times do, to compare a GET's."
    );
    if roles.iter().any(|role| role == NAMED) {
        println!(
            "  {NAMED}: all processes of --pids together, whatever they are; only --data tells gateways, nodes and metadata apart."
        );
    }
}

fn print_ratios(rows: &[Row], processes: &Processes) {
    let has_gateway = processes.roles().iter().any(|role| role == GATEWAY);
    let mut header = [&WHAT[..], &["ops/s", "p50", "p99", "CPU client"]].concat();
    if has_gateway {
        header.push("CPU client + gateway");
    }
    if !processes.is_empty() {
        header.push("CPU all");
    }
    let natives = rows.iter().filter(|row| !row.is_http());
    let pairs =
        natives.filter_map(|row| Some((row, rows.iter().find(|http| http.is_http() && http.is_like(row))?)));
    let line = |(row, http): (&Row, &Row)| {
        let ratio = |of: &dyn Fn(&Row) -> f64| format!("{:.2}", of(row) / of(http));
        let mut cells = what(row);
        cells.extend([
            ratio(&|row| row.measured.operations_per_second()),
            ratio(&|row| row.measured.quantile_us(0.5)),
            ratio(&|row| row.measured.quantile_us(0.99)),
            ratio(&Row::client_us),
        ]);
        if has_gateway {
            cells.push(ratio(&|row| row.ends_us().unwrap_or(f64::NAN)));
        }
        if !processes.is_empty() {
            cells.push(ratio(&Row::all_us));
        }
        cells
    };
    println!("\n  beside HTTP in the same run (native / http):");
    table::print(&header, &pairs.map(line).collect::<Vec<_>>());
}

/// Where the time of an operation goes, as far as the gateway counts. Its stages follow one another within a stripe: of objects of
/// several stripes they overlap, and there is none.
struct Breakdown {
    /// From the call to its return, as the client sees it, on average.
    mean_us: f64,
    /// Reading the manifest, or committing it.
    metadata_us: f64,
    /// From the gateway's question to the nodes to their verified bytes or durable shards.
    nodes_us: f64,
    /// Into the stripe, with its checksums and parity. The gateway does not count the copy of a GET.
    copy_us: Option<f64>,
    /// What is left.
    rest_us: f64,
}

impl Breakdown {
    fn of(row: &Row) -> Option<Self> {
        let stages = counters::stages(&counters::Counters::new(), &row.counted);
        if stages.is_empty() || row.size.0 > STRIPE_DATA_BYTES_MAX as u64 {
            return None;
        }
        let sum = |names: &[&str], of: fn(&StageUse) -> f64| {
            row.each_us(stages.iter().filter(|stage| names.contains(&stage.name)).map(of).sum())
        };
        let wall = |name: &str| sum(&[name], |stage| stage.wall_seconds);
        let mean_us = row.measured.latency_ns.mean() / 1e3;
        let (metadata_us, nodes_us, copy_us) = match row.operation {
            // Not the waiting for the client's bytes, which is no copying.
            Operation::Put => {
                let copy_us = sum(&["receive", "encode"], |stage| stage.busy_seconds);
                (wall("commit"), wall("fanout"), Some(copy_us))
            }
            Operation::Get => (wall("lookup"), wall("gather"), None),
        };
        let rest_us = mean_us - metadata_us - nodes_us - copy_us.unwrap_or(0.0);
        Some(Self { mean_us, metadata_us, nodes_us, copy_us, rest_us })
    }
}

fn print_breakdown(rows: &[Row]) {
    let cells = rows.iter().filter_map(|row| {
        let Breakdown { mean_us, metadata_us, nodes_us, copy_us, rest_us } = Breakdown::of(row)?;
        let times = [Some(mean_us), Some(metadata_us), Some(nodes_us), copy_us, Some(rest_us)];
        let processors = [Some(row.client_us()), row.gateway_us()];
        let cell = |us: Option<f64>| us.map_or("–".to_owned(), |us| format!("{us:.0}"));
        Some(what(row).into_iter().chain(times.into_iter().chain(processors).map(cell)).collect())
    });
    let cells: Vec<Vec<String>> = cells.collect();
    if cells.is_empty() {
        return;
    }
    println!("\n  where the time goes, µs of an operation on average:");
    let header =
        [&WHAT[..], &["mean", "metadata", "nodes", "copy", "rest", "CPU client", "CPU gateway"]].concat();
    table::print(&header, &cells);
    println!(
        "\n  metadata: the manifest read (GET) or committed (PUT). nodes: from the question to them to verified bytes or 14 durable \
         shards.\n  copy: of a PUT, into the stripe, hashed and encoded; a GET's is not counted (–). rest = mean − metadata − nodes − \
         copy: the client's\n  call, the gateway's front (HTTP, or frames and grants), the way between the two, waiting for the \
         client's bytes and for a core; of a GET\n  also the copy to the client, with its digest; of a PUT also the ETag's MD5, \
         which begins when the stripe is on its way and is waited for\n  when it is durable. No counter divides rest; CPU client and \
         CPU gateway are beside it, not parts of it: the gateway's is also in metadata,\n  nodes and copy, the client's also in having \
         a PUT's bytes in memory, which is not timed."
    );
}

pub(super) fn as_json(rows: &[Row]) -> Value {
    let one = |row: &Row| {
        let measured = &row.measured;
        let breakdown = Breakdown::of(row).map(|breakdown| {
            json!({
                "mean_us": breakdown.mean_us,
                "metadata_us": breakdown.metadata_us,
                "nodes_us": breakdown.nodes_us,
                "copy_us": breakdown.copy_us,
                "rest_us": breakdown.rest_us,
            })
        });
        json!({
            "over": row.over,
            "operation": row.operation.name(),
            "object_bytes": row.size.0,
            "concurrency": row.concurrency,
            "seconds": measured.seconds,
            "operations": measured.operations(),
            "failures": measured.failures,
            "operations_per_second": measured.operations_per_second(),
            "p50_us": measured.quantile_us(0.5),
            "p99_us": measured.quantile_us(0.99),
            "p999_us": measured.quantile_us(0.999),
            "client_cpu_us_per_operation": row.client_us(),
            "client_and_gateway_cpu_us_per_operation": row.ends_us(),
            "all_cpu_us_per_operation": row.all_us(),
            "cpu_seconds_by_role": measured.cpu,
            "breakdown": breakdown,
            "counted": row.counted,
        })
    };
    json!({ "rows": rows.iter().map(one).collect::<Vec<_>>() })
}
