//! A group commit: all records that arrived together, written side by side, flushed once, answered after that.
//!
//! The steps are types: [`Batch`] is in memory, [`Written`] is on the disk but can still be lost, [`Flushed`] cannot. Only
//! [`Flushed::confirm`] makes a [`Durable`], and only with a `Durable` can a store be answered with success, so an early
//! acknowledgement does not compile.

use super::index::Row;
use super::record::{RecordMemory, ShardKey, Tombstone, Verified};
use super::shared::Shared;
use crate::disk::{AlignedBuffer, Disk, Engine};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tenfour_types::shard_service::ShardError;

/// Proof that what it was handed out for is durable: `fdatasync` returned after the write, and the folder was still there then.
#[derive(Debug)]
pub struct Durable(());

/// What became of a store: the memory comes back in any case.
pub struct StoreOutcome<M> {
    /// The memory of the record.
    pub memory: M,
    /// Durable, or why not; a refused record left nothing behind.
    pub result: Result<Durable, ShardError>,
}

/// Called once, on a storage thread: it must only pass the outcome on.
pub type StoreAnswer<M> = Box<dyn FnOnce(StoreOutcome<M>) + Send>;
/// As [`StoreAnswer`], for deletions.
pub type DeleteAnswer = Box<dyn FnOnce(Result<Durable, ShardError>) + Send>;

/// Records that will be written and flushed together.
pub(super) struct Batch<F, M> {
    pub(super) place: Option<BatchPlace<F>>,
    records: Vec<Record<M>>,
    keys: HashSet<ShardKey>,
    /// Shards that are durable already, or in `records`.
    repeated: Vec<(M, StoreAnswer<M>)>,
    bytes: usize,
}

pub(super) struct BatchPlace<F> {
    pub(super) file: Arc<F>,
    pub(super) offset: u32,
}

struct Record<M> {
    verified: Verified<M>,
    noteworthy: Noteworthy,
    answer: StoreAnswer<M>,
}

/// What the index is told of a record once it is durable.
#[derive(Clone, Copy)]
pub(super) struct Noteworthy {
    pub(super) key: ShardKey,
    pub(super) row: Row,
    /// The damaged copy that it takes the place of.
    pub(super) replaces: Option<Row>,
}

impl<F, M: RecordMemory> Batch<F, M> {
    pub(super) fn new() -> Self {
        Self { place: None, records: Vec::new(), keys: HashSet::new(), repeated: Vec::new(), bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.repeated.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn holds(&self, key: &ShardKey) -> bool {
        self.keys.contains(key)
    }

    pub(super) fn repeat(&mut self, memory: M, answer: StoreAnswer<M>) {
        self.repeated.push((memory, answer));
    }

    pub(super) fn add(
        &mut self,
        verified: Verified<M>,
        row: Row,
        replaces: Option<Row>,
        answer: StoreAnswer<M>,
    ) {
        let noteworthy = Noteworthy { key: verified.key(), row, replaces };
        self.bytes += verified.bytes().len();
        self.keys.insert(noteworthy.key);
        self.records.push(Record { verified, noteworthy, answer });
    }

    /// Writes all records as they lie, one after the other.
    pub(super) fn write<D: Disk<File = F>>(
        self,
        engine: &mut D::Engine,
        shared: &Shared<D>,
    ) -> Result<Written<F, M>, Failed<M>> {
        let Some(place) = &self.place else { return Ok(Written(self)) };
        let parts: Vec<&[u8]> = self.records.iter().map(|record| record.verified.bytes()).collect();
        match engine.write(&place.file, u64::from(place.offset), &parts) {
            Ok(()) => Ok(Written(self)),
            // No space is an error like any other here: the space was written before.
            Err(error) => {
                shared.health.poison("writing records", &error);
                Err(self.fail(ShardError::TargetOut))
            }
        }
    }

    pub(super) fn fail(self, error: ShardError) -> Failed<M> {
        let records = self.records.into_iter().map(|record| (record.verified.into_memory(), record.answer));
        Failed { answers: records.chain(self.repeated).collect(), error }
    }
}

/// On the disk, but a power cut can still take it.
pub(super) struct Written<F, M>(Batch<F, M>);

impl<F, M: RecordMemory> Written<F, M> {
    /// The one `fdatasync` of the group. When it fails the target is poisoned: it is never tried again.
    pub(super) fn flush<D: Disk<File = F>>(
        self,
        engine: &mut D::Engine,
        shared: &Shared<D>,
    ) -> Result<Flushed<F, M>, Failed<M>> {
        if let Some(place) = &self.0.place
            && let Err(error) = flush_counted(engine, place.file.as_ref(), shared)
        {
            shared.health.poison("flushing records", &error);
            return Err(self.0.fail(ShardError::TargetOut));
        }
        Ok(Flushed(self.0))
    }
}

/// On the disk for good, if the folder is still the target's.
pub(super) struct Flushed<F, M>(Batch<F, M>);

impl<F, M: RecordMemory> Flushed<F, M> {
    /// Looks at the folder; only then are the records known to be where a restart will find them.
    pub(super) fn confirm<D: Disk<File = F>>(self, shared: &Shared<D>) -> Result<Confirmed<M>, Failed<M>> {
        if let Err(why) = shared.check_folder() {
            shared.health.poison("looking at the folder", &why);
        }
        if shared.health.is_poisoned() {
            return Err(self.0.fail(ShardError::TargetOut));
        }
        let rows = self.0.records.iter().map(|record| record.noteworthy).collect();
        let records = self.0.records.into_iter().map(|record| (record.verified.into_memory(), record.answer));
        Ok(Confirmed { rows, answers: records.chain(self.0.repeated).collect() })
    }
}

/// Durable; to be noted in the index, then answered.
pub(super) struct Confirmed<M> {
    pub(super) rows: Vec<Noteworthy>,
    answers: Vec<(M, StoreAnswer<M>)>,
}

impl<M> Confirmed<M> {
    pub(super) fn answer(self) {
        for (memory, answer) in self.answers {
            answer(StoreOutcome { memory, result: Ok(Durable(())) });
        }
    }
}

/// Not durable; every one of the group is told.
pub(super) struct Failed<M> {
    answers: Vec<(M, StoreAnswer<M>)>,
    error: ShardError,
}

impl<M> Failed<M> {
    pub(super) fn answer(self) {
        for (memory, answer) in self.answers {
            answer(StoreOutcome { memory, result: Err(self.error) });
        }
    }
}

/// Writes one tombstone record and makes it durable.
pub(super) fn bury<D: Disk>(
    engine: &mut D::Engine,
    shared: &Shared<D>,
    place: &BatchPlace<D::File>,
    record: &AlignedBuffer,
) -> Result<Durable, ShardError> {
    let written = engine.write(&place.file, u64::from(place.offset), &[record]);
    if let Err(error) = written.and_then(|()| flush_counted(engine, place.file.as_ref(), shared)) {
        shared.health.poison("writing tombstones", &error);
    }
    if let Err(why) = shared.check_folder() {
        shared.health.poison("looking at the folder", &why);
    }
    if shared.health.is_poisoned() { Err(ShardError::TargetOut) } else { Ok(Durable(())) }
}

/// A deletion of nothing: nothing has to become durable.
pub(super) fn nothing_to_bury(tombstones: &[Tombstone]) -> Option<Durable> {
    tombstones.is_empty().then_some(Durable(()))
}

fn flush_counted<D: Disk>(engine: &mut D::Engine, file: &D::File, shared: &Shared<D>) -> std::io::Result<()> {
    engine.flush(file)?;
    shared.health.flushes.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
