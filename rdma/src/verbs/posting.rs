//! From what waits to the device: as much as there is room and credit for, in order, by one thread at a time.
//!
//! On a software device the post itself moves the bytes, so that large ones go to a thread that may block.
//!
//! Invariant: a work request is entered in `posted` before it is posted.

use super::link::{RECEIVE, VerbsLink};
use super::message::{HEAD_BYTES, Head, Kind};
use super::queue_pair::{CONTROL_REQUESTS, DATA_REQUESTS, INLINE_BYTES, Local, Posting, Request};
use super::state::{Control, Data, Outgoing, Phase, Posted, State, What};
use crate::{ConnectionError, OperationError};
use std::time::Instant;

/// Work requests of one post.
const CHAIN: usize = 16;
/// A software device gets larger posts from a thread that may block, bytes.
const POST_BYTES: usize = 64 << 10;

impl VerbsLink {
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
                    (tokio::runtime::Handle::try_current(), self.weak().upgrade())
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
        self.fail(ConnectionError::PeerGone, OperationError::RetryExceeded);
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
        // Not before all that waits of the above: a message must not arrive before the window that it tells of is open.
        while chain.len() < CHAIN
            && state.control.is_empty()
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
