//! Raft's log and votes, durable, in one sled database per replica process.
//!
//! All groups share the database and its one writer thread: whatever waits is written together, flushed once and synced
//! once, so that a flush serves every group that waited for it. sled's own flush does not reach the disk on Linux, so an
//! acknowledgement waits for `flush` *and* for `fdatasync` on its file; and no value exceeds `SLED_VALUE_BYTES_MAX`, because
//! sled puts larger ones into files of their own that nothing syncs. Every value carries a CRC, and all are checked when the
//! store is opened.
//!
//! It never repairs what it finds broken: a replica that lost any of its log must not vote, so it joins anew, as a learner
//! under a new id. Beside sled, [`mark`] notes how far the log was durable, because sled takes damage for the end of its log.

mod database;
mod identity;
mod log;
pub(crate) mod mark;
mod newest;
mod writer;

#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod suite;

pub(crate) use database::Database;
pub(crate) use identity::{Identity, IdentityError};
pub(crate) use log::LogStore;
pub(crate) use writer::Writer;

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why the log store cannot be used.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// Its bytes are not what was written.
    #[error(
        "the log store in {} is damaged: {what}. Its replica must not vote any more: stop it, remove it from the cluster, move the folder aside, \
         and let it join with an empty folder under a new id",
        folder.display()
    )]
    Damaged {
        /// Where.
        folder: PathBuf,
        /// What was found.
        what: String,
    },
    /// The operating system refused, or the disk failed. Nothing is retried: what was not acknowledged may or may not be there.
    #[error("the log store in {} failed: {what}", folder.display())]
    Failed {
        /// Where.
        folder: PathBuf,
        /// What happened.
        what: String,
    },
}

impl StoreError {
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}
