//! `tenfour bench rdma`: GET and PUT over the native protocol, on every transport that a gateway serves it on, beside HTTP.
//!
//! All ways store and read the same objects and take turns, a slice of the time each, so that what else the machine does hits them
//! alike: the ratios within one run are what it is for. All ways do the same work: an object's bytes lie in memory before a PUT is
//! timed, and a GET ends when they lie in memory and every one was compared, so that each way also reads what the others stored.
//! Servers and clients wait for events; nothing polls busily.

mod place;
mod report;
mod way;

use super::load::{self, Measured, Objects, Operation};
use super::processes::Processes;
use crate::counters::{self, Counters};
use crate::units::ByteSize;
use anyhow::{Context, Result, bail};
use place::Place;
use std::path::PathBuf;
use std::time::Duration;
use tenfour_rdma::{Endpoint, Provider};
use way::{Door, HTTP};

/// The role of gateways among the processes of a cluster.
const GATEWAY: &str = "gateway";

/// Before a measurement, each way runs for so long without one.
const WARM_UP: Duration = Duration::from_millis(200);
/// Shortest slice: CPU time is counted in ticks of 10 ms.
const SLICE_MIN: Duration = Duration::from_millis(500);

/// Options of `tenfour bench rdma`.
#[derive(clap::Args, Clone, Debug)]
pub struct RdmaArguments {
    /// The folder of a cluster that `tenfour up --rdma` runs on this machine: it says where to load, as whom, and which processes to
    /// measure. Else give --at, --endpoint, --access-key and --secret-key.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["at", "endpoint", "pids"])]
    data: Option<PathBuf>,
    /// Where a gateway serves S3 over RDMA: shm:PATH, tcp:ADDRESS:PORT, verbs:ADDRESS:PORT.
    #[arg(long, value_name = "ENDPOINTS", value_delimiter = ',')]
    at: Vec<Endpoint>,
    /// Only these transports: shm, tcp, verbs [default: all that the gateway serves and this machine can run].
    #[arg(long, value_name = "FABRICS", value_delimiter = ',')]
    fabric: Vec<Provider>,
    /// Where the same gateway serves S3 over HTTP, such as http://10.0.0.4:9000.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The region to sign for.
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    region: String,
    /// A bucket for the load; created when it is not there.
    #[arg(long, value_name = "NAME", default_value = "tenfour-bench")]
    bucket: String,
    /// The access key [with --data: the root user's].
    #[arg(long, value_name = "KEY", env = "AWS_ACCESS_KEY_ID", hide_env_values = true)]
    access_key: Option<String>,
    /// The secret key.
    #[arg(long, value_name = "SECRET", env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_key: Option<String>,
    /// Server processes on this machine whose CPU time is measured, all of them together: the columns tell no gateway from a node.
    #[arg(long, value_name = "PIDS", value_delimiter = ',')]
    pids: Vec<u32>,
    /// Object sizes, at most 64MiB.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "4KiB,1MiB")]
    sizes: Vec<ByteSize>,
    /// Requests in flight: over HTTP on as many connections, over the native protocol on one.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "1,16")]
    concurrency: Vec<usize>,
    /// How long PUT and GET are measured over each way.
    #[arg(long, value_name = "SECONDS", default_value_t = 6)]
    seconds: u64,
    /// Slices that this time is cut into, each half a second or longer; the ways take turns.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Also write the results here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One line of the table.
struct Row {
    over: String,
    operation: Operation,
    size: ByteSize,
    concurrency: usize,
    measured: Measured,
    /// What the gateways counted meanwhile.
    counted: Counters,
}

/// Measures and prints.
pub async fn run(arguments: RdmaArguments) -> Result<()> {
    let largest = ByteSize::mib(64);
    if let Some(size) = arguments.sizes.iter().find(|size| **size > largest) {
        bail!("--sizes {size}: {largest} at most");
    }
    let slice = Duration::from_secs(arguments.seconds) / arguments.rounds;
    if slice < SLICE_MIN {
        bail!(
            "--seconds {} in --rounds {} makes slices of {} ms, too short for CPU time that is counted in ticks of 10 ms: give \
             each {} ms or more, by more seconds or fewer rounds",
            arguments.seconds,
            arguments.rounds,
            slice.as_millis(),
            SLICE_MIN.as_millis()
        );
    }
    let place = Place::find(&arguments)?;
    let doors = doors(&arguments, &place).await?;
    let bench = Bench { arguments: &arguments, place: &place, doors: &doors };
    let mut rows = Vec::new();
    for size in &arguments.sizes {
        for concurrency in &arguments.concurrency {
            let concurrency = (*concurrency).max(1);
            let objects = Objects::new(format!("bench/rdma/{size}x{concurrency}"), *size);
            for operation in [Operation::Put, Operation::Get] {
                rows.extend(bench.measure(operation, *size, concurrency, &objects).await?);
                eprintln!("{} {size} ×{concurrency}: measured", operation.name());
            }
        }
    }
    report::print(&rows, &place.processes);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report::as_json(&rows))?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let failures: u64 = rows.iter().map(|row| row.measured.failures).sum();
    match rows.iter().find_map(|row| Some((&row.over, row.measured.first_failure.as_deref()?))) {
        Some((over, failure)) => bail!("{failures} requests failed, the first over {over} with: {failure}"),
        None => Ok(()),
    }
}

/// HTTP, and every transport that was named, which must be there, or all that are.
async fn doors(arguments: &RdmaArguments, place: &Place) -> Result<Vec<Door>> {
    let mut doors = vec![Door::http(place.bucket().await?)];
    let most = arguments.concurrency.iter().copied().max().unwrap_or(1).max(1);
    let size = arguments.sizes.iter().max().copied().unwrap_or_default();
    for endpoint in &place.rdma {
        match Door::native(place, endpoint, most, size.as_usize()).await {
            Ok(door) => doors.push(door),
            Err(error) if arguments.fabric.is_empty() => eprintln!("{endpoint} is left out: {error:#}"),
            Err(error) => return Err(error.context(format!("cannot connect to {endpoint}"))),
        }
    }
    match doors.len() {
        1 => bail!("the gateway cannot be reached over RDMA"),
        _ => Ok(doors),
    }
}

struct Bench<'a> {
    arguments: &'a RdmaArguments,
    place: &'a Place,
    doors: &'a [Door],
}

impl Bench<'_> {
    async fn measure(
        &self,
        operation: Operation,
        size: ByteSize,
        concurrency: usize,
        objects: &Objects,
    ) -> Result<Vec<Row>> {
        let rounds = self.arguments.rounds;
        let slice = Duration::from_secs(self.arguments.seconds) / rounds;
        let mut rows = Vec::new();
        let mut ways = Vec::new();
        for door in self.doors {
            let (_, warm) =
                load::run(operation, objects, door.ways(concurrency), WARM_UP, &Processes::default()).await?;
            ways.push(warm);
            let (over, measured, counted) = (door.name.clone(), Measured::nothing()?, Counters::new());
            rows.push(Row { over, operation, size, concurrency, measured, counted });
        }
        for round in 0..rounds as usize {
            for at in turns(round, self.doors.len()) {
                let (Some(row), Some(ways)) = (rows.get_mut(at), ways.get_mut(at)) else { continue };
                let before = self.counters().await?;
                let taken = std::mem::take(ways);
                let (measured, back) =
                    load::run(operation, objects, taken, slice, &self.place.processes).await?;
                *ways = back;
                row.measured.add(measured)?;
                counters::add_growth(&mut row.counted, &before, &self.counters().await?);
            }
        }
        Ok(rows)
    }

    /// The gateways' counters, where they can be seen.
    async fn counters(&self) -> Result<Counters> {
        match &self.place.folder {
            Some(folder) => Ok(counters::of_cluster(folder).await?.unwrap_or_default()),
            None => Ok(Counters::new()),
        }
    }
}

/// The order of a round, so that over the rounds nobody always comes first, nor always after the same one: each order is followed by
/// its reverse.
fn turns(round: usize, count: usize) -> Vec<usize> {
    let turns = (0..count).map(|turn| (round / 2 + turn) % count);
    if round.is_multiple_of(2) { turns.collect() } else { turns.rev().collect() }
}

impl Row {
    fn is_http(&self) -> bool {
        self.over == HTTP
    }

    /// Whether it measures the same as another, perhaps over another way.
    fn is_like(&self, other: &Self) -> bool {
        (self.operation, self.size, self.concurrency) == (other.operation, other.size, other.concurrency)
    }

    /// Microseconds for each operation.
    fn each_us(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.measured.operations().max(1) as f64
    }

    /// CPU of the servers of a role for each operation, microseconds.
    fn role_us(&self, role: &str) -> f64 {
        self.each_us(self.measured.cpu.get(role).copied().unwrap_or(0.0))
    }

    fn client_us(&self) -> f64 {
        self.each_us(self.measured.client_cpu_seconds)
    }

    /// CPU of the gateways for each operation, where they are told from other servers.
    fn gateway_us(&self) -> Option<f64> {
        self.measured.cpu.contains_key(GATEWAY).then(|| self.role_us(GATEWAY))
    }

    /// Of the client and of what it speaks with.
    fn ends_us(&self) -> Option<f64> {
        Some(self.client_us() + self.gateway_us()?)
    }

    fn all_us(&self) -> f64 {
        self.client_us() + self.each_us(self.measured.cpu_seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::turns;

    #[test]
    fn everybody_comes_after_everybody_alike() {
        for count in 1..5 {
            let rounds: Vec<_> = (0..2 * count).map(|round| turns(round, count)).collect();
            for one in 0..count {
                assert_eq!(rounds.iter().filter(|round| round[0] == one).count(), 2, "{rounds:?}");
                for other in (0..count).filter(|other| *other != one) {
                    let follows = |first: usize, then: usize| {
                        rounds
                            .iter()
                            .flat_map(|round| round.windows(2))
                            .filter(|pair| **pair == [first, then])
                            .count()
                    };
                    assert_eq!(follows(one, other), follows(other, one), "{one} and {other}: {rounds:?}");
                }
            }
        }
    }
}
