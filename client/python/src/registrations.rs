//! Memory that was registered with an RDMA device on the way, kept for the next call with the same memory.
//!
//! What is kept is held: an entry has an export of its object, so that the address cannot come to mean other memory. That is why it is
//! bounded three ways: in bytes and in number, the longest unused going first, and in time, so that an object that a program has let go
//! of goes soon. A kept object cannot be resized meanwhile (`bytearray.extend` says so); [`Registrations::clear`] lets go of all.
//!
//! Invariant: an entry that a transfer uses is not ended by leaving here: the transfer has a share of it.

use crate::memory::PythonMemory;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_client::native::{Client, HostMemory, HostRegion};

/// Entries at most.
const ENTRIES_MAX: usize = 128;
/// An entry that was not used for so long goes.
pub const IDLE_MAX: Duration = Duration::from_secs(10);

/// See the head of this file.
pub struct Registrations {
    bytes_max: usize,
    /// Longest unused first.
    entries: Mutex<VecDeque<Entry>>,
}

struct Entry {
    region: HostRegion,
    used: Instant,
}

/// Where memory lies in a region.
pub struct Found {
    pub region: HostRegion,
    pub offset: usize,
}

impl Registrations {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, entries: Mutex::default() })
    }

    /// The region that this memory lies in: one that is kept, or a new one, which is kept if there may be so much.
    pub fn get(&self, client: &Client, memory: PythonMemory) -> Found {
        let gone;
        let found = {
            let mut entries = self.entries.lock();
            match entries.iter().position(|entry| offset_in(&entry.region, &memory).is_some()) {
                Some(at) => {
                    gone = Vec::new();
                    let entry = entries.remove(at);
                    let found = entry.and_then(|entry| {
                        let offset = offset_in(&entry.region, &memory)?;
                        let region = entry.region.clone();
                        entries.push_back(Entry { used: Instant::now(), ..entry });
                        Some(Found { region, offset })
                    });
                    found.unwrap_or_else(|| Found { region: client.adopt(memory), offset: 0 })
                }
                None => {
                    let region = client.adopt(memory);
                    gone = self.keep(&mut entries, &region);
                    Found { region, offset: 0 }
                }
            }
        };
        // A device takes its time to let go: not under the lock.
        drop(gone);
        found
    }

    /// Keeps a region, and returns what has to go for it.
    fn keep(&self, entries: &mut VecDeque<Entry>, region: &HostRegion) -> Vec<Entry> {
        if region.bytes() > self.bytes_max {
            return Vec::new();
        }
        entries.push_back(Entry { region: region.clone(), used: Instant::now() });
        let mut bytes: usize = entries.iter().map(|entry| entry.region.bytes()).sum();
        let mut gone = Vec::new();
        while bytes > self.bytes_max || entries.len() > ENTRIES_MAX {
            let Some(oldest) = entries.pop_front() else { break };
            bytes -= oldest.region.bytes();
            gone.push(oldest);
        }
        gone
    }

    /// Lets go of what was not used for long; what a transfer works in is in use.
    pub fn sweep(&self) {
        let mut entries = self.entries.lock();
        for entry in entries.iter_mut().filter(|entry| entry.region.is_in_use()) {
            entry.used = Instant::now();
        }
        let is_idle = |entry: &Entry| entry.used.elapsed() >= IDLE_MAX;
        let (gone, kept): (Vec<Entry>, Vec<Entry>) = entries.drain(..).partition(is_idle);
        entries.extend(kept);
        drop(entries);
        drop(gone);
    }

    /// Lets go of everything.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.entries.lock());
        drop(gone);
    }
}

/// Where in a region this memory lies, if it does and may be used alike.
fn offset_in(region: &HostRegion, memory: &PythonMemory) -> Option<usize> {
    let offset = memory.start().as_ptr().addr().checked_sub(region.start().as_ptr().addr())?;
    let is_inside = offset.checked_add(memory.bytes())? <= region.bytes();
    (is_inside && (region.is_writable() || !memory.is_writable())).then_some(offset)
}
