//! What is outstanding on one handmade queue pair, and what becomes of it.
//!
//! Every operation is signalled and found by its number, so that it does not matter in which order threads get to post. The first
//! that fails ends the queue pair, as the device has it; what is outstanding then is flushed.
//!
//! Invariant: an operation's memory is let go by its completion, or after the queue pair was destroyed.

use super::super::ffi::{Access, CompletionQueue, ProtectionDomain, Region};
use super::super::queue_pair::{Local, Posting, Request};
use super::Shared;
use super::pair::{HandmadePair, RECEIVES, SENDS};
use super::port::Gid;
use crate::engine::grants::ADDRESS_BASE;
use crate::foreign::{Arrival, ForeignError, PairAddress, Place};
use crate::memory::Pool;
use crate::{Buffer, Frozen, OperationError};
use parking_lot::Mutex;
use rdma_sys::{ibv_wc, ibv_wc_opcode as opcode, ibv_wc_status as status};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::zeroed;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot};

/// Marks the number of a receive.
const RECEIVE: u64 = 1 << 63;
/// Completions taken at a time.
const BATCH: usize = 8;
/// A software device gets larger posts from a thread that may block, bytes.
const POST_BYTES: usize = 64 << 10;

/// What an operation needs until it is done.
pub(super) enum Held {
    Buffer(Buffer),
    Frozen(Frozen),
}

/// Who waits for it.
pub(super) enum Waiting {
    Buffer(oneshot::Sender<Result<Buffer, OperationError>>),
    Unit(oneshot::Sender<Result<(), OperationError>>),
}

impl Waiting {
    fn fail(self, error: OperationError) {
        match self {
            Self::Buffer(waiting) => drop(waiting.send(Err(error))),
            Self::Unit(waiting) => drop(waiting.send(Err(error))),
        }
    }
}

struct State {
    /// By number.
    pending: HashMap<u64, (Held, Waiting)>,
    next: u64,
    /// Receives that the device has, and arrivals that nobody has taken: together no more than there may be receives.
    receives: u32,
    arrivals: VecDeque<Arrival>,
    connected: bool,
    error: Option<OperationError>,
}

pub(super) struct Link {
    number: usize,
    state: Mutex<State>,
    places: Semaphore,
    arrived: Notify,
    gid: Gid,
    psn: u32,
    /// Before its queue and its domain.
    pair: HandmadePair,
    queue: CompletionQueue,
    domain: Arc<ProtectionDomain>,
    shared: Arc<Shared>,
}

impl Link {
    pub(super) fn new(
        number: usize,
        shared: Arc<Shared>,
        (pair, queue, domain): (HandmadePair, CompletionQueue, Arc<ProtectionDomain>),
        gid: Gid,
    ) -> Self {
        let state = State {
            pending: HashMap::new(),
            next: 0,
            receives: 0,
            arrivals: VecDeque::new(),
            connected: false,
            error: None,
        };
        Self {
            number,
            state: Mutex::new(state),
            places: Semaphore::new(SENDS as usize),
            arrived: Notify::new(),
            gid,
            psn: rand::random_range(1..1 << 24),
            pair,
            queue,
            domain,
            shared,
        }
    }

    pub(super) fn local(&self) -> PairAddress {
        let port = &self.shared.port;
        let (number, gid, psn) = (self.pair.number(), self.gid.bytes, self.psn);
        PairAddress { number, gid, psn, port: port.number, lid: port.lid }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    pub(super) fn operation_timeout(&self) -> Duration {
        self.shared.operation_timeout
    }

    pub(super) fn is_broken(&self) -> bool {
        self.state.lock().error.is_some()
    }

    pub(super) fn connect(&self, peer: &PairAddress) -> Result<(), ForeignError> {
        {
            let mut state = self.state.lock();
            if state.error.is_some() || std::mem::replace(&mut state.connected, true) {
                return Err(ForeignError::State);
            }
        }
        self.pair.connect(&self.shared.port, self.gid, self.psn, peer).map_err(|error| {
            self.fail(None, OperationError::Flushed);
            ForeignError::Peer(error)
        })
    }

    /// A registration of exactly these bytes of the pool, for the other end of this queue pair.
    pub(super) fn register(&self, offset: usize, bytes: usize, access: Access) -> io::Result<Region> {
        let memory = self.shared.pool.mapping().base().as_ptr().wrapping_add(offset);
        // SAFETY: the range lies in the pool's mapping, as it is a buffer's; the pool outlives this link, which whoever has the region keeps.
        unsafe { Region::register(&self.domain, memory, bytes, ADDRESS_BASE + offset as u64, access) }
    }

    /// Posts one operation: a READ into a buffer, or a WRITE of frozen memory.
    pub(super) async fn post(
        self: &Arc<Self>,
        held: Held,
        waiting: Waiting,
        bytes: usize,
        place: Place,
        immediate: Option<u32>,
    ) -> Result<(), OperationError> {
        let (offset, fits) = match &held {
            Held::Buffer(buffer) => {
                (buffer.pool_offset(), self.shared.pool.owns(buffer) && bytes <= buffer.len())
            }
            Held::Frozen(frozen) => {
                (frozen.pool_offset(), self.shared.pool.owns_frozen(frozen) && bytes <= frozen.len())
            }
        };
        // A domain to itself has no registration of ours that could be posted from.
        let is_shared = Arc::ptr_eq(&self.domain, &self.shared.domain);
        let length = u32::try_from(bytes).ok().filter(|_| fits && is_shared);
        let length = length.ok_or(OperationError::LocalProtection)?;
        let local = Local {
            address: ADDRESS_BASE + offset as u64,
            bytes: length,
            key: self.shared.region.local_key(),
        };
        let (address, key) = (place.address, place.key);
        let work = match &held {
            Held::Buffer(_) => Posting::Read { local, address, key },
            Held::Frozen(_) => Posting::Write { local, address, key, immediate },
        };
        self.places.acquire().await.map_err(|_| OperationError::Flushed)?.forget();
        let id = self.enter(held, waiting)?;
        let request = Request { id, signalled: true, work };
        if self.shared.is_software && request.bytes() > POST_BYTES {
            let link = self.clone();
            let posted = tokio::task::spawn_blocking(move || link.post_now(request));
            return posted.await.unwrap_or(Err(OperationError::Flushed));
        }
        self.post_now(request)
    }

    fn enter(&self, held: Held, waiting: Waiting) -> Result<u64, OperationError> {
        let mut state = self.state.lock();
        if state.error.is_some() || !state.connected {
            return Err(OperationError::Flushed);
        }
        let id = state.next;
        state.next = (id + 1) & !RECEIVE;
        state.pending.insert(id, (held, waiting));
        Ok(id)
    }

    fn post_now(&self, request: Request) -> Result<(), OperationError> {
        let id = request.id;
        self.pair.post(request).map_err(|error| {
            tracing::debug!(%error, "an operation was not posted");
            self.fail(Some(id), OperationError::RetryExceeded);
            OperationError::RetryExceeded
        })
    }

    pub(super) fn post_receive(&self) -> Result<(), OperationError> {
        let mut state = self.state.lock();
        if state.error.is_some() {
            return Err(OperationError::Flushed);
        }
        if state.receives + state.arrivals.len() as u32 >= RECEIVES {
            return Err(OperationError::ReceiverNotReady);
        }
        self.pair.post_receive(RECEIVE).map_err(|_| OperationError::LocalProtection)?;
        state.receives += 1;
        Ok(())
    }

    pub(super) async fn arrival(&self) -> Result<Arrival, OperationError> {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            {
                let mut state = self.state.lock();
                if let Some(arrival) = state.arrivals.pop_front() {
                    return Ok(arrival);
                }
                if let Some(error) = state.error {
                    return Err(error);
                }
            }
            arrived.await;
        }
    }

    /// The completion queue has rung.
    pub(super) fn rung(&self) {
        if let Err(error) = self.queue.arm() {
            tracing::error!(%error, "cannot arm a completion queue");
        }
        // What came before it was armed does not ring: the queue is emptied after.
        loop {
            // SAFETY: plain structures of numbers, for the library to fill in.
            let mut completions: [ibv_wc; BATCH] = unsafe { zeroed() };
            let taken = self.queue.poll(&mut completions);
            completions.iter().take(taken).for_each(|completion| self.complete(completion));
            if taken < BATCH {
                return;
            }
        }
    }

    fn complete(&self, completion: &ibv_wc) {
        let is_receive = completion.wr_id & RECEIVE != 0;
        if completion.status != status::IBV_WC_SUCCESS {
            return self.fail((!is_receive).then_some(completion.wr_id), error_of(completion.status));
        }
        if is_receive {
            return self.received(completion);
        }
        let done = self.state.lock().pending.remove(&completion.wr_id);
        let Some((held, waiting)) = done else { return };
        self.places.add_permits(1);
        match (held, waiting) {
            (Held::Buffer(buffer), Waiting::Buffer(waiting)) => drop(waiting.send(Ok(buffer))),
            (held, Waiting::Unit(waiting)) => {
                drop(held);
                let _ = waiting.send(Ok(()));
            }
            (Held::Frozen(_), Waiting::Buffer(_)) => {}
        }
    }

    fn received(&self, completion: &ibv_wc) {
        if completion.opcode != opcode::IBV_WC_RECV_RDMA_WITH_IMM {
            return self.fail(None, OperationError::RemoteOperation);
        }
        // SAFETY: a completion with immediate data has this member set.
        let value = u32::from_be(unsafe { completion.imm_data_invalidated_rkey_union.imm_data });
        {
            let mut state = self.state.lock();
            state.receives = state.receives.saturating_sub(1);
            state.arrivals.push_back(Arrival { value, bytes: completion.byte_len });
        }
        self.arrived.notify_waiters();
    }

    /// Ends the queue pair, once. The operation of this number gets `error`, the others are flushed. When it returns, nothing is moved any more.
    pub(super) fn fail(&self, number: Option<u64>, error: OperationError) {
        let pending = {
            let mut state = self.state.lock();
            state.error.get_or_insert(error);
            std::mem::take(&mut state.pending)
        };
        self.places.close();
        self.arrived.notify_waiters();
        let mut held = Vec::with_capacity(pending.len());
        for (id, (memory, waiting)) in pending {
            let is_it = number.is_none_or(|number| number == id);
            waiting.fail(if is_it { error } else { OperationError::Flushed });
            held.push(memory);
        }
        if !self.pair.destroy() {
            std::mem::forget(held);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.fail(None, OperationError::Flushed);
        self.shared.forget(self.number);
    }
}

fn error_of(outcome: status::Type) -> OperationError {
    match outcome {
        status::IBV_WC_WR_FLUSH_ERR => OperationError::Flushed,
        status::IBV_WC_REM_ACCESS_ERR => OperationError::RemoteAccess,
        status::IBV_WC_RETRY_EXC_ERR => OperationError::RetryExceeded,
        status::IBV_WC_RNR_RETRY_EXC_ERR => OperationError::ReceiverNotReady,
        status::IBV_WC_LOC_LEN_ERR
        | status::IBV_WC_LOC_QP_OP_ERR
        | status::IBV_WC_LOC_PROT_ERR
        | status::IBV_WC_LOC_ACCESS_ERR => OperationError::LocalProtection,
        _ => OperationError::RemoteOperation,
    }
}
