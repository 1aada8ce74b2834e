//! One Raft group in this process: its core, its queues of commands and reads, its checkpoints.
//!
//! Alone a command waits for nobody; what waits while another is under way shares the next entry or the next round. The queues
//! are bounded, and what does not fit is refused at once. A reply goes straight into the connection that asked.

use crate::raft::proposer::Proposer;
use crate::raft::reader::Reader;
use crate::raft::reply::answer_soon;
use crate::raft::{
    AnswerCluster, ENVELOPE_BYTES_MAX, Failure, Machine, NetworkFactory, Outcome, Question, Raft, ReadReply,
    ReplyTo,
};
use crate::store::LogStore;
use bytes::Bytes;
use openraft::{Config, SnapshotPolicy};
use std::sync::Arc;
use std::time::Duration;
use tenfour_types::MetaGroupId;
use tenfour_types::Scaled;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Commands, and as many reads, that wait at a group; more are refused as busy.
const WAITING_MAX: usize = 4096;
/// The log is checkpointed and purged when so many entries came since.
const CHECKPOINT_ENTRIES: u64 = 20_000;
/// The log is checkpointed and purged when so many bytes came since.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// Lag at which a learner counts as caught up, entries.
const LEARNER_LAG_ENTRIES: u64 = 100;
const ENTRIES_PER_MESSAGE: u64 = 512;

/// The clocks of Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTiming {
    /// The leader is heard of every so often (and a half).
    pub heartbeat: Duration,
    /// A follower that has not heard of the leader for `election_max` and a random time between the two stands for election.
    pub election_min: Duration,
    /// See `election_min`.
    pub election_max: Duration,
}

impl Default for RaftTiming {
    /// A killed leader is replaced within 1.6 to 2.4 seconds.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(1000),
        }
    }
}

pub(crate) struct GroupConfig {
    pub(crate) group: MetaGroupId,
    pub(crate) replica: u64,
    pub(crate) timing: RaftTiming,
    pub(crate) log_kept_entries: u64,
    pub(crate) log: LogStore,
    pub(crate) machine: Machine,
    pub(crate) network: NetworkFactory,
    pub(crate) answer_cluster: AnswerCluster,
}

/// One group.
pub(crate) struct Group {
    pub(crate) id: MetaGroupId,
    pub(crate) raft: Raft,
    pub(crate) machine: Machine,
    log: LogStore,
    commands: mpsc::Sender<(Bytes, ReplyTo)>,
    reads: mpsc::Sender<(Question, ReadReply)>,
    tasks: Vec<JoinHandle<()>>,
}

impl Group {
    pub(crate) async fn start(config: GroupConfig) -> Result<Self, String> {
        let GroupConfig { group, replica, timing, log_kept_entries, log, machine, network, answer_cluster } =
            config;
        let raft_config = raft_config(group, timing, log_kept_entries)?;
        let raft = Raft::new(replica, Arc::new(raft_config), network, log.clone(), machine.clone())
            .await
            .map_err(|error| error.to_string())?;
        let (commands, waiting_commands) = mpsc::channel(WAITING_MAX);
        let (reads, waiting_reads) = mpsc::channel(WAITING_MAX);
        let proposer = Proposer { group, raft: raft.clone() };
        let reader = Reader { group, raft: raft.clone(), machine: machine.clone(), answer_cluster };
        let tasks =
            vec![tokio::spawn(proposer.run(waiting_commands)), tokio::spawn(reader.run(waiting_reads))];
        Ok(Self { id: group, raft, machine, log, commands, reads, tasks })
    }

    /// Takes an encoded envelope; its outcome is sent when it is decided. Never waits.
    pub(crate) fn commit(&self, envelope: Bytes, reply: ReplyTo) {
        let refused = if envelope.len() > ENVELOPE_BYTES_MAX {
            Some((
                reply,
                Failure::Refused(format!("a command of {} bytes exceeds a log entry", envelope.len())),
            ))
        } else {
            self.commands.try_send((envelope, reply)).err().map(|error| (error.into_inner().1, Failure::Busy))
        };
        if let Some((reply, failure)) = refused {
            answer_soon(self.id.0, reply, Err(failure));
        }
    }

    /// [`Group::commit`], with the outcome here.
    pub(crate) async fn commit_here(&self, envelope: Bytes) -> Outcome {
        let (sender, outcome) = oneshot::channel();
        self.commit(envelope, ReplyTo::Here(sender));
        outcome.await.unwrap_or(Err(Failure::Undecided))
    }

    /// Takes a read; it is answered when it is certain to see everything acknowledged before. Never waits.
    pub(crate) fn ask(&self, question: Question, reply: ReadReply) {
        if let Err(error) = self.reads.try_send((question, reply)) {
            let ReadReply { outbox, id } = error.into_inner().1;
            outbox.put(|out| Failure::Busy.write(out, id, self.id.0));
            outbox.send_soon();
        }
    }

    /// The leader as this replica knows it.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow().current_leader
    }

    /// Why the group cannot go on in this process, once that is so.
    pub(crate) fn fatal(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let failed = metrics.borrow().running_state.as_ref().err().map(ToString::to_string);
        // Proposer and reader end with the group, or by a panic.
        let ended = || self.tasks.iter().any(JoinHandle::is_finished).then(|| "a task has ended".to_owned());
        failed.or_else(ended).map(|error| format!("Raft group {}: {error}", self.id.0))
    }

    /// Makes the table durable and purges the log below it, when enough has come since.
    pub(crate) async fn checkpoint_if_due(&self, done: &mut CheckpointDone) {
        let (applied, checkpointed) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.last_applied.map_or(0, |id| id.index), metrics.snapshot.map_or(0, |id| id.index))
        };
        let bytes = self.log.appended_bytes();
        let due = applied.saturating_sub(checkpointed.max(done.applied)) >= CHECKPOINT_ENTRIES
            || (bytes - done.bytes >= CHECKPOINT_BYTES && applied > checkpointed);
        if due && self.raft.trigger().snapshot().await.is_ok() {
            *done = CheckpointDone { applied, bytes };
        }
    }

    /// Makes the table durable and purges the log below it.
    pub(crate) async fn checkpoint(&self) {
        let _ = self.raft.trigger().snapshot().await;
    }

    pub(crate) async fn stop(&self) {
        for task in &self.tasks {
            task.abort();
        }
        let _ = self.raft.shutdown().await;
    }
}

/// What the last checkpoint covered.
#[derive(Default)]
pub(crate) struct CheckpointDone {
    applied: u64,
    bytes: u64,
}

fn raft_config(group: MetaGroupId, timing: RaftTiming, kept: u64) -> Result<Config, String> {
    let ms = |duration: Duration| duration.as_millis() as u64;
    Config {
        cluster_name: format!("group {}", group.0),
        heartbeat_interval: ms(timing.heartbeat.scaled()),
        election_timeout_min: ms(timing.election_min.scaled()),
        election_timeout_max: ms(timing.election_max.scaled()),
        install_snapshot_timeout: 10_000,
        max_payload_entries: ENTRIES_PER_MESSAGE,
        replication_lag_threshold: LEARNER_LAG_ENTRIES,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: kept,
        ..Config::default()
    }
    .validate()
    .map_err(|error| error.to_string())
}
