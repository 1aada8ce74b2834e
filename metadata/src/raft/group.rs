//! One Raft group in this process: group commit of commands, and reads that share a round of leadership confirmation.
//!
//! Commands that wait while the last entry is under way are proposed as one entry: under load entries grow, and alone a
//! command waits for nobody. Reads that wait while a round of `ReadIndex` is under way share the next one, and are answered
//! from the local table by a thread that may block. A reply goes straight into the connection that asked.

use crate::api::index::IndexAnswerAt;
use crate::api::{ClusterAnswer, ClusterQuery, ClusterReply, IndexQuery};
use crate::api::{Envelope, IndexCommand, IndexReply};
use crate::net::{Frame, Kind, Outbox};
use crate::raft::{
    BatchBuilder, ClusterEnvelope, ENVELOPE_BYTES_MAX, Machine, NetworkFactory, Raft, Replica, Replies,
};
use crate::state::query_index;
use crate::store::LogStore;
use crate::table::{Table, TableError};
use bytes::Bytes;
use openraft::error::{CheckIsLeaderError, ForwardToLeader, RaftError};
use openraft::{Config, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tenfour_types::MetaGroupId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Commands, and as many reads, that wait at a group; more are refused as busy.
const WAITING_MAX: usize = 4096;
/// Most commands of one entry.
const COMMANDS_PER_ENTRY_MAX: usize = 512;
/// Most reads of one round.
const READS_PER_ROUND_MAX: usize = 512;
/// A round of `ReadIndex` takes at most this long, its wait for the table included.
const ROUND_TIMEOUT: Duration = Duration::from_millis(1500);
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

/// Why a request was not answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// Nothing happened: this replica does not lead the group. Who does, if that is known, and where.
    NotLeader(Option<(u64, String)>),
    /// It may have happened, or may still.
    Undecided,
    /// Nothing happened, and asking again does not help.
    Refused(String),
    /// Nothing happened: too much is waiting.
    Busy,
}

impl Failure {
    /// The frame that says so.
    pub(crate) fn write(&self, out: &mut Vec<u8>, id: u64, group: u16) -> std::io::Result<()> {
        match self {
            Self::NotLeader(leader) => Frame::write(out, id, Kind::NotLeader, group, leader),
            Self::Undecided => Frame::write(out, id, Kind::Undecided, group, &()),
            Self::Refused(why) => Frame::write(out, id, Kind::Refused, group, why),
            Self::Busy => Frame::write(out, id, Kind::Busy, group, &()),
        }
    }
}

/// What became of a command.
pub(crate) type Outcome = Result<CommandReply, Failure>;

/// The reply to a command.
pub(crate) enum CommandReply {
    Index(IndexReply),
    /// With the number of the fence to wait for.
    Cluster(ClusterReply, u64),
}

/// Where a command's outcome goes.
pub(crate) enum ReplyTo {
    Connection { outbox: Arc<Outbox>, id: u64 },
    Here(oneshot::Sender<Outcome>),
}

/// A linearizable read.
pub(crate) enum Question {
    Index(IndexQuery),
    /// Answered by the function of whoever runs group 0.
    Cluster(ClusterQuery),
}

/// Where a read's answer goes.
pub(crate) struct ReadReply {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) id: u64,
}

/// Answers queries of group 0.
pub(crate) type AnswerCluster =
    Arc<dyn Fn(&dyn Table, u64, ClusterQuery) -> Result<ClusterAnswer, TableError> + Send + Sync>;

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
        failed.map(|error| format!("Raft group {}: {error}", self.id.0))
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
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election_min),
        election_timeout_max: ms(timing.election_max),
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

struct Proposer {
    group: MetaGroupId,
    raft: Raft,
}

impl Proposer {
    async fn run(self, mut queue: mpsc::Receiver<(Bytes, ReplyTo)>) {
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

fn fail(group: u16, senders: Vec<ReplyTo>, failure: &Failure, touched: &mut Vec<Arc<Outbox>>) {
    for sender in senders {
        answer(group, sender, Err(failure.clone()), touched);
    }
}

fn answer_soon(group: u16, reply: ReplyTo, outcome: Outcome) {
    let mut touched = Vec::new();
    answer(group, reply, outcome, &mut touched);
    for outbox in touched {
        outbox.send_soon();
    }
}

/// Hands an outcome over. The connection it was put into is added to `touched`: the caller has it sent.
fn answer(group: u16, reply: ReplyTo, outcome: Outcome, touched: &mut Vec<Arc<Outbox>>) {
    match reply {
        ReplyTo::Here(sender) => {
            let _ = sender.send(outcome);
        }
        ReplyTo::Connection { outbox, id } => {
            outbox.put(|out| match &outcome {
                Ok(CommandReply::Index(reply)) => Frame::write(out, id, Kind::Done, group, reply),
                Ok(CommandReply::Cluster(reply, _)) => Frame::write(out, id, Kind::Done, group, reply),
                Err(failure) => failure.write(out, id, group),
            });
            touch(touched, outbox);
        }
    }
}

fn touch(touched: &mut Vec<Arc<Outbox>>, outbox: Arc<Outbox>) {
    if !touched.iter().any(|known| Arc::ptr_eq(known, &outbox)) {
        touched.push(outbox);
    }
}

fn not_leader(forward: ForwardToLeader<u64, Replica>) -> Failure {
    let address = forward.leader_node.map(|node| node.address).unwrap_or_default();
    Failure::NotLeader(forward.leader_id.map(|id| (id, address)))
}

struct Reader {
    group: MetaGroupId,
    raft: Raft,
    machine: Machine,
    answer_cluster: AnswerCluster,
}

impl Reader {
    async fn run(self, mut queue: mpsc::Receiver<(Question, ReadReply)>) {
        let mut waiting = Vec::new();
        while queue.recv_many(&mut waiting, READS_PER_ROUND_MAX).await > 0 {
            let round = std::mem::take(&mut waiting);
            match tokio::time::timeout(ROUND_TIMEOUT, self.raft.ensure_linearizable()).await {
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
                outbox.put(|out| match answer {
                    Ok(Answer::Index(answer)) => Frame::write(out, id, Kind::Done, group, &answer),
                    Ok(Answer::Cluster(answer)) => Frame::write(out, id, Kind::Done, group, &answer),
                    Err(error) => Failure::Refused(error.to_string()).write(out, id, group),
                });
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
