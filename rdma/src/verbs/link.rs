//! One end of a connection on a device: what was asked, what is posted, what has completed.
//!
//! Operations wait in `outbox` until there is room in the device's send queue and, where they consume a receive of the peer, a
//! credit for it; whoever finds some posts them (`pump`), one thread at a time. On a software device the post itself moves the
//! bytes, so that large ones go to a thread that may block. What arrives is in `inbound.rs`, how it ends in `life.rs`.
//!
//! Only the last work request of a chain is signalled; its completion stands for those before it, as a queue pair completes
//! in order.
//!
//! Invariant: a work request is entered in `posted` before it is posted, and leaves by its completion or with the queue pair.

use super::cm::Cm;
use super::completion::Room;
use super::device::{Device, RECEIVE_SLOTS, SEND_SLOTS, Slots};
use super::message::{Bye, FRAGMENT_BYTES, HEAD_BYTES, Head, Kind};
use super::queue_pair::{
    CONTROL_REQUESTS, DATA_REQUESTS, DeviceQueuePair, INLINE_BYTES, Local, Posting, Request,
};
use super::window::Opening;
use crate::engine::grants::ADDRESS_BASE;
use crate::engine::send_queue::{Done, Operation};
use crate::engine::{Ended, QueuePair};
use crate::{OperationError, Remote};
use bytes::Bytes;
use parking_lot::Mutex;
use rdma_sys::{ibv_wc, ibv_wc_status as status};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::Notify;

/// Work requests of one post.
const CHAIN: usize = 16;
/// A software device gets larger posts from a thread that may block, bytes.
const POST_BYTES: usize = 64 << 10;
/// In the low half of an id: a receive, with its slot; else the low bits of a send's number.
pub(super) const RECEIVE: u32 = 1 << 31;

/// One end of a connection over a device.
pub(crate) struct VerbsLink {
    pub(crate) pair: QueuePair,
    pub(crate) ended: Ended,
    pub(super) number: u32,
    pub(super) state: Mutex<State>,
    /// Something for the connection's task to look at.
    pub(super) work: Notify,
    /// When the connection's task looks again by itself.
    pub(super) alarm: Mutex<Instant>,
    this: Weak<Self>,
    pub(super) queue_pair: DeviceQueuePair,
    pub(super) slots: Slots,
    pub(super) room: Room,
    /// After the queue pair, which needs its id.
    pub(super) cm: Cm,
    pub(super) device: Arc<Device>,
}

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(super) enum Phase {
    Open,
    /// Only the last word may still be posted.
    Closing,
    /// Nothing is posted any more.
    Silent,
}

pub(super) struct State {
    pub(super) phase: Phase,
    outbox: VecDeque<Outgoing>,
    control: VecDeque<Control>,
    posted: VecDeque<Posted>,
    /// The number of the oldest entry of `posted`.
    oldest: u64,
    posted_data: usize,
    /// A thread is posting; it takes what is added meanwhile.
    pub(super) posting: bool,
    free_slots: Vec<usize>,
    /// Receives of the peer that may be consumed.
    pub(super) credits: u32,
    /// Receives of ours that were consumed and that the peer has not been told of.
    pub(super) owed: u32,
    pub(super) credits_queued: bool,
    /// Since when the oldest operation has waited for nothing but a credit.
    pub(super) blocked_since: Option<Instant>,
    /// Receives that the device has.
    pub(super) receives: usize,
    pub(super) assembling: Vec<u8>,
    pub(super) bye: ByeState,
    /// What failed operations hold until the queue pair is gone.
    pub(super) held: Vec<Operation>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ByeState {
    None,
    Pending,
    Said,
}

/// A work request that waits, with the operation that it belongs to.
struct Outgoing {
    sequence: u64,
    /// The last of its chain.
    signalled: bool,
    what: Data,
}

enum Data {
    Write { local: Local, to: Remote, immediate: Option<u32> },
    Read { local: Local, from: Remote },
    Fragment { bytes: Bytes, last: bool },
}

enum Control {
    Open(Arc<Opening>),
    Credits,
    Bye(Bye),
}

/// A work request that the device has.
struct Posted {
    /// Operations up to this one are complete when it is.
    through: u64,
    sequence: u64,
    slot: Option<usize>,
    what: What,
}

enum What {
    Data,
    Open(Arc<Opening>),
    Credits,
    Bye,
}

impl State {
    pub(super) fn new(credits: u32) -> Self {
        Self {
            phase: Phase::Open,
            outbox: VecDeque::new(),
            control: VecDeque::new(),
            posted: VecDeque::new(),
            oldest: 0,
            posted_data: 0,
            posting: false,
            free_slots: (RECEIVE_SLOTS..RECEIVE_SLOTS + SEND_SLOTS).collect(),
            credits,
            owed: 0,
            credits_queued: false,
            blocked_since: None,
            receives: 0,
            assembling: Vec::new(),
            bye: ByeState::None,
            held: Vec::new(),
        }
    }

    /// Nothing of ours is with the device.
    pub(super) fn is_drained(&self) -> bool {
        self.posted.is_empty() && self.receives == 0 && !self.posting
    }

    /// Whether operations are with the device, of which the oldest may still complete.
    pub(super) fn has_posted_data(&self) -> bool {
        self.posted_data > 0
    }
}

impl VerbsLink {
    /// The queue pair stands, and nothing has been posted to it.
    pub(super) fn new(
        pair: QueuePair,
        device: &Arc<Device>,
        cm: Cm,
        room: Room,
        queue_pair: DeviceQueuePair,
        slots: Slots,
        credits: u32,
    ) -> Arc<Self> {
        let number = device.links.number();
        let link = Arc::new_cyclic(|this| Self {
            pair,
            ended: Ended::default(),
            number,
            state: Mutex::new(State::new(credits)),
            work: Notify::new(),
            alarm: Mutex::new(Instant::now()),
            this: this.clone(),
            queue_pair,
            slots,
            room,
            cm,
            device: device.clone(),
        });
        device.links.insert(number, Arc::downgrade(&link));
        link
    }

    pub(super) fn weak(&self) -> Weak<Self> {
        self.this.clone()
    }

    /// Enters a chain of operations in the order of posting, and posts what there is room for.
    pub(crate) fn post(&self, chain: impl Iterator<Item = (Operation, Done)>) -> Result<u64, OperationError> {
        let mut posted = 0;
        {
            let mut state = self.state.lock();
            let mut sends = self.pair.sends.lock();
            for (operation, done) in chain {
                let signalled = !matches!(done, Done::ByNext);
                let pieces = self.pieces(&operation);
                posted = sends.push(operation, done)?;
                let count = pieces.len();
                let outgoing = pieces.into_iter().enumerate().map(|(i, what)| Outgoing {
                    sequence: posted,
                    signalled: signalled && i + 1 == count,
                    what,
                });
                state.outbox.extend(outgoing);
            }
        }
        self.pump();
        Ok(posted)
    }

    /// The work requests of an operation. Their memory is the operation's.
    fn pieces(&self, operation: &Operation) -> Vec<Data> {
        let local = |offset: usize, bytes: usize| Local {
            address: ADDRESS_BASE + offset as u64,
            bytes: bytes as u32,
            key: self.device.region.local_key(),
        };
        match operation {
            Operation::Write { source, to, immediate } => {
                let local = local(source.pool_offset(), source.len());
                vec![Data::Write { local, to: *to, immediate: *immediate }]
            }
            Operation::Read { into, from } => {
                vec![Data::Read { local: local(into.pool_offset(), from.bytes as usize), from: *from }]
            }
            Operation::Send { message } if message.is_empty() => {
                vec![Data::Fragment { bytes: Bytes::new(), last: true }]
            }
            Operation::Send { message } => (0..message.len())
                .step_by(FRAGMENT_BYTES)
                .map(|start| {
                    let end = message.len().min(start + FRAGMENT_BYTES);
                    Data::Fragment { bytes: message.slice(start..end), last: end == message.len() }
                })
                .collect(),
        }
    }

    pub(super) fn post_opening(&self, opening: Arc<Opening>) {
        self.state.lock().control.push_back(Control::Open(opening));
        self.pump();
    }

    /// Takes back an opening that was not posted.
    pub(super) fn take_back(&self, opening: &Arc<Opening>) -> bool {
        let mut state = self.state.lock();
        let is_it =
            |control: &Control| matches!(control, Control::Open(other) if Arc::ptr_eq(other, opening));
        let found = state.control.iter().position(is_it);
        found.is_some_and(|at| state.control.remove(at).is_some())
    }

    pub(super) fn queue_credits(&self) {
        {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.credits_queued, true) {
                return;
            }
            state.control.push_back(Control::Credits);
        }
        self.pump();
    }

    /// Drops what waits, and lets one last word follow what is posted.
    pub(super) fn begin_closing(&self, held: Vec<Operation>, bye: Option<Bye>) {
        let mut state = self.state.lock();
        state.outbox.clear();
        for control in state.control.drain(..) {
            if let Control::Open(opening) = control {
                opening.settle();
            }
        }
        state.held = held;
        state.phase = state.phase.max_of(Phase::Closing);
        if let Some(bye) = bye {
            state.control.push_back(Control::Bye(bye));
            state.bye = ByeState::Pending;
        }
    }

    /// Posts what can be posted, unless another thread is at it.
    pub(super) fn pump(&self) {
        {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.posting, true) {
                return;
            }
        }
        loop {
            let mut chain = Vec::new();
            {
                let mut state = self.state.lock();
                self.take_chain(&mut state, &mut chain);
                if chain.is_empty() {
                    state.posting = false;
                    if state.phase != Phase::Open {
                        self.work.notify_one();
                    }
                    return;
                }
            }
            let bytes: usize = chain.iter().map(Request::bytes).sum();
            if self.device.is_software
                && bytes > POST_BYTES
                && let (Ok(runtime), Some(link)) =
                    (tokio::runtime::Handle::try_current(), self.this.upgrade())
            {
                runtime.spawn_blocking(move || {
                    link.post_chain(&chain);
                    link.state.lock().posting = false;
                    link.pump();
                });
                return;
            }
            self.post_chain(&chain);
        }
    }

    fn post_chain(&self, chain: &[Request]) {
        let Err(posted) = self.queue_pair.post(chain) else { return };
        {
            // Nobody else posts: what was not posted is the end of the queue.
            let mut state = self.state.lock();
            for _ in posted..chain.len() {
                if let Some(entry) = state.posted.pop_back() {
                    state.leave(&entry);
                }
            }
        }
        self.fail(crate::ConnectionError::PeerGone, OperationError::RetryExceeded);
    }

    /// Moves what the device has room for from the queues into `posted` and a chain.
    fn take_chain(&self, state: &mut State, chain: &mut Vec<Request>) {
        while chain.len() < CHAIN
            && state.phase != Phase::Silent
            && state.posted.len() - state.posted_data < CONTROL_REQUESTS
            && let Some(control) = state.control.pop_front()
        {
            let (what, work) = match control {
                Control::Open(opening) => (What::Open(opening.clone()), Posting::Open(opening)),
                Control::Credits => {
                    state.credits_queued = false;
                    match self.repay(state) {
                        0 => continue,
                        credits => (What::Credits, inline(Head { kind: Kind::Credits, credits }, &[])),
                    }
                }
                Control::Bye(bye) => (What::Bye, inline(Head { kind: Kind::Bye(bye), credits: 0 }, &[])),
            };
            self.enter(state, chain, Posted { through: 0, sequence: 0, slot: None, what }, true, work);
        }
        state.blocked_since = state.blocked_since.filter(|_| state.credits == 0);
        while chain.len() < CHAIN
            && state.phase == Phase::Open
            && state.posted_data < DATA_REQUESTS
            && let Some(outgoing) = state.outbox.pop_front()
        {
            if let Err(outgoing) = self.take_data(state, chain, outgoing) {
                state.outbox.push_front(outgoing);
                return;
            }
        }
    }

    fn take_data(
        &self,
        state: &mut State,
        chain: &mut Vec<Request>,
        outgoing: Outgoing,
    ) -> Result<(), Outgoing> {
        let consumes = match &outgoing.what {
            Data::Write { immediate, .. } => immediate.is_some(),
            Data::Read { .. } => false,
            Data::Fragment { .. } => true,
        };
        if consumes && state.credits == 0 {
            if state.blocked_since.is_none() {
                state.blocked_since = Some(Instant::now());
                self.work.notify_one();
            }
            return Err(outgoing);
        }
        let (slot, work) = match &outgoing.what {
            Data::Write { local, to, immediate } => (
                None,
                Posting::Write {
                    local: *local,
                    address: to.address,
                    key: to.key as u32,
                    immediate: *immediate,
                },
            ),
            Data::Read { local, from } => {
                (None, Posting::Read { local: *local, address: from.address, key: from.key as u32 })
            }
            Data::Fragment { bytes, last } => {
                let is_inline = HEAD_BYTES + bytes.len() <= INLINE_BYTES;
                let slot = if is_inline { None } else { state.free_slots.pop() };
                if slot.is_none() && !is_inline {
                    return Err(outgoing);
                }
                let head = Head { kind: Kind::Fragment { last: *last }, credits: self.repay(state) };
                (slot, slot.map_or_else(|| inline(head, bytes), |slot| self.stage(slot, head, bytes)))
            }
        };
        state.credits -= u32::from(consumes);
        let sequence = outgoing.sequence;
        let is_last = match &outgoing.what {
            Data::Fragment { last, .. } => *last,
            Data::Write { .. } | Data::Read { .. } => true,
        };
        let through = if is_last { sequence } else { sequence - 1 };
        let entry = Posted { through, sequence, slot, what: What::Data };
        self.enter(state, chain, entry, outgoing.signalled, work);
        Ok(())
    }

    fn enter(
        &self,
        state: &mut State,
        chain: &mut Vec<Request>,
        entry: Posted,
        signalled: bool,
        work: Posting,
    ) {
        let number = state.oldest + state.posted.len() as u64;
        state.posted_data += usize::from(matches!(entry.what, What::Data));
        state.posted.push_back(entry);
        let id = u64::from(self.number) << 32 | u64::from(number as u32 & !RECEIVE);
        chain.push(Request { id, signalled, work });
    }

    /// Credits to give back with a SEND that goes now; none while nobody takes what has arrived.
    fn repay(&self, state: &mut State) -> u16 {
        if !self.pair.receives.has_room() {
            return 0;
        }
        std::mem::take(&mut state.owed) as u16
    }

    fn stage(&self, slot: usize, head: Head, payload: &[u8]) -> Posting {
        // SAFETY: the slot was free, and is this request's from here to its completion.
        let bytes = unsafe { self.slots.fill(slot, [&head.encode(), payload]) };
        let local =
            Local { address: self.slots.address(slot), bytes: bytes as u32, key: self.slots.local_key() };
        Posting::Send { local }
    }

    /// A completion of this connection.
    pub(super) fn complete(&self, completion: &ibv_wc) {
        let low = completion.wr_id as u32;
        if low & RECEIVE != 0 {
            self.received((low & !RECEIVE) as usize, completion);
        } else {
            self.sent(low, completion.status);
        }
    }

    fn sent(&self, number: u32, outcome: status::Type) {
        let failed = outcome != status::IBV_WC_SUCCESS;
        let (mut through, mut failing) = (0, false);
        {
            let mut state = self.state.lock();
            let at = (number.wrapping_sub(state.oldest as u32) & !RECEIVE) as usize;
            if at >= state.posted.len() {
                return;
            }
            for i in 0..=at {
                let Some(entry) = state.posted.pop_front() else { break };
                state.oldest += 1;
                state.leave(&entry);
                let is_failing = failed && i == at && matches!(entry.what, What::Data);
                failing |= is_failing;
                through = through.max(if is_failing { entry.sequence - 1 } else { entry.through });
            }
        }
        // An operation whose first fragments have left is not complete before its last one has.
        self.pair.sends.complete_placed_through(through);
        if failed {
            self.operation_failed(outcome, failing);
        } else {
            self.pump();
        }
    }
}

impl State {
    /// Gives back what a work request held that the device has no longer.
    fn leave(&mut self, entry: &Posted) {
        self.free_slots.extend(entry.slot);
        match &entry.what {
            What::Data => self.posted_data -= 1,
            What::Open(opening) => opening.settle(),
            What::Credits => {}
            What::Bye => self.bye = ByeState::Said,
        }
    }
}

impl Phase {
    fn max_of(self, other: Self) -> Self {
        if self < other { other } else { self }
    }
}

fn inline(head: Head, payload: &[u8]) -> Posting {
    let mut bytes = [0; INLINE_BYTES];
    let length = HEAD_BYTES + payload.len();
    bytes[..HEAD_BYTES].copy_from_slice(&head.encode());
    if let Some(rest) = bytes.get_mut(HEAD_BYTES..length) {
        rest.copy_from_slice(payload);
    }
    Posting::SendInline { bytes, length }
}
