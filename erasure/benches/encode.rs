//! The encoders beside each other: what `tenfour bench encode` measures, without building the rest of tenfour.
//!
//! Run with `cargo bench -p tenfour-erasure --features bench --bench encode`; ISA-L takes part when `ISAL` names its library,
//! `SHARDS` lists other lengths in bytes, `ROUNDS` and `MS` (a turn's length) say how long it takes.

use std::env;
use std::time::Duration;

use tenfour_erasure::bench::{Options, measure};

fn number(name: &str) -> Option<usize> {
    env::var(name).ok()?.parse().ok()
}

fn main() {
    if env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut options = Options { isa_l: env::var_os("ISAL").map(Into::into), ..Options::default() };
    if let Ok(lengths) = env::var("SHARDS") {
        options.shard_bytes = lengths.split(',').map(|length| length.parse().expect("bytes")).collect();
    }
    options.rounds = number("ROUNDS").unwrap_or(options.rounds);
    options.slice = number("MS").map_or(options.slice, |ms| Duration::from_millis(ms as u64));
    match measure(&options, |part| eprintln!("{part}")) {
        Ok(report) => println!("{report}"),
        Err(error) => eprintln!("{error}"),
    }
}
