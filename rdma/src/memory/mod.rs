//! Registered memory: one mapping, handed out in buffers whose type says who may touch them; and, as the same types, memory that
//! somebody else owns ([`host`]).
//!
//! A [`Buffer`] is unique and writable, a [`Frozen`] shared and immutable; each returns to its [`Pool`] when the last owner
//! drops it, and an operation or a grant is an owner. Nothing here knows of peers.
//!
//! Invariant: a byte of the mapping belongs to at most one `Buffer` (or the `Frozen`s made of it) at any time.

mod allocator;
mod buffer;
mod host;
mod mapping;
mod pool;

pub use buffer::{Buffer, Frozen};
pub(crate) use host::Host;
pub use host::{HostCounters, HostMemory, HostRegion};
pub(crate) use mapping::{Mapping, SEALS};
pub use pool::Pool;

/// Buffers begin and end on multiples of this, bytes: what a page is, and what direct I/O asks for.
pub(crate) const PAGE_BYTES: usize = 4096;
