//! A disk in memory that does what disks do on their worst days: for tests and for fault injection.
//!
//! It keeps what was flushed and what was only written apart. [`FaultyDisk::after_power_cut`] gives the disk as it would be found
//! after a power cut: flushed bytes and names are there; each block that was only written is there or not, as the seed says.
//! A failed flush loses what it should have flushed, and the next one succeeds: what Linux does.

use super::{BLOCK_BYTES, Disk, Engine, Identity, Kind, Read};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
    index_folder: PathBuf,
}

/// An open file of a [`FaultyDisk`]; it lives on after its name is removed.
pub struct FaultyFile(u64);

/// What goes wrong from now on.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// After so many more flushes, one fails and loses what it should have flushed.
    pub fail_flush_after: Option<u32>,
    /// After so many more writes, every write fails with `EIO`.
    pub fail_writes_after: Option<u32>,
    /// After so many more writes, one is half done and then fails with `EIO`.
    pub tear_write_after: Option<u32>,
    /// After so many more writes, one is acknowledged and never done: what a flush then calls durable is stale.
    pub lose_write_after: Option<u32>,
    /// Every read fails with `EIO`.
    pub fail_reads: bool,
    /// The next call of this kind panics, as a bug would.
    pub panic_at: Option<Call>,
    /// Each flush takes so long.
    pub flush_delay: Duration,
    /// Bytes that files may take together, beyond which writes fail with `ENOSPC`.
    pub space_bytes: Option<u64>,
}

/// Where a [`FaultyDisk`] can be told to panic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// [`Disk::create`].
    Create,
    /// [`Engine::write`].
    Write,
    /// [`Engine::read`].
    Read,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    files: BTreeMap<u64, Contents>,
    next_inode: u64,
    removed: bool,
    faults: Faults,
    writes: u64,
    flushes: u64,
}

#[derive(Clone, Default)]
struct Contents {
    durable: Vec<u8>,
    written: Vec<u8>,
    /// Offsets of blocks that were written and not flushed.
    dirty: std::collections::BTreeSet<usize>,
}

impl FaultyDisk {
    /// An empty disk; the index keeps its files in `index_folder`.
    pub fn new(index_folder: &Path) -> Self {
        Self { state: Arc::default(), index_folder: index_folder.to_owned() }
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Writes and flushes so far.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.writes, state.flushes)
    }

    /// Another disk: this one as found after a power cut. Each unflushed block survives when its bit of
    /// the seed's sequence says so; with seed 0 none does.
    pub fn after_power_cut(&self, seed: u64, index_folder: &Path) -> Self {
        let state = self.state.lock();
        let mut dice = seed;
        let mut files = state.files.clone();
        for file in files.values_mut() {
            for offset in std::mem::take(&mut file.dirty) {
                // splitmix64, so that a test is replayed from its seed.
                dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (dice ^ (dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                if (mixed ^ (mixed >> 31)) & 1 == 1 && seed != 0 {
                    file.keep(offset);
                }
            }
            file.written.clone_from(&file.durable);
        }
        let names = state.durable_names.clone();
        let (next_inode, durable_names) = (state.next_inode, names.clone());
        let found = State { names, durable_names, files, next_inode, ..State::default() };
        Self { state: Arc::new(Mutex::new(found)), index_folder: index_folder.to_owned() }
    }

    /// Another disk: this one as found after its process died: everything written is there, and what was not flushed still is not.
    pub fn after_process_death(&self, index_folder: &Path) -> Self {
        let state = self.state.lock();
        let found = State {
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            files: state.files.clone(),
            next_inode: state.next_inode,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(found)), index_folder: index_folder.to_owned() }
    }

    /// Takes the folder away, as `rm -r` or a lost mount would; open files stay open.
    pub fn remove_folder(&self) {
        let mut state = self.state.lock();
        state.removed = true;
        state.names.clear();
    }

    /// Changes bytes under the target's feet: calls `change` with the contents of the file.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let inode = state.names.get(name).copied();
        if let Some(file) = inode.and_then(|inode| state.files.get_mut(&inode)) {
            change(&mut file.written);
            file.durable.clone_from(&file.written);
            file.dirty.clear();
        }
    }

    /// The names of the files.
    pub fn names(&self) -> Vec<String> {
        self.state.lock().names.keys().cloned().collect()
    }
}

impl Contents {
    /// Makes one written block durable.
    fn keep(&mut self, offset: usize) {
        let end = (offset + BLOCK_BYTES).min(self.written.len());
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        if let (Some(to), Some(from)) = (self.durable.get_mut(offset..end), self.written.get(offset..end)) {
            to.copy_from_slice(from);
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.written.len() < end {
            self.written.resize(end, 0);
        }
        if let Some(place) = self.written.get_mut(offset..end) {
            place.copy_from_slice(bytes);
        }
        self.dirty.extend((offset..end).step_by(BLOCK_BYTES));
    }
}

impl State {
    fn panic_if_told(&mut self, call: Call) {
        if self.faults.panic_at == Some(call) {
            self.faults.panic_at = None;
            std::panic::panic_any("the disk was told to panic");
        }
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }
}

/// Counts down to a single event.
fn due(counter: &mut Option<u32>) -> bool {
    match counter {
        Some(0) => {
            *counter = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

fn input_output_error() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Disk for FaultyDisk {
    type File = FaultyFile;
    type Engine = FaultyDisk;

    fn create(&self, name: &str) -> io::Result<FaultyFile> {
        let mut state = self.state.lock();
        state.panic_if_told(Call::Create);
        if state.removed {
            return Err(ErrorKind::NotFound.into());
        }
        if state.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.next_inode += 1;
        let inode = state.next_inode;
        state.names.insert(name.to_owned(), inode);
        state.files.insert(inode, Contents::default());
        Ok(FaultyFile(inode))
    }
    fn open(&self, name: &str) -> io::Result<FaultyFile> {
        self.state.lock().find(name).map(FaultyFile)
    }
    fn length(&self, file: &FaultyFile) -> io::Result<u64> {
        let state = self.state.lock();
        state.files.get(&file.0).map(|file| file.written.len() as u64).ok_or_else(input_output_error)
    }
    fn lock(&self, _file: &FaultyFile) -> io::Result<()> {
        Ok(())
    }
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.find(name)?;
        state.names.remove(name);
        Ok(())
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.find(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }
    fn flush_folder(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.durable_names = state.names.clone();
        Ok(())
    }
    fn identity(&self, name: &str) -> io::Result<Identity> {
        Ok(Identity { device: 1, inode: self.state.lock().find(name)?, links: 1 })
    }
    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state.lock();
        let used: u64 = state
            .names
            .values()
            .filter_map(|inode| state.files.get(inode))
            .map(|f| f.written.len() as u64)
            .sum();
        Ok(state.faults.space_bytes.unwrap_or(1 << 50).saturating_sub(used))
    }
    fn index_folder(&self) -> PathBuf {
        self.index_folder.clone()
    }
    fn engine(&self) -> io::Result<FaultyDisk> {
        Ok(self.clone())
    }
    fn kind(&self) -> Kind {
        Kind { direct: true, ring: false }
    }
}

impl Engine for FaultyDisk {
    type File = FaultyFile;

    fn write(&mut self, file: &FaultyFile, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let free = Disk::free_bytes(self)?;
        let mut state = self.state.lock();
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if !(offset as usize).is_multiple_of(BLOCK_BYTES) || !total.is_multiple_of(BLOCK_BYTES) {
            return Err(ErrorKind::InvalidInput.into());
        }
        state.panic_if_told(Call::Write);
        state.writes += 1;
        if state.faults.fail_writes_after == Some(0) {
            return Err(input_output_error());
        }
        if let Some(left) = &mut state.faults.fail_writes_after {
            *left -= 1;
        }
        if due(&mut state.faults.lose_write_after) {
            return Ok(());
        }
        let torn = due(&mut state.faults.tear_write_after);
        let contents = state.files.get_mut(&file.0).ok_or_else(input_output_error)?;
        if (offset as usize + total).saturating_sub(contents.written.len()) as u64 > free {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let mut bytes = parts.concat();
        if torn {
            bytes.truncate((total / 2).next_multiple_of(BLOCK_BYTES));
        }
        contents.write(offset as usize, &bytes);
        if torn { Err(input_output_error()) } else { Ok(()) }
    }

    fn read(&mut self, reads: &mut [Read<'_, FaultyFile>]) {
        let mut state = self.state.lock();
        state.panic_if_told(Call::Read);
        for read in reads {
            let file = state.files.get(&read.file.0);
            let start = read.offset as usize;
            let found = file.and_then(|file| file.written.get(start..start + read.into.len()));
            read.result = match found {
                _ if state.faults.fail_reads => Err(input_output_error()),
                Some(bytes) => {
                    read.into.copy_from_slice(bytes);
                    Ok(())
                }
                None => Err(ErrorKind::UnexpectedEof.into()),
            };
        }
    }

    fn flush(&mut self, file: &FaultyFile) -> io::Result<()> {
        let delay = self.state.lock().faults.flush_delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut state = self.state.lock();
        state.flushes += 1;
        let fails = due(&mut state.faults.fail_flush_after);
        let contents = state.files.get_mut(&file.0).ok_or_else(input_output_error)?;
        let dirty = std::mem::take(&mut contents.dirty);
        if fails {
            return Err(input_output_error());
        }
        for offset in dirty {
            contents.keep(offset);
        }
        Ok(())
    }
}
