//! What a connection has in hand: what waits, what the device has, credits, and where it stands. Kept under one lock.
//!
//! Invariant: `posted` is in the order of posting; `oldest` numbers its first entry.

use super::device::{RECEIVE_SLOTS, SEND_SLOTS};
use super::message::Bye;
use super::queue_pair::Local;
use super::window::Opening;
use crate::Remote;
use crate::engine::send_queue::Operation;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

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
    pub(super) outbox: VecDeque<Outgoing>,
    pub(super) control: VecDeque<Control>,
    pub(super) posted: VecDeque<Posted>,
    /// The number of the oldest entry of `posted`.
    pub(super) oldest: u64,
    pub(super) posted_data: usize,
    /// A thread is posting; it takes what is added meanwhile.
    pub(super) posting: bool,
    pub(super) free_slots: Vec<usize>,
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
pub(super) struct Outgoing {
    pub(super) sequence: u64,
    /// The last of its chain.
    pub(super) signalled: bool,
    pub(super) what: Data,
}

pub(super) enum Data {
    Write { local: Local, to: Remote, immediate: Option<u32> },
    Read { local: Local, from: Remote },
    Fragment { bytes: Bytes, last: bool },
}

pub(super) enum Control {
    Open(Arc<Opening>),
    Credits,
    Bye(Bye),
}

/// A work request that the device has.
pub(super) struct Posted {
    /// Operations up to this one are complete when it is.
    pub(super) through: u64,
    pub(super) sequence: u64,
    pub(super) slot: Option<usize>,
    pub(super) what: What,
}

pub(super) enum What {
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

impl State {
    /// Gives back what a work request held that the device has no longer.
    pub(super) fn leave(&mut self, entry: &Posted) {
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
    pub(super) fn max_of(self, other: Self) -> Self {
        if self < other { other } else { self }
    }
}
