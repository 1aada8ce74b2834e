//! Changes on top of a table that stays as it is: where a batch of commands is applied before it is committed.
//!
//! Reads see the changes. Dropping it undoes everything.

use super::{Scan, Space, Table, TableError, TableMut, Visit};
use std::collections::BTreeMap;
use std::ops::Bound;

type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Rows to set (`Some`) and to remove (`None`), by space and key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    spaces: [Rows; Space::COUNT],
}

impl Changes {
    /// All of them, by space and key.
    pub fn iter(&self) -> impl Iterator<Item = (Space, &[u8], Option<&[u8]>)> {
        Space::ALL.into_iter().zip(&self.spaces).flat_map(|(space, rows)| {
            rows.iter().map(move |(key, value)| (space, key.as_slice(), value.as_deref()))
        })
    }
    /// How many rows.
    pub fn len(&self) -> usize {
        self.spaces.iter().map(BTreeMap::len).sum()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spaces.iter().all(BTreeMap::is_empty)
    }
    fn rows(&self, space: Space) -> &Rows {
        &self.spaces[space as usize]
    }
}

impl IntoIterator for Changes {
    type Item = (Space, Vec<u8>, Option<Vec<u8>>);
    type IntoIter = Box<dyn Iterator<Item = Self::Item>>;

    fn into_iter(self) -> Self::IntoIter {
        let spaces = Space::ALL.into_iter().zip(self.spaces);
        Box::new(
            spaces.flat_map(|(space, rows)| rows.into_iter().map(move |(key, value)| (space, key, value))),
        )
    }
}

/// A table and changes to it.
pub struct Overlay<'a, T: Table + ?Sized> {
    base: &'a T,
    changes: Changes,
}

impl<'a, T: Table + ?Sized> Overlay<'a, T> {
    /// No changes yet.
    pub fn new(base: &'a T) -> Self {
        Self { base, changes: Changes::default() }
    }
    /// What was changed.
    pub fn into_changes(self) -> Changes {
        self.changes
    }
}

impl<T: Table + ?Sized> TableMut for Overlay<'_, T> {
    fn put(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>) {
        self.changes.spaces[space as usize].insert(key, Some(value));
    }
    fn remove(&mut self, space: Space, key: &[u8]) {
        self.changes.spaces[space as usize].insert(key.to_vec(), None);
    }
}

impl<T: Table + ?Sized> Table for Overlay<'_, T> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        match self.changes.rows(space).get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(space, key),
        }
    }

    fn scan(&self, space: Space, start: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError> {
        let mut changed =
            self.changes.rows(space).range::<[u8], _>((Bound::Included(start), Bound::Unbounded)).peekable();
        let mut stopped = false;
        self.base.scan(space, start, &mut |key, value| {
            while let Some((ours, new)) = changed.next_if(|(ours, _)| ours.as_slice() < key) {
                if let Some(new) = new
                    && visit(ours, new)? == Scan::Stop
                {
                    stopped = true;
                    return Ok(Scan::Stop);
                }
            }
            let step = match changed.next_if(|(ours, _)| ours.as_slice() == key) {
                None => visit(key, value)?,
                Some((_, Some(new))) => visit(key, new)?,
                Some((_, None)) => Scan::On,
            };
            stopped = step == Scan::Stop;
            Ok(step)
        })?;
        for (ours, new) in changed {
            if stopped {
                break;
            }
            if let Some(new) = new {
                stopped = visit(ours, new)? == Scan::Stop;
            }
        }
        Ok(())
    }
}
