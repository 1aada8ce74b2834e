//! What the processes use, and how they ended: `/proc` and their logs.

use crate::check::Violation;
use crate::cluster::Cluster;
use crate::faults::Done;
use crate::schedule::Kind;
use serde::Serialize;
use std::collections::BTreeMap;

/// Growth of the descriptors of a process that lived through the run, at most.
const DESCRIPTORS_MORE_MAX: u64 = 200;
/// Memory of a process, KiB, at most: its pools, and as much again.
const MEMORY_KIB_MAX: u64 = 1 << 20;

/// What one process uses.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Usage {
    /// Its process id.
    pub pid: i32,
    /// Resident memory, KiB.
    pub memory_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// What each process uses now, by name.
pub fn usage(cluster: &Cluster) -> BTreeMap<String, Usage> {
    cluster.pids().into_iter().filter_map(|(name, pid)| Some((name, of(pid)?))).collect()
}

fn of(pid: i32) -> Option<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let memory_kib = resident.split_whitespace().next()?.parse().ok()?;
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    Some(Usage { pid, memory_kib, descriptors })
}

/// What is not calm.
pub fn check(
    cluster: &Cluster,
    before: &BTreeMap<String, Usage>,
    after: &BTreeMap<String, Usage>,
    faults: &[Done],
) -> Vec<Violation> {
    let mut found = Vec::new();
    for (name, now) in after {
        if now.memory_kib > MEMORY_KIB_MAX {
            found.push(Violation::new("I9", format!("{name} uses {} MiB", now.memory_kib >> 10)));
        }
        let Some(then) = before.get(name).filter(|then| then.pid == now.pid) else { continue };
        if now.descriptors > then.descriptors + DESCRIPTORS_MORE_MAX {
            let text = format!("{name} has {} descriptors, {} before", now.descriptors, then.descriptors);
            found.push(Violation::new("I9", text));
        }
    }
    found.extend(ends(&cluster.ends(), faults).into_iter().map(|text| Violation::new("I9", text)));
    for (name, log) in cluster.logs() {
        let panics = log.lines().filter(|line| line.contains("panicked at"));
        found.extend(panics.map(|line| Violation::new("I9", format!("{name}: {line}"))));
    }
    found
}

/// Ends of processes that no fault explains.
fn ends(lines: &[String], faults: &[Done]) -> Vec<String> {
    let is_kill = |kind| matches!(kind, Kind::KillNode | Kind::KillMeta | Kind::KillGateway);
    let killed = faults.iter().filter(|done| done.happened && is_kill(done.kind)).count();
    let (by_kill, by_itself): (Vec<&String>, Vec<&String>) =
        lines.iter().partition(|line| line.contains("SIGKILL"));
    let mut found: Vec<String> = by_itself.into_iter().cloned().collect();
    if by_kill.len() > killed {
        found.push(format!("{} processes were killed, {killed} of them by a fault", by_kill.len()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_no_fault_explains_is_found() {
        let kill = Done {
            kind: Kind::KillNode,
            victim: "node-01".to_owned(),
            at: 0,
            until: 0,
            note: String::new(),
            happened: true,
        };
        let pause = Done { kind: Kind::PauseNode, ..kill.clone() };
        let line = |how: &str| format!("WARN a process ended process=\"node-01\" reason=\"{how}\"");
        assert!(ends(&[line("signal: 9 (SIGKILL)")], &[kill.clone(), pause.clone()]).is_empty());
        assert_eq!(ends(&[line("signal: 9 (SIGKILL)")], &[pause]).len(), 1);
        assert_eq!(ends(&[line("exit status: 101")], &[kill]).len(), 1);
    }
}
