//! The sled database, with the guards that make its acknowledgements true.
//!
//! Layout (stored): tree `log` maps (group, index, piece) to a piece of an entry, tree `notes` maps (group, name) to a small
//! record; numbers in keys are big-endian. A value begins with the CRC-32C of key and rest; the first piece of an entry
//! says, behind its CRC, how many pieces there are.

use crate::raft::{Entry, LogId, Vote};
use crate::store::StoreError;
use crate::store::mark::Marks;
use crate::store::newest::Newest;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tenfour_types::limits::SLED_VALUE_BYTES_MAX;

const SEGMENT_BYTES: usize = 16 << 20;
const CACHE_BYTES: u64 = 16 << 20;
/// Bytes of an entry in one value; the rest of the bound is the key, the CRC and sled's own heads.
pub(crate) const PIECE_BYTES: usize = SLED_VALUE_BYTES_MAX - 64;
const CRC_BYTES: usize = 4;
const KEY_BYTES: usize = 12;

/// Name of a group's vote.
const VOTE: u8 = b'v';
/// Name of the last log id that a group purged.
const PURGED: u8 = b'p';
/// Name of a record of the process (of group `u16::MAX`).
pub(crate) const PROCESS: u16 = u16::MAX;

/// An open database.
pub(crate) struct Database {
    db: sled::Db,
    log: sled::Tree,
    notes: sled::Tree,
    /// The file that sled appends to; synced after each of its flushes.
    file: File,
    folder: PathBuf,
}

/// What a group has in the store.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogId>,
    /// The last entry.
    pub(crate) last: Option<LogId>,
    /// The newest entries, without gaps: as many as are kept in memory.
    pub(crate) newest: Newest,
}

impl Database {
    /// Opens or creates it in `folder`. A created one is durable, folder and all, when this returns.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |what: String| StoreError::Failed { folder: folder.to_owned(), what };
        let damaged = |what: String| StoreError::Damaged { folder: folder.to_owned(), what };
        fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
        let config = sled::Config::default()
            .path(folder)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .print_profile_on_drop(false);
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let db = config.open()?;
            let trees = (db.open_tree("log")?, db.open_tree("notes")?);
            sled::Result::Ok((db, trees))
        }));
        let (db, (log, notes)) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(sled::Error::Io(error))) => return Err(failed(error.to_string())),
            Ok(Err(error)) => return Err(damaged(error.to_string())),
            Err(_) => return Err(damaged("sled cannot read it".to_owned())),
        };
        let file = File::open(folder.join("db")).map_err(|error| failed(error.to_string()))?;
        let this = Self { db, log, notes, file, folder: folder.to_owned() };
        this.persist()?;
        this.check_blobs()?;
        for synced in [Some(folder), folder.parent()].into_iter().flatten() {
            File::open(synced)
                .and_then(|folder| folder.sync_all())
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(this)
    }

    /// Makes everything that was put durable: sled's flush, then `fdatasync`, which sled leaves out.
    pub(crate) fn persist(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|error| self.broken(&error))?;
        self.file.sync_data().map_err(|error| self.failed(&error))?;
        match self.file.metadata() {
            Ok(metadata) if metadata.nlink() == 0 => Err(self.failed(&"its folder was taken away")),
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// For the tables of group 0, which live in the same database: sled, and what makes its flushes durable.
    pub(crate) fn shared(self: &Arc<Self>) -> (sled::Db, Arc<dyn Fn() -> io::Result<()> + Send + Sync>) {
        let this = Arc::clone(self);
        (self.db.clone(), Arc::new(move || this.file.sync_data()))
    }

    pub(super) fn marks(&self) -> io::Result<Marks> {
        Marks::open(&self.folder)
    }

    /// A file in `blobs/` is a value that nothing syncs.
    pub(crate) fn check_blobs(&self) -> Result<(), StoreError> {
        let blobs = self.folder.join("blobs");
        match fs::read_dir(&blobs) {
            Ok(mut files) => match files.next() {
                None => Ok(()),
                Some(_) => {
                    Err(self.damaged(format!("{} holds a file: a value left the log", blobs.display())))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Puts an entry; not durable before [`Database::persist`].
    pub(crate) fn put_entry(&self, group: u16, index: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let pieces = bytes.len().div_ceil(PIECE_BYTES).max(1);
        let mut parts = bytes.chunks(PIECE_BYTES);
        for piece in 0..pieces {
            let key = entry_key(group, index, piece as u16);
            let mut rest = Vec::with_capacity(PIECE_BYTES.min(bytes.len()) + 2);
            if piece == 0 {
                rest.extend_from_slice(&(pieces as u16).to_le_bytes());
            }
            rest.extend_from_slice(parts.next().unwrap_or_default());
            self.log.insert(key, seal(&key, &rest)).map_err(|error| self.broken(&error))?;
        }
        Ok(())
    }

    /// Removes the entries `from..to` of a group, the last one first.
    pub(crate) fn remove_entries(&self, group: u16, from: u64, to: u64) -> Result<(), StoreError> {
        let mut removed = sled::Batch::default();
        for item in self.log.range(entry_key(group, from, 0)..entry_key(group, to, 0)).rev() {
            let (key, _) = item.map_err(|error| self.broken(&error))?;
            removed.remove(key);
        }
        self.log.apply_batch(removed).map_err(|error| self.broken(&error))
    }

    /// Removes at most `most` pieces of the entries `from..to`, the first ones first; whether any are left.
    pub(crate) fn purge_some(&self, group: u16, from: u64, to: u64, most: usize) -> Result<bool, StoreError> {
        let purged = self.log.range(entry_key(group, from, 0)..entry_key(group, to, 0));
        for (count, item) in purged.enumerate() {
            let (key, _) = item.map_err(|error| self.broken(&error))?;
            if count == most {
                return Ok(true);
            }
            self.log.remove(key).map_err(|error| self.broken(&error))?;
        }
        Ok(false)
    }

    /// The entries `from..to` that are there, up to one whose pieces end too soon.
    pub(crate) fn read_entries(
        &self,
        group: u16,
        from: u64,
        to: u64,
    ) -> Result<Vec<(Entry, usize)>, StoreError> {
        let mut entries = Vec::new();
        self.each_entry(group, from, to, |entry, bytes| entries.push((entry, bytes)))?;
        Ok(entries)
    }

    /// [`Database::read_entries`], one after the other, with none of them held.
    fn each_entry(
        &self,
        group: u16,
        from: u64,
        to: u64,
        mut take: impl FnMut(Entry, usize),
    ) -> Result<(), StoreError> {
        let mut pieces = self.log.range(entry_key(group, from, 0)..entry_key(group, to, 0));
        let mut expected = None;
        while let Some(item) = pieces.next() {
            let (key, value) = item.map_err(|error| self.broken(&error))?;
            let (_, index, piece) = self.parse_key(&key)?;
            if piece != 0 || expected.is_some_and(|expected| expected != index) {
                return Err(self.damaged(format!("group {group}: a piece of entry {index} is missing")));
            }
            let rest = self.unseal(&key, &value)?;
            let Some((count, head)) = rest.split_first_chunk::<2>() else {
                return Err(self.damaged(format!("group {group}: entry {index} is cut off")));
            };
            let mut bytes = head.to_vec();
            for number in 1..u16::from_le_bytes(*count) {
                let Some(item) = pieces.next() else { return Ok(()) };
                let (key, value) = item.map_err(|error| self.broken(&error))?;
                if self.parse_key(&key)? != (group, index, number) {
                    return Err(
                        self.damaged(format!("group {group}: piece {number} of entry {index} is missing"))
                    );
                }
                bytes.extend_from_slice(self.unseal(&key, &value)?);
            }
            let entry: Entry = postcard::from_bytes(&bytes)
                .map_err(|_| self.damaged(format!("group {group}: entry {index} is not readable")))?;
            if entry.log_id.index != index {
                return Err(self.damaged(format!(
                    "group {group}: entry {index} says that it is {}",
                    entry.log_id.index
                )));
            }
            expected = Some(index + 1);
            take(entry, bytes.len());
        }
        Ok(())
    }

    /// Reads and checks everything. What a power cut left of an entry that was never acknowledged is removed.
    pub(crate) fn load(&self) -> Result<BTreeMap<u16, Loaded>, StoreError> {
        let mut groups: BTreeMap<u16, Loaded> = BTreeMap::new();
        for item in &self.notes {
            let (key, value) = item.map_err(|error| self.broken(&error))?;
            let rest = self.unseal(&key, &value)?;
            let Some((group, [name])) = key.split_first_chunk::<2>() else {
                return Err(self.damaged("a record of an unknown name".to_owned()));
            };
            let group = u16::from_be_bytes(*group);
            if group == PROCESS {
                continue;
            }
            let malformed = || self.damaged(format!("group {group}: a record is not readable"));
            let loaded = groups.entry(group).or_default();
            match *name {
                VOTE => loaded.vote = Some(postcard::from_bytes(rest).map_err(|_| malformed())?),
                PURGED => loaded.purged = Some(postcard::from_bytes(rest).map_err(|_| malformed())?),
                _ => return Err(malformed()),
            }
        }
        let mut after = None;
        while let Some(group) = self.next_group(after)? {
            groups.entry(group).or_default();
            after = Some(group);
        }
        for (&group, loaded) in &mut groups {
            let first = loaded.purged.map_or(0, |purged| purged.index + 1);
            self.remove_entries(group, 0, first)?;
            let (mut found, mut last) = (None, None);
            self.each_entry(group, first, u64::MAX, |entry, bytes| {
                found.get_or_insert(entry.log_id.index);
                last = Some(entry.log_id);
                loaded.newest.push(entry, bytes);
                loaded.newest.shrink();
            })?;
            loaded.last = last;
            if let (Some(purged), Some(found)) = (loaded.purged, found)
                && found != purged.index + 1
            {
                return Err(self.damaged(format!("group {group}: the entries behind {purged} are missing")));
            }
            let end = last.map_or(first, |last| last.index + 1);
            self.remove_entries(group, end, u64::MAX)?;
        }
        Marks::open(&self.folder).map_err(|error| self.failed(&error))?.check(&self.folder, &groups)?;
        self.persist()?;
        Ok(groups)
    }

    fn next_group(&self, after: Option<u16>) -> Result<Option<u16>, StoreError> {
        let from = match after {
            None => 0,
            Some(u16::MAX) => return Ok(None),
            Some(group) => group + 1,
        };
        let Some(item) = self.log.range(entry_key(from, 0, 0)..).next() else { return Ok(None) };
        let (key, _) = item.map_err(|error| self.broken(&error))?;
        Ok(Some(self.parse_key(&key)?.0))
    }

    pub(crate) fn put_vote(&self, group: u16, vote: &Vote) -> Result<(), StoreError> {
        self.put_note(group, VOTE, vote)
    }

    pub(crate) fn put_purged(&self, group: u16, purged: &LogId) -> Result<(), StoreError> {
        self.put_note(group, PURGED, purged)
    }

    pub(crate) fn put_note<T: serde::Serialize>(
        &self,
        group: u16,
        name: u8,
        value: &T,
    ) -> Result<(), StoreError> {
        let key = note_key(group, name);
        let rest = postcard::to_stdvec(value).map_err(|error| self.failed(&error))?;
        self.notes.insert(key, seal(&key, &rest)).map(drop).map_err(|error| self.broken(&error))
    }

    pub(crate) fn note<T: serde::de::DeserializeOwned>(
        &self,
        group: u16,
        name: u8,
    ) -> Result<Option<T>, StoreError> {
        let key = note_key(group, name);
        let Some(value) = self.notes.get(key).map_err(|error| self.broken(&error))? else { return Ok(None) };
        let rest = self.unseal(&key, &value)?;
        postcard::from_bytes(rest).map(Some).map_err(|_| self.damaged("a record is not readable".to_owned()))
    }

    /// Whether no group has a vote or an entry.
    pub(super) fn is_unused(&self) -> Result<bool, StoreError> {
        let group = self
            .notes
            .iter()
            .keys()
            .filter(|key| !matches!(key, Ok(key) if key.starts_with(&PROCESS.to_be_bytes())));
        let found =
            group.chain(self.log.iter().keys()).next().transpose().map_err(|error| self.broken(&error))?;
        Ok(found.is_none())
    }

    fn parse_key(&self, key: &[u8]) -> Result<(u16, u64, u16), StoreError> {
        let bytes: [u8; KEY_BYTES] =
            key.try_into().map_err(|_| self.damaged("a key of an unknown length".to_owned()))?;
        let [a, b, index @ .., y, z] = bytes;
        Ok((u16::from_be_bytes([a, b]), u64::from_be_bytes(index), u16::from_be_bytes([y, z])))
    }

    fn unseal<'a>(&self, key: &[u8], value: &'a [u8]) -> Result<&'a [u8], StoreError> {
        let (crc, rest) = value
            .split_first_chunk::<CRC_BYTES>()
            .ok_or_else(|| self.damaged("a value is cut off".to_owned()))?;
        if *crc == checksum(key, rest) {
            Ok(rest)
        } else {
            Err(self.damaged(format!("a value's checksum is wrong (key {key:02x?})")))
        }
    }

    fn broken(&self, error: &sled::Error) -> StoreError {
        match error {
            sled::Error::Corruption { .. } => self.damaged(error.to_string()),
            _ => self.failed(error),
        }
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> StoreError {
        StoreError::Failed { folder: self.folder.clone(), what: error.to_string() }
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { folder: self.folder.clone(), what }
    }
}

fn entry_key(group: u16, index: u64, piece: u16) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let number = (u128::from(group) << 80) | (u128::from(index) << 16) | u128::from(piece);
    key.copy_from_slice(&number.to_be_bytes()[16 - KEY_BYTES..]);
    key
}

fn note_key(group: u16, name: u8) -> [u8; 3] {
    let [a, b] = group.to_be_bytes();
    [a, b, name]
}

fn seal(key: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CRC_BYTES + rest.len());
    value.extend_from_slice(&checksum(key, rest));
    value.extend_from_slice(rest);
    value
}

/// CRC-32C of key and value, so that a value under another's key is seen too.
pub(super) fn checksum(key: &[u8], rest: &[u8]) -> [u8; CRC_BYTES] {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(key);
    digest.update(rest);
    (digest.finalize() as u32).to_le_bytes()
}
