//! What the threads of one target share, and its one way to fail: poison.
//!
//! Invariant: once poisoned, a target acknowledges nothing and reads nothing until it is opened anew.

use super::errors::OpenError;
use super::index::{Index, Row};
use super::record::ShardKey;
use super::space::Space;
use super::superblock::{Held, SUPERBLOCK};
use crate::disk::Disk;
use std::fmt::Display;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use tenfour_types::TargetId;
use tenfour_types::shard_service::ShardError;

/// Called once, from a storage thread, when a target is poisoned.
pub type OnPoison = Arc<dyn Fn(TargetId) + Send + Sync>;

pub(super) struct Shared<D: Disk> {
    pub(super) disk: D,
    pub(super) held: Held<D::File>,
    pub(super) index: Index,
    pub(super) space: Space<D::File>,
    pub(super) health: Arc<Health>,
}

/// Whether the target is in service, and its counters.
pub(super) struct Health {
    pub(super) target: TargetId,
    pub(super) flushes: AtomicU64,
    /// Set by the first failure, and never unset: who finds the target out of service finds out why.
    reason: OnceLock<String>,
    on_poison: OnPoison,
}

impl Health {
    pub(super) fn new(target: TargetId, on_poison: OnPoison) -> Self {
        Self { target, flushes: AtomicU64::new(0), reason: OnceLock::new(), on_poison }
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.reason.get().is_some()
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Takes the target out of service for good.
    pub(super) fn poison(&self, what: &str, why: &dyn Display) {
        if self.reason.set(format!("{what}: {why}")).is_ok() {
            tracing::error!(target_id = %self.target, what, %why, "the target is taken out of service");
            (self.on_poison)(self.target);
        }
    }
}

impl<D: Disk> Shared<D> {
    /// Whether the folder is still the one that was opened, by its superblock's inode and link count.
    pub(super) fn check_folder(&self) -> Result<(), String> {
        match self.disk.identity(SUPERBLOCK) {
            Ok(identity) if identity == self.held.identity && identity.links == 1 => Ok(()),
            Ok(identity) => {
                Err(format!("the superblock is now {identity:?}, it was {:?}", self.held.identity))
            }
            Err(error) => Err(format!("the superblock is gone: {error}")),
        }
    }

    /// Where the copy lies; `NotFound` also for a row whose segment has begun another life.
    pub(super) fn locate(&self, key: &ShardKey) -> Result<Row, ShardError> {
        let row = self.index.get(key).map_err(|error| {
            self.health.poison("reading the index", &error);
            ShardError::TargetOut
        })?;
        let row = row.ok_or(ShardError::NotFound)?;
        match self.space.lock().segments.get(&row.segment) {
            Some(segment) if row.sequence < segment.header.floor => Err(ShardError::NotFound),
            Some(_) => Ok(row),
            None => Err(ShardError::Damaged),
        }
    }

    /// The segment's file and its life.
    pub(super) fn open_segment(&self, number: u32) -> io::Result<(Arc<D::File>, u64)> {
        let life = self.space.lock().segments.get(&number).map(|segment| segment.header.life);
        let life = life.ok_or(io::ErrorKind::NotFound)?;
        if let Some(file) = self.space.file(number) {
            return Ok((file, life));
        }
        let file = Arc::new(self.disk.open(&super::segment::file_name(number))?);
        self.space.lock().keep_file(number, Arc::clone(&file));
        Ok((file, life))
    }
}

/// Starts a named thread; when it panics, `fallen` is told of what.
pub(super) fn spawn(
    name: &str,
    target: TargetId,
    run: impl FnOnce() + Send + 'static,
    fallen: impl FnOnce(&str) + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, OpenError> {
    let run = move || {
        // What the thread shares is behind locks that are free again, and the target is taken out of service.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            let literal = panic.downcast_ref::<&str>().copied();
            fallen(
                literal.or_else(|| panic.downcast_ref().map(String::as_str)).unwrap_or("it does not say why"),
            );
        }
    };
    Ok(std::thread::Builder::new().name(format!("{name}-{target}")).spawn(run)?)
}
