//! A closed loop: so many workers, each making one request after the other until the time is up.
//!
//! Every object's content follows from its number, and every byte that comes back is compared. The load generator's own work is
//! kept small (contents are slices of one block), but it shares the machine with the servers: rates are lower bounds.

use super::processes::{CpuSeconds, Processes, cpu_seconds};
use crate::units::ByteSize;
use anyhow::Result;
use hdrhistogram::Histogram;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tenfour_client::{Pattern, S3};

/// Most keys that one measurement spreads its PUTs over: later ones replace earlier ones.
const KEYS_MAX: u64 = 4096;
/// Bytes that the keys of one measurement hold at most together.
const KEPT_BYTES_MAX: u64 = 4 << 30;
/// A worker that fails more often gives up.
const FAILURES_MAX: u64 = 100;
/// Larger bodies are made as they are sent.
const BODY_BYTES_AT_ONCE_MAX: u64 = 64 << 10;

/// What is loaded with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Put,
    Get,
}

impl Operation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get => "GET",
        }
    }
}

/// How a worker reaches the store.
pub(super) trait Way: Send + 'static {
    /// Has an object's bytes where a PUT takes them from; not timed. Without it they are made as they are sent.
    fn prepare(&mut self, _content: Pattern) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }
    /// Stores an object.
    fn put(&mut self, key: &str, content: Pattern) -> impl Future<Output = Result<()>> + Send;
    /// Reads one and compares every byte.
    fn get(&mut self, key: &str, content: Pattern) -> impl Future<Output = Result<()>> + Send;
}

impl Way for S3 {
    async fn put(&mut self, key: &str, content: Pattern) -> Result<()> {
        match content.len() <= BODY_BYTES_AT_ONCE_MAX {
            true => S3::put(self, key, content.to_bytes()).await?,
            false => S3::put(self, key, content).await?,
        };
        Ok(())
    }

    async fn get(&mut self, key: &str, content: Pattern) -> Result<()> {
        self.get_compare(key, &content).await?;
        Ok(())
    }
}

/// The objects of one load: stored first, then read. Clones are the same.
#[derive(Clone)]
pub(super) struct Objects {
    prefix: String,
    size: u64,
    keys: u64,
    next: Arc<AtomicU64>,
    /// How many are there.
    stored: Arc<AtomicU64>,
}

impl Objects {
    pub(super) fn new(prefix: String, size: ByteSize) -> Self {
        let keys = (KEPT_BYTES_MAX / size.0.max(1)).clamp(1, KEYS_MAX);
        Self { prefix, size: size.0, keys, next: Arc::default(), stored: Arc::default() }
    }

    /// How long it took.
    async fn once<W: Way>(&self, way: &mut W, operation: Operation) -> Result<Duration> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match operation {
            Operation::Put => {
                let key = number % self.keys;
                let content = Pattern::new(key, self.size);
                way.prepare(content).await?;
                let began = Instant::now();
                way.put(&self.key(key), content).await?;
                self.stored.fetch_max(key + 1, Ordering::Relaxed);
                Ok(began.elapsed())
            }
            Operation::Get => {
                let stored = self.stored.load(Ordering::Relaxed).max(1);
                let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % stored;
                let began = Instant::now();
                way.get(&self.key(key), Pattern::new(key, self.size)).await?;
                Ok(began.elapsed())
            }
        }
    }

    fn key(&self, number: u64) -> String {
        format!("{}/{number:08}", self.prefix)
    }
}

/// What a load came to.
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) latency_ns: Histogram<u64>,
    pub(super) failures: u64,
    pub(super) first_failure: Option<String>,
    /// Of the servers.
    pub(super) cpu: CpuSeconds,
    /// Of this process, which makes the load.
    pub(super) client_cpu_seconds: f64,
}

impl Measured {
    pub(super) fn nothing() -> Result<Self> {
        Ok(Self {
            seconds: 0.0,
            latency_ns: Histogram::new(3)?,
            failures: 0,
            first_failure: None,
            cpu: CpuSeconds::new(),
            client_cpu_seconds: 0.0,
        })
    }

    /// The two as one.
    pub(super) fn add(&mut self, more: Self) -> Result<()> {
        self.seconds += more.seconds;
        self.latency_ns.add(more.latency_ns)?;
        self.failures += more.failures;
        self.first_failure = self.first_failure.take().or(more.first_failure);
        more.cpu.into_iter().for_each(|(role, seconds)| *self.cpu.entry(role).or_default() += seconds);
        self.client_cpu_seconds += more.client_cpu_seconds;
        Ok(())
    }

    pub(super) fn operations(&self) -> u64 {
        self.latency_ns.len()
    }

    pub(super) fn operations_per_second(&self) -> f64 {
        self.operations() as f64 / self.seconds
    }

    pub(super) fn quantile_us(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Of all servers.
    pub(super) fn cpu_seconds(&self) -> f64 {
        self.cpu.values().sum()
    }
}

/// Runs one worker for each way, which come back.
pub(super) async fn run<W: Way>(
    operation: Operation,
    objects: &Objects,
    ways: Vec<W>,
    duration: Duration,
    processes: &Processes,
) -> Result<(Measured, Vec<W>)> {
    let mut measured = Measured::nothing()?;
    let mut back = Vec::with_capacity(ways.len());
    let before = (processes.cpu()?, cpu_seconds(std::process::id())?);
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for way in ways {
        workers.spawn(work(way, operation, objects.clone(), began + duration));
    }
    while let Some(done) = workers.join_next().await {
        let (way, tally) = done??;
        back.push(way);
        measured.add(tally)?;
    }
    measured.seconds = began.elapsed().as_secs_f64();
    measured.client_cpu_seconds = cpu_seconds(std::process::id())? - before.1;
    let used = |(role, after): (String, f64)| {
        let before = before.0.get(&role).copied().unwrap_or(0.0);
        (role, after - before)
    };
    measured.cpu = processes.cpu()?.into_iter().map(used).collect();
    Ok((measured, back))
}

async fn work<W: Way>(
    mut way: W,
    operation: Operation,
    objects: Objects,
    end: Instant,
) -> Result<(W, Measured)> {
    let mut tally = Measured::nothing()?;
    while Instant::now() < end && tally.failures < FAILURES_MAX {
        match objects.once(&mut way, operation).await {
            Ok(took) => tally.latency_ns.record(took.as_nanos() as u64)?,
            Err(error) => {
                tally.failures += 1;
                tally.first_failure.get_or_insert_with(|| format!("{} {error:#}", operation.name()));
            }
        }
    }
    Ok((way, tally))
}
