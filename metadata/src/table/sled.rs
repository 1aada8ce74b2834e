//! The store of the cluster group: one tree of a sled database, mirrored in memory.
//!
//! The cluster's own state is small (a map, some thousand buckets and users), so reads never touch the disk, and a view is
//! consistent because it holds a lock. In the tree a row's key is its space's number, the key and the number of the piece: a
//! value above `SLED_VALUE_BYTES_MAX` is split, because sled would put it into a file that nothing syncs.
//!
//! sled's own flush does not reach the disk: whoever opens the store hands over what does (`sync`).

use super::snapshot::{self, SnapshotSummary};
use super::{Changes, MemoryTable, Space, Store, Table, TableError, TableMut, Visit};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use tenfour_types::limits::SLED_VALUE_BYTES_MAX;

/// Largest piece of a value: with its key and sled's own head it stays below `SLED_VALUE_BYTES_MAX`.
const PIECE_BYTES: usize = SLED_VALUE_BYTES_MAX - 2048;
/// Length of a piece's number and of the number of pieces, at the end of each key and the head of each piece.
const PIECE_NUMBER_BYTES: usize = 2;
/// Pieces in one step of an installation.
const INSTALL_BATCH: usize = 256;

/// Makes everything that sled was given durable: called after sled's own flush.
pub type Sync = Arc<dyn Fn() -> std::io::Result<()> + Send + std::marker::Sync>;

/// The tables of the cluster group.
pub struct SledStore {
    database: sled::Db,
    name: String,
    sync: Sync,
    current: Mutex<Current>,
    mirror: RwLock<Arc<MemoryTable>>,
}

/// The tree in use: two take turns, so that a snapshot is installed beside the old state.
struct Current {
    number: u8,
    tree: sled::Tree,
}

impl SledStore {
    /// Opens the tables of this name in the database, or begins empty ones.
    pub fn open(database: sled::Db, name: &str, sync: Sync) -> Result<Self, TableError> {
        let number = match database.get(current_key(name)).map_err(failed)?.as_deref() {
            None => 0,
            Some(&[number @ 0..=1]) => number,
            Some(_) => return Err(TableError::Corrupt(format!("{name}: which tree is current"))),
        };
        let tree = database.open_tree(tree_name(name, number)).map_err(failed)?;
        database.drop_tree(tree_name(name, 1 - number)).map_err(failed)?;
        let mirror = RwLock::new(Arc::new(load(&tree)?));
        Ok(Self {
            database,
            name: name.to_owned(),
            sync,
            current: Mutex::new(Current { number, tree }),
            mirror,
        })
    }

    fn flush(&self) -> Result<(), TableError> {
        self.database.flush().map_err(failed)?;
        Ok((self.sync)()?)
    }
}

impl Store for SledStore {
    fn read<R>(&self, read: impl FnOnce(&dyn Table) -> Result<R, TableError>) -> Result<R, TableError> {
        // Under the lock: a second owner of the mirror would make the next commit copy it all.
        read(&**self.mirror.read())
    }

    fn commit(&self, changes: Changes) -> Result<(), TableError> {
        let current = self.current.lock();
        let mut batch = sled::Batch::default();
        let before = self.mirror.read();
        for (space, key, value) in changes.iter() {
            let old_pieces = before.get(space, key)?.map_or(0, |old| piece_count(old.len()));
            let pieces = value.map_or(0, |value| piece_count(value.len()));
            for number in pieces..old_pieces {
                batch.remove(piece_key(space, key, number));
            }
            for (number, piece) in value.into_iter().flat_map(pieces_of).enumerate() {
                batch.insert(piece_key(space, key, number), piece);
            }
        }
        drop(before);
        current.tree.apply_batch(batch).map_err(failed)?;
        Arc::make_mut(&mut self.mirror.write()).apply(changes);
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), TableError> {
        self.flush()
    }

    fn freeze(&self) -> Result<Box<dyn Table + Send>, TableError> {
        Ok(Box::new(Arc::clone(&self.mirror.read())))
    }

    fn install(&self, snapshot: &mut dyn Read) -> Result<SnapshotSummary, TableError> {
        let mut current = self.current.lock();
        let number = 1 - current.number;
        self.database.drop_tree(tree_name(&self.name, number)).map_err(failed)?;
        let tree = self.database.open_tree(tree_name(&self.name, number)).map_err(failed)?;
        let mut mirror = MemoryTable::default();
        let (mut batch, mut pieces) = (sled::Batch::default(), 0);
        let summary = snapshot::read_snapshot(snapshot, &mut |space, key, value| {
            for (number, piece) in pieces_of(value).enumerate() {
                batch.insert(piece_key(space, key, number), piece);
                pieces += 1;
            }
            if pieces >= INSTALL_BATCH {
                tree.apply_batch(std::mem::take(&mut batch)).map_err(failed)?;
                pieces = 0;
            }
            mirror.put(space, key.to_vec(), value.to_vec());
            Ok(())
        })?;
        tree.apply_batch(batch).map_err(failed)?;
        self.flush()?;
        self.database.insert(current_key(&self.name), &[number]).map_err(failed)?;
        self.flush()?;
        *self.mirror.write() = Arc::new(mirror);
        *current = Current { number, tree };
        self.database.drop_tree(tree_name(&self.name, 1 - number)).map_err(failed)?;
        Ok(summary)
    }
}

impl Table for Arc<MemoryTable> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        (**self).get(space, key)
    }
    fn scan(&self, space: Space, start: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError> {
        (**self).scan(space, start, visit)
    }
}

fn current_key(name: &str) -> String {
    format!("{name}.current")
}

fn tree_name(name: &str, number: u8) -> String {
    format!("{name}.{number}")
}

fn piece_count(value_bytes: usize) -> usize {
    value_bytes.div_ceil(PIECE_BYTES).max(1)
}

fn piece_key(space: Space, key: &[u8], number: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len() + PIECE_NUMBER_BYTES);
    out.push(space as u8);
    out.extend_from_slice(key);
    out.extend_from_slice(&(number as u16).to_be_bytes());
    out
}

/// A value cut to pieces; each begins with the number of all of them.
fn pieces_of(value: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let count = piece_count(value.len());
    (0..count).map(move |number| {
        let begin = number * PIECE_BYTES;
        let end = value.len().min(begin + PIECE_BYTES);
        let mut piece = (count as u16).to_be_bytes().to_vec();
        piece.extend_from_slice(value.get(begin..end).unwrap_or_default());
        piece
    })
}

/// All rows of a tree. Pieces of one row are adjacent and in order, or a row is missing some and the tree is corrupt.
fn load(tree: &sled::Tree) -> Result<MemoryTable, TableError> {
    let mut rows: BTreeMap<(Space, Vec<u8>), BTreeMap<u16, Vec<u8>>> = BTreeMap::new();
    let mut counts: BTreeMap<(Space, Vec<u8>), usize> = BTreeMap::new();
    for row in tree {
        let (key, piece) = row.map_err(failed)?;
        let corrupt = || TableError::Corrupt(format!("a row of {} bytes in sled", key.len()));
        let (&space, rest) = key.split_first().ok_or_else(corrupt)?;
        let space = *Space::ALL.get(usize::from(space)).ok_or_else(corrupt)?;
        let (key, &number) = rest.split_last_chunk::<PIECE_NUMBER_BYTES>().ok_or_else(corrupt)?;
        let (&count, piece) = piece.split_first_chunk::<PIECE_NUMBER_BYTES>().ok_or_else(corrupt)?;
        let name = (space, key.to_vec());
        counts.insert(name.clone(), usize::from(u16::from_be_bytes(count)));
        rows.entry(name).or_default().insert(u16::from_be_bytes(number), piece.to_vec());
    }
    let mut table = MemoryTable::default();
    for ((space, key), pieces) in rows {
        let whole = pieces.keys().copied().map(usize::from).eq(0..pieces.len());
        let name = (space, key);
        if !whole || counts.get(&name) != Some(&pieces.len()) {
            return Err(TableError::Corrupt(format!("pieces of a row are missing in {}", space.name())));
        }
        table.put(space, name.1, pieces.into_values().flatten().collect());
    }
    Ok(table)
}

fn failed(error: sled::Error) -> TableError {
    TableError::Store(error.to_string())
}
