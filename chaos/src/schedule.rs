//! What is broken when: made from the seed before the run begins.
//!
//! Invariant, as far as a plan can keep it: at no moment are more than four nodes hurt, more than one metadata replica or more than one
//! gateway. A killed process counts as hurt until its supervisor will have it back; a node whose files were changed, for ever.

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Nodes that may be hurt at once: the code survives four losses.
pub const NODES_HURT_MAX: usize = 4;
/// Nodes whose files are changed, of those: a write while nodes are down may put two shards of a stripe on one.
const NODES_FLIPPED_MAX: usize = 2;
/// How long a killed process may be away: its supervisor waits up to 10 s.
const AWAY: Duration = Duration::from_secs(15);
/// How long after a pause a process counts as hurt.
const BREATH: Duration = Duration::from_secs(3);
/// Longest pause of a process, ms.
const PAUSE_MS_MAX: u64 = 6000;
/// Time between two faults, ms.
const GAP_MS: std::ops::Range<u64> = 400..3000;

/// Kinds of faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SIGKILL of a node.
    KillNode,
    /// SIGKILL of a metadata replica, the leader or not.
    KillMeta,
    /// SIGKILL of a gateway.
    KillGateway,
    /// SIGSTOP of a node, then SIGCONT.
    PauseNode,
    /// SIGSTOP of a metadata replica, then SIGCONT.
    PauseMeta,
    /// SIGSTOP of a gateway, then SIGCONT.
    PauseGateway,
    /// Bits flipped in the segment files of a node that runs.
    FlipBits,
}

impl Kind {
    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillNode => "kill-node",
            Self::KillMeta => "kill-meta",
            Self::KillGateway => "kill-gateway",
            Self::PauseNode => "pause-node",
            Self::PauseMeta => "pause-meta",
            Self::PauseGateway => "pause-gateway",
            Self::FlipBits => "flip-bits",
        }
    }

    fn is_pause(self) -> bool {
        matches!(self, Self::PauseNode | Self::PauseMeta | Self::PauseGateway)
    }
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// When, from the beginning of the load.
    pub at: Duration,
    /// What.
    pub kind: Kind,
    /// Whom: the name of a process.
    pub victim: String,
    /// For how long, of a pause.
    pub lasts: Duration,
}

/// How many processes there are.
#[derive(Clone, Copy, Debug)]
pub struct Processes {
    /// Nodes.
    pub nodes: u32,
    /// Metadata replicas.
    pub metas: u32,
    /// Gateways.
    pub gateways: u32,
}

/// The faults of a run of this length.
pub fn plan(seed: u64, length: Duration, kinds: &[Kind], processes: Processes) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed ^ 0xfa17);
    let mut planned: Vec<Planned> = Vec::new();
    let mut at = Duration::from_secs(1);
    loop {
        at += Duration::from_millis(random.random_range(GAP_MS));
        let Some(&kind) = kinds.choose(&mut random).filter(|_| at < length) else { return planned };
        let name = match kind {
            Kind::KillNode | Kind::PauseNode | Kind::FlipBits => {
                format!("node-{:02}", random.random_range(1..=processes.nodes))
            }
            Kind::KillMeta | Kind::PauseMeta => format!("meta-{}", random.random_range(1..=processes.metas)),
            Kind::KillGateway | Kind::PauseGateway => {
                format!("gateway-{}", random.random_range(1..=processes.gateways))
            }
        };
        let lasts = Duration::from_millis(random.random_range(500..PAUSE_MS_MAX));
        let lasts = if kind.is_pause() { lasts } else { Duration::ZERO };
        let fault = Planned { at, kind, victim: name, lasts };
        if is_bearable(&planned, &fault) {
            planned.push(fault);
        }
    }
}

/// Until when a fault hurts its victim.
fn until(fault: &Planned) -> Duration {
    match fault.kind {
        Kind::FlipBits => Duration::MAX,
        kind if kind.is_pause() => fault.at + fault.lasts + BREATH,
        _ => fault.at + AWAY,
    }
}

/// Whether a fault after all of these leaves enough of the cluster.
fn is_bearable(before: &[Planned], fault: &Planned) -> bool {
    let role = |name: &str| name.split('-').next().map(str::to_owned);
    let of_role = before.iter().filter(|other| role(&other.victim) == role(&fault.victim));
    let now: Vec<&Planned> = of_role.filter(|other| until(other) > fault.at).collect();
    let distinct = |filter: &dyn Fn(&Planned) -> bool| {
        let mut names: Vec<&str> =
            now.iter().filter(|other| filter(other)).map(|other| other.victim.as_str()).collect();
        names.push(&fault.victim);
        names.sort_unstable();
        names.dedup();
        names.len()
    };
    let most = if fault.victim.starts_with("node") { NODES_HURT_MAX } else { 1 };
    let is_flip = |other: &Planned| other.kind == Kind::FlipBits;
    // Bits are flipped in the file of a node that runs, and a process is not paused or killed twice at once.
    let is_down = now.iter().any(|other| !is_flip(other) && other.victim == fault.victim);
    !is_down
        && distinct(&|_| true) <= most
        && (fault.kind != Kind::FlipBits || distinct(&is_flip) <= NODES_FLIPPED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const PROCESSES: Processes = Processes { nodes: 14, metas: 3, gateways: 2 };

    #[test]
    fn the_cluster_is_never_hurt_more_than_it_must_bear() {
        for seed in 0..200 {
            let planned = plan(seed, Duration::from_secs(600), Kind::value_variants(), PROCESSES);
            assert!(planned.len() > 50, "{} faults in ten minutes", planned.len());
            for fault in &planned {
                let hurt = |role: &str| -> BTreeSet<&str> {
                    let now = planned.iter().filter(|other| other.at <= fault.at && until(other) > fault.at);
                    now.map(|other| other.victim.as_str()).filter(|name| name.starts_with(role)).collect()
                };
                assert!(hurt("node").len() <= 4, "seed {seed} at {:?}: {:?}", fault.at, hurt("node"));
                assert!(hurt("meta").len() <= 1 && hurt("gateway").len() <= 1, "seed {seed}");
            }
            let kinds: BTreeSet<Kind> = planned.iter().map(|fault| fault.kind).collect();
            assert_eq!(kinds.len(), 7, "seed {seed}: {kinds:?}");
        }
    }

    #[test]
    fn a_seed_is_a_plan() {
        let plan = |seed| plan(seed, Duration::from_secs(60), &[Kind::KillNode, Kind::PauseMeta], PROCESSES);
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }
}
