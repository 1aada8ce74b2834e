//! What a peer's operations deliver, and what a failed completion means.
//!
//! A receive is copied out and posted again at once; the credit for it goes back only while the connection's user keeps up, so
//! that a peer can fill the receive queue and its own credits, and then waits.
//!
//! The device tells the responder of a refused access only by flushing its receives: a queue pair that is in its error state though
//! nothing of its own has failed was moved there by a request of the peer.

use super::device::RECEIVE_SLOTS;
use super::link::{RECEIVE, VerbsLink};
use super::message::{Bye, Head, Kind, SLOT_BYTES};
use super::queue_pair::Local;
use super::state::{Phase, State};
use crate::config::MESSAGE_BYTES_MAX;
use crate::connection::Received;
use crate::{ConnectionError, OperationError};
use bytes::Bytes;
use rdma_sys::{ibv_wc, ibv_wc_opcode as opcode, ibv_wc_status as status};
use std::io;

/// Receives that messages and immediates may consume; the peer's first credits.
pub(super) const DATA_RECEIVES: u32 = 64;
/// Consumed receives are given back at the latest after so many. The receives beyond `DATA_RECEIVES` bear what a peer can say
/// without credits: `DATA_RECEIVES / CREDITS_EVERY` times credits, and its last word.
const CREDITS_EVERY: u32 = 16;
const _: () = assert!(DATA_RECEIVES / CREDITS_EVERY + 1 < RECEIVE_SLOTS as u32 - DATA_RECEIVES);

/// What a receive brought.
enum Arrival {
    /// A fragment that is not the last.
    Part,
    Whole(Received),
    Bye(Bye),
    Nothing,
}

/// Counts a receive that the peer has used; `None` when it had no credit for it. Receives are posted again at once, so this is what
/// bounds what a peer can make us keep.
fn use_credit(state: &mut State) -> Option<()> {
    state.owed += 1;
    (state.owed <= DATA_RECEIVES).then_some(())
}

impl VerbsLink {
    /// Gives the device all receives; before the connection stands.
    pub(super) fn post_receives(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        for slot in 0..RECEIVE_SLOTS {
            self.post_receive(&mut state, slot)?;
        }
        Ok(())
    }

    fn post_receive(&self, state: &mut State, slot: usize) -> io::Result<()> {
        let id = u64::from(self.number) << 32 | u64::from(RECEIVE | slot as u32);
        let local = Local {
            address: self.slots.address(slot),
            bytes: SLOT_BYTES as u32,
            key: self.slots.local_key(),
        };
        self.queue_pair.post_receive(id, local)?;
        state.receives += 1;
        Ok(())
    }

    /// A receive of this connection has completed.
    pub(super) fn received(&self, slot: usize, completion: &ibv_wc) {
        if completion.status != status::IBV_WC_SUCCESS {
            self.state.lock().receives -= 1;
            return self.receive_failed(completion.status);
        }
        let (arrival, credits) = {
            let mut state = self.state.lock();
            state.receives -= 1;
            let taken = self.take(&mut state, slot, completion);
            if state.phase != Phase::Silent
                && let Err(error) = self.post_receive(&mut state, slot)
            {
                tracing::warn!(%error, "the device refused a receive");
            }
            match taken {
                Some(taken) => taken,
                None => {
                    drop(state);
                    return self.refuse(OperationError::RemoteOperation);
                }
            }
        };
        let is_data = !matches!(arrival, Arrival::Nothing);
        match arrival {
            Arrival::Whole(received) if self.pair.error().is_none() => self.pair.receives.push(received),
            Arrival::Bye(bye) => self.hung_up(bye),
            Arrival::Whole(_) | Arrival::Part | Arrival::Nothing => {}
        }
        if is_data {
            self.give_back_credits();
        }
        if credits > 0 {
            self.pump();
        }
    }

    /// What is in a slot, and the credits that came along; `None` when the peer broke the protocol.
    fn take(&self, state: &mut State, slot: usize, completion: &ibv_wc) -> Option<(Arrival, u32)> {
        if completion.opcode == opcode::IBV_WC_RECV_RDMA_WITH_IMM {
            // SAFETY: a completion with immediate data has this member set.
            let value = u32::from_be(unsafe { completion.imm_data_invalidated_rkey_union.imm_data });
            use_credit(state)?;
            let bytes = completion.byte_len;
            return Some((Arrival::Whole(Received::Immediate { value, bytes }), 0));
        }
        // SAFETY: the receive has completed, and is posted again after this.
        let bytes = unsafe { self.slots.received(slot, completion.byte_len as usize) };
        let (head, payload) = Head::decode(bytes)?;
        let credits = u32::from(head.credits);
        state.credits += credits;
        if state.credits > u32::from(u16::MAX) {
            return None;
        }
        let arrival = match head.kind {
            Kind::Credits => Arrival::Nothing,
            Kind::Bye(bye) => Arrival::Bye(bye),
            Kind::Fragment { last } => {
                use_credit(state)?;
                if state.assembling.len() + payload.len() > MESSAGE_BYTES_MAX {
                    return None;
                }
                if last && state.assembling.is_empty() {
                    Arrival::Whole(Received::Message(Bytes::copy_from_slice(payload)))
                } else {
                    state.assembling.extend_from_slice(payload);
                    match last {
                        true => {
                            Arrival::Whole(Received::Message(std::mem::take(&mut state.assembling).into()))
                        }
                        false => Arrival::Part,
                    }
                }
            }
        };
        Some((arrival, credits))
    }

    /// Tells the peer of receives that are ready again, when they are enough to be worth a SEND and are being used.
    pub(super) fn give_back_credits(&self) {
        if self.state.lock().owed < CREDITS_EVERY {
            return;
        }
        if self.pair.receives.has_room() {
            self.queue_credits();
        } else {
            // The connection's task does it when there is room.
            self.work.notify_one();
        }
    }

    /// Whether credits are due that wait for room in the receive queue.
    pub(super) fn owes_credits(&self) -> bool {
        let state = self.state.lock();
        state.owed >= CREDITS_EVERY && !state.credits_queued
    }

    fn hung_up(&self, bye: Bye) {
        match bye {
            Bye::Closed => self.fail(ConnectionError::PeerClosed, OperationError::Flushed),
            Bye::Mine(error) => self.fail(ConnectionError::Refused(error), OperationError::Flushed),
            Bye::Yours(error) => self.fail(ConnectionError::Operation(error), error),
        }
    }

    /// The peer did what it may not, and the device has not noticed.
    fn refuse(&self, error: OperationError) {
        self.fail(ConnectionError::Refused(error), OperationError::Flushed);
    }

    fn receive_failed(&self, outcome: status::Type) {
        match outcome {
            status::IBV_WC_WR_FLUSH_ERR | status::IBV_WC_REM_ACCESS_ERR => self.flushed(),
            _ => self.refuse(OperationError::RemoteOperation),
        }
        self.work.notify_one();
    }

    /// A send completed with an error; `is_operation` when it belonged to an operation, which is the oldest now.
    pub(super) fn operation_failed(&self, outcome: status::Type, is_operation: bool) {
        let error = match outcome {
            status::IBV_WC_WR_FLUSH_ERR => {
                self.flushed();
                self.work.notify_one();
                return;
            }
            status::IBV_WC_REM_ACCESS_ERR => OperationError::RemoteAccess,
            status::IBV_WC_RETRY_EXC_ERR => OperationError::RetryExceeded,
            status::IBV_WC_RNR_RETRY_EXC_ERR => OperationError::ReceiverNotReady,
            status::IBV_WC_LOC_LEN_ERR
            | status::IBV_WC_LOC_QP_OP_ERR
            | status::IBV_WC_LOC_PROT_ERR
            | status::IBV_WC_LOC_ACCESS_ERR
            | status::IBV_WC_MW_BIND_ERR => OperationError::LocalProtection,
            _ => OperationError::RemoteOperation,
        };
        let reason = match error {
            OperationError::RetryExceeded => ConnectionError::PeerGone,
            error => ConnectionError::Operation(error),
        };
        self.fail(reason, if is_operation { error } else { OperationError::Flushed });
        self.work.notify_one();
    }

    /// The queue pair is in its error state. If nothing here has failed, a request of the peer was refused.
    fn flushed(&self) {
        self.refuse(OperationError::RemoteAccess);
    }
}
