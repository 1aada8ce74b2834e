//! Linearizable reads: those that wait while a round of `ReadIndex` is under way share the next one.
//!
//! Answered from the local table by a thread that may block, and only after the round confirmed that this replica leads.

use crate::api::index::IndexAnswerAt;
use crate::api::{ClusterAnswer, ClusterQuery, IndexQuery};
use crate::net::Outbox;
use crate::raft::reply::{put_done, touch};
use crate::raft::{Failure, Machine, Raft, ReadReply, Replica};
use crate::state::query_index;
use crate::table::{Table, TableError};
use openraft::error::{CheckIsLeaderError, ForwardToLeader, RaftError};
use std::sync::Arc;
use std::time::Duration;
use tenfour_types::MetaGroupId;
use tenfour_types::Scaled;
use tokio::sync::mpsc;

/// Most reads of one round.
const READS_PER_ROUND_MAX: usize = 512;
/// A round of `ReadIndex` takes at most this long, its wait for the table included.
const ROUND_TIMEOUT: Duration = Duration::from_millis(1500);

/// A linearizable read.
pub(crate) enum Question {
    Index(IndexQuery),
    /// Answered by the function of whoever runs group 0.
    Cluster(ClusterQuery),
}

/// Answers queries of group 0.
pub(crate) type AnswerCluster =
    Arc<dyn Fn(&dyn Table, u64, ClusterQuery) -> Result<ClusterAnswer, TableError> + Send + Sync>;

pub(super) struct Reader {
    pub(super) group: MetaGroupId,
    pub(super) raft: Raft,
    pub(super) machine: Machine,
    pub(super) answer_cluster: AnswerCluster,
}

impl Reader {
    /// Until the group ends.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<(Question, ReadReply)>) {
        let mut waiting = Vec::new();
        while queue.recv_many(&mut waiting, READS_PER_ROUND_MAX).await > 0 {
            let round = std::mem::take(&mut waiting);
            match tokio::time::timeout(ROUND_TIMEOUT.scaled(), self.raft.ensure_linearizable()).await {
                Ok(Ok(_)) => self.answer(round),
                Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                    self.fail(round, &not_leader(forward));
                }
                // No majority confirmed the leadership in time: somebody else may lead.
                _ => self.fail(round, &Failure::NotLeader(None)),
            }
        }
    }

    fn answer(&self, round: Vec<(Question, ReadReply)>) {
        let (group, machine, answer_cluster) =
            (self.group.0, self.machine.clone(), Arc::clone(&self.answer_cluster));
        tokio::task::spawn_blocking(move || {
            let mut touched: Vec<Arc<Outbox>> = Vec::new();
            for (question, ReadReply { outbox, id }) in round {
                let answer = read(&machine, &answer_cluster, question);
                match answer {
                    Ok(Answer::Index(answer)) => put_done(&outbox, id, group, &answer, &Failure::too_large()),
                    Ok(Answer::Cluster(answer)) => {
                        put_done(&outbox, id, group, &answer, &Failure::too_large());
                    }
                    Err(error) => {
                        outbox.put(|out| Failure::Refused(error.to_string()).write(out, id, group));
                    }
                }
                touch(&mut touched, outbox);
            }
            for outbox in touched {
                outbox.send_now();
            }
        });
    }

    fn fail(&self, round: Vec<(Question, ReadReply)>, failure: &Failure) {
        for (_, ReadReply { outbox, id }) in round {
            outbox.put(|out| failure.write(out, id, self.group.0));
            outbox.send_soon();
        }
    }
}

enum Answer {
    Index(IndexAnswerAt),
    Cluster(ClusterAnswer),
}

fn read(machine: &Machine, answer_cluster: &AnswerCluster, question: Question) -> Result<Answer, TableError> {
    machine.read(|table, applied| match question {
        Question::Index(query) => query_index(table, applied, &query).map(Answer::Index),
        Question::Cluster(query) => answer_cluster(table, applied, query).map(Answer::Cluster),
    })
}

fn not_leader(forward: ForwardToLeader<u64, Replica>) -> Failure {
    let address = forward.leader_node.map(|node| node.address).unwrap_or_default();
    Failure::NotLeader(forward.leader_id.map(|id| (id, address)))
}
