//! Records, targets and waiting, for the tests of this crate.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tenfour_erasure::{block_sums, crc64};
use tenfour_node::disk::{AlignedBuffer, Disk, FaultyDisk};
use tenfour_node::target::{
    Fetched, OpenError, ShardKey, Target, TargetSettings, Verified, Wanted, fetch_buffer_bytes,
};
use tenfour_types::record::{ShardHeader, header_bytes, record_bytes, shard_digest};
use tenfour_types::shard_service::ShardError;
use tenfour_types::{ClusterId, Epoch, LeaseId, MetaGroupId, NodeId, ShardIndex, StripeId, TargetId};

pub const TARGET: TargetId = TargetId(7);
pub const CLUSTER: ClusterId = ClusterId([9; 16]);
pub const NODE: NodeId = NodeId(3);

/// A payload that says whose it is: seeded bytes.
pub fn payload(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

pub fn header_for(number: u64, payload: &[u8], target: TargetId) -> ShardHeader {
    let stripe = StripeId { meta_group: MetaGroupId(1), lease: LeaseId(5), counter: number };
    let index = ShardIndex::new((number % 14) as usize).unwrap();
    let digest = shard_digest(stripe, index, payload.len() as u32, &block_sums(payload));
    ShardHeader { stripe, index, payload_bytes: payload.len() as u32, epoch: Epoch(1), target, digest }
}

/// Writes a record, without the padding at its end, and returns its header and its length.
pub fn write_record(out: &mut [u8], number: u64, bytes: usize, target: TargetId) -> (ShardHeader, usize) {
    let payload = payload(number, bytes);
    let header = header_for(number, &payload, target);
    let start = header_bytes(bytes);
    assert!(header.write(&block_sums(&payload), crc64, &mut out[..start]));
    out[start..start + bytes].copy_from_slice(&payload);
    (header, start + bytes)
}

pub fn record(number: u64, bytes: usize) -> (Verified<AlignedBuffer>, ShardKey) {
    let mut memory = AlignedBuffer::zeroed(record_bytes(bytes));
    memory.fill(0xee);
    let (header, length) = write_record(&mut memory, number, bytes, TARGET);
    let key = ShardKey::from(&header);
    match Verified::verify(memory, length) {
        Ok(record) => (record, key),
        Err((_, error)) => panic!("a good record was refused: {error}"),
    }
}

pub fn key(number: u64, bytes: usize) -> ShardKey {
    ShardKey::from(&header_for(number, &payload(number, bytes), TARGET))
}

pub fn settings(segment_bytes: u32, segments: u64) -> TargetSettings {
    let capacity_bytes = u64::from(segment_bytes) * segments;
    TargetSettings { cluster: CLUSTER, node: NODE, target: TARGET, capacity_bytes, segment_bytes }
}

pub type TestTarget = Target<AlignedBuffer>;

pub fn create<D: Disk>(disk: D, settings: TargetSettings) -> Result<TestTarget, OpenError> {
    Target::create(disk, settings, Arc::new(|_| {}))
}

pub fn open<D: Disk>(disk: D, settings: TargetSettings) -> Result<TestTarget, OpenError> {
    Target::open(disk, settings, Arc::new(|_| {}))
}

pub fn wait<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(15)).expect("an answer in time")
}

pub fn store_later(target: &TestTarget, number: u64, bytes: usize) -> Receiver<Result<(), ShardError>> {
    let (answer, answered) = channel();
    let (record, _) = record(number, bytes);
    target.store(
        record,
        Box::new(move |outcome| {
            let _ = answer.send(outcome.result.map(drop));
        }),
    );
    answered
}

pub fn store(target: &TestTarget, number: u64, bytes: usize) -> Result<(), ShardError> {
    wait(&store_later(target, number, bytes))
}

pub fn fetch_range(
    target: &TestTarget,
    key: ShardKey,
    offset: u32,
    bytes: u32,
) -> Result<Vec<u8>, ShardError> {
    let (answer, answered) = channel();
    let memory = AlignedBuffer::zeroed(fetch_buffer_bytes(bytes as usize));
    let done = move |result: Result<Fetched<AlignedBuffer>, (AlignedBuffer, ShardError)>| {
        let bytes = result.map(|fetched| fetched.memory[fetched.range].to_vec()).map_err(|(_, error)| error);
        drop(answer.send(bytes));
    };
    target.fetch(Wanted { key, offset, bytes }, memory, Box::new(done));
    wait(&answered)
}

/// Fetches a whole shard and compares it.
pub fn fetch(target: &TestTarget, number: u64, bytes: usize) -> Result<(), ShardError> {
    let found = fetch_range(target, key(number, bytes), 0, bytes as u32)?;
    assert!(found == payload(number, bytes), "shard {number} reads back as other bytes");
    Ok(())
}

pub fn verify(target: &TestTarget, number: u64, bytes: usize) -> Result<(), ShardError> {
    wait(&verify_later(target, number, bytes))
}

pub fn verify_later(target: &TestTarget, number: u64, bytes: usize) -> Receiver<Result<(), ShardError>> {
    let (answer, answered) = channel();
    target.verify(
        key(number, bytes),
        Box::new(move |result| {
            let _ = answer.send(result);
        }),
    );
    answered
}

pub fn delete(target: &TestTarget, keys: Vec<ShardKey>) -> Result<(), ShardError> {
    let (answer, answered) = channel();
    target.delete(
        keys,
        Box::new(move |result| {
            let _ = answer.send(result.map(drop));
        }),
    );
    wait(&answered)
}

/// An empty disk in memory, with a folder of its own for the index.
pub struct Bench {
    pub disk: FaultyDisk,
    pub folder: tempfile::TempDir,
    pub index_folders: u32,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(&folder.path().join("index-0"));
        Self { disk, folder, index_folders: 0 }
    }

    /// Cuts the power: what was not flushed is gone, or not, as the seed says; the index starts from nothing, or from what it was
    /// when it was copied last.
    pub fn cut_power(&mut self, seed: u64, index_from: Option<&Path>) {
        self.index_folders += 1;
        let index = self.folder.path().join(format!("index-{}", self.index_folders));
        if let Some(from) = index_from {
            copy_folder(from, &index);
        }
        self.disk = self.disk.after_power_cut(seed, &index);
    }

    /// Waits until nothing is zeroed ahead any more: what happens to the disk next is a record's doing.
    pub fn settle(&self) {
        settle(&self.disk);
    }

    pub fn index_folder(&self) -> PathBuf {
        self.disk.index_folder()
    }
}

pub fn settle(disk: &FaultyDisk) {
    let mut counts = disk.counts();
    loop {
        std::thread::sleep(Duration::from_millis(30));
        if std::mem::replace(&mut counts, disk.counts()) == disk.counts() {
            return;
        }
    }
}

/// Removes the folder of a target that runs, and so may make a file in it meanwhile.
pub fn remove_folder(folder: &Path) {
    while let Err(error) = std::fs::remove_dir_all(folder) {
        assert_eq!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty, "{error}");
    }
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
