//! Which transports took part in a request: told to the client in a header, to the operator in a log field and in counters.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use tenfour_rdma::Provider;

/// All there are, in the order in which they are named.
pub(crate) const PROVIDERS: [Provider; 3] = [Provider::Verbs, Provider::Shm, Provider::Tcp];

/// A set of transports between the gateway and the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Transports(u8);

impl Transports {
    /// One more.
    pub fn insert(&mut self, provider: Provider) {
        self.0 |= 1 << place_of(provider);
    }

    /// Those of both.
    pub fn extend(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether no shard was moved.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Provider> for Transports {
    fn from_iter<I: IntoIterator<Item = Provider>>(providers: I) -> Self {
        let mut set = Self::default();
        providers.into_iter().for_each(|provider| set.insert(provider));
        set
    }
}

/// `shm`, or `verbs,tcp`.
impl fmt::Display for Transports {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = PROVIDERS.iter().filter(|provider| self.0 & 1 << place_of(**provider) != 0);
        let names: Vec<String> = named.map(Provider::to_string).collect();
        out.write_str(&names.join(","))
    }
}

/// What one transport has carried.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Shards written to nodes, hedged ones included.
    pub stored_shards: AtomicU64,
    /// Their bytes, headers included.
    pub stored_bytes: AtomicU64,
    /// Shards, or blocks of them, asked of nodes.
    pub fetched_shards: AtomicU64,
    /// Their bytes.
    pub fetched_bytes: AtomicU64,
}

/// What each transport has carried.
#[derive(Debug, Default)]
pub struct TrafficByTransport([Traffic; PROVIDERS.len()]);

impl TrafficByTransport {
    /// Of one.
    pub fn of(&self, provider: Provider) -> &Traffic {
        let [verbs, shm, tcp] = &self.0;
        match provider {
            Provider::Verbs => verbs,
            Provider::Shm => shm,
            Provider::Tcp => tcp,
        }
    }

    pub(crate) fn stored(&self, provider: Provider, bytes: usize) {
        let traffic = self.of(provider);
        traffic.stored_shards.fetch_add(1, Ordering::Relaxed);
        traffic.stored_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn fetched(&self, provider: Provider, bytes: usize) {
        let traffic = self.of(provider);
        traffic.fetched_shards.fetch_add(1, Ordering::Relaxed);
        traffic.fetched_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

fn place_of(provider: Provider) -> u8 {
    match provider {
        Provider::Verbs => 0,
        Provider::Shm => 1,
        Provider::Tcp => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_named_once_and_in_one_order() {
        let none = Transports::default();
        assert!(none.is_empty());
        assert_eq!(none.to_string(), "");
        let mut some: Transports = [Provider::Tcp, Provider::Shm, Provider::Tcp].into_iter().collect();
        assert_eq!(some.to_string(), "shm,tcp");
        some.extend([Provider::Verbs].into_iter().collect());
        assert_eq!(some.to_string(), "verbs,shm,tcp");
        let traffic = TrafficByTransport::default();
        traffic.stored(Provider::Tcp, 100);
        traffic.fetched(Provider::Tcp, 7);
        assert_eq!(traffic.of(Provider::Tcp).stored_bytes.load(Ordering::Relaxed), 100);
        assert_eq!(traffic.of(Provider::Shm).stored_shards.load(Ordering::Relaxed), 0);
    }
}
