//! Which connections and transfers there are, whose they are, and when they end.
//!
//! Invariant: a session is found by nobody but its user, and ends with its queue pair. One that moves bytes is not ended for being idle.

use super::super::memory::Lender;
use super::super::users::Member;
use super::TokenRefusal;
use super::transfers::Transfer;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tenfour_rdma::ForeignPair;
use tenfour_types::rdma_token::SessionId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often sessions are looked at, while there are some.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// All sessions of a gateway.
pub(super) struct Sessions {
    table: Mutex<Table>,
    places: Arc<Semaphore>,
    idle: Duration,
    this: Weak<Self>,
}

#[derive(Default)]
struct Table {
    connections: HashMap<SessionId, Arc<Connection>>,
    transfers: HashMap<SessionId, Transfer>,
    is_watched: bool,
}

/// A client's queue pair that is connected to one of ours.
pub(super) struct Connection {
    owner: String,
    /// Before what it is counted by.
    pair: ForeignPair,
    lender: Lender,
    uses: Mutex<Uses>,
    _member: Member,
    _place: OwnedSemaphorePermit,
}

struct Uses {
    now: usize,
    last: Instant,
}

impl Connection {
    pub(super) fn new(
        owner: &str,
        pair: ForeignPair,
        lender: Lender,
        member: Member,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let uses = Mutex::new(Uses { now: 0, last: Instant::now() });
        Self { owner: owner.to_owned(), pair, lender, uses, _member: member, _place: place }
    }
}

/// A connection in use by a request.
pub(super) struct Lent {
    connection: Arc<Connection>,
    id: SessionId,
    sessions: Weak<Sessions>,
}

impl Lent {
    pub(super) fn pair(&self) -> &ForeignPair {
        &self.connection.pair
    }

    pub(super) fn lender(&self) -> &Lender {
        &self.connection.lender
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        {
            let mut uses = self.connection.uses.lock();
            uses.now -= 1;
            uses.last = Instant::now();
        }
        if self.connection.pair.is_broken()
            && let Some(sessions) = self.sessions.upgrade()
        {
            let ended = sessions.table.lock().connections.remove(&self.id);
            drop(ended);
        }
    }
}

impl Sessions {
    pub(super) fn new(most: usize, idle: Duration) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(most));
        Arc::new_cyclic(|this| Self { table: Mutex::default(), places, idle, this: this.clone() })
    }

    /// A place among all sessions.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, TokenRefusal> {
        let place = self.places.clone().try_acquire_owned();
        place.map_err(|_| TokenRefusal::Exhausted("too many connections"))
    }

    pub(super) fn count(&self) -> usize {
        let table = self.table.lock();
        table.connections.len() + table.transfers.len()
    }

    pub(super) fn connected(&self, connection: Connection) -> SessionId {
        let id = SessionId(rand::random());
        let mut table = self.table.lock();
        table.connections.insert(id, Arc::new(connection));
        self.watch(&mut table);
        id
    }

    pub(super) fn agreed(&self, transfer: Transfer) -> SessionId {
        let id = SessionId(rand::random());
        let mut table = self.table.lock();
        table.transfers.insert(id, transfer);
        self.watch(&mut table);
        id
    }

    /// A connection of this user.
    pub(super) fn lend(&self, owner: &str, id: SessionId) -> Option<Lent> {
        let table = self.table.lock();
        let connection = table.connections.get(&id).filter(|connection| connection.owner == owner)?.clone();
        connection.uses.lock().now += 1;
        Some(Lent { connection, id, sessions: self.this.clone() })
    }

    pub(super) fn disconnect(&self, owner: &str, id: SessionId) {
        let ended = {
            let mut table = self.table.lock();
            let is_owners = table.connections.get(&id).is_some_and(|connection| connection.owner == owner);
            if is_owners { table.connections.remove(&id) } else { None }
        };
        if let Some(ended) = ended {
            // A request that still uses it fails.
            ended.pair.close();
        }
    }

    /// Takes a transfer of this user: whoever has it runs it or ends it.
    pub(super) fn take(&self, owner: &str, id: SessionId) -> Option<Transfer> {
        let mut table = self.table.lock();
        let is_owners = table.transfers.get(&id).is_some_and(|transfer| transfer.owner() == owner);
        if is_owners { table.transfers.remove(&id) } else { None }
    }

    fn watch(&self, table: &mut Table) {
        if !std::mem::replace(&mut table.is_watched, true) {
            tokio::spawn(watch(self.this.clone()));
        }
    }

    /// Takes out what is over; whether any session is left.
    fn sweep(&self) -> bool {
        let now = Instant::now();
        let (mut connections, mut transfers) = (Vec::new(), Vec::new());
        let is_left = {
            let mut table = self.table.lock();
            connections.extend(table.connections.extract_if(|_, connection| {
                let uses = connection.uses.lock();
                uses.now == 0 && (connection.pair.is_broken() || now.duration_since(uses.last) >= self.idle)
            }));
            transfers.extend(table.transfers.extract_if(|_, transfer| transfer.is_over(now)));
            let is_left = !table.connections.is_empty() || !table.transfers.is_empty();
            table.is_watched = is_left;
            is_left
        };
        let ended = connections.len() + transfers.len();
        if ended > 0 {
            tracing::debug!(ended, "RDMA sessions were idle for too long");
        }
        is_left
    }
}

async fn watch(sessions: Weak<Sessions>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !sessions.upgrade().is_some_and(|sessions| sessions.sweep()) {
            return;
        }
    }
}
