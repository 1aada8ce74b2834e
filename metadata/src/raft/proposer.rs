//! Group commit: commands that wait while the last entry is under way are proposed as one entry.
//!
//! It knows nothing of what a command does, only whether it can be read: what cannot is never proposed.

use crate::api::{Envelope, IndexCommand};
use crate::raft::reply::{answer, answer_soon, fail};
use crate::raft::{BatchBuilder, ClusterEnvelope, CommandReply, Failure, Raft, Replies, ReplyTo};
use bytes::Bytes;
use tenfour_types::MetaGroupId;
use tokio::sync::mpsc;

/// Most commands of one entry.
const COMMANDS_PER_ENTRY_MAX: usize = 512;

pub(super) struct Proposer {
    pub(super) group: MetaGroupId,
    pub(super) raft: Raft,
}

impl Proposer {
    /// Until the group ends.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<(Bytes, ReplyTo)>) {
        let mut waiting = Vec::new();
        loop {
            let room = COMMANDS_PER_ENTRY_MAX.saturating_sub(waiting.len()).max(1);
            if waiting.is_empty() {
                if queue.recv_many(&mut waiting, room).await == 0 {
                    return;
                }
            } else {
                while waiting.len() < COMMANDS_PER_ENTRY_MAX
                    && let Ok(next) = queue.try_recv()
                {
                    waiting.push(next);
                }
            }
            let mut batch = BatchBuilder::new();
            let mut senders = Vec::with_capacity(waiting.len());
            let mut left = Vec::new();
            for (envelope, reply) in waiting.drain(..) {
                if !left.is_empty() {
                    left.push((envelope, reply));
                } else if !self.is_readable(&envelope) {
                    let failure = Failure::Refused("the command is not readable".to_owned());
                    answer_soon(self.group.0, reply, Err(failure));
                } else if batch.push(&envelope) {
                    senders.push(reply);
                } else {
                    left.push((envelope, reply));
                }
            }
            waiting = left;
            if !senders.is_empty() {
                self.propose(batch, senders).await;
            }
        }
    }

    /// What the leader cannot read is never proposed, for every replica would have to stop at it.
    fn is_readable(&self, envelope: &[u8]) -> bool {
        if self.group.0 == 0 {
            matches!(postcard::take_from_bytes::<ClusterEnvelope>(envelope), Ok((_, [])))
        } else {
            matches!(postcard::take_from_bytes::<Envelope<IndexCommand>>(envelope), Ok((_, [])))
        }
    }

    async fn propose(&self, batch: BatchBuilder, senders: Vec<ReplyTo>) {
        let mut touched = Vec::new();
        if let Some(elsewhere) = self.elsewhere() {
            fail(self.group.0, senders, &elsewhere, &mut touched);
            for outbox in touched {
                outbox.send_soon();
            }
            return;
        }
        match self.raft.client_write(batch.build()).await {
            Ok(written) => match written.data {
                Replies::Index(replies) => {
                    for (sender, reply) in senders.into_iter().zip(replies) {
                        answer(self.group.0, sender, Ok(CommandReply::Index(reply)), &mut touched);
                    }
                }
                Replies::Cluster(replies) => {
                    for (sender, (reply, fence)) in senders.into_iter().zip(replies) {
                        answer(self.group.0, sender, Ok(CommandReply::Cluster(reply, fence)), &mut touched);
                    }
                }
                Replies::None => fail(self.group.0, senders, &Failure::Undecided, &mut touched),
            },
            // Also when openraft says that another one leads: an entry that was cut off this log may live on in another's, and be
            // committed by a later leader.
            Err(_) => fail(self.group.0, senders, &Failure::Undecided, &mut touched),
        }
        for outbox in touched {
            outbox.send_now();
        }
    }
}

impl Proposer {
    /// Before anything is proposed: who leads, when it is not this replica.
    fn elsewhere(&self) -> Option<Failure> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader;
        if leader == Some(metrics.id) {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let address = |id: u64| membership.get_node(&id).map(|node| node.address.clone()).unwrap_or_default();
        Some(Failure::NotLeader(leader.map(|id| (id, address(id)))))
    }
}
