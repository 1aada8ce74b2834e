//! The thread that appends: it takes everything that has arrived, places it, and commits it as a group.
//!
//! While one group is flushed the next one gathers, so a flush serves as many records as the load brings, and a lone record waits
//! for nobody. Invariant: sequences rise in the order of places; a group never spans two segments, and the old segment is flushed
//! before anything is written to the new one.

use super::commit::{
    Batch, BatchPlace, DeleteAnswer, Durable, Noteworthy, StoreAnswer, StoreOutcome, bury, nothing_to_bury,
};
use super::index::{ROWS_BEFORE_CHECKPOINT, ROWS_IN_MEMORY_MAX, Row};
use super::queue::Queue;
use super::record::{RecordMemory, ShardKey, TOMBSTONES_MAX, Tombstone, Verified, write_tombstones};
use super::segment::FIRST_RECORD;
use super::shared::Shared;
use super::space::{Place, Purpose, State};
use crate::disk::{BLOCK_BYTES, Disk};
use std::sync::Arc;
use std::time::Duration;
use tenfour_erasure::crc64;
use tenfour_types::record::{Stamp, record_bytes};
use tenfour_types::shard_service::ShardError;

/// Jobs of one group commit.
const BATCH_JOBS_MAX: usize = 256;
/// Bytes of one group commit.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// The log is checkpointed at least every so many segments.
const SEGMENTS_BEFORE_CHECKPOINT: u64 = 16;

/// While the appender waits for a checkpoint it asks for one again every so often: the one under way may be older.
const CHECKPOINT_POLL: Duration = Duration::from_millis(50);

/// The group, possibly a new one, and the place: segment, offset, stamp.
type Placed<F, M> = (Batch<F, M>, Result<(u32, u32, Stamp), ShardError>);

pub(super) enum Append<M> {
    Store(Verified<M>, StoreAnswer<M>),
    Delete(Vec<ShardKey>, DeleteAnswer),
}

impl<M: RecordMemory> Append<M> {
    pub(super) fn refuse(self, error: ShardError) {
        match self {
            Self::Store(record, answer) => {
                answer(StoreOutcome { memory: record.into_memory(), result: Err(error) });
            }
            Self::Delete(_, answer) => answer(Err(error)),
        }
    }
}

pub(super) struct Appender<D: Disk, M> {
    shared: Arc<Shared<D>>,
    engine: D::Engine,
    queue: Arc<Queue<Append<M>>>,
    next_sequence: u64,
    /// What recovery found torn: nothing is stored before it is buried.
    torn: Vec<Tombstone>,
}

impl<D: Disk, M: RecordMemory> Appender<D, M> {
    pub(super) fn new(
        shared: Arc<Shared<D>>,
        queue: Arc<Queue<Append<M>>>,
        torn: Vec<Tombstone>,
    ) -> std::io::Result<Self> {
        let (engine, next_sequence) = (shared.disk.engine()?, shared.space.lock().next_sequence);
        Ok(Self { shared, engine, queue, next_sequence, torn })
    }

    /// Commits group after group until the queue is closed, then leaves a checkpoint for maintenance to write.
    pub(super) fn run(mut self) {
        let mut jobs = Vec::new();
        // An error comes up again, and is answered, with the first store.
        let _ = self.bury_torn();
        while self.queue.take(&mut jobs, BATCH_JOBS_MAX) {
            self.append(&mut jobs);
            self.checkpoint_if_due();
        }
        if !self.shared.health.is_poisoned() {
            self.checkpoint();
        }
    }

    fn append(&mut self, jobs: &mut Vec<Append<M>>) {
        let mut batch = Batch::new();
        for job in jobs.drain(..) {
            match job {
                Append::Store(record, answer) => {
                    batch = self.store(batch, record, answer);
                    if batch.bytes() >= BATCH_BYTES_MAX {
                        self.commit(batch);
                        batch = Batch::new();
                    }
                }
                Append::Delete(keys, answer) => {
                    // A commit of its own: a store before it must be in the index, one after it must not find what it removes.
                    self.commit(batch);
                    batch = Batch::new();
                    answer(self.delete(&keys));
                }
            }
        }
        self.commit(batch);
    }

    /// Adds a record to the group, or to the list of those that are there already.
    fn store(
        &mut self,
        mut batch: Batch<D::File, M>,
        mut record: Verified<M>,
        answer: StoreAnswer<M>,
    ) -> Batch<D::File, M> {
        let key = record.key();
        if batch.holds(&key) {
            batch.repeat(record.into_memory(), answer);
            return batch;
        }
        let mut replaces = None;
        match self.shared.locate(&key) {
            Ok(row) if self.shared.index.take_damaged(&key) => replaces = Some(row),
            Ok(_) => {
                batch.repeat(record.into_memory(), answer);
                return batch;
            }
            Err(ShardError::TargetOut) => {
                answer(StoreOutcome { memory: record.into_memory(), result: Err(ShardError::TargetOut) });
                return batch;
            }
            _ => {}
        }
        let length = record.header().record_bytes() as u32;
        let (batch, placed) = match self.bury_torn() {
            Ok(()) => self.place(batch, length, Purpose::Shard),
            Err(error) => (batch, Err(error)),
        };
        let (segment, offset, stamp) = match placed {
            Ok(placed) => placed,
            Err(error) => {
                answer(StoreOutcome { memory: record.into_memory(), result: Err(error) });
                return batch;
            }
        };
        let mut batch = batch;
        let row =
            Row { segment, offset, payload_bytes: record.header().payload_bytes, sequence: stamp.sequence };
        if record.stamp(stamp) {
            batch.add(record, row, replaces, answer);
        } else {
            answer(StoreOutcome { memory: record.into_memory(), result: Err(ShardError::Malformed) });
        }
        batch
    }

    /// A place for `length` bytes after those of the group; where there is none, the group is committed first.
    fn place(&mut self, mut batch: Batch<D::File, M>, length: u32, purpose: Purpose) -> Placed<D::File, M> {
        if length > self.shared.space.segment_bytes - FIRST_RECORD {
            return (batch, Err(ShardError::TargetFull));
        }
        loop {
            if self.shared.health.is_poisoned() {
                return (batch, Err(ShardError::TargetOut));
            }
            match self.shared.space.place(length, purpose) {
                Place::At { number, life, offset, file } => {
                    if batch.place.is_none() {
                        batch.place = Some(BatchPlace { file, offset });
                    }
                    let stamp = Stamp { segment: life, sequence: self.next_sequence, record_bytes: length };
                    self.next_sequence += 1;
                    return (batch, Ok((number, offset, stamp)));
                }
                Place::Full if self.shared.space.lock().awaits_checkpoint() => {
                    self.commit(batch);
                    batch = Batch::new();
                    self.checkpoint_now();
                }
                Place::Full => return (batch, Err(ShardError::TargetFull)),
                Place::NextSegment => {
                    self.commit(batch);
                    batch = Batch::new();
                    self.shared.space.turn();
                }
                Place::NotYet => {
                    self.commit(batch);
                    batch = Batch::new();
                    self.shared.space.wait(length, purpose);
                }
            }
        }
    }

    /// Write, flush, look at the folder, note, answer. What a crash leaves behind, step by step: nothing or torn records, which the
    /// scan passes over; whole records that nobody was told of; records that are in the segment and not yet in the index.
    fn commit(&mut self, batch: Batch<D::File, M>) {
        if batch.is_empty() {
            return;
        }
        if self.shared.health.is_poisoned() {
            return batch.fail(ShardError::TargetOut).answer();
        }
        let shared = Arc::clone(&self.shared);
        let committed = batch
            .write(&mut self.engine, &shared)
            .and_then(|written| written.flush(&mut self.engine, &shared))
            .and_then(|flushed| flushed.confirm(&shared));
        match committed {
            Ok(confirmed) => {
                self.note(&confirmed.rows);
                confirmed.answer();
            }
            Err(failed) => failed.answer(),
        }
    }

    fn note(&self, rows: &[Noteworthy]) {
        let Shared { index, space, .. } = &*self.shared;
        let mut state = space.lock();
        for Noteworthy { row, replaces, .. } in rows {
            if let Some(old) = replaces {
                state.count(old.segment, record_bytes(old.payload_bytes as usize) as u64, false);
            }
            state.count(row.segment, record_bytes(row.payload_bytes as usize) as u64, true);
        }
        state.next_sequence = self.next_sequence;
        index.apply(rows.iter().map(|noted| (noted.key, Some(noted.row))));
    }

    /// Buries copies: durable tombstones first, then the index forgets them.
    fn delete(&mut self, keys: &[ShardKey]) -> Result<Durable, ShardError> {
        if self.shared.health.is_poisoned() {
            return Err(ShardError::TargetOut);
        }
        let mut buried = Vec::new();
        for key in keys {
            match self.shared.locate(key) {
                Ok(row) => buried.push((*key, row)),
                Err(ShardError::NotFound | ShardError::Damaged) => {}
                Err(error) => return Err(error),
            }
        }
        buried.sort_unstable_by_key(|(_, row)| row.sequence);
        buried.dedup_by_key(|(key, _)| *key);
        let tombstones = self.tombstones(&buried);
        let mut proof = nothing_to_bury(&tombstones);
        for (entries, rows) in tombstones.chunks(TOMBSTONES_MAX).zip(buried.chunks(TOMBSTONES_MAX)) {
            proof = Some(self.bury(entries, rows)?);
        }
        proof.ok_or(ShardError::TargetOut)
    }

    /// Buries what recovery found torn. It is in no index, so no row changes. A crash before it is durable finds the segment still
    /// the last one, and the torn records again.
    fn bury_torn(&mut self) -> Result<(), ShardError> {
        while !self.torn.is_empty() {
            let entries: Vec<_> = self.torn.iter().take(TOMBSTONES_MAX).copied().collect();
            self.bury(&entries, &[])?;
            self.torn.drain(..entries.len());
        }
        Ok(())
    }

    fn tombstones(&self, buried: &[(ShardKey, Row)]) -> Vec<Tombstone> {
        let state = self.shared.space.lock();
        let life = |row: &Row| state.segments.get(&row.segment).map_or(0, |segment| segment.header.life);
        buried
            .iter()
            .map(|(key, row)| Tombstone { key: *key, life: life(row), sequence: row.sequence })
            .collect()
    }

    fn bury(&mut self, entries: &[Tombstone], rows: &[(ShardKey, Row)]) -> Result<Durable, ShardError> {
        let (batch, placed) = self.place(Batch::new(), BLOCK_BYTES as u32, Purpose::Tombstone);
        let (segment, _, stamp) = placed?;
        let place = batch.place.ok_or(ShardError::TargetOut)?;
        let mut record = write_tombstones(entries);
        if !stamp.write(crc64, &mut record) {
            return Err(ShardError::TargetOut);
        }
        let durable = bury(&mut self.engine, &self.shared, &place, &record)?;
        let Shared { index, space, .. } = &*self.shared;
        let mut state = space.lock();
        if let Some(segment) = state.segments.get_mut(&segment) {
            segment.buries_in.extend(entries.iter().map(|entry| entry.life));
        }
        for (_, row) in rows {
            state.count(row.segment, record_bytes(row.payload_bytes as usize) as u64, false);
        }
        state.next_sequence = self.next_sequence;
        index.apply(rows.iter().map(|(key, _)| (*key, None)));
        space.work.notify_one();
        Ok(durable)
    }

    fn checkpoint_if_due(&self) {
        let rows = self.shared.index.recent_rows();
        let behind = {
            let state = self.shared.space.lock();
            state.position().order.saturating_sub(state.checkpointed_order)
        };
        if rows < ROWS_BEFORE_CHECKPOINT && behind < SEGMENTS_BEFORE_CHECKPOINT {
            return;
        }
        self.checkpoint();
        if rows >= ROWS_IN_MEMORY_MAX {
            self.wait_for_checkpoint();
        }
    }

    /// Freezes the new rows and leaves them to maintenance; nothing while an earlier checkpoint is still being written. Only the
    /// appender may do this, and only between groups: everything before the position is then in the index.
    fn checkpoint(&self) {
        let mut state = self.shared.space.lock();
        if state.checkpoint.is_none() {
            state.checkpoint = self.shared.index.freeze(state.position(), || state.noted());
            self.shared.space.work.notify_one();
        }
    }

    /// Waits until the log up to here is in the index for good, then lets maintenance look for space anew.
    fn checkpoint_now(&self) {
        let wanted = self.shared.space.lock().position().order;
        self.wait_until(|state| state.checkpointed_order >= wanted);
        self.shared.space.lock().full = false;
    }

    fn wait_for_checkpoint(&self) {
        self.wait_until(|_| self.shared.index.recent_rows() < ROWS_IN_MEMORY_MAX);
    }

    fn wait_until(&self, done: impl Fn(&State<D::File>) -> bool) {
        loop {
            self.checkpoint();
            let mut state = self.shared.space.lock();
            if done(&state) || state.stopping || self.shared.health.is_poisoned() {
                return;
            }
            self.shared.space.ready.wait_for(&mut state, CHECKPOINT_POLL);
        }
    }
}
