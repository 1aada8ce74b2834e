//! Ordered tables of bytes: what the state machine reads and writes, and what its stores keep.
//!
//! A [`Table`] is a view that can be read; a [`TableMut`] can be written too. The state machine writes into an [`Overlay`], whose
//! [`Changes`] a [`Store`] then takes in one atomic step together with the log id they belong to; so a command that fails half-way
//! leaves nothing. Three stores give the same answers: [`MemoryStore`] (the reference, and for simulation), [`FjallStore`]
//! (index groups) and [`SledStore`] (the cluster group).
//!
//! Nothing here knows what a row means, and nothing here looks at a clock.

mod fjall;
pub(crate) mod journal;
mod memory;
mod overlay;
mod sled;
mod snapshot;
#[cfg(test)]
mod tests;

pub use fjall::FjallStore;
pub use memory::{MemoryStore, MemoryTable};
pub use overlay::{Changes, Overlay};
pub use sled::SledStore;
pub use snapshot::{SnapshotError, SnapshotSummary, digest, write_snapshot};

use std::io::Read;
use thiserror::Error;

/// A separate, ordered map of keys to values (*stored*: the number is part of a row's address).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Space {
    /// The plumbing's own rows: the last applied log id, the membership. Never read or written by the state machine.
    Raft = 0,
    /// Small rows: identity, versions, leases, fences, closed buckets; all of the cluster group.
    State = 1,
    /// Replies of commands, until their lease's watermark passes them.
    Replies = 2,
    /// The newest version of every object.
    Objects = 3,
    /// Uploads in progress and completed ones.
    Uploads = 4,
    /// Parts of uploads and of objects that were uploaded in parts.
    Parts = 5,
    /// The stripe table.
    Stripes = 6,
    /// Versions that were replaced or deleted and may still be read.
    Past = 7,
    /// What is to be let go, in the order of the log.
    Released = 8,
}

impl Space {
    /// How many there are.
    pub const COUNT: usize = 9;
    /// All, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Raft,
        Self::State,
        Self::Replies,
        Self::Objects,
        Self::Uploads,
        Self::Parts,
        Self::Stripes,
        Self::Past,
        Self::Released,
    ];
    /// A short name, for files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::State => "state",
            Self::Replies => "replies",
            Self::Objects => "objects",
            Self::Uploads => "uploads",
            Self::Parts => "parts",
            Self::Stripes => "stripes",
            Self::Past => "past",
            Self::Released => "released",
        }
    }
}

/// A table that cannot be read or written, or holds what nobody wrote. Not a refusal: the replica has to stop.
#[derive(Debug, Error)]
pub enum TableError {
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(String),
    /// Input or output failed.
    #[error("input or output failed: {0}")]
    Io(#[from] std::io::Error),
    /// A row that does not decode, or one that is missing where another refers to it.
    #[error("the table is corrupt: {0}")]
    Corrupt(String),
    /// A snapshot that cannot be taken.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl TableError {
    /// Whether the same operation may succeed later: never; what is broken stays so until the process starts anew.
    pub fn is_retryable(&self) -> bool {
        false
    }
}

/// What a visitor wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scan {
    /// The next row.
    On,
    /// No more.
    Stop,
}

/// A visitor of rows: key and value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<Scan, TableError> + 'a;

/// A view of rows that does not change while it is read.
pub trait Table {
    /// The value of a key.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TableError>;

    /// Visits the rows from `start` (inclusive) on, in the order of their keys, until the visitor stops. Costs one seek.
    fn scan(&self, space: Space, start: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError>;
}

/// A table that can be written; what was written is read back at once.
pub trait TableMut: Table {
    /// Sets the value of a key of 1 to 65,535 bytes.
    fn put(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>);
    /// Removes a key, if it is there.
    fn remove(&mut self, space: Space, key: &[u8]);
}

impl<T: Table + ?Sized> Table for &T {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        (**self).get(space, key)
    }
    fn scan(&self, space: Space, start: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError> {
        (**self).scan(space, start, visit)
    }
}

/// Keeps the tables of one Raft group. All methods may be called from any thread; commits come from one at a time.
pub trait Store: Send + Sync + 'static {
    /// Reads one consistent state: that after some commit, wholly. Not to be called again, nor to commit, from within `read`.
    fn read<R>(&self, read: impl FnOnce(&dyn Table) -> Result<R, TableError>) -> Result<R, TableError>;

    /// Applies changes in one atomic step. Not durable by itself: after a crash the store is as it was after some commit
    /// between the last checkpoint and the last commit. The plumbing puts its applied log id into the same changes
    /// ([`Space::Raft`]), so that it knows from where to replay.
    fn commit(&self, changes: Changes) -> Result<(), TableError>;

    /// Makes everything committed before the call durable. The log may be purged up to what had been committed then, no further.
    fn checkpoint(&self) -> Result<(), TableError>;

    /// A consistent state to stream from while commits go on, for [`write_snapshot`].
    fn freeze(&self) -> Result<Box<dyn Table + Send>, TableError>;

    /// Replaces everything by a snapshot, durably and atomically: a crash leaves the old state or the new one. A stream that
    /// is cut, altered or of another kind is refused, and nothing changes.
    fn install(&self, snapshot: &mut dyn Read) -> Result<SnapshotSummary, TableError>;
}
