//! MD5 of many streams side by side beside one stream after the other (the crate `md-5`, and our own single stream), interleaved
//! in one process on the same buffers: GB/s of all streams together.
//!
//! Run with `cargo bench -p tenfour-erasure --bench md5`. Trust the ratios more than the values.

use std::hint::black_box;
use std::time::{Duration, Instant};

use md5::{Digest as _, Md5 as Reference};
use tenfour_erasure::{Md5, Md5Lanes};

const ROUNDS: usize = 9;
const SLICE: Duration = Duration::from_millis(8);
/// What each stream gives at once: as the gateway does it.
const RUN_BYTES: usize = 64 << 10;
/// Cold streams lie in memory that is larger than the last-level cache.
const COLD_BYTES: usize = 192 << 20;
const COUNTS: [usize; 5] = [1, 2, 4, 8, 16];

fn measure(streams: &[&[u8]], mut step: impl FnMut(&[&[u8]])) -> f64 {
    let (mut done, mut at) = (0_usize, 0);
    let start = Instant::now();
    while start.elapsed() < SLICE {
        let runs: Vec<&[u8]> = streams.iter().map(|stream| &stream[at..at + RUN_BYTES]).collect();
        step(&runs);
        done += RUN_BYTES * streams.len();
        at = if at + 2 * RUN_BYTES > streams[0].len() { 0 } else { at + RUN_BYTES };
    }
    done as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let memory: Vec<u8> = (0..COLD_BYTES).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let kernels = Md5Lanes::all();
    print!("{:<8}{:>8}{:>12}{:>12}", "streams", "", "md-5", "one by one");
    kernels.iter().for_each(|kernel| print!("{:>16}", kernel.name()));
    println!("   (GB/s of all streams, ratio to md-5)");
    for count in COUNTS {
        let distance = COLD_BYTES / count;
        for (residency, bytes) in [("warm", RUN_BYTES), ("cold", distance)] {
            let streams: Vec<&[u8]> =
                (0..count).map(|stream| &memory[stream * distance..stream * distance + bytes]).collect();
            let mut figures = vec![Vec::new(); 2 + kernels.len()];
            for _ in 0..ROUNDS {
                let mut reference = vec![Reference::new(); count];
                figures[0].push(measure(&streams, |runs| {
                    reference.iter_mut().zip(runs).for_each(|(md5, run)| md5.update(run));
                }));
                black_box(&reference);
                let mut alone = vec![Md5::new(); count];
                figures[1].push(measure(&streams, |runs| {
                    alone.iter_mut().zip(runs).for_each(|(md5, run)| md5.update(run));
                }));
                for (kernel, figures) in kernels.iter().zip(&mut figures[2..]) {
                    let mut together = alone.clone();
                    figures.push(measure(&streams, |runs| {
                        let mut both: Vec<_> = together.iter_mut().zip(runs.iter().copied()).collect();
                        kernel.update(&mut both);
                    }));
                    black_box(&together);
                }
            }
            let medians: Vec<f64> = figures.into_iter().map(median).collect();
            print!("{count:<8}{residency:>8}{:>12.2}{:>12.2}", medians[0], medians[1]);
            medians[2..].iter().for_each(|figure| print!("{figure:>8.2} ({:>4.1}x)", figure / medians[0]));
            println!();
        }
    }
}
