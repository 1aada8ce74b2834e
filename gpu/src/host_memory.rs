//! Which memory of this process the device can read where it is.
//!
//! Invariant: a [`Lent`] is only made of a slice that lies in a range which is registered; what holds the range registered lives
//! as long as the range is listed. A device only ever reads it: a caller that no longer waits may let go of it at any time.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

/// The ranges; a clone is the same list.
#[derive(Clone, Default)]
pub(crate) struct Registrations(Arc<RwLock<Vec<Range>>>);

struct Range {
    start: usize,
    bytes: usize,
    _held: Box<dyn Any + Send + Sync>,
}

/// Where a source lies in registered memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lent {
    /// Its first byte.
    pub(crate) address: usize,
}

impl Registrations {
    /// Lists a range; `held` keeps it registered.
    pub(crate) fn add(&self, start: usize, bytes: usize, held: impl Any + Send + Sync) {
        self.0.write().push(Range { start, bytes, _held: Box::new(held) });
    }

    /// Ends the listing of the range that begins there.
    pub(crate) fn remove(&self, start: usize) {
        self.0.write().retain(|range| range.start != start);
    }

    /// The slice as the device may read it, if all of it is registered.
    pub(crate) fn lend(&self, slice: &[u8]) -> Option<Lent> {
        let address = slice.as_ptr().addr();
        let covers = |range: &Range| {
            address
                .checked_sub(range.start)
                .is_some_and(|offset| offset <= range.bytes && range.bytes - offset >= slice.len())
        };
        self.0.read().iter().any(covers).then_some(Lent { address })
    }
}

impl fmt::Debug for Registrations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.0.read();
        formatter.debug_list().entries(ranges.iter().map(|range| (range.start, range.bytes))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lends_what_is_registered_and_nothing_beside_it() {
        let memory = [0_u8; 100];
        let registrations = Registrations::default();
        assert!(registrations.lend(&memory[10..20]).is_none());
        registrations.add(memory[10..].as_ptr().addr(), 50, ());
        assert_eq!(registrations.lend(&memory[10..60]).unwrap().address, memory[10..].as_ptr().addr());
        assert!(registrations.lend(&memory[59..60]).is_some());
        assert!(registrations.lend(&memory[9..20]).is_none());
        assert!(registrations.lend(&memory[59..61]).is_none());
        assert!(registrations.lend(&memory[80..90]).is_none());
        registrations.remove(memory[10..].as_ptr().addr());
        assert!(registrations.lend(&memory[10..20]).is_none());
    }
}
