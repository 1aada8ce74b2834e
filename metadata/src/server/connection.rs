//! The listener and its connections: prove the key, find out who asks, hand requests on.
//!
//! Commands and reads of the index groups go straight to their group, without a task of their own; their answers are put into
//! the connection by whoever has them. Everything rarer runs in a task, so that nothing waits behind it.

use crate::api::cluster::{Heartbeat, RepairProgress};
use crate::api::{ClusterCommand, ClusterQuery, IndexQuery};
use crate::client::status::{GroupStatus, ReplicaStatus};
use crate::net::{Frame, FrameReader, Hello, Kind, Outbox, Role};
use crate::raft::{ClusterEnvelope, CommandReply, Failure, Question, ReadReply, ReplyTo, put_done};
use crate::server::cluster::Heard;
use crate::server::{Core, bootstrap, members, peers};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_rdma::handshake;
use tenfour_types::Scaled;
use tenfour_types::{ConfigVersion, Epoch, NodeId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 1024;
/// A new connection proves the key within this.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests of one connection that run in tasks of their own; more are refused as busy.
const TASKS_PER_CONNECTION_MAX: usize = 1024;
/// Who watches for a change is answered after this even when there is none.
const WATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// A command of group 0 waits so long for its fences.
const FENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// After a failed accept (no descriptors left) the listener rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn listen(core: Arc<Core>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, from)) => {
                let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                    tracing::warn!(%from, "refused: too many connections");
                    continue;
                };
                let core = Arc::clone(&core);
                connections.spawn(async move {
                    if let Err(why) = serve(&core, stream).await {
                        tracing::info!(%from, why, "a connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(core: &Arc<Core>, mut stream: TcpStream) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let ours = core.hello.to_bytes();
    let proved = handshake::accept(&mut stream, &core.introduction.key, &ours);
    let theirs =
        tokio::time::timeout(HANDSHAKE_TIMEOUT.scaled(), proved).await.map_err(|_| "no handshake in time")?;
    let theirs = core.hello.check(&theirs.map_err(|error| error.to_string())?)?;
    let role = role_of(core, &theirs);
    let (read, write) = stream.into_split();
    let outbox = Arc::new(Outbox::new(write));
    let mut tasks = JoinSet::new();
    let writer = Arc::clone(&outbox);
    tasks.spawn(async move { writer.run().await });
    let mut connection = Connection { core: Arc::clone(core), role, outbox: Arc::clone(&outbox), tasks };
    let result = connection.run(FrameReader::new(read)).await;
    outbox.close();
    result
}

/// A replica that lost its store is no peer, whatever its id; it may still ask as a client, and so learn of its loss.
fn role_of(core: &Core, theirs: &Hello) -> Role {
    match theirs.role {
        Role::Replica { id, incarnation }
            if members::member(core, id).is_some_and(|member| member.incarnation != incarnation) =>
        {
            tracing::warn!(id, "a replica has lost its store and came back under its old id: it is no peer");
            Role::Client
        }
        role => role,
    }
}

/// One connection.
struct Connection {
    core: Arc<Core>,
    role: Role,
    outbox: Arc<Outbox>,
    tasks: JoinSet<()>,
}

impl Connection {
    async fn run(&mut self, mut frames: FrameReader) -> Result<(), String> {
        loop {
            self.outbox.ready().await;
            match frames.next().await {
                Ok(Some(frame)) => self.take(frame),
                Ok(None) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn take(&mut self, frame: Frame) {
        let Frame { id, kind, group, .. } = frame;
        let from_peer = matches!(self.role, Role::Replica { .. });
        let Some(raft_group) = self.core.group(group) else {
            return self.refuse(id, group, "there is no such metadata group");
        };
        match kind {
            Kind::Commit if group > 0 => {
                raft_group.commit(frame.body, ReplyTo::Connection { outbox: Arc::clone(&self.outbox), id });
            }
            Kind::Query if group > 0 => match frame.decode::<IndexQuery>() {
                Some(query) => self.ask(&frame, Question::Index(query)),
                None => self.refuse(id, group, "the query is not readable"),
            },
            Kind::ClusterQuery if group == 0 => match frame.decode::<ClusterQuery>() {
                Some(query) => self.ask(&frame, Question::Cluster(query)),
                None => self.refuse(id, group, "the query is not readable"),
            },
            Kind::Append | Kind::Vote | Kind::SnapshotBegin | Kind::SnapshotChunk | Kind::SnapshotEnd
                if from_peer =>
            {
                self.spawn(frame, |asked| async move { peers::serve(&asked).await });
            }
            Kind::Initialise if from_peer => {
                self.spawn(frame, |asked| async move { bootstrap::initialise(&asked).await });
            }
            Kind::Greet => {
                self.spawn(frame, |asked| async move { asked.done(&bootstrap::greeting(&asked.core)) });
            }
            Kind::Cluster if group == 0 => {
                self.spawn(frame, |asked| async move { cluster_command(&asked).await });
            }
            Kind::Heartbeat if group == 0 => match frame.decode::<Heartbeat>() {
                Some(heartbeat) => self.heartbeat(id, heartbeat),
                None => self.refuse(id, group, "the heartbeat is not readable"),
            },
            Kind::Watch if group == 0 => self.spawn(frame, |asked| async move { watch(&asked).await }),
            Kind::Status => self.spawn(frame, |asked| async move { asked.done(&status(&asked.core)) }),
            Kind::Members => self.spawn(frame, |asked| async move { members::change(&asked).await }),
            _ => self.refuse(id, group, "not a request that is served here"),
        }
    }

    fn ask(&self, frame: &Frame, question: Question) {
        if let Some(group) = self.core.group(frame.group) {
            group.ask(question, ReadReply { outbox: Arc::clone(&self.outbox), id: frame.id });
        }
    }

    fn refuse(&self, id: u64, group: u16, why: &str) {
        self.outbox.put(|out| Failure::Refused(why.to_owned()).write(out, id, group));
        self.outbox.send_soon();
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        frame: Frame,
        serve: impl FnOnce(Asked) -> F,
    ) {
        while self.tasks.try_join_next().is_some() {}
        let asked = Asked { core: Arc::clone(&self.core), outbox: Arc::clone(&self.outbox), frame };
        if self.tasks.len() > TASKS_PER_CONNECTION_MAX {
            return asked.fail(&Failure::Busy);
        }
        self.tasks.spawn(serve(asked));
    }

    fn heartbeat(&self, id: u64, heartbeat: Heartbeat) {
        if self.core.leads(0) {
            let epoch = self.core.cluster.versions().borrow().epoch;
            let Heartbeat { node, poisoned, repair, .. } = heartbeat;
            let heard = Heard { at: Instant::now(), poisoned, repair };
            self.core.cluster.heard.lock().insert(node, heard);
            self.outbox.put(|out| Frame::write(out, id, Kind::Done, 0, &epoch));
        } else {
            let failure = Failure::NotLeader(members::leader(&self.core, 0));
            self.outbox.put(|out| failure.write(out, id, 0));
        }
        self.outbox.send_soon();
    }
}

/// A request that is served by a task.
pub(super) struct Asked {
    pub(super) core: Arc<Core>,
    outbox: Arc<Outbox>,
    pub(super) frame: Frame,
}

impl Asked {
    pub(super) fn done<T: Serialize>(&self, value: &T) {
        put_done(&self.outbox, self.frame.id, self.frame.group, value, &Failure::too_large());
        self.outbox.send_soon();
    }

    pub(super) fn fail(&self, failure: &Failure) {
        self.outbox.put(|out| failure.write(out, self.frame.id, self.frame.group));
        self.outbox.send_soon();
    }

    pub(super) fn refuse(&self, why: impl Into<String>) {
        self.fail(&Failure::Refused(why.into()));
    }
}

/// A command of group 0 is answered when its fences are committed everywhere.
async fn cluster_command(asked: &Asked) {
    let registering = registering(asked);
    // Before it is applied, so that no verdict falls between; and after, for it may have waited.
    hear(&asked.core, registering);
    match asked.core.cluster_group().commit_here(asked.frame.body.clone()).await {
        Ok(CommandReply::Cluster(reply, fence)) => {
            hear(&asked.core, registering);
            let mut versions = asked.core.cluster.versions();
            let fenced = versions.wait_for(|versions| fence == 0 || versions.fences_done >= fence);
            match tokio::time::timeout(FENCE_TIMEOUT.scaled(), fenced).await {
                Ok(Ok(_)) => asked.done(&reply),
                _ => asked.fail(&Failure::Undecided),
            }
        }
        Ok(CommandReply::Index(_)) => asked.refuse("not a command of group 0"),
        Err(failure) => asked.fail(&failure),
    }
}

/// The node that registers with this command.
fn registering(asked: &Asked) -> Option<NodeId> {
    match asked.frame.decode::<ClusterEnvelope>()?.command {
        ClusterCommand::RegisterNode { node, .. } => Some(node),
        _ => None,
    }
}

/// A registration is a sign of life: a node that comes back is not judged by when it was heard of before it went.
fn hear(core: &Core, node: Option<NodeId>) {
    if let Some(node) = node
        && core.leads(0)
    {
        let mut heard = core.cluster.heard.lock();
        let fresh = || Heard { at: Instant::now(), poisoned: Vec::new(), repair: RepairProgress::default() };
        heard.entry(node).or_insert_with(fresh).at = Instant::now();
    }
}

/// Answers when the map or the config is newer than what the asker knows. A hint: what this replica has applied.
async fn watch(asked: &Asked) {
    let Some((epoch, config)) = asked.frame.decode::<(Epoch, ConfigVersion)>() else {
        return asked.refuse("the watch is not readable");
    };
    let mut versions = asked.core.cluster.versions();
    let changed = versions.wait_for(|now| now.epoch > epoch || now.config > config);
    let _ = tokio::time::timeout(WATCH_TIMEOUT.scaled(), changed).await;
    let now = *asked.core.cluster.versions().borrow();
    asked.done(&(now.epoch, now.config));
}

fn status(core: &Core) -> ReplicaStatus {
    let groups = core.groups.iter().map(|group| {
        let metrics = group.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        GroupStatus {
            group: group.id,
            leader: metrics.current_leader,
            term: metrics.current_term,
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.map_or(0, |id| id.index),
            purged_index: metrics.purged.map_or(0, |id| id.index),
        }
    });
    ReplicaStatus { replica: core.id, groups: groups.collect() }
}
