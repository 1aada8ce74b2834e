//! What was measured, as rows and as tables for a terminal.

use std::fmt;

use crate::bench::peers::{BOUND, ISA_L, ISA_L_AVX2, REFERENCE};
use crate::bench::rounds::{Entry, Samples, median};
use crate::bench::{Operation, Residency};

/// Everything that was measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where.
    pub machine: String,
    /// Ordered by operation, then by length and residency.
    pub rows: Vec<Row>,
    /// What the encoder is to reach, and what it reached.
    pub(super) reached: Vec<Reached>,
}

/// One kernel at one operation, one length of shards and one residency.
#[derive(Debug, Clone)]
pub struct Row {
    /// Ours begin with `tenfour-`.
    pub kernel: String,
    /// What was done.
    pub operation: Operation,
    /// Payload of one shard, bytes.
    pub shard_bytes: usize,
    /// Where the stripe was.
    pub residency: Residency,
    /// Data bytes, ten times the shard's, over time; median of the rounds.
    pub gb_per_s: f64,
    /// To the memory bus: the same reads and writes without arithmetic.
    pub to_bound: Option<f64>,
    /// To `reed-solomon-erasure`, with `simd-accel`.
    pub to_reference: Option<f64>,
    /// To ISA-L, as it chooses for this processor.
    pub to_isa_l: Option<f64>,
}

impl Row {
    pub(super) fn new(entry: &Entry, samples: &Samples, shard_bytes: usize, residency: Residency) -> Self {
        let operation = entry.operation;
        let to = |kernel: &str| samples.ratio((&entry.kernel, operation), (kernel, operation));
        Self {
            kernel: entry.kernel.clone(),
            operation,
            shard_bytes,
            residency,
            gb_per_s: median(entry.rates.clone()),
            to_bound: to(BOUND),
            to_reference: to(REFERENCE),
            to_isa_l: to(ISA_L),
        }
    }
}

/// A ratio that the encoder is to reach on a processor that has the kernel.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    aim: &'static Aim,
    ratio: f64,
}

#[derive(Debug)]
struct Aim {
    who: (&'static str, Operation),
    to: (&'static str, Operation),
    shard_bytes: usize,
    residency: Residency,
    least: f64,
}

const KIB_64: usize = 64 << 10;
const MIB: usize = 1 << 20;

#[rustfmt::skip]
static AIMS: [Aim; 7] = {
    use Operation::{Encode, EncodeAndSum, Reconstruct4};
    use Residency::{Cold, Warm};
    const BEST: &str = "tenfour-gfni512";
    [
        Aim { who: (BEST, Encode), to: (BOUND, Encode), shard_bytes: KIB_64, residency: Warm, least: 0.90 },
        Aim { who: (BEST, Encode), to: (BOUND, Encode), shard_bytes: MIB, residency: Cold, least: 0.85 },
        Aim { who: (BEST, Encode), to: (REFERENCE, Encode), shard_bytes: KIB_64, residency: Warm, least: 5.0 },
        Aim { who: (BEST, Encode), to: (REFERENCE, Encode), shard_bytes: MIB, residency: Cold, least: 2.8 },
        Aim { who: (BEST, EncodeAndSum), to: (BEST, Encode), shard_bytes: MIB, residency: Cold, least: 0.95 },
        Aim { who: (BEST, Reconstruct4), to: ("tenfour-gfni512-matrix", Reconstruct4), shard_bytes: KIB_64, residency: Warm, least: 1.35 },
        Aim { who: ("tenfour-avx2", Encode), to: (ISA_L_AVX2, Encode), shard_bytes: KIB_64, residency: Warm, least: 2.5 },
    ]
};

/// What these samples say about the aims.
pub(super) fn aims(samples: &Samples, shard_bytes: usize, residency: Residency) -> Vec<Reached> {
    let here = AIMS.iter().filter(|aim| (aim.shard_bytes, aim.residency) == (shard_bytes, residency));
    here.filter_map(|aim| Some(Reached { aim, ratio: samples.ratio(aim.who, aim.to)? })).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.machine)?;
        writeln!(out, "GB/s of data (ten times the shard) on one core, medians")?;
        for operation in Operation::ALL {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.operation == operation).collect();
            table(out, operation, &rows)?;
        }
        if !self.reached.is_empty() {
            writeln!(out, "\n{:<66}{:>8}{:>10}", "medians of the rounds' ratios", "ratio", "at least")?;
        }
        for Reached { aim, ratio } in &self.reached {
            let (who, to) = (aim.who, aim.to);
            let place = format!("{} {}", size(aim.shard_bytes), aim.residency.name());
            let against = if who.0 == to.0 { to.1.name() } else { to.0 };
            let text = format!("{} {}, {place}, to {against}", who.0, who.1.name());
            let mark = if *ratio < aim.least { "  missed" } else { "" };
            writeln!(out, "{text:<66}{ratio:>8.2}{:>10.2}{mark}", aim.least)?;
        }
        Ok(())
    }
}

/// The kernels of one operation, a column for each length and residency, and below them the ratios of the first.
fn table(out: &mut fmt::Formatter<'_>, operation: Operation, rows: &[&Row]) -> fmt::Result {
    let mut columns: Vec<(usize, Residency)> = Vec::new();
    let mut kernels: Vec<&str> = Vec::new();
    for row in rows {
        let column = (row.shard_bytes, row.residency);
        if !columns.contains(&column) {
            columns.push(column);
        }
        if !kernels.contains(&row.kernel.as_str()) {
            kernels.push(&row.kernel);
        }
    }
    write!(out, "\n{:<34}", operation.name())?;
    for (shard_bytes, residency) in &columns {
        write!(out, "{:>13}", format!("{} {}", size(*shard_bytes), residency.name()))?;
    }
    writeln!(out)?;
    let find = |kernel: &str, column: &(usize, Residency)| {
        let mut rows = rows.iter().copied();
        rows.find(|row| row.kernel == kernel && (row.shard_bytes, row.residency) == *column)
    };
    let mut line = |name: &str, kernel: &str, value: &dyn Fn(&Row) -> Option<f64>, digits: usize| {
        write!(out, "  {name:<32}")?;
        for column in &columns {
            let value = find(kernel, column).and_then(value);
            write!(out, "{:>13}", value.map_or("-".to_owned(), |value| format!("{value:.digits$}")))?;
        }
        writeln!(out)
    };
    for kernel in &kernels {
        line(kernel, kernel, &|row| Some(row.gb_per_s), 1)?;
    }
    let Some(first) = kernels.first() else { return Ok(()) };
    line(&format!("{first} / {BOUND}"), first, &|row| row.to_bound, 2)?;
    line("        / reed-solomon-erasure", first, &|row| row.to_reference, 2)?;
    if rows.iter().any(|row| row.to_isa_l.is_some()) {
        line("        / isa-l", first, &|row| row.to_isa_l, 2)?;
    }
    Ok(())
}

fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= MIB && bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        bytes if bytes.is_multiple_of(1024) => format!("{} KiB", bytes / 1024),
        bytes => format!("{bytes} B"),
    }
}
