//! Durable appends and verified reads of one target on a real disk: rates, flushes, CPU.
//!
//! `cargo bench -p tenfour-node --bench store -- [FOLDER]` (default: the temporary folder). Every append is acknowledged after a real
//! `fdatasync`; CPU is the whole process's, the making of headers and their verification on arrival included.

#![allow(clippy::unwrap_used)] // A bench stops at the first surprise.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tenfour_erasure::{block_sums, crc64};
use tenfour_node::disk::{AlignedBuffer, RealDisk};
use tenfour_node::target::{
    ShardKey, StoreOutcome, Target, TargetSettings, Verified, Wanted, fetch_buffer_bytes,
};
use tenfour_types::record::{ShardHeader, header_bytes, record_bytes, shard_digest};
use tenfour_types::{ClusterId, Epoch, LeaseId, MetaGroupId, NodeId, ShardIndex, StripeId, TargetId};

const TARGET: TargetId = TargetId(1);

fn main() {
    let folder = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"))
        .map_or_else(std::env::temp_dir, PathBuf::from);
    println!("folder {}", folder.display());
    println!(
        "{:>9} {:>6} {:>11} {:>9} {:>10} {:>9} {:>12} {:>10}",
        "payload", "depth", "appends/s", "MB/s", "per flush", "us/op", "CPU us/op", "CPU s/GiB"
    );
    for (payload_bytes, count, depth) in [
        (3904, 5_000, 1),
        (3904, 40_000, 16),
        (3904, 60_000, 64),
        (1 << 20, 400, 1),
        (1 << 20, 1_000, 8),
        (1 << 20, 1_000, 16),
    ] {
        let home = tempfile::tempdir_in(&folder).unwrap();
        let settings = TargetSettings {
            cluster: ClusterId([1; 16]),
            node: NodeId(1),
            target: TARGET,
            capacity_bytes: 8 << 30,
            segment_bytes: 64 << 20,
        };
        let disk = RealDisk::open(home.path()).unwrap();
        let target: Target<AlignedBuffer> = Target::create(disk, settings, Arc::new(|_| {})).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let keys = appends(&target, payload_bytes, count, depth);
        if depth > 1 {
            reads(&target, &keys, payload_bytes, depth);
        }
        if payload_bytes < 10_000 && depth == 64 {
            println!("disk {:?}, resident {} MiB", target.disk_kind(), resident_bytes() >> 20);
        }
    }
}

fn appends(target: &Target<AlignedBuffer>, payload_bytes: usize, count: u64, depth: usize) -> Vec<ShardKey> {
    let payload: Vec<u8> = (0..payload_bytes).map(|at| (at * 31 % 251) as u8).collect();
    let sums = block_sums(&payload);
    let mut keys = Vec::new();
    let (done, finished) = channel();
    for _ in 0..depth {
        let mut memory = AlignedBuffer::zeroed(record_bytes(payload_bytes));
        memory[header_bytes(payload_bytes)..header_bytes(payload_bytes) + payload_bytes]
            .copy_from_slice(&payload);
        done.send(StoreOutcomeOrNew(memory)).unwrap();
    }
    let (flushes, cpu, start) = (target.status().flushes, cpu_time(), Instant::now());
    for number in 0..count {
        let StoreOutcomeOrNew(memory) = finished.recv().unwrap();
        keys.push(append(target, memory, number, &sums, payload_bytes, &done));
    }
    for _ in 0..depth {
        finished.recv().unwrap();
    }
    let flushes = target.status().flushes - flushes;
    report("", payload_bytes, depth, count, Some(flushes), start.elapsed(), cpu_time() - cpu);
    keys
}

/// Memory that can be used for another record.
struct StoreOutcomeOrNew(AlignedBuffer);

fn append(
    target: &Target<AlignedBuffer>,
    mut memory: AlignedBuffer,
    number: u64,
    sums: &[u64],
    bytes: usize,
    done: &Sender<StoreOutcomeOrNew>,
) -> ShardKey {
    let stripe = StripeId { meta_group: MetaGroupId(1), lease: LeaseId(1), counter: number };
    let index = ShardIndex::new(0).unwrap();
    let digest = shard_digest(stripe, index, bytes as u32, sums);
    let header =
        ShardHeader { stripe, index, payload_bytes: bytes as u32, epoch: Epoch(1), target: TARGET, digest };
    assert!(header.write(sums, crc64, &mut memory[..header_bytes(bytes)]));
    let Ok(record) = Verified::verify(memory, header_bytes(bytes) + bytes) else { panic!("a good record") };
    let done = done.clone();
    target.store(
        record,
        Box::new(move |StoreOutcome { memory, result }| {
            result.unwrap();
            let _ = done.send(StoreOutcomeOrNew(memory));
        }),
    );
    ShardKey::from(&header)
}

fn reads(target: &Target<AlignedBuffer>, keys: &[ShardKey], bytes: usize, depth: usize) {
    let (done, finished) = channel();
    for _ in 0..depth {
        done.send(AlignedBuffer::zeroed(fetch_buffer_bytes(bytes))).unwrap();
    }
    let count = keys.len().min(20_000) as u64;
    let (cpu, start) = (cpu_time(), Instant::now());
    for number in 0..count {
        let memory = finished.recv().unwrap();
        let done = done.clone();
        // A stride that is prime to every count: not the order in which they were written.
        let key = keys[(number as usize * 7919) % keys.len()];
        target.fetch(
            Wanted { key, offset: 0, bytes: bytes as u32 },
            memory,
            Box::new(move |result| {
                let Ok(fetched) = result else { panic!("a stored shard") };
                let _ = done.send(fetched.memory);
            }),
        );
    }
    for _ in 0..depth {
        finished.recv().unwrap();
    }
    report("read", bytes, depth, count, None, start.elapsed(), cpu_time() - cpu);
}

fn report(
    what: &str,
    bytes: usize,
    depth: usize,
    count: u64,
    flushes: Option<u64>,
    took: Duration,
    cpu: Duration,
) {
    let (seconds, ops) = (took.as_secs_f64(), count as f64);
    let total = ops * bytes as f64;
    let per_flush = flushes.map_or(what.to_owned(), |flushes| format!("{:.1}", ops / flushes as f64));
    println!(
        "{bytes:>9} {depth:>6} {:>11.0} {:>9.1} {per_flush:>10} {:>9.1} {:>12.1} {:>10.2}",
        ops / seconds,
        total / seconds / 1e6,
        seconds * 1e6 / ops,
        cpu.as_secs_f64() * 1e6 / ops,
        cpu.as_secs_f64() * (1u64 << 30) as f64 / total
    );
}

/// User and system time of this process, in ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(10 * ticks)
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
