//! What the data path did, and where its time went. Plain atomics: nothing here decides anything.

use crate::rdma::token::TokenCounters;
use crate::transport::{PROVIDERS, TrafficByTransport};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

/// Counters of one gateway since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes from the front into registered memory, with the checksums that the client gave.
    pub receive: Stage,
    /// Encoding and checksums.
    pub encode: Stage,
    /// MD5, mostly on threads of its own: each turn of some streams side by side.
    pub hash: Stage,
    /// Bytes that went through the MD5 there.
    pub hash_bytes: AtomicU64,
    /// How far the streams went, bytes: `hash_bytes` divided by this says how many went side by side.
    pub hash_step_bytes: AtomicU64,
    /// From the encoded stripe to 14 durable shards, and to the MD5 of its bytes.
    pub fanout: Stage,
    /// The commit at the metadata service.
    pub commit: Stage,
    /// The read of a manifest.
    pub lookup: Stage,
    /// From the manifest to verified bytes of a stripe.
    pub gather: Stage,
    /// Objects and parts stored.
    pub puts: AtomicU64,
    /// Objects read, or parts of them.
    pub gets: AtomicU64,
    /// Stripes that became durable.
    pub stripes: AtomicU64,
    /// Shards that were written a second time because the first target did not answer soon.
    pub write_hedges: AtomicU64,
    /// Shards that went to a substitute: absent, failed or late targets.
    pub substitutes: AtomicU64,
    /// Shards asked for because another did not come soon.
    pub read_hedges: AtomicU64,
    /// Stripes read with a data shard computed from the others.
    pub reconstructions: AtomicU64,
    /// Shards found missing, damaged or different from their digest.
    pub bad_shards: AtomicU64,
    /// Requests given up because no memory came in time.
    pub overloads: AtomicU64,
    /// Shards and bytes by transport.
    pub traffic: TrafficByTransport,
    /// Requests whose body was to go by RDMA, steered by HTTP headers.
    pub tokens: Arc<TokenCounters>,
}

impl Counters {
    /// Every counter with its name, as now. Names ending in `_nanos` are times, in `_bytes` bytes, the others count.
    pub fn all(&self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        let mut add = |name: String, value: &AtomicU64| all.push((name, value.load(Ordering::Relaxed)));
        for (name, stage) in self.stages() {
            add(format!("{name}_times"), &stage.times);
            add(format!("{name}_wall_nanos"), &stage.wall_nanos);
            add(format!("{name}_busy_nanos"), &stage.busy_nanos);
        }
        for (name, value) in [
            ("puts", &self.puts),
            ("gets", &self.gets),
            ("stripes", &self.stripes),
            ("write_hedges", &self.write_hedges),
            ("substitutes", &self.substitutes),
            ("read_hedges", &self.read_hedges),
            ("reconstructions", &self.reconstructions),
            ("bad_shards", &self.bad_shards),
            ("overloads", &self.overloads),
            ("rdma_token_puts", &self.tokens.puts),
            ("rdma_token_gets", &self.tokens.gets),
            ("rdma_token_bytes", &self.tokens.bytes),
            ("rdma_token_declined", &self.tokens.declined),
            ("rdma_token_failed", &self.tokens.failed),
        ] {
            add(name.to_owned(), value);
        }
        for provider in PROVIDERS {
            let traffic = self.traffic.of(provider);
            add(format!("{provider}_stored_shards"), &traffic.stored_shards);
            add(format!("{provider}_stored_bytes"), &traffic.stored_bytes);
            add(format!("{provider}_fetched_shards"), &traffic.fetched_shards);
            add(format!("{provider}_fetched_bytes"), &traffic.fetched_bytes);
        }
        all
    }

    /// The stages, in the order in which a PUT and then a GET goes through them.
    pub fn stages(&self) -> [(&'static str, &Stage); 6] {
        [
            ("receive", &self.receive),
            ("encode", &self.encode),
            ("fanout", &self.fanout),
            ("commit", &self.commit),
            ("lookup", &self.lookup),
            ("gather", &self.gather),
        ]
    }
}

/// One stage of a pipeline.
#[derive(Debug, Default)]
pub struct Stage {
    /// How often.
    pub times: AtomicU64,
    /// From its begin to its end, nanoseconds.
    pub wall_nanos: AtomicU64,
    /// Running, not waiting, nanoseconds.
    pub busy_nanos: AtomicU64,
}

impl Stage {
    /// Runs what does not wait.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let done = work();
        let nanos = begin.elapsed().as_nanos() as u64;
        self.add(nanos, nanos);
        done
    }

    /// Runs what waits.
    pub(crate) fn measure<F: Future>(&self, work: F) -> Measured<'_, F> {
        Measured { stage: self, begin: None, busy_nanos: 0, work: Box::pin(work) }
    }

    pub(crate) fn add(&self, wall_nanos: u64, busy_nanos: u64) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.wall_nanos.fetch_add(wall_nanos, Ordering::Relaxed);
        self.busy_nanos.fetch_add(busy_nanos, Ordering::Relaxed);
    }
}

/// A future that is measured: only finished ones count.
pub(crate) struct Measured<'a, F> {
    stage: &'a Stage,
    begin: Option<Instant>,
    busy_nanos: u64,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Measured<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let now = Instant::now();
        let begin = *self.begin.get_or_insert(now);
        let polled = self.work.as_mut().poll(context);
        self.busy_nanos += now.elapsed().as_nanos() as u64;
        if polled.is_ready() {
            self.stage.add(begin.elapsed().as_nanos() as u64, self.busy_nanos);
        }
        polled
    }
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
