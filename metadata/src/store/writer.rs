//! The one thread that writes the database: group commit over all groups of the process.
//!
//! It takes whatever waits, writes all of it, flushes and syncs once, and only then acknowledges. Entries of a purged log are
//! removed in small portions between. After a failure, or a panic inside sled, it acknowledges nothing any more: whoever
//! waits gets the error, and the process has to exit.

use crate::raft::{Entry, LogId, TypeConfig, Vote};
use crate::store::mark::Marks;
use crate::store::{Database, StoreError};
use openraft::storage::LogFlushed;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Most requests of one flush.
const REQUESTS_PER_FLUSH_MAX: usize = 1024;
/// Pieces of purged entries that are removed between two flushes.
const PURGED_PIECES_AT_ONCE: usize = 128;
/// While there is something to purge, a quiet writer goes on with it after this long.
const PURGE_PAUSE: Duration = Duration::from_millis(2);
/// `blobs/` is looked at once in so many flushes.
const FLUSHES_BETWEEN_CHECKS: u64 = 1024;

type Done = oneshot::Sender<Result<(), StoreError>>;

/// What is to be written.
pub(crate) enum Request {
    Append { group: u16, entries: Vec<Entry>, done: LogFlushed<TypeConfig> },
    Vote { group: u16, vote: Vote, done: Done },
    Truncate { group: u16, from: u64, done: Done },
    Purge { group: u16, upto: LogId, done: Done },
}

/// The writer thread's handle. When the last clone is gone, the thread writes what waits and ends.
#[derive(Clone)]
pub(crate) struct Writer {
    requests: mpsc::Sender<Request>,
    dead: Arc<Dead>,
    thread: Arc<OnceLock<JoinHandle<()>>>,
}

/// Why the writer ended, once it has failed.
#[derive(Default)]
pub(crate) struct Dead {
    why: OnceLock<StoreError>,
    told: Notify,
}

impl Dead {
    /// Waits for the failure.
    pub(crate) async fn wait(&self) -> StoreError {
        loop {
            let told = self.told.notified();
            if let Some(why) = self.why.get() {
                return why.clone();
            }
            told.await;
        }
    }
}

impl Writer {
    pub(crate) fn start(database: Arc<Database>) -> std::io::Result<Self> {
        let (requests, receiver) = mpsc::channel();
        let dead = Arc::new(Dead::default());
        let marks = database.marks()?;
        let state = State { database, marks, dead: Arc::clone(&dead), purging: VecDeque::new(), flushes: 0 };
        let thread =
            std::thread::Builder::new().name("raft-log".to_owned()).spawn(move || state.run(&receiver))?;
        Ok(Self { requests, dead, thread: Arc::new(OnceLock::from(thread)) })
    }

    pub(crate) fn dead(&self) -> Arc<Dead> {
        Arc::clone(&self.dead)
    }

    /// Queues a request; false when the thread has ended (its `done` is dropped then).
    pub(crate) fn queue(&self, request: Request) -> bool {
        self.requests.send(request).is_ok()
    }

    /// Queues a request and waits until it is durable.
    pub(crate) async fn write(&self, request: impl FnOnce(Done) -> Request) -> Result<(), StoreError> {
        let (done, written) = oneshot::channel();
        self.queue(request(done));
        match written.await {
            Ok(result) => result,
            Err(_) => Err(self.why()),
        }
    }

    /// Why nothing is written any more.
    pub(crate) fn why(&self) -> StoreError {
        self.dead.why.get().cloned().unwrap_or_else(|| StoreError::Failed {
            folder: Default::default(),
            what: "the writer has ended".to_owned(),
        })
    }

    /// Ends this handle and, if it is the last, waits for the thread. Blocks.
    pub(crate) fn stop(self) {
        let Self { requests, thread, .. } = self;
        drop(requests);
        if let Some(thread) = Arc::into_inner(thread).and_then(OnceLock::into_inner) {
            let _ = thread.join();
        }
    }
}

struct State {
    database: Arc<Database>,
    marks: Marks,
    dead: Arc<Dead>,
    /// Group and range of entries that are purged but still there.
    purging: VecDeque<(u16, u64)>,
    flushes: u64,
}

impl State {
    fn run(mut self, requests: &mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        loop {
            let first = if self.purging.is_empty() {
                requests.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                requests.recv_timeout(PURGE_PAUSE)
            };
            match first {
                Ok(request) => {
                    batch.push(request);
                    batch.extend(requests.try_iter().take(REQUESTS_PER_FLUSH_MAX - 1));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            let written = catch_unwind(AssertUnwindSafe(|| self.write(&batch)));
            let written = written.unwrap_or_else(|_| {
                Err(StoreError::Failed { folder: Default::default(), what: "sled panicked".to_owned() })
            });
            if let Err(error) = &written {
                tracing::error!(%error, "the log store failed");
                let _ = self.dead.why.set(error.clone());
            }
            for request in batch.drain(..) {
                acknowledge(request, &written);
            }
            if written.is_err() {
                self.dead.told.notify_waiters();
                return;
            }
        }
    }

    fn write(&mut self, batch: &[Request]) -> Result<(), StoreError> {
        for request in batch {
            match request {
                Request::Append { group, entries, .. } => {
                    for entry in entries {
                        let bytes = postcard::to_stdvec(entry).map_err(|error| StoreError::Failed {
                            folder: Default::default(),
                            what: format!("an entry cannot be encoded: {error}"),
                        })?;
                        self.database.put_entry(*group, entry.log_id.index, &bytes)?;
                    }
                }
                Request::Vote { group, vote, .. } => self.database.put_vote(*group, vote)?,
                Request::Truncate { group, from, .. } => {
                    self.marks.lower(*group, *from).map_err(failed)?;
                    self.database.remove_entries(*group, *from, u64::MAX)?;
                }
                Request::Purge { group, upto, .. } => {
                    self.database.put_purged(*group, upto)?;
                    self.purging.push_back((*group, upto.index + 1));
                }
            }
        }
        if let Some((group, to)) = self.purging.front().copied()
            && !self.database.purge_some(group, 0, to, PURGED_PIECES_AT_ONCE)?
        {
            self.purging.pop_front();
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.database.persist()?;
        self.mark(batch).map_err(failed)?;
        self.flushes += 1;
        if self.flushes.is_multiple_of(FLUSHES_BETWEEN_CHECKS) {
            self.database.check_blobs()?;
        }
        Ok(())
    }
}

impl State {
    /// Notes what the flush made durable.
    fn mark(&mut self, batch: &[Request]) -> std::io::Result<()> {
        for request in batch {
            match request {
                Request::Append { group, entries, .. } => {
                    let last = entries.last().map(|entry| entry.log_id.index);
                    let mark = self.marks.groups.entry(*group).or_default();
                    mark.last = last.or(mark.last);
                }
                Request::Vote { group, vote, .. } => {
                    self.marks.groups.entry(*group).or_default().vote = Some(*vote);
                }
                Request::Truncate { group, from, .. } => {
                    let mark = self.marks.groups.entry(*group).or_default();
                    mark.last = mark.last.min(from.checked_sub(1));
                }
                Request::Purge { group, upto, .. } => {
                    let mark = self.marks.groups.entry(*group).or_default();
                    mark.last = mark.last.max(Some(upto.index));
                }
            }
        }
        self.marks.write()
    }
}

fn failed(error: std::io::Error) -> StoreError {
    StoreError::Failed { folder: Default::default(), what: error.to_string() }
}

fn acknowledge(request: Request, written: &Result<(), StoreError>) {
    match request {
        Request::Append { done, .. } => done.log_io_completed(written.clone().map_err(StoreError::into_io)),
        Request::Vote { done, .. } | Request::Truncate { done, .. } | Request::Purge { done, .. } => {
            let _ = done.send(written.clone());
        }
    }
}
