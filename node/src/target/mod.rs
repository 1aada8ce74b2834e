//! A target: one disk's shards, as a log of segments with an index that can be lost.
//!
//! Three threads own the work of a target: `appender` (group commit), `reader`, `maintenance` (zeroes ahead, checkpoints). [`Target`]
//! is the handle that hands them jobs and never waits. It knows nothing of connections. Formats: `docs/ON_DISK.md`.
//!
//! Invariant: a store is answered with success only by a [`Durable`], which only a finished group commit makes.

mod appender;
mod commit;
mod errors;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod index;
mod maintenance;
mod open;
mod queue;
mod reader;
pub mod record;
mod scan;
mod segment;
mod shared;
mod space;
mod superblock;

pub use commit::{DeleteAnswer, Durable, StoreAnswer, StoreOutcome};
pub use errors::OpenError;
pub use reader::{FetchAnswer, Fetched, VerifyAnswer, Wanted, fetch_buffer_bytes};
pub use record::{RecordMemory, ShardKey, Verified};
pub use segment::{FIRST_RECORD, SegmentHeader, file_name};
pub use shared::OnPoison;
pub use superblock::{SUPERBLOCK, Superblock, superblock_of};

use crate::disk::{BLOCK_BYTES, Disk, Kind};
use appender::{Append, Appender};
use maintenance::Maintenance;
use parking_lot::Mutex;
use queue::{Queue, Refused};
use reader::{Job, Reader};
use shared::{Health, Shared, spawn};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use tenfour_types::shard_service::{ShardError, TargetStatus};
use tenfour_types::{ClusterId, NodeId, TargetId};

/// Jobs that may wait for a target's appender, and for its reader.
const QUEUE_JOBS_MAX: usize = 4096;
/// Most bytes of a segment: the number of its records must stay below the gap that a restart leaves in the sequences.
const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// Who a target is and how large it may grow.
#[derive(Clone, Copy, Debug)]
pub struct TargetSettings {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node it belongs to.
    pub node: NodeId,
    /// Its id.
    pub target: TargetId,
    /// What its segments may take together, bytes; at least two segments.
    pub capacity_bytes: u64,
    /// Length of a segment of a new target, bytes; an old one keeps its own.
    pub segment_bytes: u32,
}

/// An open target. Dropping it is an orderly close.
pub struct Target<M> {
    append: Arc<Queue<Append<M>>>,
    read: Arc<Queue<Job<M>>>,
    view: Arc<dyn View>,
    threads: Mutex<Threads>,
    settings: TargetSettings,
}

/// What [`Target`] asks of the shared state, whatever the disk's type.
trait View: Send + Sync {
    fn health(&self) -> &Health;
    fn totals(&self) -> (u64, u64);
    fn kind(&self) -> Kind;
    fn damaged(&self) -> Vec<ShardKey>;
    fn stop(&self);
}

impl<D: Disk> View for Arc<Shared<D>> {
    fn health(&self) -> &Health {
        &self.health
    }
    fn totals(&self) -> (u64, u64) {
        self.space.totals()
    }
    fn kind(&self) -> Kind {
        self.disk.kind()
    }
    fn damaged(&self) -> Vec<ShardKey> {
        self.index.damaged()
    }
    fn stop(&self) {
        self.space.lock().stopping = true;
        self.space.work.notify_all();
        self.space.ready.notify_all();
    }
}

#[derive(Default)]
struct Threads {
    appender: Option<JoinHandle<()>>,
    reader: Option<JoinHandle<()>>,
    maintenance: Option<JoinHandle<()>>,
}

impl<M: RecordMemory> Target<M> {
    /// Makes an empty folder a target. The caller vouches that the id was never in use: an empty folder is no known target.
    pub fn create<D: Disk>(
        disk: D,
        settings: TargetSettings,
        on_poison: OnPoison,
    ) -> Result<Self, OpenError> {
        check(&settings)?;
        let superblock = Superblock {
            cluster: settings.cluster,
            target: settings.target,
            node: settings.node,
            life: rand::random(),
            segment_bytes: settings.segment_bytes,
        };
        let held = superblock::create(&disk, superblock)?;
        Self::start(disk, held, settings, on_poison)
    }

    /// Opens a target that was there before.
    pub fn open<D: Disk>(disk: D, settings: TargetSettings, on_poison: OnPoison) -> Result<Self, OpenError> {
        check(&settings)?;
        let held = superblock::open(&disk, (settings.cluster, settings.node, settings.target))?;
        Self::start(disk, held, settings, on_poison)
    }

    fn start<D: Disk>(
        disk: D,
        held: superblock::Held<D::File>,
        settings: TargetSettings,
        on_poison: OnPoison,
    ) -> Result<Self, OpenError> {
        let open::Recovered { index, space, torn } =
            open::recover(&disk, &held.superblock, settings.capacity_bytes)?;
        let health = Arc::new(Health::new(settings.target, on_poison));
        let shared = Arc::new(Shared { disk, held, index, space, health });
        let append = Arc::new(Queue::new(QUEUE_JOBS_MAX));
        let read = Arc::new(Queue::new(QUEUE_JOBS_MAX));
        let view: Arc<dyn View> = Arc::new(Arc::clone(&shared));
        let threads = Mutex::default();
        let target = Self { append: Arc::clone(&append), read: Arc::clone(&read), view, threads, settings };
        let maintenance = Maintenance::new(Arc::clone(&shared))?;
        let appender = Appender::new(Arc::clone(&shared), append, torn)?;
        let reader = Reader { engine: shared.disk.engine()?, shared, queue: read, target: settings.target };
        let id = settings.target;
        let mut threads = target.threads.lock();
        let fallen = |name| target.give_up_after(name);
        threads.maintenance = Some(spawn("zero", id, move || maintenance.run(), fallen("zero"))?);
        threads.appender = Some(spawn("append", id, move || appender.run(), fallen("append"))?);
        threads.reader = Some(spawn("read", id, move || reader.run(), fallen("read"))?);
        drop(threads);
        Ok(target)
    }

    /// What is done when a storage thread panics: nothing that was handed in, or is from now on, waits for a thread that is gone.
    fn give_up_after(&self, thread: &'static str) -> impl FnOnce(&str) + Send + 'static {
        let (view, append, read) = (Arc::clone(&self.view), Arc::clone(&self.append), Arc::clone(&self.read));
        move |why| {
            view.health().poison("a storage thread panicked", &format_args!("{thread}: {why}"));
            view.stop();
            append.close();
            read.close();
            append.drain().into_iter().for_each(|job| job.refuse(ShardError::TargetOut));
            read.drain().into_iter().for_each(|job| job.refuse(ShardError::TargetOut));
        }
    }

    /// Which target this is.
    pub fn id(&self) -> TargetId {
        self.settings.target
    }

    /// Appends a record with the next group commit. The same shard again, if it is durable already, is answered without a copy.
    pub fn store(&self, record: Verified<M>, answer: StoreAnswer<M>) {
        let refusal = self.refusal(record.header().target);
        if let Some(error) = refusal {
            return answer(StoreOutcome { memory: record.into_memory(), result: Err(error) });
        }
        let (job, error) = match self.append.push(Append::Store(record, answer)) {
            Ok(()) => return,
            Err(Refused::Full(job)) => (job, ShardError::Overloaded),
            Err(Refused::Closed(job)) => (job, ShardError::TargetOut),
        };
        job.refuse(error);
    }

    /// Buries copies: durable when answered, and gone from the index. Copies that are not there count as buried.
    pub fn delete(&self, keys: Vec<ShardKey>, answer: DeleteAnswer) {
        let (job, error) = match self.append.push(Append::Delete(keys, answer)) {
            Ok(()) => return,
            Err(Refused::Full(job)) => (job, ShardError::Overloaded),
            Err(Refused::Closed(job)) => (job, ShardError::TargetOut),
        };
        job.refuse(error);
    }

    /// Reads and verifies blocks of a shard into `memory`, which has at least [`fetch_buffer_bytes`] of them.
    pub fn fetch(&self, wanted: Wanted, memory: M, answer: FetchAnswer<M>) {
        let (job, error) = match self.read.push(Job::Fetch(wanted, memory, answer)) {
            Ok(()) => return,
            Err(Refused::Full(job)) => (job, ShardError::Overloaded),
            Err(Refused::Closed(job)) => (job, ShardError::TargetOut),
        };
        job.refuse(error);
    }

    /// Reads and verifies a whole record.
    pub fn verify(&self, key: ShardKey, answer: VerifyAnswer) {
        let (job, error) = match self.read.push(Job::Verify(key, answer)) {
            Ok(()) => return,
            Err(Refused::Full(job)) => (job, ShardError::Overloaded),
            Err(Refused::Closed(job)) => (job, ShardError::TargetOut),
        };
        job.refuse(error);
    }

    fn refusal(&self, wanted: TargetId) -> Option<ShardError> {
        if wanted != self.settings.target {
            return Some(ShardError::UnknownTarget);
        }
        self.is_poisoned().then_some(ShardError::TargetOut)
    }
}

impl<M> Target<M> {
    /// Whether it was taken out of service.
    pub fn is_poisoned(&self) -> bool {
        self.view.health().is_poisoned()
    }

    /// Why it was taken out of service.
    pub fn poison_reason(&self) -> Option<&str> {
        self.view.health().reason()
    }

    /// How its disk does transfers.
    pub fn disk_kind(&self) -> Kind {
        self.view.kind()
    }

    /// Shards whose copies were found damaged when they were read, and have not been stored again since.
    pub fn damaged(&self) -> Vec<ShardKey> {
        self.view.damaged()
    }

    /// Its state for `status`.
    pub fn status(&self) -> TargetStatus {
        let (shards, used_bytes) = self.view.totals();
        let health = self.view.health();
        TargetStatus {
            target: self.settings.target,
            healthy: !health.is_poisoned(),
            shards,
            used_bytes,
            capacity_bytes: self.settings.capacity_bytes,
            flushes: health.flushes.load(Ordering::Relaxed),
        }
    }

    /// Answers what was handed in, takes no more, leaves a checkpoint, and ends the threads.
    pub fn close(&self) {
        let Threads { appender, reader, maintenance } = std::mem::take(&mut *self.threads.lock());
        self.append.close();
        self.read.close();
        for thread in [appender, reader].into_iter().flatten() {
            join(thread);
        }
        self.view.stop();
        if let Some(thread) = maintenance {
            join(thread);
        }
    }
}

impl<M> Drop for Target<M> {
    fn drop(&mut self) {
        self.close();
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a storage thread panicked");
    }
}

fn check(settings: &TargetSettings) -> Result<(), OpenError> {
    let TargetSettings { segment_bytes, capacity_bytes, .. } = *settings;
    if !(segment_bytes as usize).is_multiple_of(BLOCK_BYTES) {
        return Err(OpenError::Settings("the segment length is no multiple of 4096 bytes"));
    }
    if segment_bytes <= FIRST_RECORD || segment_bytes > SEGMENT_BYTES_MAX {
        return Err(OpenError::Settings("a segment is longer than 8 KiB and at most 1 GiB"));
    }
    if capacity_bytes < 2 * u64::from(segment_bytes) {
        return Err(OpenError::Settings("the capacity is less than two segments"));
    }
    Ok(())
}
