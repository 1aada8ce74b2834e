//! Faults, done to the processes and files of a cluster as planned, with what was done and when.

use crate::cluster::Cluster;
use crate::schedule::{Kind, Planned};
use crate::workload::Journal;
use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Bits that one fault flips.
const FLIPS: usize = 8;
/// How many places are tried for one that holds data.
const PLACES: usize = 400;

/// A fault that was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// What.
    pub kind: Kind,
    /// To whom.
    pub victim: String,
    /// When it began, µs.
    pub at: u64,
    /// When it ended, µs: of a pause; else the same.
    pub until: u64,
    /// What exactly, or why not.
    pub note: String,
    /// Whether it was done at all.
    pub happened: bool,
}

/// Does all that is planned, counted from now, and returns when the last pause is over.
pub async fn inject(cluster: &Cluster, planned: Vec<Planned>, journal: &Journal, seed: u64) -> Vec<Done> {
    let zero = Instant::now();
    let mut random = StdRng::seed_from_u64(seed ^ 0xb175);
    let mut running = JoinSet::new();
    for fault in planned {
        sleep_until(zero + fault.at).await;
        let at = journal.now();
        let done = begin(cluster, &fault, &mut random);
        let (journal, lasts) = (journal.clone(), fault.lasts);
        running.spawn(async move {
            let (happened, mut note) = match &done {
                Ok((_, note)) => (true, note.clone()),
                Err(error) => (false, format!("{error:#}")),
            };
            if let (Ok((pid, _)), false) = (&done, lasts.is_zero()) {
                sleep(lasts).await;
                if let Err(error) = kill_process(*pid, Signal::CONT) {
                    note = format!("{note}; it could not be woken: {error}");
                }
            }
            Done { kind: fault.kind, victim: fault.victim, at, until: journal.now(), note, happened }
        });
    }
    let mut all = running.join_all().await;
    all.sort_by_key(|done| done.at);
    all
}

fn begin(cluster: &Cluster, fault: &Planned, random: &mut StdRng) -> Result<(Pid, String)> {
    let pid = cluster.pids().get(&fault.victim).copied();
    let pid = pid.and_then(Pid::from_raw).context("it was not there")?;
    let note = match fault.kind {
        Kind::KillNode | Kind::KillMeta | Kind::KillGateway => {
            kill_process(pid, Signal::KILL)?;
            format!("process {}", pid.as_raw_nonzero())
        }
        Kind::PauseNode | Kind::PauseMeta | Kind::PauseGateway => {
            kill_process(pid, Signal::STOP)?;
            format!("process {} for {} ms", pid.as_raw_nonzero(), fault.lasts.as_millis())
        }
        Kind::FlipBits => flip_bits(&cluster.folder.join(&fault.victim).join("target"), random)?,
    };
    Ok((pid, note))
}

/// Flips bits where there is data; returns where.
fn flip_bits(target: &Path, random: &mut StdRng) -> Result<String> {
    let is_segment =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-"));
    let entries = std::fs::read_dir(target).with_context(|| format!("cannot read {}", target.display()))?;
    let mut segments: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_segment).collect();
    segments.sort();
    let mut flipped = Vec::new();
    for _ in 0..PLACES {
        let segment = segments.choose(random).context("it has no segment")?;
        let file = File::options().read(true).write(true).open(segment)?;
        let place = random.random_range(0..file.metadata()?.len().max(1));
        let mut byte = [0];
        if file.read_at(&mut byte, place)? == 1 && byte != [0] {
            let bit = random.random_range(0..8);
            file.write_all_at(&[byte[0] ^ 1 << bit], place)?;
            let name = segment.file_name().unwrap_or_default().to_string_lossy();
            flipped.push(format!("{name} byte {place} bit {bit}"));
        }
        if flipped.len() == FLIPS {
            break;
        }
    }
    if flipped.is_empty() {
        bail!("no data was found to change");
    }
    Ok(flipped.join(", "))
}

/// Waits until so many processes run; how long that took.
pub async fn all_back(cluster: &Cluster, processes: usize, patience: Duration) -> Result<Duration> {
    let began = Instant::now();
    while cluster.pids().len() < processes {
        if began.elapsed() > patience {
            bail!("{} of {processes} processes run after {} s", cluster.pids().len(), patience.as_secs());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(began.elapsed())
}
