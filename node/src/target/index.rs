//! Where each copy lies. Nothing here is promised: the segments are the truth, and this is rebuilt from them whenever it is gone.
//!
//! New rows live in memory. When there are many, they are frozen and written to fjall in one batch with the position in the
//! segments up to which all rows are in it; at start the segments are replayed from that position. So a group commit costs no write
//! here.
//!
//! ```text
//! keyspace "rows"   stripe [16] index [1] digest [16]  ->  version u8 = 1 | segment u32 | offset u32 | payload bytes u32 | sequence u64
//! keyspace "meta"   "checkpoint"  ->  version u8 = 1 | target's life u64 | order u64 | offset u32 | next sequence u64
//!                   "segment" number u32 (big-endian)  ->  version u8 = 1 | order u64 | live records u64 | live bytes u64 |
//!                                            then, u64 each, the lives of the segments that its tombstones refer to
//! ```
//!
//! Invariant: a row is added only after what it points to is durable.

use super::record::ShardKey;
use super::superblock::Fields;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// New rows in memory before they are written to fjall.
pub(super) const ROWS_BEFORE_CHECKPOINT: usize = 16 << 10;
/// New rows in memory at most: beyond, appending waits.
pub(super) const ROWS_IN_MEMORY_MAX: usize = 4 * ROWS_BEFORE_CHECKPOINT;
/// Shards remembered as damaged, so that a repaired copy is not taken for one that is already there.
const DAMAGED_MAX: usize = 64 << 10;

const CACHE_BYTES: u64 = 16 << 20;
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
const MEMTABLE_BYTES_MAX: u64 = 8 << 20;
const OPEN_FILES_MAX: usize = 64;
const VERSION: u8 = 1;

/// Where a copy lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The number of its segment.
    pub segment: u32,
    /// Where its record begins.
    pub offset: u32,
    /// Length of its payload.
    pub payload_bytes: u32,
    /// Its sequence.
    pub sequence: u64,
}

/// Up to where the segments are in fjall.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Position {
    /// The order of the segment's life.
    pub(super) order: u64,
    /// The offset in it.
    pub(super) offset: u32,
    /// The sequence of the next record.
    pub(super) next_sequence: u64,
}

/// What lives in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Live {
    pub(super) order: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// What a checkpoint notes about a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Noted {
    pub(super) segment: u32,
    pub(super) live: Live,
    pub(super) buries_in: Vec<u64>,
}

type Rows = HashMap<ShardKey, Option<Row>>;

#[derive(Default)]
struct Layers {
    recent: Rows,
    frozen: Option<Arc<Rows>>,
}

/// Rows that wait to be written, with what belongs to them.
pub(super) struct Frozen {
    rows: Arc<Rows>,
    pub(super) position: Position,
    segments: Vec<Noted>,
}

pub(super) struct Index {
    database: Database,
    rows: Keyspace,
    meta: Keyspace,
    target_life: u64,
    layers: RwLock<Layers>,
    damaged: Mutex<HashSet<ShardKey>>,
}

impl Index {
    /// Opens the index, or begins a new one when it is gone, unreadable, or not this target's.
    pub(super) fn open(folder: &Path, target_life: u64) -> Result<Self, fjall::Error> {
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_once(folder, target_life)));
        let why = match opened {
            Ok(Ok(index)) if index.is_ours().unwrap_or(false) => return Ok(index),
            Ok(Ok(_)) => "it is another target's".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "reading it panicked".to_owned(),
        };
        tracing::warn!(folder = %folder.display(), why, "the index is rebuilt");
        Self::open_anew(folder, target_life)
    }

    /// Begins a new index.
    pub(super) fn open_anew(folder: &Path, target_life: u64) -> Result<Self, fjall::Error> {
        if folder.try_exists()? {
            std::fs::remove_dir_all(folder)?;
        }
        Self::open_once(folder, target_life)
    }

    fn open_once(folder: &Path, target_life: u64) -> Result<Self, fjall::Error> {
        let database = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .worker_threads(1)
            .max_cached_files(Some(OPEN_FILES_MAX))
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES_MAX);
        let (rows, meta) = (database.keyspace("rows", options)?, database.keyspace("meta", options)?);
        Ok(Self { database, rows, meta, target_life, layers: RwLock::default(), damaged: Mutex::default() })
    }

    fn is_ours(&self) -> Result<bool, fjall::Error> {
        let Some(value) = self.meta.get(CHECKPOINT)? else { return self.rows.is_empty() };
        Ok(decode_position(&value).is_some_and(|(life, _)| life == self.target_life))
    }

    /// Where the copy lies, as far as the index knows.
    pub(super) fn get(&self, key: &ShardKey) -> Result<Option<Row>, fjall::Error> {
        {
            let layers = self.layers.read();
            if let Some(row) = layers.recent.get(key) {
                return Ok(*row);
            }
            if let Some(row) = layers.frozen.as_ref().and_then(|rows| rows.get(key)) {
                return Ok(*row);
            }
        }
        Ok(self.rows.get(key.to_bytes())?.and_then(|value| Row::from_bytes(&value)))
    }

    /// Notes where copies lie now, or that they are gone.
    pub(super) fn apply(&self, rows: impl IntoIterator<Item = (ShardKey, Option<Row>)>) {
        self.layers.write().recent.extend(rows);
    }

    /// New rows in memory, frozen ones not counted.
    pub(super) fn recent_rows(&self) -> usize {
        self.layers.read().recent.len()
    }

    /// Freezes the new rows; `None` while others are still being written.
    pub(super) fn freeze(&self, position: Position, segments: impl FnOnce() -> Vec<Noted>) -> Option<Frozen> {
        let mut layers = self.layers.write();
        if layers.frozen.is_some() {
            return None;
        }
        let rows = Arc::new(std::mem::take(&mut layers.recent));
        layers.frozen = Some(Arc::clone(&rows));
        Some(Frozen { rows, position, segments: segments() })
    }

    /// Writes frozen rows and makes them durable. After an error the rows stay in memory, and the target is to be poisoned.
    pub(super) fn write(&self, frozen: &Frozen) -> Result<(), fjall::Error> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, row) in frozen.rows.iter() {
            match row {
                Some(row) => batch.insert(&self.rows, key.to_bytes(), row.to_bytes()),
                None => batch.remove(&self.rows, key.to_bytes()),
            }
        }
        for noted in &frozen.segments {
            batch.insert(&self.meta, segment_key(noted.segment), noted.to_bytes());
        }
        batch.insert(&self.meta, CHECKPOINT, encode_position(self.target_life, &frozen.position));
        batch.commit()?;
        self.layers.write().frozen = None;
        Ok(())
    }

    /// The position of the last checkpoint.
    pub(super) fn position(&self) -> Result<Option<Position>, fjall::Error> {
        Ok(self.meta.get(CHECKPOINT)?.and_then(|value| decode_position(&value)).map(|(_, position)| position))
    }

    /// What lived in a segment at the last checkpoint.
    pub(super) fn noted(&self, segment: u32) -> Result<Option<Noted>, fjall::Error> {
        Ok(self.meta.get(segment_key(segment))?.and_then(|value| Noted::from_bytes(segment, &value)))
    }

    /// Remembers that the copy on the disk is damaged: a store of the same shard must not be taken for a repetition.
    pub(super) fn mark_damaged(&self, key: ShardKey) {
        let mut damaged = self.damaged.lock();
        if damaged.len() < DAMAGED_MAX {
            damaged.insert(key);
        }
    }

    /// The shards whose copies were found damaged, and not stored again since.
    pub(super) fn damaged(&self) -> Vec<ShardKey> {
        self.damaged.lock().iter().copied().collect()
    }

    /// Whether the copy was found damaged, forgetting it.
    pub(super) fn take_damaged(&self, key: &ShardKey) -> bool {
        let mut damaged = self.damaged.lock();
        !damaged.is_empty() && damaged.remove(key)
    }
}

const CHECKPOINT: &str = "checkpoint";

fn segment_key(number: u32) -> Vec<u8> {
    [b"segment".as_slice(), &number.to_be_bytes()].concat()
}

impl Row {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for number in [self.segment, self.offset, self.payload_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = versioned(bytes)?;
        Some(Self {
            segment: u32::from_le_bytes(fields.take()?),
            offset: u32::from_le_bytes(fields.take()?),
            payload_bytes: u32::from_le_bytes(fields.take()?),
            sequence: u64::from_le_bytes(fields.take()?),
        })
    }
}

fn versioned(bytes: &[u8]) -> Option<Fields<'_>> {
    let (version, body) = bytes.split_first()?;
    (*version == VERSION).then_some(Fields(body))
}

pub(super) fn encode_position(target_life: u64, position: &Position) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&target_life.to_le_bytes());
    out.extend_from_slice(&position.order.to_le_bytes());
    out.extend_from_slice(&position.offset.to_le_bytes());
    out.extend_from_slice(&position.next_sequence.to_le_bytes());
    out
}

pub(super) fn decode_position(bytes: &[u8]) -> Option<(u64, Position)> {
    let mut fields = versioned(bytes)?;
    let life = u64::from_le_bytes(fields.take()?);
    let order = u64::from_le_bytes(fields.take()?);
    let offset = u32::from_le_bytes(fields.take()?);
    Some((life, Position { order, offset, next_sequence: u64::from_le_bytes(fields.take()?) }))
}

impl Noted {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Live { order, records, bytes } = self.live;
        let mut out = vec![VERSION];
        for number in [order, records, bytes].iter().chain(&self.buries_in) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    pub(super) fn from_bytes(segment: u32, bytes: &[u8]) -> Option<Self> {
        let mut fields = versioned(bytes)?;
        let mut number = || fields.take().map(u64::from_le_bytes);
        let live = Live { order: number()?, records: number()?, bytes: number()? };
        Some(Self { segment, live, buries_in: std::iter::from_fn(number).collect() })
    }
}
