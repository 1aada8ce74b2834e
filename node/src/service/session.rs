//! One connection, from its slots to its end.
//!
//! A single task owns everything: it takes what the peer sends and what the disks answer, one after the other, and never waits for
//! a disk. A slot goes round: granted → written by the peer → sealed (nobody else can change it now) → verified → handed to the
//! target's thread in place → answered together with its next grant. Bytes are copied nowhere.
//!
//! Invariant: a `Stored` with success is sent only with the [`Durable`] that the target's group commit made.

use super::Inner;
use super::listen::Reserved;
use crate::target::{Durable, Fetched, ShardKey, StoreOutcome, Verified, Wanted, fetch_buffer_bytes};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tenfour_rdma::{Buffer, Completion, Connection, Grant, LeaseError, Open, Pool, Received, Remote};
use tenfour_types::Wire;
use tenfour_types::limits::SHARD_BYTES_MAX;
use tenfour_types::record::{RECORD_BYTES_MAX, TABLE_OFFSET};
use tenfour_types::shard_service::{FromNode, ShardError, ShardRef, ShardTable, ToNode};
use tokio::sync::{mpsc, watch};

/// A slot that was not used for so long ends, and with it the connection; the peer connects again.
const SLOT_EXPIRES: Duration = Duration::from_secs(7 * 24 * 3600);
/// Fetches of one peer that wait for memory or for the disk; more are refused.
const FETCHES_MAX: usize = 256;
/// Verify requests of one peer at once; more are refused.
const VERIFIES_MAX: usize = 4;
/// Shards of one verify request (as the protocol says).
const VERIFY_SHARDS_MAX: usize = 256;
/// Completions kept instead of awaited: the peer's next message tells the same for less.
const COMPLETIONS_KEPT: usize = 16;
/// The bytes of a fetch whose completion may be kept: its memory is kept with it.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// What a storage thread answered.
enum Answer {
    Stored {
        slot: u16,
        outcome: StoreOutcome<Buffer>,
    },
    Fetched {
        fetch: Fetch,
        result: Result<Fetched<Buffer>, ShardError>,
    },
    Verified {
        request: u32,
        position: usize,
        result: Result<(), ShardError>,
    },
    /// The storage thread that had a job of this peer is gone, and the job with it.
    Lost,
}

/// An answer that a storage thread owes; dropped unsent, it says so.
struct Owed(Option<mpsc::UnboundedSender<Answer>>);

impl Owed {
    fn send(mut self, answer: Answer) {
        if let Some(answers) = self.0.take() {
            // An error: the session has ended, and nobody waits.
            drop(answers.send(answer));
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(answers) = self.0.take() {
            drop(answers.send(Answer::Lost));
        }
    }
}

/// A fetch as it was asked for.
#[derive(Clone, Copy)]
struct Fetch {
    request: u32,
    shard: ShardRef,
    offset: u32,
    bytes: u32,
    into: Remote,
}

struct Verifying {
    results: Vec<Result<(), ShardError>>,
    left: usize,
}

type Lease = Pin<Box<dyn Future<Output = Result<Buffer, LeaseError>> + Send>>;

pub(super) struct Session {
    inner: Arc<Inner>,
    connection: Connection,
    pool: Pool,
    reserved: Reserved,
    slots: Vec<Option<Grant<Open>>>,
    answers: mpsc::UnboundedSender<Answer>,
    answered: mpsc::UnboundedReceiver<Answer>,
    /// Waiting for memory, in order; the first one's lease is under way.
    waiting: VecDeque<Fetch>,
    lease: Option<Lease>,
    fetching: usize,
    verifying: HashMap<u32, Verifying>,
    kept: VecDeque<Completion<()>>,
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the connection: {0}")]
    Connection(#[from] tenfour_rdma::ConnectionError),
    #[error("an operation: {0}")]
    Operation(#[from] tenfour_rdma::OperationError),
    #[error("a grant: {0}")]
    Grant(#[from] tenfour_rdma::GrantError),
    #[error("a storage thread died with a job of this peer")]
    Lost,
}

impl Session {
    pub(super) fn new(inner: Arc<Inner>, connection: Connection, reserved: Reserved) -> Self {
        // Unbounded, but each entry answers a slot, a fetch or a verified shard, all of which are bounded.
        let (answers, answered) = mpsc::unbounded_channel();
        Self {
            inner,
            connection,
            pool: reserved.staging.domain.pool().clone(),
            reserved,
            slots: Vec::new(),
            answers,
            answered,
            waiting: VecDeque::new(),
            lease: None,
            fetching: 0,
            verifying: HashMap::new(),
            kept: VecDeque::new(),
        }
    }

    /// Serves the peer until it goes, breaks the protocol, or the node stops.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let result = match self.grant_slots().await {
            Ok(()) => self.serve(&mut stopped).await,
            Err(end) => Err(end),
        };
        match result {
            Err(end @ End::Protocol(_)) => {
                tracing::warn!(connection = self.connection.id(), %end, "closing a connection");
            }
            Err(end) => tracing::debug!(connection = self.connection.id(), %end, "a connection ended"),
            Ok(()) => {}
        }
        self.connection.close().await;
    }

    async fn serve(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<(), End> {
        let connection = self.connection.clone();
        loop {
            tokio::select! {
                Some(answer) = self.answered.recv() => {
                    self.answer(answer).await?;
                    while let Ok(answer) = self.answered.try_recv() {
                        self.answer(answer).await?;
                    }
                }
                received = connection.recv() => match received? {
                    Received::Immediate { value, bytes } => self.arrived(value, bytes).await?,
                    Received::Message(message) => self.message(&message).await?,
                },
                memory = next_lease(&mut self.lease) => self.leased(memory).await?,
                () = told_to_stop(stopped) => return Ok(()),
            }
        }
    }

    /// Grants the peer its slots and tells it where they are.
    async fn grant_slots(&mut self) -> Result<(), End> {
        for _ in 0..self.reserved.slots {
            let Some(buffer) = self.pool.try_lease(RECORD_BYTES_MAX) else { break };
            let grant = self.grant(buffer)?;
            self.slots.push(Some(grant));
        }
        let slots = self.slots.iter().flatten().map(Grant::remote).collect();
        self.send(&FromNode::Slots { slots, epoch: self.inner.epoch() }).await
    }

    fn grant(&self, mut buffer: Buffer) -> Result<Grant<Open>, End> {
        // What an earlier record left must not pass for one that a peer claims to have written.
        if let Some(head) = buffer.get_mut(..TABLE_OFFSET) {
            head.fill(0);
        }
        let granted = self.connection.grant_write(buffer, 0..RECORD_BYTES_MAX, SLOT_EXPIRES);
        Ok(granted.map_err(|refused| refused.error)?)
    }

    /// A record is in a slot: revoke, verify, hand over.
    async fn arrived(&mut self, value: u32, bytes: u32) -> Result<(), End> {
        let slot = u16::try_from(value).map_err(|_| End::Protocol("no such slot"))?;
        let grant = self.slots.get_mut(usize::from(slot)).and_then(Option::take);
        let grant = grant.ok_or(End::Protocol("a slot that is not granted"))?;
        let memory = grant.seal().await.into_buffer();
        let record = match Verified::verify(memory, bytes as usize) {
            Ok(record) => record,
            Err((memory, error)) => return self.stored(slot, memory, Err(error)).await,
        };
        let Some(target) = self.inner.targets.get(&record.header().target) else {
            return self.stored(slot, record.into_memory(), Err(ShardError::UnknownTarget)).await;
        };
        let owed = self.owed();
        target.store(record, Box::new(move |outcome| owed.send(Answer::Stored { slot, outcome })));
        Ok(())
    }

    async fn answer(&mut self, answer: Answer) -> Result<(), End> {
        match answer {
            Answer::Stored { slot, outcome: StoreOutcome { memory, result } } => {
                self.stored(slot, memory, result).await
            }
            Answer::Fetched { fetch, result } => self.fetched(fetch, result).await,
            Answer::Verified { request, position, result } => self.verified(request, position, result).await,
            Answer::Lost => Err(End::Lost),
        }
    }

    fn owed(&self) -> Owed {
        Owed(Some(self.answers.clone()))
    }

    /// Answers a store, with the slot's next grant.
    async fn stored(
        &mut self,
        slot: u16,
        memory: Buffer,
        result: Result<Durable, ShardError>,
    ) -> Result<(), End> {
        let grant = self.grant(memory)?;
        let next = grant.remote();
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = Some(grant);
        }
        self.send(&FromNode::Stored { slot, result: result.map(|_durable: Durable| ()), next }).await
    }

    async fn message(&mut self, message: &[u8]) -> Result<(), End> {
        match ToNode::from_bytes(message).map_err(|_| End::Protocol("a malformed message"))? {
            ToNode::Fetch { request, shard, offset, bytes, into } => {
                self.fetch(Fetch { request, shard, offset, bytes, into }).await
            }
            ToNode::Verify { request, shards } => self.verify(request, &shards).await,
            ToNode::Status { request } => {
                let targets = self.inner.statuses();
                self.send(&FromNode::Status { request, targets }).await
            }
        }
    }

    async fn fetch(&mut self, fetch: Fetch) -> Result<(), End> {
        let refusal = if fetch.into.bytes != fetch.bytes || fetch.bytes as usize > SHARD_BYTES_MAX {
            Some(ShardError::Malformed)
        } else if !self.inner.targets.contains_key(&fetch.shard.target) {
            Some(ShardError::UnknownTarget)
        } else if self.fetching + self.waiting.len() >= FETCHES_MAX {
            Some(ShardError::Overloaded)
        } else {
            None
        };
        if let Some(error) = refusal {
            return self.send_fetched(fetch.request, Err(error)).await;
        }
        let memory = if self.waiting.is_empty() { self.pool.try_lease(buffer_bytes(&fetch)) } else { None };
        match memory {
            Some(memory) => self.read(fetch, memory),
            None => {
                self.waiting.push_back(fetch);
                self.wait_for_memory();
            }
        }
        Ok(())
    }

    /// Queues up for the memory of the first fetch that waits.
    fn wait_for_memory(&mut self) {
        if let (None, Some(first)) = (&self.lease, self.waiting.front()) {
            self.kept.clear();
            let (pool, bytes) = (self.pool.clone(), buffer_bytes(first));
            self.lease = Some(Box::pin(async move { pool.lease(bytes).await }));
        }
    }

    async fn leased(&mut self, memory: Result<Buffer, LeaseError>) -> Result<(), End> {
        self.lease = None;
        let Some(fetch) = self.waiting.pop_front() else { return Ok(()) };
        self.wait_for_memory();
        match memory {
            Ok(memory) => {
                self.read(fetch, memory);
                Ok(())
            }
            Err(_) => self.send_fetched(fetch.request, Err(ShardError::Overloaded)).await,
        }
    }

    fn read(&mut self, fetch: Fetch, memory: Buffer) {
        let Some(target) = self.inner.targets.get(&fetch.shard.target) else { return };
        let owed = self.owed();
        let wanted = Wanted { key: ShardKey::from(&fetch.shard), offset: fetch.offset, bytes: fetch.bytes };
        self.fetching += 1;
        let answer = move |result: Result<Fetched<Buffer>, (Buffer, ShardError)>| {
            let result = result.map_err(|(_, error)| error);
            owed.send(Answer::Fetched { fetch, result });
        };
        target.fetch(wanted, memory, Box::new(answer));
    }

    /// WRITEs the blocks to the peer, then tells it.
    async fn fetched(
        &mut self,
        fetch: Fetch,
        result: Result<Fetched<Buffer>, ShardError>,
    ) -> Result<(), End> {
        self.fetching = self.fetching.saturating_sub(1);
        let (source, table) = match result {
            Ok(Fetched { memory, range, table }) => (memory.freeze().slice(range), table),
            Err(error) => return self.send_fetched(fetch.request, Err(error)).await,
        };
        let Some(source) = source else {
            return self.send_fetched(fetch.request, Err(ShardError::Disk)).await;
        };
        let message = FromNode::Fetched { request: fetch.request, result: Ok(table) };
        let message = Bytes::from(message.to_bytes());
        let completion = self.connection.post_write_then_send(source, fetch.into, message).await?;
        if fetch.bytes as usize <= KEPT_BYTES_MAX {
            self.keep(completion);
        }
        Ok(())
    }

    async fn send_fetched(
        &mut self,
        request: u32,
        result: Result<ShardTable, ShardError>,
    ) -> Result<(), End> {
        self.send(&FromNode::Fetched { request, result }).await
    }

    async fn verify(&mut self, request: u32, shards: &[ShardRef]) -> Result<(), End> {
        if shards.len() > VERIFY_SHARDS_MAX || self.verifying.contains_key(&request) {
            return Err(End::Protocol("a verify request that is too long, or repeated"));
        }
        if shards.is_empty() || self.verifying.len() >= VERIFIES_MAX {
            let results = vec![Err(ShardError::Overloaded); shards.len()];
            return self.send(&FromNode::Verified { request, results }).await;
        }
        let results = vec![Err(ShardError::UnknownTarget); shards.len()];
        self.verifying.insert(request, Verifying { results, left: shards.len() });
        for (position, shard) in shards.iter().enumerate() {
            let owed = self.owed();
            let answer = move |result| owed.send(Answer::Verified { request, position, result });
            match self.inner.targets.get(&shard.target) {
                Some(target) => target.verify(ShardKey::from(shard), Box::new(answer)),
                None => answer(Err(ShardError::UnknownTarget)),
            }
        }
        Ok(())
    }

    async fn verified(
        &mut self,
        request: u32,
        position: usize,
        result: Result<(), ShardError>,
    ) -> Result<(), End> {
        let Some(verifying) = self.verifying.get_mut(&request) else { return Ok(()) };
        if let Some(place) = verifying.results.get_mut(position) {
            *place = result;
        }
        verifying.left -= 1;
        if verifying.left > 0 {
            return Ok(());
        }
        let results = self.verifying.remove(&request).map(|verifying| verifying.results).unwrap_or_default();
        self.send(&FromNode::Verified { request, results }).await
    }

    async fn send(&mut self, message: &FromNode) -> Result<(), End> {
        let completion = self.connection.post_send(Bytes::from(message.to_bytes())).await?;
        self.keep(completion);
        Ok(())
    }

    fn keep(&mut self, completion: Completion<()>) {
        self.kept.push_back(completion);
        if self.kept.len() > COMPLETIONS_KEPT {
            self.kept.pop_front();
        }
    }
}

fn buffer_bytes(fetch: &Fetch) -> usize {
    fetch_buffer_bytes(fetch.bytes as usize)
}

async fn next_lease(lease: &mut Option<Lease>) -> Result<Buffer, LeaseError> {
    match lease {
        Some(lease) => lease.await,
        None => std::future::pending().await,
    }
}

async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // An error: the node is gone, which is as good as being told.
    drop(stopped.wait_for(|stopped| *stopped).await);
}
