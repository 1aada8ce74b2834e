//! One group's log as openraft sees it: a cache of the newest entries over the database.
//!
//! Invariant: what was appended can be read at once; it is acknowledged only by the writer, after the flush. The cache holds
//! the newest entries without gaps, so that replication and apply of a healthy group never touch sled.

use crate::raft::{Entry, LogId, Replica, StorageError, TypeConfig, Vote};
use crate::store::database::Loaded;
use crate::store::newest::Newest;
use crate::store::writer::Request;
use crate::store::{Database, StoreError, Writer};
use openraft::entry::EntryPayload;
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, ErrorSubject, ErrorVerb, OptionalSend, RaftLogReader, StorageIOError};
use parking_lot::Mutex;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of one message to a follower, bytes (one more entry may exceed it, and still fits a message).
const READ_BYTES_MAX: usize = 2 << 20;
/// What an entry takes beside its batch, bytes.
const ENTRY_BYTES: usize = 96;

/// A group's log and vote. A clone reads the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    group: u16,
    database: Arc<Database>,
    writer: Writer,
    log: Arc<Mutex<Log>>,
    appended_bytes: Arc<AtomicU64>,
}

struct Log {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    cached: Newest,
}

impl Log {
    fn push(&mut self, entry: Entry, bytes: usize) {
        self.last = Some(entry.log_id);
        self.cached.push(entry, bytes);
    }
}

impl LogStore {
    /// Who led when this replica ended leads no more: openraft would take the leadership up again at once, by its old term, and what
    /// it then knows to be committed is what its table held. What was acknowledged after that would be missing from reads that are
    /// called linearizable. The vote itself stays.
    pub(crate) fn new(group: u16, database: Arc<Database>, writer: Writer, loaded: Loaded) -> Self {
        let Loaded { vote, purged, last, newest } = loaded;
        let vote = vote.map(|vote| Vote { committed: false, ..vote });
        let log = Log { vote, purged, last: last.or(purged), cached: newest };
        Self { group, database, writer, log: Arc::new(Mutex::new(log)), appended_bytes: Arc::default() }
    }

    /// Whether the group has ever been begun here.
    pub(crate) fn is_begun(&self) -> bool {
        let log = self.log.lock();
        log.vote.is_some() || log.last.is_some()
    }

    /// Bytes appended since the process started.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    async fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let (mut entries, from, cached_from) = {
            let log = self.log.lock();
            let from = from.max(log.purged.map_or(0, |purged| purged.index + 1));
            let cached_from = log.cached.first().unwrap_or(u64::MAX);
            if from >= to || log.last.is_none_or(|last| from > last.index) {
                return Ok(Vec::new());
            }
            (Vec::new(), from, cached_from)
        };
        if from < cached_from {
            let (database, group, to) = (Arc::clone(&self.database), self.group, to.min(cached_from));
            // In portions: a long log that is read from its beginning does not have to fit in memory.
            let mut next = from;
            let mut bytes = 0;
            while next < to && bytes < bytes_max {
                let portion = {
                    let (database, end) = (Arc::clone(&database), to.min(next + 64));
                    tokio::task::spawn_blocking(move || database.read_entries(group, next, end))
                        .await
                        .map_err(|error| self.failed(ErrorVerb::Read, error.to_string()))?
                        .map_err(|error| self.failed(ErrorVerb::Read, error.to_string()))?
                };
                let Some((last, _)) = portion.last() else { break };
                next = last.log_id.index + 1;
                for (entry, entry_bytes) in portion {
                    bytes += entry_bytes;
                    entries.push(entry);
                    if bytes >= bytes_max {
                        return Ok(entries);
                    }
                }
            }
            if next < to && !entries.is_empty() {
                return Ok(entries);
            }
        }
        let log = self.log.lock();
        let Some(cached_from) = log.cached.first() else { return Ok(entries) };
        let next = entries.last().map_or(from.max(cached_from), |entry: &Entry| entry.log_id.index + 1);
        let Some(skip) = next.checked_sub(cached_from) else { return Ok(entries) };
        let mut bytes = 0;
        for (entry, entry_bytes) in log.cached.iter().skip(skip as usize) {
            if entry.log_id.index >= to || bytes >= bytes_max {
                break;
            }
            bytes += entry_bytes;
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn failed(&self, verb: ErrorVerb, what: String) -> StorageError {
        let error = AnyError::error(format!("group {}: {what}", self.group));
        StorageIOError::new(ErrorSubject::Store, verb, error).into()
    }

    fn not_written(&self, error: &StoreError) -> StorageError {
        self.failed(ErrorVerb::Write, error.to_string())
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&index) => index.saturating_add(1),
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read(start, end, READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let log = self.log.lock();
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: log.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let (group, vote) = (self.group, *vote);
        let written = self.writer.write(|done| Request::Vote { group, vote, done }).await;
        written.map_err(|error| self.not_written(&error))?;
        self.log.lock().vote = Some(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.log.lock().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut sum = 0;
        {
            let mut log = self.log.lock();
            // What is dropped here was acknowledged before: openraft waits for one append before it sends the next.
            log.cached.shrink();
            for entry in &entries {
                let bytes = entry_bytes(entry);
                sum += bytes as u64;
                log.push(entry.clone(), bytes);
            }
        }
        self.appended_bytes.fetch_add(sum, Ordering::Relaxed);
        if self.writer.queue(Request::Append { group: self.group, entries, done: callback }) {
            Ok(())
        } else {
            Err(self.not_written(&self.writer.why()))
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let (group, from) = (self.group, log_id.index);
        self.log.lock().cached.drop_from(from);
        let written = self.writer.write(|done| Request::Truncate { group, from, done }).await;
        written.map_err(|error| self.not_written(&error))?;
        let before = from.checked_sub(1);
        let last = match before {
            Some(before) => self.read(before, from, usize::MAX).await?.pop().map(|entry| entry.log_id),
            None => None,
        };
        let mut log = self.log.lock();
        log.last = last.or(log.purged);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let (group, upto) = (self.group, log_id);
        let written = self.writer.write(|done| Request::Purge { group, upto, done }).await;
        written.map_err(|error| self.not_written(&error))?;
        let mut log = self.log.lock();
        log.cached.drop_before(upto.index + 1);
        log.purged = Some(upto);
        log.last = log.last.max(Some(upto));
        Ok(())
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    ENTRY_BYTES
        + match &entry.payload {
            EntryPayload::Normal(batch) => batch.bytes(),
            EntryPayload::Blank => 0,
            EntryPayload::Membership(membership) => membership.nodes().count() * size_of::<Replica>() * 2,
        }
}
