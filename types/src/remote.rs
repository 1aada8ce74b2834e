//! The name of a range of a peer's registered memory, as it travels in messages.

use serde::{Deserialize, Serialize};

/// An exact range of a peer's registered memory and the key that opens it.
///
/// Whoever holds it can use it only over the connection it was granted on, in the one direction, until the grant ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Remote {
    /// Where the range begins, in the address space of the granting side.
    pub address: u64,
    /// Its length, bytes.
    pub bytes: u32,
    /// The remote key: random, one per grant.
    pub key: u64,
}

impl Remote {
    /// The part of the range from `offset` on, `bytes` long; `None` when it is not wholly inside.
    pub fn sub(self, offset: u32, bytes: u32) -> Option<Self> {
        let end = offset.checked_add(bytes)?;
        let address = self.address.checked_add(u64::from(offset))?;
        (end <= self.bytes).then_some(Self { address, bytes, key: self.key })
    }
}
