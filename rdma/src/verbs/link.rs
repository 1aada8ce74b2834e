//! One end of a connection on a device: what was asked, what is posted, what has completed.
//!
//! Operations wait in `outbox` until there is room in the device's send queue and, where they consume a receive of the peer, a
//! credit for it; whoever finds some posts them (`posting.rs`). What arrives is in `inbound.rs`, how it ends in `life.rs`.
//!
//! Only the last work request of a chain is signalled; its completion stands for those before it, as a queue pair completes
//! in order.
//!
//! Invariant: a work request leaves `posted` by its completion or with the queue pair, never because somebody stopped waiting.

use super::cm::Cm;
use super::completion::Room;
use super::device::{Device, Slots};
use super::message::{Bye, FRAGMENT_BYTES};
use super::queue_pair::{DeviceQueuePair, Local};
use super::state::{ByeState, Control, Data, Outgoing, Phase, State, What};
use super::window::Opening;
use crate::OperationError;
use crate::engine::grants::ADDRESS_BASE;
use crate::engine::send_queue::{Done, Operation};
use crate::engine::{Ended, QueuePair};
use crate::memory::Host;
use bytes::Bytes;
use parking_lot::Mutex;
use rdma_sys::{ibv_wc, ibv_wc_status as status};
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::Notify;

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
        let local = |offset: usize, bytes: usize, host: Option<&Arc<Host>>| Local {
            address: ADDRESS_BASE + offset as u64,
            bytes: bytes as u32,
            key: match host {
                None => self.device.region.local_key(),
                // Prepared before it is posted; else the device refuses it.
                Some(host) => self.device.host_key(host).unwrap_or(0),
            },
        };
        match operation {
            Operation::Write { source, to, immediate } => {
                let local = local(source.pool_offset(), source.len(), source.host());
                if let Some(host) = source.host() {
                    host.counts().transfers(source.len());
                }
                vec![Data::Write { local, to: *to, immediate: *immediate }]
            }
            Operation::Read { into, from } => {
                let local = local(into.pool_offset(), from.bytes as usize, into.host());
                vec![Data::Read { local, from: *from }]
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
