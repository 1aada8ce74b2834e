//! The measuring end of `tenfour bench fabric`: starts the peer, and the clock.

use super::cores::Pinned;
use super::peer::{GRANT_EXPIRES, KEY_VARIABLE, REMOTE_BYTES, decode, encode, region};
use super::step::{Kind, Step};
use super::{Course, Mode, endpoint, open};
use crate::bench::processes::cpu_seconds;
use crate::units::ByteSize;
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tenfour_rdma::{
    ClusterKey, Connection, Domain, Endpoint, Frozen, Grant, Open, Provider, Received, Remote,
};
use tenfour_types::Scaled;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The peer connects, and ends, within so long.
const PEER_WITHIN: Duration = Duration::from_secs(10);
/// Rounds before the measurement.
const WARM_UP: usize = 200;
/// The clock of a rate is looked at after so many operations.
const LOOK_EVERY: usize = 32;

/// One row of the table.
pub(super) struct Measured {
    pub(super) provider: Provider,
    pub(super) mode: Mode,
    pub(super) kind: Kind,
    pub(super) size: ByteSize,
    pub(super) latency_ns: Histogram<u64>,
    cpu_seconds: f64,
    /// Operations a second with many outstanding.
    pub(super) rate: Option<f64>,
}

impl Measured {
    pub(super) fn quantile_us(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }

    pub(super) fn cpu_us_per_operation(&self) -> f64 {
        self.cpu_seconds * 1e6 / (self.latency_ns.len() * self.kind.per_sample()).max(1) as f64
    }
}

/// Everything there is to measure over one transport in one mode.
pub(super) async fn run(course: Course) -> Result<Vec<Measured>> {
    let mut bench = Bench::start(course).await?;
    let mut rows = Vec::new();
    for size in &bench.course.sizes {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.fits(*size)) {
            rows.push(bench.measure(kind, *size).await.with_context(|| format!("{} {size}", kind.name()))?);
        }
    }
    bench.connection.close().await;
    timeout(PEER_WITHIN.scaled(), bench.child.wait()).await.context("the peer does not end")??;
    Ok(rows)
}

struct Bench {
    course: Course,
    domain: Domain,
    connection: Connection,
    child: Child,
    source: Frozen,
    /// The peer's region that we may write to, and the one that we may read.
    regions: (Remote, Remote),
    /// What the peer writes to.
    _own: Grant<Open>,
    _folder: tempfile::TempDir,
    _pinned: Option<Pinned>,
}

impl Bench {
    async fn start(course: Course) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let pinned = if course.mode == Mode::Event { None } else { Pinned::to_a_core()? };
        let key: [u8; 32] = rand::random();
        let domain = open(course.provider, course.mode.spin(), ClusterKey::from_bytes(key))?;
        let mut listener = domain.listen(&endpoint(&course, folder.path())).await?;
        let child = spawn_peer(&listener.local_endpoint(), course.mode, pinned.as_ref(), &hex::encode(key))?;
        let incoming = timeout(PEER_WITHIN.scaled(), listener.accept()).await;
        let connection = incoming.context("the peer does not connect")??.accept(Vec::new()).await?;
        let own = region(&domain).await?;
        let length = own.len();
        let own = connection.grant_write(own, 0..length, GRANT_EXPIRES)?;
        connection.send(encode(own.remote()).into()).await?;
        let Received::Message(theirs) = connection.recv().await? else { bail!("no set-up came") };
        let regions = theirs.split_at_checked(REMOTE_BYTES);
        let regions = regions.and_then(|(to, from)| Some((decode(to)?, decode(from)?)));
        let regions = regions.context("a malformed set-up")?;
        let source = region(&domain).await?.freeze();
        Ok(Self {
            course,
            domain,
            connection,
            child,
            source,
            regions,
            _own: own,
            _folder: folder,
            _pinned: pinned,
        })
    }

    async fn measure(&self, kind: Kind, size: ByteSize) -> Result<Measured> {
        let Course { provider, mode, each, .. } = self.course;
        let mut step =
            Step::new(kind, size, &self.course, &self.domain, &self.connection, &self.source, self.regions)
                .await?;
        for _ in 0..WARM_UP {
            step.one().await?;
        }
        let mut latency_ns = Histogram::new(3)?;
        let cpu_before = self.cpu_seconds()?;
        let began = Instant::now();
        while began.elapsed() < each {
            let started = Instant::now();
            step.one().await?;
            latency_ns.record(started.elapsed().as_nanos() as u64 / kind.per_sample())?;
        }
        let cpu_seconds = self.cpu_seconds()? - cpu_before;
        let rate = if kind.has_rate() { Some(rate(each, &mut step).await?) } else { None };
        step.settle().await?;
        Ok(Measured { provider, mode, kind, size, latency_ns, cpu_seconds, rate })
    }

    /// Of both ends.
    fn cpu_seconds(&self) -> Result<f64> {
        let peer = self.child.id().context("the peer has ended")?;
        Ok(cpu_seconds(std::process::id())? + cpu_seconds(peer)?)
    }
}

/// Operations a second with many outstanding.
async fn rate(each: Duration, step: &mut Step) -> Result<f64> {
    let began = Instant::now();
    let mut operations = 0;
    while began.elapsed() < each {
        for _ in 0..LOOK_EVERY {
            step.post().await?;
        }
        operations += LOOK_EVERY;
    }
    Ok(operations as f64 / began.elapsed().as_secs_f64())
}

fn spawn_peer(at: &Endpoint, mode: Mode, pinned: Option<&Pinned>, key: &str) -> Result<Child> {
    let spin_us = mode.spin().as_micros().to_string();
    let cpu = pinned.map(|pinned| format!("--cpu={}", pinned.other));
    Command::new(std::env::current_exe()?)
        .args(["bench", "fabric-peer", "--at", &at.to_string(), "--spin-us", &spin_us])
        .args(cpu)
        .env(KEY_VARIABLE, key)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the peer")
}
