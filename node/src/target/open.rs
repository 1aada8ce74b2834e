//! Opening a target: whose folder it is, which segments there are, what they hold, where the log ends.
//!
//! Order: superblock, segment headers, index (up to its checkpoint), replay of the segments after it. A crash at any point of it
//! changes nothing that the next start relies on. Invariants: a segment that may hold a record is never removed or written over; one
//! whose two headers are damaged is set aside under another name. And what is replayed was flushed before: a process that died
//! between a write and its flush leaves records that can be read and that a power cut would still take.

use super::errors::OpenError;
use super::index::{Index, Live, Position, ROWS_BEFORE_CHECKPOINT, Row};
use super::record::{ShardKey, Tombstone};
use super::scan::{Entry, Found, Scan};
use super::segment::{FIRST_RECORD, SegmentHeader, file_name, number_of};
use super::space::{Head, Segment, Space, State};
use super::superblock::Superblock;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, Engine, read_one};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use tenfour_types::record::record_bytes;

/// Added to the highest sequence found: what a crash left unacknowledged behind the end stays below everything written later.
const SEQUENCE_GAP: u64 = 1 << 20;

/// What the segments hold.
pub(super) struct Recovered<D: Disk> {
    pub(super) index: Index,
    pub(super) space: Space<D::File>,
    /// Heads of records that were never acknowledged, or have rotted: to be buried before anything else is appended.
    pub(super) torn: Vec<Tombstone>,
}

/// Where the log ends, as far as it was read.
struct End {
    number: u32,
    offset: u32,
}

/// Reads the segments of an opened target.
pub(super) fn recover<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    capacity_bytes: u64,
) -> Result<Recovered<D>, OpenError> {
    let segments = segments(disk, superblock)?;
    let highest = segments.values().map(|segment| segment.header.order).max().unwrap_or(0);
    let mut index = Index::open(&disk.index_folder(), superblock.life)?;
    let mut position = index.position()?;
    if position.is_some_and(|position| position.order > highest) {
        tracing::warn!("the index is ahead of the segments: it is rebuilt");
        drop(index);
        index = Index::open_anew(&disk.index_folder(), superblock.life)?;
        position = None;
    }
    let mut replay = Replay::<D>::new(disk, index, segments, position.unwrap_or_default())?;
    let end = replay.run()?;
    let Replay { index, mut state, torn, .. } = replay;
    state.next_sequence += SEQUENCE_GAP;
    if let Some(End { number, offset }) = end {
        let file = Arc::new(disk.open(&file_name(number))?);
        state.keep_file(number, Arc::clone(&file));
        // Zeroed anew from here on: what lies behind the end may never have been flushed.
        state.active =
            Some(Head { number, file, end: offset, zeroed: offset, limit: superblock.segment_bytes });
    }
    let space = Space::new(superblock.segment_bytes, capacity_bytes, state);
    Ok(Recovered { index, space, torn })
}

/// The segments and their headers.
fn segments<D: Disk>(disk: &D, superblock: &Superblock) -> Result<BTreeMap<u32, Segment>, OpenError> {
    let mut engine = disk.engine()?;
    let mut segments = BTreeMap::new();
    let mut changed = false;
    for number in disk.list()?.iter().filter_map(|name| number_of(name)) {
        let name = file_name(number);
        let file = disk.open(&name)?;
        let header = SegmentHeader::read(&mut engine, &file)?;
        match header.filter(|header| header.number == number && header.target_life == superblock.life) {
            Some(header) => {
                let live = Live { order: header.order, ..Live::default() };
                segments.insert(number, Segment { header, live, buries_in: HashSet::new() });
            }
            None => {
                changed = true;
                if header.is_none() && is_blank(disk, &mut engine, &file)? {
                    disk.remove(&name)?;
                } else {
                    tracing::error!(
                        name,
                        "the segment's header is damaged or another target's: it is set aside"
                    );
                    disk.rename(&name, &format!("damaged-{name}"))?;
                }
            }
        }
    }
    if changed {
        disk.flush_folder()?;
    }
    Ok(segments)
}

/// Whether the file is what a crash while making a segment leaves behind: nothing behind the header.
fn is_blank<D: Disk>(disk: &D, engine: &mut D::Engine, file: &D::File) -> Result<bool, OpenError> {
    if disk.length(file)? <= u64::from(FIRST_RECORD) {
        return Ok(true);
    }
    let mut first = AlignedBuffer::zeroed(BLOCK_BYTES);
    let read = read_one(engine, file, u64::from(FIRST_RECORD), &mut first);
    Ok(read.is_ok() && first.iter().all(|byte| *byte == 0))
}

struct Replay<'a, D: Disk> {
    disk: &'a D,
    engine: D::Engine,
    index: Index,
    state: State<D::File>,
    from: Position,
    torn: Vec<Tombstone>,
}

impl<'a, D: Disk> Replay<'a, D> {
    fn new(
        disk: &'a D,
        index: Index,
        mut segments: BTreeMap<u32, Segment>,
        from: Position,
    ) -> Result<Self, OpenError> {
        for (number, segment) in &mut segments {
            if segment.header.order <= from.order {
                // A count of another life of the segment says nothing about this one.
                let noted = index.noted(*number)?.filter(|noted| noted.live.order == segment.header.order);
                if let Some(noted) = noted {
                    segment.live = noted.live;
                    segment.buries_in.extend(noted.buries_in);
                }
            }
        }
        let state = State::new(segments, from.next_sequence);
        Ok(Self { disk, engine: disk.engine()?, index, state, from, torn: Vec::new() })
    }

    /// Replays everything after the checkpoint, in the order in which it was written.
    fn run(&mut self) -> Result<Option<End>, OpenError> {
        let mut order: Vec<(u64, u32)> =
            self.state.segments.iter().map(|(number, segment)| (segment.header.order, *number)).collect();
        order.sort_unstable();
        self.state.checkpointed_order = self.from.order;
        // A segment may be made ahead and hold nothing: the one that can be torn is the last that does hold something, or the one
        // that was appended to at the checkpoint.
        let mut last = order.iter().position(|(order, _)| *order == self.from.order).unwrap_or(0);
        for (position, (_, number)) in order.iter().enumerate().skip(last + 1) {
            if self.holds_records(*number)? {
                last = position;
            }
        }
        let mut end = None;
        for (position, (order, number)) in order.into_iter().enumerate() {
            let Some(header) = self.state.segments.get(&number).map(|segment| segment.header) else {
                continue;
            };
            self.state.next_sequence = self.state.next_sequence.max(header.floor);
            if order < self.from.order || position > last {
                continue;
            }
            let from = if order == self.from.order { self.from.offset } else { FIRST_RECORD };
            let offset = self.segment(number, header, from, position == last)?;
            end = Some(End { number, offset });
        }
        Ok(end)
    }

    fn holds_records(&mut self, number: u32) -> Result<bool, OpenError> {
        let Some(header) = self.state.segments.get(&number).map(|segment| segment.header) else {
            return Ok(false);
        };
        let file = self.disk.open(&file_name(number))?;
        let length = self.disk.length(&file)?;
        let mut scan = Scan::new(&mut self.engine, &file, length, header, FIRST_RECORD, false);
        Ok(scan.next_record().is_some())
    }

    /// Flushes and replays one segment; returns where its last record ends.
    fn segment(
        &mut self,
        number: u32,
        header: SegmentHeader,
        from: u32,
        may_be_torn: bool,
    ) -> Result<u32, OpenError> {
        let file = self.disk.open(&file_name(number))?;
        let length = self.disk.length(&file)?;
        let mut engine = self.disk.engine()?;
        engine.flush(&file)?;
        let mut scan = Scan::new(&mut engine, &file, length, header, from, may_be_torn);
        let mut end = from.max(FIRST_RECORD);
        while let Some(found) = scan.next_record() {
            if !matches!(found.entry, Entry::Torn(_)) {
                end = found.offset + found.record_bytes;
            }
            self.state.next_sequence = self.state.next_sequence.max(found.sequence + 1);
            self.replay(&header, found)?;
            if self.index.recent_rows() >= ROWS_BEFORE_CHECKPOINT {
                self.checkpoint(header.order, end)?;
            }
        }
        Ok(end)
    }

    fn replay(&mut self, segment: &SegmentHeader, found: Found) -> Result<(), OpenError> {
        let number = segment.number;
        match found.entry {
            Entry::Shard(shard) => {
                let key = ShardKey::from(&shard);
                let (offset, payload_bytes, sequence) = (found.offset, shard.payload_bytes, found.sequence);
                let row = Row { segment: number, offset, payload_bytes, sequence };
                match self.index.get(&key)? {
                    Some(old) if old.sequence >= row.sequence => return Ok(()),
                    Some(old) => {
                        self.state.count(old.segment, record_bytes(old.payload_bytes as usize) as u64, false);
                    }
                    None => {}
                }
                self.state.count(number, u64::from(found.record_bytes), true);
                self.index.apply([(key, Some(row))]);
            }
            Entry::Torn(key) => {
                tracing::warn!(
                    ?key,
                    segment = number,
                    offset = found.offset,
                    "what is left of a record is buried"
                );
                self.torn.push(Tombstone { key, life: segment.life, sequence: found.sequence });
            }
            Entry::Tombstones(entries) => {
                for entry in &entries {
                    if let Some(row) =
                        self.index.get(&entry.key)?.filter(|row| row.sequence == entry.sequence)
                    {
                        self.state.count(row.segment, record_bytes(row.payload_bytes as usize) as u64, false);
                        self.index.apply([(entry.key, None)]);
                    }
                }
                if let Some(segment) = self.state.segments.get_mut(&number) {
                    segment.buries_in.extend(entries.iter().map(|entry| entry.life));
                }
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self, order: u64, offset: u32) -> Result<(), OpenError> {
        let position = Position { order, offset, next_sequence: self.state.next_sequence };
        let state = &self.state;
        if let Some(frozen) = self.index.freeze(position, || state.noted()) {
            self.index.write(&frozen)?;
            self.state.checkpointed_order = order;
        }
        Ok(())
    }
}
