//! Grants, as those who gave them hold them: what is written to can be looked at only when it can no longer be changed.

use super::{ADDRESS_BASE, GrantTable, Handle, Key, Memory, Right};
use crate::memory::{Buffer, Frozen};
use crate::{GrantError, NotGranted, Remote};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::Duration;

/// Typestate of a [`Grant`]: the peer may write.
#[derive(Debug)]
pub struct Open;

/// The peer of one connection may WRITE to exactly this range, until it is sealed, dropped or expired.
///
/// There is no way to its bytes but [`Grant::seal`]: what a peer can still change cannot be looked at. Dropping it revokes
/// it; the memory returns to the pool when no operation can touch it any more.
pub struct Grant<S = Open> {
    handle: Handle,
    range: Range<usize>,
    state: PhantomData<S>,
}

impl Grant<Open> {
    /// The name to tell the peer.
    pub fn remote(&self) -> Remote {
        self.handle.remote
    }

    /// Revokes it, waits for a write in progress to end or be cut off, and takes the bytes. Waits for nothing in the common
    /// case.
    pub async fn seal(self) -> Sealed {
        let Self { handle, range, .. } = self;
        let buffer = match handle.table.revoke(handle.remote.key, true) {
            Ok(Some(Memory::Writable(buffer))) => Some(buffer),
            // The engine returns the buffer whatever happens to it: `Landing` does so in its `drop`.
            Err(promise) => promise.await.ok(),
            Ok(_) => None,
        };
        Sealed { buffer, range }
    }
}

impl fmt::Debug for Grant<Open> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Grant({} bytes, open)", self.handle.remote.bytes)
    }
}

/// Bytes that a peer wrote and can no longer change.
pub struct Sealed {
    /// Always there: only `into_buffer` takes it, with `self`.
    buffer: Option<Buffer>,
    range: Range<usize>,
}

impl Sealed {
    /// The whole buffer that the grant was made of, for its owner to write to again.
    pub fn into_buffer(self) -> Buffer {
        match self.buffer {
            Some(buffer) => buffer,
            None => unreachable!("a grant has its buffer until it is sealed, once"),
        }
    }
}

impl Deref for Sealed {
    type Target = [u8];

    /// The range that was granted.
    fn deref(&self) -> &[u8] {
        self.buffer.as_ref().and_then(|buffer| buffer.get(self.range.clone())).unwrap_or_default()
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Sealed({} bytes)", self.len())
    }
}

/// The peer of one connection may READ exactly this range, until it is revoked, dropped or expired. The bytes cannot change.
pub struct ReadGrant {
    handle: Handle,
}

impl ReadGrant {
    /// The name to tell the peer.
    pub fn remote(&self) -> Remote {
        self.handle.remote
    }

    /// Ends it: no READ begins any more. One in progress ends with the old bytes, and holds them so long.
    pub fn revoke(self) {}
}

impl fmt::Debug for ReadGrant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ReadGrant({} bytes)", self.handle.remote.bytes)
    }
}

/// Grants a range of a buffer for writing; what is not granted comes back.
pub(crate) fn grant_write(
    table: &Arc<GrantTable>,
    buffer: Buffer,
    range: Range<usize>,
    expires: Duration,
    key: impl FnOnce(u64, u32, Right) -> Result<Key, GrantError>,
) -> Result<Grant<Open>, NotGranted> {
    let named = check(&range, buffer.len()).and_then(|(start, bytes)| {
        let address = ADDRESS_BASE + buffer.pool_offset() as u64 + start;
        Ok((address, bytes, key(address, bytes, Right::Write)?))
    });
    let (address, bytes, key) = match named {
        Ok(named) => named,
        Err(error) => return Err(NotGranted { error, buffer }),
    };
    match table.insert(Memory::Writable(buffer), address, bytes, expires, key) {
        Ok(handle) => Ok(Grant { handle, range, state: PhantomData }),
        Err((error, Memory::Writable(buffer))) => Err(NotGranted { error, buffer }),
        Err(_) => unreachable!("what was to be inserted comes back"),
    }
}

/// Grants a range of frozen memory for reading.
pub(crate) fn grant_read(
    table: &Arc<GrantTable>,
    source: &Frozen,
    range: Range<usize>,
    expires: Duration,
    key: impl FnOnce(u64, u32, Right) -> Result<Key, GrantError>,
) -> Result<ReadGrant, GrantError> {
    let (_, bytes) = check(&range, source.len())?;
    let source = source.slice(range).ok_or(GrantError::OutOfRange)?;
    let address = ADDRESS_BASE + source.pool_offset() as u64;
    let key = key(address, bytes, Right::Read)?;
    let inserted = table.insert(Memory::Readable(source), address, bytes, expires, key);
    let handle = inserted.map_err(|(error, _)| error)?;
    Ok(ReadGrant { handle })
}

/// For providers that check accesses in this process.
pub(crate) fn random_key(_address: u64, _bytes: u32, _right: Right) -> Result<Key, GrantError> {
    Ok(Key::Random)
}

fn check(range: &Range<usize>, buffer_bytes: usize) -> Result<(u64, u32), GrantError> {
    let bytes = range.end.checked_sub(range.start).ok_or(GrantError::OutOfRange)?;
    let bytes = u32::try_from(bytes).map_err(|_| GrantError::OutOfRange)?;
    if range.end > buffer_bytes {
        return Err(GrantError::OutOfRange);
    }
    Ok((range.start as u64, bytes))
}
