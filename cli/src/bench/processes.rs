//! CPU time and memory of server processes, read from /proc, so that any server on this machine can be measured alike.

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Processes under measurement, by role.
#[derive(Clone, Debug, Default)]
pub struct Processes(Vec<(String, u32)>);

/// The role of processes that were named by their ids.
pub const NAMED: &str = "server";

/// CPU seconds by role.
pub type CpuSeconds = BTreeMap<String, f64>;

impl Processes {
    /// These ids, in one role; their threads count, their children do not.
    pub fn of_pids(pids: &[u32]) -> Result<Self> {
        for pid in pids {
            cpu_seconds(*pid)?;
        }
        Ok(Self(pids.iter().map(|pid| (NAMED.to_owned(), *pid)).collect()))
    }

    /// The processes of the cluster in a folder: those that were started with a configuration file below it.
    pub fn of_cluster(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize().with_context(|| format!("no cluster in {}", folder.display()))?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<String> = command
                .split(|byte| *byte == 0)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            if let [_, role, flag, config, ..] = words.as_slice()
                && flag == "--config"
                && Path::new(config).starts_with(&folder)
            {
                found.push((role.clone(), pid));
            }
        }
        if found.is_empty() {
            bail!("no process of the cluster in {} is running", folder.display());
        }
        Ok(Self(found))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The roles that there are.
    pub fn roles(&self) -> Vec<String> {
        self.0.iter().map(|(role, _)| role.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// CPU time used so far. One that has ended is an error: what it used would be missing from the difference of two sums.
    pub fn cpu(&self) -> Result<CpuSeconds> {
        let mut sums = CpuSeconds::new();
        for (role, pid) in &self.0 {
            let seconds =
                cpu_seconds(*pid).with_context(|| format!("a {role} under measurement has ended"))?;
            *sums.entry(role.clone()).or_default() += seconds;
        }
        Ok(sums)
    }

    /// The largest resident memory that any process of each role ever had, MiB.
    pub fn peak_mib(&self) -> BTreeMap<String, u64> {
        let mut peaks = BTreeMap::new();
        for (role, pid) in &self.0 {
            let peak = peaks.entry(role.clone()).or_insert(0);
            *peak = peak_kib(*pid).unwrap_or(0).div_ceil(1024).max(*peak);
        }
        peaks
    }
}

/// User and system time of a process with all its threads, seconds (proc(5): fields 14 and 15 of stat, in ticks of 10 ms).
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("no process {pid}"))?;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap_or(0))
        .sum::<u64>();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn peak_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_is_an_error_and_no_zero() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let processes = Processes::of_pids(&[child.id()]).unwrap();
        assert!(processes.cpu().unwrap().contains_key(NAMED));
        child.kill().unwrap();
        child.wait().unwrap();
        let error = format!("{:#}", processes.cpu().unwrap_err());
        assert!(error.contains("has ended") && error.contains(&child.id().to_string()), "{error}");
    }
}
