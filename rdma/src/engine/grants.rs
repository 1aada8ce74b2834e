//! Who may touch which bytes of ours, over one connection: the responder's table. Those who granted have `handles`.
//!
//! The engine *takes* a buffer out of its entry while a WRITE lands in it and puts it back afterwards, so that at any time
//! exactly one of table, engine and owner has it. Whoever revokes meanwhile gets the memory when the engine is done; until
//! then it is in quarantine.
//!
//! Where a device checks accesses itself (`verbs`), an entry also has the device's guard: dropping it makes the device refuse
//! the key, and waits until it does. The engine then never takes the memory out.
//!
//! Invariant: after `seal`, `revoke` or drop returned, no access that had not begun before succeeds; after `seal` returned,
//! none is in progress.

mod handles;

pub use handles::{Grant, Open, ReadGrant, Sealed};
pub(crate) use handles::{grant_read, grant_write, random_key};

use super::guard::{DeviceGuard, Guard};
use crate::config::GRANTS_MAX;
use crate::memory::{Buffer, Frozen};
use crate::{GrantError, OperationError, Remote};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// Registered memory begins here in the address space that peers see: not at zero, so that a forgotten field is no address.
pub(crate) const ADDRESS_BASE: u64 = 1 << 32;
/// An expiry further away than this is cut to it.
const EXPIRES_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The grants of one connection. A key of another connection is not in it.
#[derive(Default)]
pub(crate) struct GrantTable {
    state: Mutex<State>,
    /// Told when a grant is revoked while the engine works in it.
    pub(crate) revoked_in_use: Notify,
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, Entry>,
    closed: bool,
}

struct Entry {
    address: u64,
    bytes: u32,
    expires: Instant,
    /// Goes before the memory does.
    guard: Option<Guard>,
    memory: Memory,
}

impl Entry {
    /// The memory, once the device refuses the key. Not to be called with the table locked: that may wait for the device.
    fn taken_back(self) -> Memory {
        self.guard.iter().for_each(Guard::end);
        self.memory
    }
}

/// What a peer names a grant by.
pub(crate) enum Key {
    /// Chosen here: the engine of this process checks it.
    Random,
    /// Given by the device that checks it.
    #[cfg_attr(not(feature = "verbs"), allow(dead_code))]
    Device(u64, DeviceGuard),
}

/// The one right that a grant gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Right {
    Read,
    Write,
}

enum Memory {
    /// The peer may WRITE to it.
    Writable(Buffer),
    /// The peer may READ it.
    Readable(Frozen),
    /// A WRITE is landing in it.
    InUse(Owner),
}

/// Who gets the memory when the engine is done.
enum Owner {
    Grant,
    Sealer(oneshot::Sender<Buffer>),
    Nobody,
}

impl GrantTable {
    /// What is not granted comes back, after the device has let go of it.
    fn insert(
        self: &Arc<Self>,
        memory: Memory,
        address: u64,
        bytes: u32,
        expires: Duration,
        key: Key,
    ) -> Result<Handle, (GrantError, Memory)> {
        let expires = Instant::now() + expires.min(EXPIRES_MAX);
        let (given, guard) = match key {
            Key::Random => (None, None),
            Key::Device(key, guard) => (Some(key), Some(Guard::new(guard))),
        };
        let entry = Entry { address, bytes, expires, guard, memory };
        let mut state = self.state.lock();
        let error = match (state.closed, state.entries.len()) {
            (true, _) => GrantError::Disconnected,
            (false, GRANTS_MAX..) => GrantError::TooMany,
            _ => loop {
                let key = given.unwrap_or_else(rand::random::<u64>);
                match state.entries.entry(key) {
                    Slot::Vacant(slot) => {
                        slot.insert(entry);
                        return Ok(Handle { table: self.clone(), remote: Remote { address, bytes, key } });
                    }
                    // A device gives no key twice while it is in use.
                    Slot::Occupied(_) if given.is_some() => break GrantError::NoResources,
                    Slot::Occupied(_) => {}
                }
            },
        };
        drop(state);
        Err((error, entry.taken_back()))
    }

    /// The peer wants to WRITE `bytes` at `address`: takes the buffer out, if it may.
    pub(crate) fn begin_write(
        self: &Arc<Self>,
        key: u64,
        address: u64,
        bytes: u32,
    ) -> Result<Landing, OperationError> {
        let mut state = self.state.lock();
        let entry = state.find(key, address, bytes)?;
        let start = (entry.address - ADDRESS_BASE) as usize;
        match std::mem::replace(&mut entry.memory, Memory::InUse(Owner::Grant)) {
            Memory::Writable(buffer) => {
                let start = start - buffer.pool_offset() + (address - entry.address) as usize;
                let (buffer, range) = (Some(buffer), start..start + bytes as usize);
                Ok(Landing { table: self.clone(), key, buffer, range })
            }
            other => {
                entry.memory = other;
                Err(OperationError::RemoteAccess)
            }
        }
    }

    /// The peer wants to READ `bytes` at `address`: the bytes, if it may. They cannot change while they are held.
    pub(crate) fn begin_read(&self, key: u64, address: u64, bytes: u32) -> Result<Frozen, OperationError> {
        let mut state = self.state.lock();
        let entry = state.find(key, address, bytes)?;
        let Memory::Readable(source) = &entry.memory else { return Err(OperationError::RemoteAccess) };
        let start = (address - entry.address) as usize;
        source.slice(start..start + bytes as usize).ok_or(OperationError::RemoteAccess)
    }

    /// No access begins any more. The memory stays with those who granted it.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.revoked_in_use.notify_waiters();
    }

    /// Makes the device refuse what has expired; when the next of its guards does.
    #[cfg(feature = "verbs")]
    pub(crate) fn expire_guards(&self) -> Option<Instant> {
        let now = Instant::now();
        let state = self.state.lock();
        let guarded = state.entries.values().filter_map(|entry| Some((entry.expires, entry.guard.as_ref()?)));
        let (expired, open): (Vec<_>, Vec<_>) =
            guarded.filter(|(_, guard)| guard.is_open()).partition(|(expires, _)| *expires <= now);
        let next = open.iter().map(|(expires, _)| *expires).min();
        let expired: Vec<_> = expired.into_iter().map(|(_, guard)| guard.share()).collect();
        drop(state);
        expired.iter().for_each(Guard::end);
        next
    }

    /// Takes every guard away from the device. The memory stays with those who granted it.
    #[cfg(feature = "verbs")]
    pub(crate) fn drop_guards(&self) {
        let state = self.state.lock();
        let guards: Vec<_> =
            state.entries.values().filter_map(|entry| entry.guard.as_ref()).map(Guard::share).collect();
        drop(state);
        guards.iter().for_each(Guard::end);
    }

    /// Ends a grant. `Ok` is its memory, at once; `Err` a promise of it, when the engine is done.
    fn revoke(&self, key: u64, sealing: bool) -> Result<Option<Memory>, oneshot::Receiver<Buffer>> {
        let mut state = self.state.lock();
        let Slot::Occupied(mut slot) = state.entries.entry(key) else { return Ok(None) };
        if !matches!(slot.get().memory, Memory::InUse(_)) {
            // The device lets go before the caller has the memory, and after others have the table.
            let entry = slot.remove();
            drop(state);
            return Ok(Some(entry.taken_back()));
        }
        let (hand_over, promise) = oneshot::channel();
        let owner = if sealing { Owner::Sealer(hand_over) } else { Owner::Nobody };
        slot.get_mut().memory = Memory::InUse(owner);
        drop(state);
        self.revoked_in_use.notify_waiters();
        Err(promise)
    }

    fn finish_write(&self, key: u64, buffer: Buffer) {
        let mut state = self.state.lock();
        let Slot::Occupied(mut slot) = state.entries.entry(key) else { return };
        if matches!(slot.get().memory, Memory::InUse(Owner::Grant)) {
            slot.get_mut().memory = Memory::Writable(buffer);
            return;
        }
        let ended = slot.remove();
        drop(state);
        if let Memory::InUse(Owner::Sealer(hand_over)) = ended.memory {
            // A sealer that stopped waiting: the buffer comes back in the error and returns to its pool.
            drop(hand_over.send(buffer));
        }
    }
}

impl State {
    fn find(&mut self, key: u64, address: u64, bytes: u32) -> Result<&mut Entry, OperationError> {
        if self.closed {
            return Err(OperationError::Flushed);
        }
        let entry = self.entries.get_mut(&key).ok_or(OperationError::RemoteAccess)?;
        let offset = address.checked_sub(entry.address).ok_or(OperationError::RemoteAccess)?;
        let end = offset.checked_add(u64::from(bytes)).ok_or(OperationError::RemoteAccess)?;
        if end > u64::from(entry.bytes) || Instant::now() >= entry.expires {
            return Err(OperationError::RemoteAccess);
        }
        Ok(entry)
    }
}

/// Granted memory while the peer's bytes land in it. Dropping it ends the access.
pub(crate) struct Landing {
    table: Arc<GrantTable>,
    key: u64,
    buffer: Option<Buffer>,
    range: Range<usize>,
}

impl Landing {
    /// Exactly the bytes that the peer asked to write.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        match &mut self.buffer {
            Some(buffer) => buffer.get_mut(self.range.clone()).unwrap_or_default(),
            None => &mut [],
        }
    }

    /// Whether it may go on: not revoked and not expired since it began.
    pub(crate) fn is_open(&self) -> bool {
        let state = self.table.state.lock();
        let entry = state.entries.get(&self.key).filter(|_| !state.closed);
        entry.is_some_and(|entry| {
            matches!(entry.memory, Memory::InUse(Owner::Grant)) && Instant::now() < entry.expires
        })
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.table.finish_write(self.key, buffer);
        }
    }
}

/// Ends its grant when dropped.
struct Handle {
    table: Arc<GrantTable>,
    remote: Remote,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Memory that is not in use returns to its pool here; else the engine frees it.
        drop(self.table.revoke(self.remote.key, false));
    }
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
