//! The segments of a target: which there are, what lives in them, where the next record goes, and what is zeroed ahead.
//!
//! Only bookkeeping: the files are written by `maintenance` (zeroes, headers) and by `appender` (records). Invariant: a record is
//! placed only into space that was written and flushed before, so that its own `fdatasync` has no allocation to make durable and
//! cannot run out of space.

use super::index::{Live, Noted, Position};
use super::segment::{FIRST_RECORD, SegmentHeader};
use crate::disk::BLOCK_BYTES;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Space zeroed ahead of the last record, bytes.
pub(super) const ZERO_AHEAD_BYTES: u32 = 32 << 20;
/// Zeroed and flushed at once, bytes.
pub(super) const ZERO_STEP_BYTES: u32 = 8 << 20;
/// Open segment files kept; the least recently opened goes first.
const OPEN_FILES_MAX: usize = 64;

pub(super) struct Space<F> {
    state: Mutex<State<F>>,
    /// Maintenance has something to do.
    pub(super) work: Condvar,
    /// Space is there, or there will be none.
    pub(super) ready: Condvar,
    pub(super) segment_bytes: u32,
    pub(super) capacity_bytes: u64,
}

pub(super) struct State<F> {
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) active: Option<Head<F>>,
    pub(super) next: Option<Head<F>>,
    pub(super) full: bool,
    pub(super) stopping: bool,
    pub(super) checkpoint: Option<super::index::Frozen>,
    /// The order of the last checkpoint's segment: everything in segments below it is in the index for good.
    pub(super) checkpointed_order: u64,
    pub(super) next_sequence: u64,
    pub(super) next_order: u64,
    files: HashMap<u32, Arc<F>>,
    opened: VecDeque<u32>,
}

/// A segment's life and what lives in it.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) live: Live,
    /// Lives of segments that tombstones in this one refer to.
    pub(super) buries_in: HashSet<u64>,
}

/// The segment that is appended to, or the one that will be.
pub(super) struct Head<F> {
    pub(super) number: u32,
    pub(super) file: Arc<F>,
    /// Where the next record begins.
    pub(super) end: u32,
    /// Up to where space was written and flushed.
    pub(super) zeroed: u32,
    /// Up to where space can be had; below the segment's length when the disk ran out.
    pub(super) limit: u32,
}

impl<F> Head<F> {
    /// Kept for tombstones while there is no next segment.
    fn reserve(&self) -> u32 {
        self.limit / 16 / BLOCK_BYTES as u32 * BLOCK_BYTES as u32
    }
}

/// What a record is for. Tombstones may use a reserve that shards may not, or a full target could never be emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Shard,
    Tombstone,
}

/// Where there is room for a record.
enum Room {
    Here,
    Next,
    Later,
    Full,
}

/// Where a record can go.
pub(super) enum Place<F> {
    At {
        number: u32,
        life: u64,
        offset: u32,
        file: Arc<F>,
    },
    /// The segment is used up and the next one is ready: flush, turn the page, ask again.
    NextSegment,
    /// Being zeroed: flush, wait, ask again.
    NotYet,
    Full,
}

impl<F> Space<F> {
    pub(super) fn new(segment_bytes: u32, capacity_bytes: u64, state: State<F>) -> Self {
        let (work, ready) = (Condvar::new(), Condvar::new());
        Self { state: Mutex::new(state), work, ready, segment_bytes, capacity_bytes }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<F>> {
        self.state.lock()
    }

    /// Takes the place for a record of so many bytes.
    pub(super) fn place(&self, bytes: u32, purpose: Purpose) -> Place<F> {
        let mut state = self.lock();
        match state.room(bytes, purpose) {
            Room::Here => {}
            Room::Next => return Place::NextSegment,
            Room::Full => return Place::Full,
            Room::Later => {
                self.work.notify_one();
                return Place::NotYet;
            }
        }
        let runs_low = state.runs_low(bytes);
        let State { active, segments, .. } = &mut *state;
        let Some(head) = active else { return Place::NotYet };
        let (number, offset, file) = (head.number, head.end, Arc::clone(&head.file));
        head.end += bytes;
        if runs_low {
            self.work.notify_one();
        }
        let life = segments.get(&number).map_or(0, |segment| segment.header.life);
        Place::At { number, life, offset, file }
    }

    /// Waits until [`Space::place`] has something new to say.
    pub(super) fn wait(&self, bytes: u32, purpose: Purpose) {
        let mut state = self.lock();
        while matches!(state.room(bytes, purpose), Room::Later) && !state.stopping {
            self.work.notify_one();
            self.ready.wait(&mut state);
        }
    }

    /// Makes the next segment the one that is appended to.
    pub(super) fn turn(&self) {
        let mut state = self.lock();
        if let Some(next) = state.next.take() {
            state.active = Some(next);
            self.work.notify_one();
        }
    }

    /// An open segment file, if it is kept.
    pub(super) fn file(&self, number: u32) -> Option<Arc<F>> {
        self.lock().files.get(&number).cloned()
    }

    /// Shards and bytes that live on the target.
    pub(super) fn totals(&self) -> (u64, u64) {
        let state = self.lock();
        let add = |(records, bytes): (u64, u64), segment: &Segment| {
            (records + segment.live.records, bytes + segment.live.bytes)
        };
        state.segments.values().fold((0, 0), add)
    }
}

impl<F> State<F> {
    pub(super) fn new(segments: BTreeMap<u32, Segment>, next_sequence: u64) -> Self {
        let next_order = segments.values().map(|segment| segment.header.order + 1).max().unwrap_or(1);
        Self {
            segments,
            active: None,
            next: None,
            full: false,
            stopping: false,
            checkpoint: None,
            checkpointed_order: 0,
            next_sequence,
            next_order,
            files: HashMap::new(),
            opened: VecDeque::new(),
        }
    }

    fn room(&self, bytes: u32, purpose: Purpose) -> Room {
        let fits = |head: &Head<F>, reserve: u32| {
            head.end.saturating_add(bytes) <= head.limit.saturating_sub(reserve)
        };
        let room_in = |head: &Head<F>| {
            if head.end.saturating_add(bytes) <= head.zeroed { Room::Here } else { Room::Later }
        };
        match (&self.active, &self.next) {
            (Some(head), Some(_)) if fits(head, 0) => room_in(head),
            (_, Some(_)) => Room::Next,
            (Some(head), None) if purpose == Purpose::Tombstone && fits(head, 0) => room_in(head),
            (Some(head), None) if fits(head, head.reserve()) => room_in(head),
            (_, None) if self.full => Room::Full,
            (_, None) => Room::Later,
        }
    }

    /// Whether maintenance has something to do once so many bytes are placed.
    fn runs_low(&self, bytes: u32) -> bool {
        let (no_next, full) = (self.next.is_none(), self.full);
        self.active.as_ref().is_none_or(|head| {
            let end = head.end.saturating_add(bytes);
            let zeroes = head.zeroed.saturating_sub(end) < ZERO_AHEAD_BYTES && head.zeroed < head.limit;
            zeroes || (no_next && !full && head.limit.saturating_sub(end) < ZERO_AHEAD_BYTES)
        })
    }

    /// Whether a dead segment waits only for a checkpoint before it can live again.
    pub(super) fn awaits_checkpoint(&self) -> bool {
        let current = self.position().order;
        let waits = |segment: &Segment| {
            segment.live.records == 0 && (self.checkpointed_order..current).contains(&segment.header.order)
        };
        self.segments.values().any(waits)
    }

    /// Keeps an open file.
    pub(super) fn keep_file(&mut self, number: u32, file: Arc<F>) {
        if self.files.insert(number, file).is_none() {
            self.opened.push_back(number);
        }
        while self.opened.len() > OPEN_FILES_MAX {
            if let Some(oldest) = self.opened.pop_front() {
                self.files.remove(&oldest);
            }
        }
    }

    /// Counts a copy in, or out.
    pub(super) fn count(&mut self, segment: u32, record_bytes: u64, comes: bool) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            let live = &mut segment.live;
            if comes {
                live.records += 1;
                live.bytes += record_bytes;
            } else {
                live.records = live.records.saturating_sub(1);
                live.bytes = live.bytes.saturating_sub(record_bytes);
                self.full &= live.records > 0;
            }
        }
    }

    /// What a checkpoint notes about the segments; lives that have ended need not be remembered.
    pub(super) fn noted(&self) -> Vec<Noted> {
        let lives: HashSet<u64> = self.segments.values().map(|segment| segment.header.life).collect();
        let note = |(number, segment): (&u32, &Segment)| Noted {
            segment: *number,
            live: segment.live,
            buries_in: segment.buries_in.intersection(&lives).copied().collect(),
        };
        self.segments.iter().map(note).collect()
    }

    /// Where the log ends now.
    pub(super) fn position(&self) -> Position {
        let head = self.active.as_ref();
        let order =
            head.and_then(|head| self.segments.get(&head.number)).map_or(0, |segment| segment.header.order);
        Position {
            order,
            offset: head.map_or(FIRST_RECORD, |head| head.end),
            next_sequence: self.next_sequence,
        }
    }

    /// A segment that may begin another life: nothing lives in it, its tombstones have outlived what they bury, and every record of
    /// it is reflected in the checkpoint (or it was made ahead by an earlier run and never used).
    pub(super) fn recyclable(&self) -> Option<u32> {
        let heads = [&self.active, &self.next].map(|head| head.as_ref().map(|head| head.number));
        let lives: HashSet<u64> = self.segments.values().map(|segment| segment.header.life).collect();
        let current = self.position().order;
        let free = |(number, segment): &(&u32, &Segment)| {
            !heads.contains(&Some(**number))
                && segment.live.records == 0
                && (segment.header.order < self.checkpointed_order || segment.header.order > current)
                && segment.buries_in.iter().all(|life| *life == segment.header.life || !lives.contains(life))
        };
        self.segments.iter().find(free).map(|(number, _)| *number)
    }
}
