//! `tenfour bench encode`: every encoder of this machine beside `reed-solomon-erasure`, ISA-L and the memory bus, and the GPU, if there is
//! one. What is measured, and how, is in `tenfour_erasure::bench` and `tenfour_gpu::measure`; here are the options and the file.

use crate::units::ByteSize;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tenfour_erasure::bench::{Options, Row, measure};
use tenfour_gpu::measure::Row as GpuRow;
use tenfour_gpu::{Gpu, When};

/// Each row of the GPU is measured for so many turns of a processor's kernel, since its first launches cost more.
const GPU_TURNS: u32 = 25;

/// Options of `tenfour bench encode`.
#[derive(clap::Args, Clone, Debug)]
pub struct EncodeArguments {
    /// Payload of one shard: multiples of 64 bytes up to 16 MiB.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "4KiB,64KiB,1MiB,8MiB")]
    shards: Vec<ByteSize>,
    /// Rounds of which the median counts; all take turns in each.
    #[arg(long, value_name = "N", default_value_t = 9)]
    rounds: usize,
    /// How long a turn is, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 8)]
    milliseconds: u64,
    /// ISA-L's library, to measure it too (Debian: the package libisal2, `/usr/lib/x86_64-linux-gnu/libisal.so.2`).
    #[arg(long, value_name = "PATH")]
    isal: Option<PathBuf>,
    /// Writes all figures and ratios to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures and prints.
pub fn run(arguments: &EncodeArguments) -> Result<()> {
    let options = Options {
        shard_bytes: arguments.shards.iter().map(|size| size.as_usize()).collect(),
        isa_l: arguments.isal.clone(),
        rounds: arguments.rounds,
        slice: Duration::from_millis(arguments.milliseconds),
    };
    let report = measure(&options, |part| eprintln!("{part}"))?;
    println!("{report}");
    let (mut machine, mut rows) = (report.machine.clone(), report.rows.iter().map(row).collect::<Vec<_>>());
    match Gpu::open(tenfour_erasure::best(), When::Always, 1) {
        Err(error) => println!("{error}"),
        Ok(gpu) => {
            let measured = gpu.bench(&options.shard_bytes, options.slice * GPU_TURNS)?;
            print_gpu(gpu.device_name(), &measured);
            machine += &format!(", {}", gpu.device_name());
            rows.extend(measured.iter().map(gpu_row));
        }
    }
    if let Some(path) = &arguments.json {
        let text = format!("{:#}\n", json!({ "machine": machine, "rows": rows }));
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn print_gpu(device: &str, rows: &[GpuRow]) {
    println!("{device}: GB/s of data");
    println!(
        "  {:<14}{:>10}  {:<12}{:>8}{:>9}{:>16}",
        "operation", "shard", "bytes in", "callers", "GB/s", "of a copy"
    );
    for GpuRow { op, shard_bytes, residency, callers, gb_per_s, of_copy_bandwidth } in rows {
        let share = of_copy_bandwidth.map_or("-".to_owned(), |share| format!("{share:.2}"));
        println!("  {op:<14}{shard_bytes:>10}  {residency:<12}{callers:>8}{gb_per_s:>9.1}{share:>16}");
    }
    println!(
        "\n  device: the kernel alone, beside the rate at which the device copies its own memory. registered, host: end to end, with the\n  \
         transfers, from memory that the device reads in place and from any other."
    );
}

fn gpu_row(row: &GpuRow) -> Value {
    json!({
        "kernel": "tenfour-cuda",
        "op": row.op,
        "shard_bytes": row.shard_bytes,
        "residency": row.residency,
        "callers": row.callers,
        "gb_per_s": row.gb_per_s,
        "ratio": { "bound": row.of_copy_bandwidth, "reed-solomon-erasure": null, "isa-l": null },
    })
}

fn row(row: &Row) -> Value {
    json!({
        "kernel": row.kernel,
        "op": row.operation.name(),
        "shard_bytes": row.shard_bytes,
        "residency": row.residency.name(),
        "gb_per_s": row.gb_per_s,
        "ratio": { "bound": row.to_bound, "reed-solomon-erasure": row.to_reference, "isa-l": row.to_isa_l },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not how fast: that everybody is there, computes the right bytes, and is in the file under its name.
    #[test]
    fn the_file_has_a_row_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encode.json");
        let arguments = EncodeArguments {
            shards: vec!["4KiB".parse().unwrap()],
            rounds: 1,
            milliseconds: 0,
            isal: None,
            json: Some(path.clone()),
        };
        run(&arguments).unwrap();
        let found: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert!(!found["machine"].as_str().unwrap().is_empty());
        let rows = found["rows"].as_array().unwrap();
        for codec in tenfour_erasure::all() {
            let name = codec.name().to_owned();
            let name = if name == "reed-solomon-erasure" { name } else { format!("tenfour-{name}") };
            for operation in ["encode", "encode+crc", "reconstruct1", "reconstruct4"] {
                let of_it = rows.iter().filter(|row| row["kernel"] == name && row["op"] == operation);
                let residencies: Vec<_> = of_it
                    .map(|row| {
                        assert_eq!(row["shard_bytes"], 4096);
                        assert!(row["gb_per_s"].as_f64().unwrap() > 0.0);
                        assert!(row["ratio"]["reed-solomon-erasure"].as_f64().unwrap() > 0.0);
                        assert!(row["ratio"]["isa-l"].is_null());
                        row["residency"].as_str().unwrap()
                    })
                    .collect();
                assert_eq!(residencies, ["warm", "cold"], "{name} {operation}");
            }
        }
    }

    #[test]
    fn a_library_that_is_none_and_a_length_that_is_none_are_told() {
        let arguments = |shards: &str, isal: Option<&str>| EncodeArguments {
            shards: vec![shards.parse().unwrap()],
            rounds: 1,
            milliseconds: 0,
            isal: isal.map(PathBuf::from),
            json: None,
        };
        let error = run(&arguments("4KiB", Some("/nonexistent/libisal.so"))).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/libisal.so"), "{error}");
        let error = run(&arguments("100", None)).unwrap_err().to_string();
        assert!(error.contains("shards of 100 bytes"), "{error}");
    }
}
