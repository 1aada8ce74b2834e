//! The thread that reads: it takes everything that was asked for, reads it side by side, verifies, answers.
//!
//! Nothing is answered that was not checked against its own header, its table's digest and the CRC of each block touched; the
//! stamp and the header say whether it is the record that was meant. Only the blocks asked for are read, and the first of the
//! record, which holds header and table. A read error is that read's answer; it does not poison the target.

use super::index::Row;
use super::queue::Queue;
use super::record::{RecordMemory, ShardKey};
use super::shared::Shared;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, Engine, Read};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;
use tenfour_erasure::{crc64, verify_blocks};
use tenfour_types::TargetId;
use tenfour_types::limits::CRC_BLOCK_BYTES;
use tenfour_types::record::{RECORD_BYTES_MAX, ShardHeader, Stamp, header_bytes, record_bytes};
use tenfour_types::shard_service::{ShardError, ShardTable};

/// Jobs that are read side by side.
const BATCH_JOBS_MAX: usize = 32;

/// Memory that a fetch of so many bytes needs: the range and the record's first block, each up to whole disk blocks.
pub const fn fetch_buffer_bytes(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES) + 2 * BLOCK_BYTES
}

/// Verified blocks of a shard.
pub struct Fetched<M> {
    /// The memory that was given for it.
    pub memory: M,
    /// Where in it the bytes asked for lie.
    pub range: Range<usize>,
    /// The shard's length and block table.
    pub table: ShardTable,
}

/// Called once, on a storage thread: it must only pass the outcome on.
pub type FetchAnswer<M> = Box<dyn FnOnce(Result<Fetched<M>, (M, ShardError)>) + Send>;
/// As [`FetchAnswer`], for a copy that was read and verified as a whole.
pub type VerifyAnswer = Box<dyn FnOnce(Result<(), ShardError>) + Send>;

/// What to fetch.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Of which shard.
    pub key: ShardKey,
    /// First payload byte, a multiple of `CRC_BLOCK_BYTES`.
    pub offset: u32,
    /// Bytes, up to the end of a block or of the payload.
    pub bytes: u32,
}

pub(super) enum Job<M> {
    Fetch(Wanted, M, FetchAnswer<M>),
    Verify(ShardKey, VerifyAnswer),
}

impl<M> Job<M> {
    pub(super) fn refuse(self, error: ShardError) {
        match self {
            Self::Fetch(_, memory, answer) => answer(Err((memory, error))),
            Self::Verify(_, answer) => answer(Err(error)),
        }
    }
}

pub(super) struct Reader<D: Disk, M> {
    pub(super) shared: Arc<Shared<D>>,
    pub(super) engine: D::Engine,
    pub(super) queue: Arc<Queue<Job<M>>>,
    pub(super) target: TargetId,
}

/// A fetch on its way.
struct Started<F, M> {
    wanted: Wanted,
    memory: M,
    answer: FetchAnswer<M>,
    row: Row,
    file: Arc<F>,
    life: u64,
    /// In memory: where the payload bytes asked for will lie.
    range: Range<usize>,
    /// On disk: where the second read begins, and in memory what it fills; none when one read gets all.
    second: Option<(u64, Range<usize>)>,
    first_bytes: usize,
    result: io::Result<()>,
}

impl<D: Disk, M: RecordMemory> Reader<D, M> {
    pub(super) fn run(mut self) {
        let mut jobs = Vec::new();
        let mut scratch = None;
        while self.queue.take(&mut jobs, BATCH_JOBS_MAX) {
            let mut started = Vec::new();
            let mut verifies = Vec::new();
            for job in jobs.drain(..) {
                match job {
                    Job::Fetch(wanted, memory, answer) => match self.start(wanted, &memory) {
                        Ok(plan) => started.push(plan.with(memory, answer)),
                        Err(error) => answer(Err((memory, error))),
                    },
                    Job::Verify(key, answer) => verifies.push((key, answer)),
                }
            }
            self.read(&mut started);
            for fetch in started {
                self.finish(fetch);
            }
            for (key, answer) in verifies {
                let scratch = scratch.get_or_insert_with(|| AlignedBuffer::zeroed(RECORD_BYTES_MAX));
                answer(self.verify(&key, scratch));
            }
        }
    }

    /// Finds the copy and plans the reads.
    fn start(&self, wanted: Wanted, memory: &M) -> Result<Plan<D::File>, ShardError> {
        if self.shared.health.is_poisoned() {
            return Err(ShardError::TargetOut);
        }
        let row = self.shared.locate(&wanted.key)?;
        let (file, life) = self.open(row.segment)?;
        let plan = Plan::new(wanted, row, file, life).ok_or(ShardError::Malformed)?;
        if plan.memory_bytes() > memory.len() {
            return Err(ShardError::Malformed);
        }
        Ok(plan)
    }

    fn open(&self, segment: u32) -> Result<(Arc<D::File>, u64), ShardError> {
        self.shared.open_segment(segment).map_err(|error| match error.kind() {
            ErrorKind::NotFound => ShardError::Damaged,
            _ => ShardError::Disk,
        })
    }

    fn read(&mut self, started: &mut [Started<D::File, M>]) {
        let mut reads = Vec::with_capacity(2 * started.len());
        for fetch in started.iter_mut() {
            let offset = u64::from(fetch.row.offset);
            let (first, rest) = fetch.memory.split_at_mut_checked(fetch.first_bytes).unwrap_or_default();
            reads.push(Read { file: &*fetch.file, offset, into: first, result: Ok(()) });
            if let Some((offset, range)) = &fetch.second {
                let into = rest.get_mut(..range.len()).unwrap_or_default();
                reads.push(Read { file: &*fetch.file, offset: *offset, into, result: Ok(()) });
            }
        }
        self.engine.read(&mut reads);
        let mut results = reads.into_iter().map(|read| read.result).collect::<Vec<_>>().into_iter();
        for fetch in started {
            let count = if fetch.second.is_some() { 2 } else { 1 };
            fetch.result = results.by_ref().take(count).fold(Ok(()), io::Result::and);
        }
    }

    fn finish(&mut self, fetch: Started<D::File, M>) {
        match check(&fetch.memory, &fetch, self.target) {
            _ if self.shared.health.is_poisoned() => {
                (fetch.answer)(Err((fetch.memory, ShardError::TargetOut)));
            }
            Ok(table) => (fetch.answer)(Ok(Fetched { memory: fetch.memory, range: fetch.range, table })),
            // The copy may have moved, or gone, between the look-up and the read.
            Err(error) if self.shared.locate(&fetch.wanted.key) == Ok(fetch.row) => {
                if error == ShardError::Damaged {
                    tracing::warn!(target_id = %self.target, key = ?fetch.wanted.key, row = ?fetch.row, "a damaged copy");
                    self.shared.index.mark_damaged(fetch.wanted.key);
                }
                (fetch.answer)(Err((fetch.memory, error)));
            }
            Err(_) => match self.start(fetch.wanted, &fetch.memory) {
                Ok(plan) => {
                    let mut again = [plan.with(fetch.memory, fetch.answer)];
                    self.read(&mut again);
                    let [again] = again;
                    match check(&again.memory, &again, self.target) {
                        Ok(table) => {
                            (again.answer)(Ok(Fetched { memory: again.memory, range: again.range, table }));
                        }
                        Err(error) => (again.answer)(Err((again.memory, error))),
                    }
                }
                Err(error) => (fetch.answer)(Err((fetch.memory, error))),
            },
        }
    }

    /// Reads and checks a whole record.
    fn verify(&mut self, key: &ShardKey, scratch: &mut AlignedBuffer) -> Result<(), ShardError> {
        if self.shared.health.is_poisoned() {
            return Err(ShardError::TargetOut);
        }
        let row = self.shared.locate(key)?;
        let (file, life) = self.open(row.segment)?;
        let wanted = Wanted { key: *key, offset: 0, bytes: row.payload_bytes };
        let plan = Plan::new(wanted, row, file, life).ok_or(ShardError::Damaged)?;
        let into = scratch.get_mut(..plan.first_bytes).ok_or(ShardError::Damaged)?;
        let read = crate::disk::read_one(&mut self.engine, &plan.file, u64::from(row.offset), into);
        let checked = checked(read, scratch, &plan, self.target).map(drop);
        match checked {
            Ok(()) => {
                // What a fetch found was the way to the disk, or has been mended since.
                self.shared.index.take_damaged(key);
            }
            Err(ShardError::Damaged) if self.shared.locate(key) == Ok(row) => {
                self.shared.index.mark_damaged(*key);
            }
            Err(_) => {}
        }
        checked
    }
}

/// Which bytes of the disk go where.
struct Plan<F> {
    wanted: Wanted,
    row: Row,
    file: Arc<F>,
    life: u64,
    range: Range<usize>,
    second: Option<(u64, Range<usize>)>,
    first_bytes: usize,
}

impl<F> Plan<F> {
    /// `None` when the range is not one that can be verified.
    fn new(wanted: Wanted, row: Row, file: Arc<F>, life: u64) -> Option<Self> {
        let (offset, bytes, payload) =
            (wanted.offset as usize, wanted.bytes as usize, row.payload_bytes as usize);
        let end = offset.checked_add(bytes)?;
        let whole_blocks =
            offset.is_multiple_of(CRC_BLOCK_BYTES) && (end.is_multiple_of(CRC_BLOCK_BYTES) || end == payload);
        if bytes == 0 || end > payload || !whole_blocks {
            return None;
        }
        let start = header_bytes(payload) + offset;
        let disk_end = (start + bytes).next_multiple_of(BLOCK_BYTES).min(record_bytes(payload));
        let disk_start = start / BLOCK_BYTES * BLOCK_BYTES;
        if disk_start <= BLOCK_BYTES {
            let (range, second, first_bytes) = (start..start + bytes, None, disk_end);
            return Some(Self { wanted, row, file, life, range, second, first_bytes });
        }
        let into = BLOCK_BYTES + start - disk_start;
        let second = Some((
            u64::from(row.offset) + disk_start as u64,
            BLOCK_BYTES..BLOCK_BYTES + disk_end - disk_start,
        ));
        Some(Self { wanted, row, file, life, range: into..into + bytes, second, first_bytes: BLOCK_BYTES })
    }

    fn memory_bytes(&self) -> usize {
        self.second.as_ref().map_or(self.first_bytes, |(_, range)| range.end)
    }

    fn with<M>(self, memory: M, answer: FetchAnswer<M>) -> Started<F, M> {
        let Self { wanted, row, file, life, range, second, first_bytes } = self;
        Started { wanted, memory, answer, row, file, life, range, second, first_bytes, result: Ok(()) }
    }
}

fn check<F, M: RecordMemory>(
    memory: &M,
    fetch: &Started<F, M>,
    target: TargetId,
) -> Result<ShardTable, ShardError> {
    read_result(&fetch.result)?;
    check_bytes(memory, &fetch.wanted, &fetch.row, fetch.life, &fetch.range, target)
}

fn checked<F>(
    read: io::Result<()>,
    memory: &[u8],
    plan: &Plan<F>,
    target: TargetId,
) -> Result<ShardTable, ShardError> {
    read_result(&read)?;
    check_bytes(memory, &plan.wanted, &plan.row, plan.life, &plan.range, target)
}

fn read_result(result: &io::Result<()>) -> Result<(), ShardError> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(ShardError::Damaged),
        Err(error) => {
            tracing::warn!(%error, "a read failed");
            Err(ShardError::Disk)
        }
    }
}

/// Stamp, header, table and the blocks that were read: everything must be of this very copy.
fn check_bytes(
    memory: &[u8],
    wanted: &Wanted,
    row: &Row,
    life: u64,
    range: &Range<usize>,
    target: TargetId,
) -> Result<ShardTable, ShardError> {
    let damaged = ShardError::Damaged;
    let stamp = Stamp::read(memory, crc64).map_err(|_| damaged)?;
    let header = ShardHeader::read(memory, crc64).map_err(|_| damaged)?;
    let is_meant = stamp.segment == life
        && stamp.sequence == row.sequence
        && ShardKey::from(&header) == wanted.key
        && header.payload_bytes == row.payload_bytes
        && header.target == target;
    if !is_meant {
        return Err(damaged);
    }
    let block_sums = header.read_table(memory).map_err(|_| damaged)?;
    let bytes = memory.get(range.clone()).ok_or(damaged)?;
    verify_blocks(bytes, wanted.offset as usize / CRC_BLOCK_BYTES, &block_sums).map_err(|_| damaged)?;
    Ok(ShardTable { payload_bytes: header.payload_bytes, block_sums })
}
