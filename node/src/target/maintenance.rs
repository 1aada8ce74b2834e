//! The background thread of a target: zeroes space ahead, makes and recycles segments, writes the index's checkpoints, and looks
//! at the folder when there is nothing else to do.
//!
//! Invariant: what it hands to the appender was written and flushed, file and folder, before.

use super::segment::{FIRST_RECORD, SegmentHeader, file_name};
use super::shared::Shared;
use super::space::{Head, Segment, State, ZERO_AHEAD_BYTES, ZERO_STEP_BYTES};
use crate::disk::{AlignedBuffer, Disk, Engine, write_zeroes};
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

const ZEROES_BYTES: usize = 1 << 20;
/// A full target looks again for space every so often.
const FULL_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Maintenance<D: Disk> {
    pub(super) shared: Arc<Shared<D>>,
    pub(super) engine: D::Engine,
    zeroes: AlignedBuffer,
    /// Its own descriptors of the active and the next segment: the kernel reports a failed write-back once for each, so zeroing
    /// must not take the report that the appender's flush waits for.
    files: Vec<(u32, D::File)>,
}

/// A folder that nothing is written to is looked at every so often.
const FOLDER_LOOK: Duration = Duration::from_secs(1);

enum Work {
    Stop,
    Look,
    Zero { number: u32, from: u32, to: u32 },
    Prepare,
    Checkpoint(super::index::Frozen),
}

impl<D: Disk> Maintenance<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> io::Result<Self> {
        let engine = shared.disk.engine()?;
        Ok(Self { shared, engine, zeroes: AlignedBuffer::zeroed(ZEROES_BYTES), files: Vec::new() })
    }

    pub(super) fn run(mut self) {
        loop {
            let done = match self.next_work() {
                Work::Stop => return,
                Work::Look => self.shared.check_folder().map_err(io::Error::other),
                Work::Zero { number, from, to } => self.zero(number, from, to),
                Work::Prepare => self.prepare(),
                Work::Checkpoint(frozen) => self.checkpoint(&frozen),
            };
            if let Err(error) = done {
                self.shared.health.poison("in the background", &error);
            }
            if self.shared.health.is_poisoned() {
                let mut state = self.shared.space.lock();
                state.stopping = true;
                self.shared.space.ready.notify_all();
                return;
            }
        }
    }

    /// Waits for something to do. Zeroes that the appender is about to need go first.
    fn next_work(&self) -> Work {
        let space = &self.shared.space;
        let mut state = space.lock();
        loop {
            let urgent = zero_step(&state.active, ZERO_AHEAD_BYTES / 2);
            let waiting = state.checkpoint.is_some();
            if state.stopping && !waiting {
                return Work::Stop;
            }
            if !state.stopping {
                if let Some(work) = urgent {
                    return work;
                }
                let runs_out =
                    state.active.as_ref().is_none_or(|head| head.limit - head.end < ZERO_AHEAD_BYTES);
                if state.next.is_none() && runs_out && !state.full {
                    return Work::Prepare;
                }
            }
            if let Some(frozen) = state.checkpoint.take() {
                return Work::Checkpoint(frozen);
            }
            let ahead = zero_step(&state.active, ZERO_AHEAD_BYTES)
                .or_else(|| zero_step(&state.next, ZERO_AHEAD_BYTES / 2));
            if let Some(work) = ahead {
                return work;
            }
            let pause = if state.full { FULL_RETRY } else { FOLDER_LOOK };
            if space.work.wait_for(&mut state, pause).timed_out() {
                state.full = false;
                return Work::Look;
            }
        }
    }

    fn zero(&mut self, number: u32, from: u32, to: u32) -> io::Result<()> {
        if self.files.iter().all(|(kept, _)| *kept != number) {
            self.files.truncate(1);
            self.files.insert(0, (number, self.shared.disk.open(&file_name(number))?));
        }
        let Some((_, file)) = self.files.iter().find(|(kept, _)| *kept == number) else { return Ok(()) };
        let written = write_zeroes(&mut self.engine, file, &self.zeroes, from.into(), to.into())
            .and_then(|()| self.engine.flush(file));
        let zeroed = match written {
            Ok(()) => Ok(to),
            Err(error) if is_no_space(&error) => Err(()),
            Err(error) => return Err(error),
        };
        let mut state = self.shared.space.lock();
        let State { active, next, .. } = &mut *state;
        for head in [active, next].into_iter().flatten().filter(|head| head.number == number) {
            match zeroed {
                Ok(to) => head.zeroed = head.zeroed.max(to),
                Err(()) => head.limit = head.zeroed,
            }
        }
        self.shared.space.ready.notify_all();
        Ok(())
    }

    /// Makes the next segment ready: another life of a dead one, or a new file. What a crash here leaves behind is a file without
    /// a whole header and without records, which the next start removes.
    fn prepare(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let (recycled, number, order, floor, target_is_full) = {
            let mut state = shared.space.lock();
            let recycled = state.recyclable();
            let unused = (0..).find(|number| !state.segments.contains_key(number)).unwrap_or(u32::MAX);
            let after = (state.segments.len() as u64 + 1) * u64::from(shared.space.segment_bytes);
            let order = state.next_order;
            state.next_order += 1;
            let full = recycled.is_none() && after > shared.space.capacity_bytes;
            (recycled, recycled.unwrap_or(unused), order, state.next_sequence, full)
        };
        let reserve = 2 * u64::from(shared.space.segment_bytes);
        if target_is_full || (recycled.is_none() && shared.disk.free_bytes()? < reserve) {
            self.declare_full();
            return Ok(());
        }
        let header = SegmentHeader {
            life: rand::random(),
            order,
            floor,
            target_life: shared.held.superblock.life,
            segment_bytes: shared.space.segment_bytes,
            number,
        };
        let made = if recycled.is_some() { self.recycle(&header) } else { self.create(&header) };
        match made {
            Ok(head) => self.publish(header, head),
            Err(error) if is_no_space(&error) => {
                if recycled.is_none() {
                    shared.disk.remove(&file_name(number))?;
                }
                self.declare_full();
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn create(&mut self, header: &SegmentHeader) -> io::Result<Head<D::File>> {
        let shared = &self.shared;
        let file = shared.disk.create(&file_name(header.number))?;
        header.write(&mut self.engine, &file)?;
        shared.disk.flush_folder()?;
        let (end, limit) = (FIRST_RECORD, header.segment_bytes);
        Ok(Head { number: header.number, file: Arc::new(file), end, zeroed: end, limit })
    }

    fn recycle(&mut self, header: &SegmentHeader) -> io::Result<Head<D::File>> {
        let (file, _) = self.shared.open_segment(header.number)?;
        let length = u32::try_from(self.shared.disk.length(&file)?).unwrap_or(u32::MAX);
        header.write(&mut self.engine, &file)?;
        let zeroed = length.min(header.segment_bytes).max(FIRST_RECORD);
        Ok(Head { number: header.number, file, end: FIRST_RECORD, zeroed, limit: header.segment_bytes })
    }

    fn publish(&self, header: SegmentHeader, head: Head<D::File>) {
        let mut state = self.shared.space.lock();
        let live = super::index::Live { order: header.order, ..Default::default() };
        state.segments.insert(header.number, Segment { header, live, buries_in: HashSet::new() });
        state.keep_file(header.number, Arc::clone(&head.file));
        state.next = Some(head);
        self.shared.space.ready.notify_all();
    }

    fn declare_full(&self) {
        let mut state = self.shared.space.lock();
        if !state.full {
            tracing::warn!(target_id = %self.shared.health.target, "no space for another segment");
        }
        state.full = true;
        self.shared.space.ready.notify_all();
    }

    fn checkpoint(&self, frozen: &super::index::Frozen) -> io::Result<()> {
        self.shared.index.write(frozen).map_err(io::Error::other)?;
        let mut state = self.shared.space.lock();
        state.checkpointed_order = frozen.position.order;
        self.shared.space.ready.notify_all();
        Ok(())
    }
}

/// The next stretch to zero, when less than `ahead` is.
fn zero_step<F>(head: &Option<Head<F>>, ahead: u32) -> Option<Work> {
    let head = head.as_ref()?;
    let wanted = head.end.saturating_add(ahead).min(head.limit);
    if head.zeroed >= wanted {
        return None;
    }
    let (from, to) = (head.zeroed, head.zeroed.saturating_add(ZERO_STEP_BYTES).min(head.limit));
    Some(Work::Zero { number: head.number, from, to })
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
