//! The store of an index group: one fjall database, a keyspace per space.
//!
//! Commits go to fjall's journal without a flush, one batch each, so after a crash the tables are as they were after some commit
//! not older than the last checkpoint; the Raft log replays the rest. A checkpoint syncs the journal.
//!
//! The database lives in a generation's folder, `gen-<n>`, named by the file `CURRENT`. A snapshot is installed into the next
//! generation, synced, and then `CURRENT` is replaced by a rename: a crash leaves the old state or the new one, wholly.
//! Readers of the old generation finish; its folder is removed when the last of them is gone, or at the next start.

use super::journal;
use super::snapshot::{self, SnapshotSummary};
use super::{Changes, Scan, Space, Store, Table, TableError, Visit};
use arc_swap::ArcSwap;
use fjall::config::{BlockSizePolicy, CompressionPolicy, FilterPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use parking_lot::Mutex;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const CURRENT: &str = "CURRENT";
const GENERATION: &str = "gen-";
/// Block cache of one group, bytes.
const CACHE_BYTES: u64 = 32 << 20;
/// A memtable is written out when it has grown to this, bytes.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// All journals of one group, bytes (fjall's least).
const JOURNALS_BYTES: u64 = 64 << 20;
/// Threads that write out and compact, of one group.
const WORKERS: usize = 1;

/// The tables of one index group on disk.
pub struct FjallStore {
    folder: PathBuf,
    current: ArcSwap<Generation>,
    /// Held while the tables are changed: by a commit, or for as long as a snapshot is installed.
    changing: Mutex<()>,
}

impl FjallStore {
    /// Opens the store in a folder, or begins an empty one there.
    pub fn open(folder: &Path) -> Result<Self, TableError> {
        fs::create_dir_all(folder)?;
        let number = match fs::read_to_string(folder.join(CURRENT)) {
            Ok(text) => {
                text.trim().parse().map_err(|_| TableError::Corrupt(format!("{CURRENT}: {text:?}")))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                remove_generations_but(folder, None)?;
                drop(Generation::open(folder, 1)?);
                name_current(folder, 1)?;
                1
            }
            Err(error) => return Err(error.into()),
        };
        remove_generations_but(folder, Some(number))?;
        let current = ArcSwap::from_pointee(Generation::open(folder, number)?);
        Ok(Self { folder: folder.to_owned(), current, changing: Mutex::new(()) })
    }

    fn view(&self) -> View {
        let generation = self.current.load_full();
        View { snapshot: generation.database.snapshot(), generation }
    }
}

impl Store for FjallStore {
    fn read<R>(&self, read: impl FnOnce(&dyn Table) -> Result<R, TableError>) -> Result<R, TableError> {
        read(&self.view())
    }

    fn commit(&self, changes: Changes) -> Result<(), TableError> {
        let _changing = self.changing.lock();
        let generation = self.current.load();
        let mut batch = fjall::OwnedWriteBatch::with_capacity(generation.database.clone(), changes.len());
        for (space, key, value) in changes.iter() {
            let keyspace = generation.keyspace(space);
            match value {
                Some(value) => batch.insert(keyspace, key, value),
                None => batch.remove(keyspace, key),
            }
        }
        batch.commit().map_err(failed)
    }

    fn checkpoint(&self) -> Result<(), TableError> {
        self.current.load().database.persist(PersistMode::SyncAll).map_err(failed)
    }

    fn freeze(&self) -> Result<Box<dyn Table + Send>, TableError> {
        Ok(Box::new(self.view()))
    }

    fn install(&self, snapshot: &mut dyn Read) -> Result<SnapshotSummary, TableError> {
        let _changing = self.changing.lock();
        let old = self.current.load_full();
        let number = old.number + 1;
        remove_generations_but(&self.folder, Some(old.number))?;
        let new = Generation::open(&self.folder, number)?;
        let filled = new.fill(snapshot).and_then(|summary| {
            name_current(&self.folder, number)?;
            Ok(summary)
        });
        match &filled {
            Ok(_) => {
                self.current.store(Arc::new(new));
                old.doomed.store(true, Ordering::Release);
            }
            Err(_) => new.doomed.store(true, Ordering::Release),
        }
        filled
    }
}

/// One database. When it is doomed, its folder goes with its last user.
struct Generation {
    number: u64,
    doomed: AtomicBool,
    keyspaces: Vec<Keyspace>,
    database: Database,
    // The last field: dropped when the database is closed.
    remover: Remover,
}

impl Generation {
    fn open(folder: &Path, number: u64) -> Result<Self, TableError> {
        let path = folder.join(format!("{GENERATION}{number}"));
        let database = match open_database(&path) {
            Err(fjall::Error::JournalRecovery(_)) => {
                let torn_bytes = journal::cut_torn_tail(&path)?;
                tracing::warn!(path = %path.display(), torn_bytes, "cut a torn tail: the log replays it");
                open_database(&path)
            }
            opened => opened,
        }
        .map_err(failed)?;
        let open = |space: Space| database.keyspace(space.name(), options).map_err(failed);
        let keyspaces = Space::ALL.into_iter().map(open).collect::<Result<_, _>>()?;
        let remover = Remover { path, remove: AtomicBool::new(false) };
        Ok(Self { number, doomed: AtomicBool::new(false), keyspaces, database, remover })
    }

    fn keyspace(&self, space: Space) -> &Keyspace {
        &self.keyspaces[space as usize]
    }

    /// Takes a snapshot into an empty generation, durably.
    fn fill(&self, snapshot: &mut dyn Read) -> Result<SnapshotSummary, TableError> {
        let begin = |space| self.keyspace(space).start_ingestion().map_err(failed);
        let mut open = Some((Space::Raft, begin(Space::Raft)?));
        let summary = snapshot::read_snapshot(snapshot, &mut |space, key, value| {
            if let Some((_, finished)) = open.take_if(|(at, _)| *at != space) {
                finished.finish().map_err(failed)?;
            }
            if open.is_none() {
                open = Some((space, begin(space)?));
            }
            open.as_mut().map_or(Ok(()), |(_, rows)| rows.write(key, value).map_err(failed))
        })?;
        if let Some((_, finished)) = open.take() {
            finished.finish().map_err(failed)?;
        }
        self.database.persist(PersistMode::SyncAll).map_err(failed)?;
        Ok(summary)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.remover.remove.store(self.doomed.load(Ordering::Acquire), Ordering::Release);
    }
}

/// Removes a folder when it is dropped, if told so.
struct Remover {
    path: PathBuf,
    remove: AtomicBool,
}

impl Drop for Remover {
    fn drop(&mut self) {
        if self.remove.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an old generation stays until the next start");
        }
    }
}

fn open_database(path: &Path) -> fjall::Result<Database> {
    Database::builder(path)
        .cache_size(CACHE_BYTES)
        .manual_journal_persist(true)
        .max_journaling_size(JOURNALS_BYTES)
        .worker_threads(WORKERS)
        .open()
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .manual_journal_persist(true)
        .max_memtable_size(MEMTABLE_BYTES)
        .data_block_size_policy(BlockSizePolicy::all(4 << 10))
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
        .filter_policy(FilterPolicy::all(fjall::config::FilterPolicyEntry::Bloom(
            fjall::config::BloomConstructionPolicy::BitsPerKey(10.0),
        )))
}

/// A consistent view; keeps its generation alive.
struct View {
    snapshot: Snapshot,
    generation: Arc<Generation>,
}

impl Table for View {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        let found = self.snapshot.get(self.generation.keyspace(space), key).map_err(failed)?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn scan(&self, space: Space, start: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError> {
        for row in self.snapshot.range(self.generation.keyspace(space), start..) {
            let (key, value) = row.into_inner().map_err(failed)?;
            if visit(&key, &value)? == Scan::Stop {
                break;
            }
        }
        Ok(())
    }
}

fn failed(error: fjall::Error) -> TableError {
    TableError::Store(error.to_string())
}

/// Makes a generation the current one, durably.
fn name_current(folder: &Path, number: u64) -> Result<(), TableError> {
    let draft = folder.join("CURRENT.new");
    let mut file = File::create(&draft)?;
    writeln!(file, "{number}")?;
    file.sync_all()?;
    fs::rename(&draft, folder.join(CURRENT))?;
    // The folder names the generation too: one sync for both.
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn remove_generations_but(folder: &Path, keep: Option<u64>) -> Result<(), TableError> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(GENERATION)).map(str::parse::<u64>);
        if let Some(Ok(number)) = number
            && Some(number) != keep
        {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
