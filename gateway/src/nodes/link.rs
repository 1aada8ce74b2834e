//! One connection to a node while it stands: requests that are on their way, and their answers.
//!
//! A request that nobody waits for any more stays here until it is answered: the memory that the node may still write to belongs to it
//! so long, and revoking that under a node that writes late would cost the whole connection.

use super::Inbox;
use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_rdma::{Buffer, Completion, Connection, Frozen, Grant, OperationError, Provider, Remote};
use tenfour_types::Scaled;
use tenfour_types::shard_service::{FromNode, ShardError, ShardRef, ShardTable, ToNode};
use tenfour_types::{NodeId, Wire};
use tokio::sync::oneshot;

/// Requests to one node that are not answered yet, beside its slots; more fail as busy.
const REQUESTS_MAX: usize = 128;
/// A grant to a node ends by itself after so long: beyond every deadline of a request and every timeout of the fabric.
const GRANT_EXPIRES: Duration = Duration::from_secs(120);

/// Why a request to a node came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The connection broke, or is not there.
    #[error("the connection to the node broke")]
    Lost,
    /// Too much is on its way to the node already.
    #[error("too many requests are on their way to the node")]
    Busy,
    /// The node said no.
    #[error("the node: {0}")]
    Refused(#[from] ShardError),
}

/// Proof that a node answered that a record is durable. Made from that answer, and nowhere else.
#[derive(Debug)]
pub(crate) struct Stored(());

/// The answer to a store.
pub(crate) struct StoreAnswer {
    pub(crate) tag: usize,
    pub(crate) result: Result<Stored, Failure>,
}

/// The answer to a fetch: bytes that the node wrote into our memory, and what to verify them with.
pub(crate) struct FetchAnswer {
    pub(crate) tag: usize,
    pub(crate) result: Result<(Grant, ShardTable), Failure>,
}

pub(crate) struct Link {
    node: NodeId,
    connection: Connection,
    state: Mutex<State>,
}

/// When something of a kind was answered last, or was asked for after everything of that kind had been answered.
#[derive(Default)]
struct Heard {
    owed: usize,
    last: Option<Instant>,
}

impl Heard {
    fn expect(&mut self, now: Instant) {
        if self.owed == 0 {
            self.last = Some(now);
        }
        self.owed += 1;
    }

    fn hear(&mut self) {
        self.owed = self.owed.saturating_sub(1);
        self.last = Some(Instant::now());
    }

    /// For how long an answer has been owed and none given.
    fn silence(&self) -> Duration {
        self.last.filter(|_| self.owed > 0).map_or(Duration::ZERO, |last| last.elapsed())
    }
}

#[derive(Default)]
struct State {
    stores: HashMap<u16, Store>,
    requests: HashMap<u32, Pending>,
    last_request: u32,
    store_heard: Heard,
    fetch_heard: Heard,
    probing: bool,
    dead: bool,
}

struct Store {
    inbox: Arc<Inbox<StoreAnswer>>,
    tag: usize,
    since: Instant,
    /// Held, not awaited: the node's answer tells the same for less.
    _completion: Option<Completion<()>>,
}

struct Pending {
    since: Instant,
    request: Request,
    _completion: Option<Completion<()>>,
}

/// Who wants the answer to a request.
pub(crate) enum Request {
    /// A fetch, with the memory it is to land in.
    Fetch { grant: Grant, inbox: Arc<Inbox<FetchAnswer>>, tag: usize },
    /// Anything else.
    Ask(oneshot::Sender<FromNode>),
    /// A sign of life.
    Probe,
}

/// How long an answer took, and to what.
pub(super) enum Answered {
    Store(Duration),
    Fetch(Duration),
    Other,
}

impl Link {
    pub(super) fn new(node: NodeId, connection: Connection) -> Self {
        Self { node, connection, state: Mutex::default() }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// What carries it.
    pub(crate) fn provider(&self) -> Provider {
        self.connection.provider()
    }

    /// Whether everything that was asked over it has been answered.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.stores.is_empty() && state.requests.is_empty()
    }

    pub(super) fn id(&self) -> u64 {
        self.connection.id()
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// For how long it has owed answers to stores and given none, and the same for everything else; zero when it owes none.
    /// Apart, since a disk that hangs in a flush may read well.
    pub(crate) fn silence(&self) -> (Duration, Duration) {
        let state = self.state.lock();
        (state.store_heard.silence(), state.fetch_heard.silence())
    }

    /// Whether it has owed an answer for so long, and given none of that kind.
    pub(crate) fn is_silent_for(&self, time: Duration) -> bool {
        let (stores, others) = self.silence();
        stores.max(others) >= time
    }

    /// Writes a record to a slot.
    pub(super) fn store(
        &self,
        slot: u16,
        to: Remote,
        record: Frozen,
        inbox: &Arc<Inbox<StoreAnswer>>,
        tag: usize,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        {
            let mut state = self.state.lock();
            state.check()?;
            state.store_heard.expect(now);
            state.stores.insert(slot, Store { inbox: inbox.clone(), tag, since: now, _completion: None });
        }
        // `None`: the send queue is full, which ours is only behind a node that takes nothing off it.
        let posted = self.connection.post_write(record, to, Some(u32::from(slot))).now_or_never();
        let failure = match posted {
            Some(Ok(completion)) => {
                if let Some(store) = self.state.lock().stores.get_mut(&slot) {
                    store._completion = Some(completion);
                }
                return Ok(());
            }
            Some(Err(_)) => Failure::Lost,
            None => Failure::Busy,
        };
        // When it is not there any more, the connection has just ended and the inbox was told.
        let mut state = self.state.lock();
        state.store_heard.owed = state.store_heard.owed.saturating_sub(1);
        if state.stores.remove(&slot).is_some() { Err(failure) } else { Ok(()) }
    }

    /// Asks for payload bytes of a shard, to be written to the beginning of `buffer`.
    pub(crate) fn fetch(
        &self,
        shard: ShardRef,
        range: Range<usize>,
        buffer: Buffer,
        inbox: &Arc<Inbox<FetchAnswer>>,
        tag: usize,
    ) -> Result<(), Failure> {
        let (offset, bytes) = (range.start as u32, range.len() as u32);
        let grant = self.connection.grant_write(buffer, 0..range.len(), GRANT_EXPIRES.scaled());
        let grant =
            grant.map_err(|error| if error.is_retryable() { Failure::Busy } else { Failure::Lost })?;
        let into = grant.remote();
        let request = Request::Fetch { grant, inbox: inbox.clone(), tag };
        self.request(request, |request| ToNode::Fetch { request, shard, offset, bytes, into })
    }

    /// Asks the node something, and waits for what it says.
    pub(crate) async fn ask(&self, message: impl FnOnce(u32) -> ToNode) -> Result<FromNode, Failure> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::Ask(answer), message)?;
        answered.await.map_err(|_| Failure::Lost)
    }

    /// Asks for a sign of life, unless that was done already.
    pub(super) fn probe(&self) {
        if std::mem::replace(&mut self.state.lock().probing, true) {
            return;
        }
        // What cannot be asked is known to be silent anyway.
        let _ = self.request(Request::Probe, |request| ToNode::Status { request });
    }

    fn request(&self, request: Request, message: impl FnOnce(u32) -> ToNode) -> Result<(), Failure> {
        let number = {
            let now = Instant::now();
            let mut state = self.state.lock();
            if state.requests.len() >= REQUESTS_MAX {
                return Err(Failure::Busy);
            }
            state.check()?;
            state.fetch_heard.expect(now);
            state.last_request = state.last_request.wrapping_add(1);
            let number = state.last_request;
            state.requests.insert(number, Pending { since: now, request, _completion: None });
            number
        };
        let message = Bytes::from(message(number).to_bytes());
        let failure = match self.connection.post_send(message).now_or_never() {
            Some(Ok(completion)) => {
                if let Some(pending) = self.state.lock().requests.get_mut(&number) {
                    pending._completion = Some(completion);
                }
                return Ok(());
            }
            Some(Err(OperationError::MessageTooLong)) | None => Failure::Busy,
            Some(Err(_)) => Failure::Lost,
        };
        let mut state = self.state.lock();
        state.fetch_heard.owed = state.fetch_heard.owed.saturating_sub(1);
        if state.requests.remove(&number).is_some() { Err(failure) } else { Ok(()) }
    }

    /// The record that was written to a slot is durable, or not.
    pub(super) fn stored(&self, slot: u16, result: Result<(), ShardError>) -> Answered {
        let store = {
            let mut state = self.state.lock();
            state.store_heard.hear();
            state.stores.remove(&slot)
        };
        let Some(store) = store else { return Answered::Other };
        let result = result.map(|()| Stored(())).map_err(Failure::Refused);
        let urgent = result.is_err();
        store.inbox.deliver(StoreAnswer { tag: store.tag, result }, urgent);
        Answered::Store(store.since.elapsed())
    }

    /// The answer to a request.
    pub(super) fn answered(&self, number: u32, message: FromNode) -> Answered {
        let pending = {
            let mut state = self.state.lock();
            state.fetch_heard.hear();
            state.probing = false;
            state.requests.remove(&number)
        };
        let Some(Pending { since, request, .. }) = pending else { return Answered::Other };
        match (request, message) {
            (Request::Fetch { grant, inbox, tag }, FromNode::Fetched { result, .. }) => {
                let result = result.map(|table| (grant, table)).map_err(Failure::Refused);
                let urgent = result.is_err();
                inbox.deliver(FetchAnswer { tag, result }, urgent);
                return Answered::Fetch(since.elapsed());
            }
            (Request::Fetch { inbox, tag, .. }, _) => {
                inbox
                    .deliver(FetchAnswer { tag, result: Err(Failure::Refused(ShardError::Malformed)) }, true);
            }
            // Whoever asked may have gone.
            (Request::Ask(answer), message) => drop(answer.send(message)),
            (Request::Probe, _) => {}
        }
        Answered::Other
    }

    /// The connection ended: everyone who waits is told.
    pub(super) fn fail(&self) {
        let (stores, requests) = {
            let mut state = self.state.lock();
            state.dead = true;
            (std::mem::take(&mut state.stores), std::mem::take(&mut state.requests))
        };
        for store in stores.into_values() {
            store.inbox.deliver(StoreAnswer { tag: store.tag, result: Err(Failure::Lost) }, true);
        }
        for pending in requests.into_values() {
            if let Request::Fetch { inbox, tag, .. } = pending.request {
                inbox.deliver(FetchAnswer { tag, result: Err(Failure::Lost) }, true);
            }
        }
    }
}

impl State {
    fn check(&self) -> Result<(), Failure> {
        if self.dead { Err(Failure::Lost) } else { Ok(()) }
    }
}
