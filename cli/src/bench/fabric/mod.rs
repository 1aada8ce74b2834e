//! `tenfour bench fabric`: what the fabric costs between two processes of this machine, without any object store on it.
//!
//! The other process is this program again ([`peer`]). Each operation is measured one at a time for its latency, and with many
//! outstanding for its rate, at each size, over each transport; event-driven, as servers run, and polling busily, where a
//! transport can; then each end is bound to a core of its own.
//! Latencies are of this process's clock alone: of ping-pongs, half of the round trip.

mod cores;
mod measure;
mod peer;
mod step;

pub use peer::{PeerArguments, run as run_peer};

use crate::table;
use crate::units::ByteSize;
use anyhow::{Context, Result, bail};
use measure::Measured;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tenfour_rdma::{ClusterKey, Domain, DomainConfig, Endpoint, Provider};

/// Registered memory of each end: regions, buffers of READs, granted buffers.
const POOL_BYTES: usize = 64 << 20;
/// Largest size: what the regions hold, bytes.
const SIZE_MAX: u64 = 1 << 20;

/// Options of `tenfour bench fabric`.
#[derive(clap::Args, Clone, Debug)]
pub struct FabricArguments {
    /// Transports [default: all that this machine can run].
    #[arg(long, value_name = "FABRICS", value_delimiter = ',')]
    fabric: Vec<Provider>,
    /// Bytes of an operation, at most 1MiB.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "64B,4KiB,64KiB,1MiB")]
    sizes: Vec<ByteSize>,
    /// How long each measurement runs.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 400)]
    milliseconds: u64,
    /// An address of this machine, for tcp and verbs; verbs needs one of an RDMA device.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::from(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Busy polling looks for work so long before it sleeps; 0 leaves it out.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 100)]
    spin: u64,
    /// Operations outstanding when the rate is measured.
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    depth: u16,
    /// Also write the results here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How an end waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Sleeps until it is woken.
    Event,
    /// Polls so long before it sleeps.
    Busy(Duration),
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Busy(_) => "busy",
        }
    }

    fn spin(self) -> Duration {
        match self {
            Self::Event => Duration::ZERO,
            Self::Busy(spin) => spin,
        }
    }
}

/// One transport in one mode.
#[derive(Clone, Debug)]
struct Course {
    provider: Provider,
    mode: Mode,
    sizes: Vec<ByteSize>,
    each: Duration,
    address: IpAddr,
    depth: usize,
}

/// Measures and prints.
pub async fn run(arguments: FabricArguments) -> Result<()> {
    let providers = providers(&arguments)?;
    if let Some(size) = arguments.sizes.iter().find(|size| !(1..=SIZE_MAX).contains(&size.0)) {
        bail!("--sizes {size}: between 1 byte and {}", ByteSize(SIZE_MAX));
    }
    let mut rows = Vec::new();
    for provider in providers {
        for mode in modes(provider, arguments.spin) {
            let course = Course {
                provider,
                mode,
                sizes: arguments.sizes.clone(),
                each: Duration::from_millis(arguments.milliseconds.max(1)),
                address: arguments.address,
                depth: usize::from(arguments.depth),
            };
            // Not on the thread's root future: that one is polled less readily than tasks are.
            let measured = tokio::spawn(measure::run(course)).await?;
            rows.extend(measured.with_context(|| format!("{provider}, {}", mode.name()))?);
            eprintln!("{provider}, {}: measured", mode.name());
        }
    }
    print(&rows);
    if let Some(path) = &arguments.json {
        let rows: Vec<_> = rows.iter().map(as_json).collect();
        std::fs::write(path, serde_json::to_vec_pretty(&json!({ "rows": rows }))?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Those that were named, which must be there, or all that are.
fn providers(arguments: &FabricArguments) -> Result<Vec<Provider>> {
    if !arguments.fabric.is_empty() {
        for provider in &arguments.fabric {
            provider.available().with_context(|| format!("--fabric {provider}"))?;
        }
        return Ok(arguments.fabric.clone());
    }
    let mut found = vec![Provider::Shm, Provider::Tcp];
    match Provider::Verbs.available() {
        // A device has addresses of its own: without one being named there is nothing to listen at.
        Ok(()) if arguments.address.is_loopback() => {
            eprintln!("verbs is left out: name an address of the RDMA device with --address");
        }
        Ok(()) => found.insert(0, Provider::Verbs),
        Err(reason) => eprintln!("verbs is left out: {reason}"),
    }
    Ok(found)
}

/// A transport over the kernel's sockets sleeps in the kernel; and two that poll need a core each.
fn modes(provider: Provider, spin_us: u64) -> Vec<Mode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let busy = Mode::Busy(Duration::from_micros(spin_us));
    match provider {
        Provider::Tcp => vec![Mode::Event],
        Provider::Shm | Provider::Verbs if spin_us == 0 || cores < 2 => vec![Mode::Event],
        Provider::Shm | Provider::Verbs => vec![Mode::Event, busy],
    }
}

fn open(provider: Provider, spin: Duration, key: ClusterKey) -> Result<Domain> {
    let mut config = DomainConfig::new(provider, "bench", key, POOL_BYTES);
    config.tunables.spin = spin;
    Ok(Domain::open(config)?)
}

fn endpoint(course: &Course, folder: &std::path::Path) -> Endpoint {
    let address = SocketAddr::new(course.address, 0);
    match course.provider {
        Provider::Shm => Endpoint::Shm(folder.join("bench.sock")),
        Provider::Tcp => Endpoint::Tcp(address),
        Provider::Verbs => Endpoint::Verbs(address),
    }
}

fn print(rows: &[Measured]) {
    let row = |row: &Measured| {
        vec![
            row.provider.to_string(),
            row.mode.name().to_owned(),
            row.kind.name().to_owned(),
            row.size.to_string(),
            format!("{:.2}", row.quantile_us(0.5)),
            format!("{:.2}", row.quantile_us(0.99)),
            format!("{:.2}", row.quantile_us(0.999)),
            format!("{:.2}", row.cpu_us_per_operation()),
            row.rate.map_or("-".to_owned(), |rate| format!("{:.0}", rate * row.size.0 as f64 / 1e6)),
            row.rate.map_or("-".to_owned(), |rate| format!("{rate:.0}")),
        ]
    };
    let header =
        ["fabric", "mode", "operation", "size", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs", "MB/s", "ops/s"];
    table::print(&header, &rows.iter().map(row).collect::<Vec<_>>());
    println!(
        "\n  WRITE, READ: from the post to the completion. WRITE+imm, SEND: one way, half of a ping-pong. grant: a message asks for \
         a grant,\n  one brings it, a WRITE with immediate fills it, the peer seals it and says so. CPU: of both ends together, for each \
         operation,\n  one at a time. MB/s and ops/s: with many outstanding."
    );
}

fn as_json(row: &Measured) -> serde_json::Value {
    json!({
        "fabric": row.provider.to_string(),
        "mode": row.mode.name(),
        "operation": row.kind.name(),
        "bytes": row.size.0,
        "samples": row.latency_ns.len(),
        "p50_us": row.quantile_us(0.5),
        "p99_us": row.quantile_us(0.99),
        "p999_us": row.quantile_us(0.999),
        "cpu_us_per_operation": row.cpu_us_per_operation(),
        "operations_per_second": row.rate,
        "mb_per_s": row.rate.map(|rate| rate * row.size.0 as f64 / 1e6),
    })
}
