//! Tables in memory: the reference that the other stores are compared with, and the store of simulated replicas.

use super::snapshot::{self, SnapshotSummary};
use super::{Changes, Scan, Space, Store, Table, TableError, TableMut, Visit};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Bound;
use std::sync::Arc;

/// Rows in memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryTable {
    spaces: [BTreeMap<Vec<u8>, Vec<u8>>; Space::COUNT],
}

impl MemoryTable {
    /// Makes the changes.
    pub fn apply(&mut self, changes: Changes) {
        for (space, key, value) in changes {
            match value {
                Some(value) => self.put(space, key, value),
                None => self.remove(space, &key),
            }
        }
    }
    /// Rows of a space.
    pub fn len(&self, space: Space) -> usize {
        self.spaces[space as usize].len()
    }
    /// Whether a space has no rows.
    pub fn is_empty(&self, space: Space) -> bool {
        self.len(space) == 0
    }
}

impl Table for MemoryTable {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        Ok(self.spaces[space as usize].get(key).cloned())
    }
    fn scan(&self, space: Space, start: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError> {
        for (key, value) in
            self.spaces[space as usize].range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
        {
            if visit(key, value)? == Scan::Stop {
                break;
            }
        }
        Ok(())
    }
}

impl TableMut for MemoryTable {
    fn put(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>) {
        self.spaces[space as usize].insert(key, value);
    }
    fn remove(&mut self, space: Space, key: &[u8]) {
        self.spaces[space as usize].remove(key);
    }
}

/// A store that forgets everything when it is dropped.
#[derive(Default)]
pub struct MemoryStore {
    table: RwLock<Arc<MemoryTable>>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn read<R>(&self, read: impl FnOnce(&dyn Table) -> Result<R, TableError>) -> Result<R, TableError> {
        read(&**self.table.read())
    }
    fn commit(&self, changes: Changes) -> Result<(), TableError> {
        Arc::make_mut(&mut self.table.write()).apply(changes);
        Ok(())
    }
    fn checkpoint(&self) -> Result<(), TableError> {
        Ok(())
    }
    fn freeze(&self) -> Result<Box<dyn Table + Send>, TableError> {
        Ok(Box::new(MemoryTable::clone(&self.table.read())))
    }
    fn install(&self, snapshot: &mut dyn Read) -> Result<SnapshotSummary, TableError> {
        let mut table = MemoryTable::default();
        let summary = snapshot::read_snapshot(snapshot, &mut |space, key, value| {
            table.put(space, key.to_vec(), value.to_vec());
            Ok(())
        })?;
        *self.table.write() = Arc::new(table);
        Ok(summary)
    }
}
