//! A run in figures, for a terminal.

use crate::check::Violation;
use crate::faults::Done;
use crate::history::Record;
use crate::resources::Usage;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Everything that is known of a run.
pub struct Run {
    /// What it was made from.
    pub seed: u64,
    /// How long the load ran.
    pub load: Duration,
    /// What the clients saw.
    pub history: Vec<Record>,
    /// What was done to the cluster.
    pub faults: Vec<Done>,
    /// After the last fault, until every process ran again and every key was read.
    pub healed: Option<Duration>,
    /// Keys that were read at the end, through every door.
    pub verified: usize,
    /// What the processes used at the end.
    pub usage: BTreeMap<String, Usage>,
    /// What was not kept.
    pub violations: Vec<Violation>,
}

/// Operations of one kind.
#[derive(Default)]
pub struct Line {
    /// How many, by outcome.
    pub outcomes: BTreeMap<&'static str, usize>,
    /// Latencies of those that went well, µs, ascending.
    pub latencies: Vec<u64>,
}

impl Line {
    /// The latency that this share of them stayed below, ms.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.latencies.get(at).map_or(0.0, |micros| *micros as f64 / 1000.0)
    }
}

impl Run {
    /// Operations by kind.
    pub fn lines(&self) -> BTreeMap<&'static str, Line> {
        let mut lines: BTreeMap<&'static str, Line> = BTreeMap::new();
        for record in &self.history {
            let line = lines.entry(record.action.kind()).or_default();
            *line.outcomes.entry(record.outcome.kind()).or_default() += 1;
            if matches!(record.outcome.kind(), "ok" | "refused") {
                line.latencies.push(record.ended.saturating_sub(record.began));
            }
        }
        for line in lines.values_mut() {
            line.latencies.sort_unstable();
        }
        lines
    }

    /// Faults by kind: done, and not done because the victim was not there.
    pub fn faults_by_kind(&self) -> BTreeMap<&'static str, (usize, usize)> {
        let mut kinds: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
        for done in &self.faults {
            let (happened, missed) = kinds.entry(done.kind.name()).or_default();
            *(if done.happened { happened } else { missed }) += 1;
        }
        kinds
    }

    /// The longest time between two operations that went well, ms.
    pub fn longest_silence_ms(&self) -> f64 {
        let mut ends: Vec<u64> = self
            .history
            .iter()
            .filter(|record| matches!(record.outcome.kind(), "ok" | "refused"))
            .map(|record| record.ended)
            .collect();
        ends.sort_unstable();
        let longest = ends.windows(2).filter_map(|pair| Some(pair.last()? - pair.first()?)).max();
        longest.unwrap_or(0) as f64 / 1000.0
    }

    /// The report.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "\n{:<18}{:>8}{:>9}{:>8}{:>9}{:>7}{:>10}{:>10}{:>10}",
            "operations", "ok", "refused", "failed", "unknown", "wrong", "p50 ms", "p99 ms", "worst ms"
        );
        for (kind, line) in self.lines() {
            let count = |outcome| line.outcomes.get(outcome).copied().unwrap_or(0);
            let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|share| line.quantile_ms(share));
            let _ = writeln!(
                out,
                "{kind:<18}{:>8}{:>9}{:>8}{:>9}{:>7}{p50:>10.1}{p99:>10.1}{worst:>10.1}",
                count("ok"),
                count("refused"),
                count("failed"),
                count("unknown"),
                count("wrong")
            );
        }
        let _ = writeln!(out, "{:<18}{:>8} in {:.0} s\n", "all", self.history.len(), self.load.as_secs_f64());
        for (kind, (happened, missed)) in self.faults_by_kind() {
            let missed = if missed == 0 { String::new() } else { format!(", {missed} not done") };
            let _ = writeln!(out, "fault {kind:<12}{happened:>8}{missed}");
        }
        let most = self.usage.values().map(|usage| usage.memory_kib >> 10).max().unwrap_or(0);
        let descriptors = self.usage.values().map(|usage| usage.descriptors).max().unwrap_or(0);
        let healed =
            self.healed.map_or("not in time".to_owned(), |healed| format!("{:.1} s", healed.as_secs_f64()));
        let _ = writeln!(
            out,
            "\nlongest time without any success {:.0} ms; all served again after the faults: {healed}; \
             reads at the end: {}\nlargest process {most} MiB, most descriptors {descriptors}\n\nviolations: {}",
            self.longest_silence_ms(),
            self.verified,
            self.violations.len()
        );
        for Violation { invariant, text, at } in &self.violations {
            let _ = writeln!(out, "  {invariant} at {:.3} s: {text}", *at as f64 / 1e6);
        }
        out
    }
}
