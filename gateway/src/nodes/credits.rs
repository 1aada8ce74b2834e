//! Staging credits: which slots of which node may be written to now.
//!
//! Who needs several takes them all at one moment or waits holding none ([`Credits::all`]), so requests cannot block each other in a ring. Whoever
//! was granted credits writes at once or drops them, which puts them back.
//!
//! Invariant: a credit is free, or in one `Credit`, or its slot is written to and the node has not answered; a credit of a
//! connection that ended is nowhere.

use super::link::{Link, StoreAnswer};
use super::{Failure, Inbox};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tenfour_rdma::{Frozen, Provider, Remote};
use tenfour_types::NodeId;
use tokio::sync::oneshot;

#[derive(Default)]
pub(crate) struct Credits {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    nodes: HashMap<NodeId, NodeCredits>,
    /// In order of arrival. One per stripe that is being written, at most.
    waiters: VecDeque<Waiter>,
}

struct NodeCredits {
    link: Arc<Link>,
    slots: usize,
    free: Vec<(u16, Remote)>,
}

struct Waiter {
    nodes: Vec<NodeId>,
    grant: oneshot::Sender<Vec<Credit>>,
}

/// One slot of a node, ours to write to once.
pub(crate) struct Credit {
    link: Arc<Link>,
    slot: u16,
    remote: Remote,
    home: Option<Arc<Credits>>,
}

/// A node that credits were wanted of is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

impl Credits {
    /// One credit of each node named (a node may be named several times), in that order, as soon as all are free at once.
    /// Dropping the future gives up the turn.
    pub(crate) async fn all(self: &Arc<Self>, nodes: &[NodeId]) -> Result<Vec<Credit>, Gone> {
        let (grant, granted) = oneshot::channel();
        let served = {
            let mut table = self.table.lock();
            if nodes.iter().any(|node| !table.nodes.contains_key(node)) {
                return Err(Gone);
            }
            table.waiters.push_back(Waiter { nodes: nodes.to_vec(), grant });
            table.serve(self)
        };
        hand_out(served);
        let mut turn = Turn { credits: self, granted: Some(granted) };
        match turn.granted.as_mut() {
            Some(granted) => granted.await.map_err(|_| Gone),
            None => Err(Gone),
        }
    }

    /// How many slots a node has granted altogether.
    pub(crate) fn slots_of(&self, node: NodeId) -> usize {
        self.table.lock().nodes.get(&node).map_or(0, |known| known.slots)
    }

    /// A connection stands, with these slots.
    pub(super) fn open(self: &Arc<Self>, link: Arc<Link>, slots: &[Remote]) {
        let free = slots.iter().enumerate().map(|(slot, remote)| (slot as u16, *remote)).collect();
        let served = {
            let mut table = self.table.lock();
            table.nodes.insert(link.node(), NodeCredits { link, slots: slots.len(), free });
            table.serve(self)
        };
        hand_out(served);
    }

    /// A connection ended: who waits for the node is told.
    pub(super) fn close(&self, link: &Link) {
        let mut table = self.table.lock();
        let node = link.node();
        if table.nodes.get(&node).is_some_and(|known| known.link.id() == link.id()) {
            table.nodes.remove(&node);
            table.waiters.retain(|waiter| !waiter.nodes.contains(&node));
        }
    }

    /// A slot may be written to again.
    pub(super) fn put(self: &Arc<Self>, link: &Link, slot: u16, remote: Remote) {
        let served = {
            let mut table = self.table.lock();
            match table.nodes.get_mut(&link.node()).filter(|known| known.link.id() == link.id()) {
                Some(known) => known.free.push((slot, remote)),
                None => return,
            }
            table.serve(self)
        };
        hand_out(served);
    }

    /// Credits that are free now.
    pub(crate) fn free_count(&self) -> usize {
        self.table.lock().nodes.values().map(|known| known.free.len()).sum()
    }
}

/// A place in the queue; when it is given up, those behind it may be served.
struct Turn<'a> {
    credits: &'a Arc<Credits>,
    granted: Option<oneshot::Receiver<Vec<Credit>>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(granted) = self.granted.take() else { return };
        let was_served = granted.is_terminated();
        drop(granted);
        if !was_served {
            let served = self.credits.table.lock().serve(self.credits);
            hand_out(served);
        }
    }
}

/// Outside the lock: what a waiter that has gone does not take comes back by being dropped, which takes the lock.
fn hand_out(served: Vec<(oneshot::Sender<Vec<Credit>>, Vec<Credit>)>) {
    for (grant, credits) in served {
        drop(grant.send(credits));
    }
}

impl Table {
    fn take(&mut self, nodes: &[NodeId], home: &Arc<Credits>) -> Option<Vec<Credit>> {
        let enough = nodes.iter().enumerate().all(|(position, node)| {
            let before =
                nodes.get(..position).unwrap_or_default().iter().filter(|other| *other == node).count();
            self.nodes.get(node).is_some_and(|known| known.free.len() > before)
        });
        if !enough {
            return None;
        }
        nodes
            .iter()
            .map(|node| {
                let known = self.nodes.get_mut(node)?;
                let (slot, remote) = known.free.pop()?;
                Some(Credit { link: known.link.clone(), slot, remote, home: Some(home.clone()) })
            })
            .collect()
    }

    /// Serves whom it can, in order; nobody is passed over by a later one that wants of the same node.
    fn serve(&mut self, home: &Arc<Credits>) -> Vec<(oneshot::Sender<Vec<Credit>>, Vec<Credit>)> {
        let mut served = Vec::new();
        let mut passed: Vec<NodeId> = Vec::new();
        if self.waiters.is_empty() {
            return served;
        }
        for waiter in std::mem::take(&mut self.waiters) {
            if waiter.grant.is_closed() {
                continue;
            }
            let is_next = !waiter.nodes.iter().any(|node| passed.contains(node));
            match if is_next { self.take(&waiter.nodes, home) } else { None } {
                Some(credits) => served.push((waiter.grant, credits)),
                None => {
                    passed.extend(&waiter.nodes);
                    self.waiters.push_back(waiter);
                }
            }
        }
        served
    }
}

impl Credit {
    /// What the record will go by.
    pub(crate) fn provider(&self) -> Provider {
        self.link.provider()
    }

    /// Writes a record into the slot. The answer, or the failure, comes to the inbox under `tag`; an error is one of posting.
    pub(crate) fn post(
        mut self,
        record: Frozen,
        inbox: &Arc<Inbox<StoreAnswer>>,
        tag: usize,
    ) -> Result<(), Failure> {
        match self.link.store(self.slot, self.remote, record, inbox, tag) {
            // Nothing was posted: the slot is as it was, and comes back with `self`.
            Err(failure @ Failure::Busy) => Err(failure),
            posted => {
                self.home = None;
                posted
            }
        }
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.put(&self.link, self.slot, self.remote);
        }
    }
}
