//! One replica process of the metadata service: its stores, its Raft groups, and the listener that serves clients and peers.
//!
//! It serves nothing but the metadata service, decides nothing by itself, and never exits: when a Raft core or a store died,
//! [`MetadataServer::fatal`] says so and whoever runs the process ends it.

mod bootstrap;
mod cluster;
mod connection;
mod detector;
mod fences;
mod members;
mod peers;
mod start;

pub(crate) use members::MembersRequest;
pub use start::StartError;

use crate::api::User;
use crate::net::{Hello, Identity as Introduction};
use crate::raft::{Group, Links, RaftTiming};
use crate::server::cluster::Cluster;
use crate::server::detector::Patience;
use crate::server::peers::Receiving;
use crate::store::{Database, Writer};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tenfour_rdma::ClusterKey;
use tenfour_types::Scaled;
use tenfour_types::limits::{NODE_DOWN_AFTER_MS, NODE_OUT_AFTER_MS, NODE_SUSPECT_AFTER_MS};
use tenfour_types::{ClusterId, MetaGroupId};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often the server looks whether a group died or its log wants a checkpoint.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A server that stops waits so long for its store to be released.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a replica has to know to start.
pub struct MetadataServerConfig {
    /// Its id, from 1 on. Never used again once its store was lost.
    pub id: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's secret.
    pub cluster_key: ClusterKey,
    /// Where to listen.
    pub listen: SocketAddr,
    /// All replicas that are known, with this one, and where the others reach them.
    pub peers: BTreeMap<u64, SocketAddr>,
    /// Its own folder.
    pub folder: PathBuf,
    /// How many groups the object index is divided into. Fixed when the cluster is begun.
    pub index_groups: u16,
    /// This replica may begin a brand-new cluster, of all `peers`, when none of them nor its folder knows of one.
    pub bootstrap: bool,
    /// The first user of a brand-new cluster.
    pub root_user: Option<User>,
    /// A node that was silent for so long is suspected, unless it is down by then.
    pub node_suspect_after: Duration,
    /// A node that was silent for so long is marked down.
    pub node_down_after: Duration,
    /// A node that is down and was silent for so long is taken out, and its shards are made anew elsewhere; `None`: not without being
    /// told.
    pub node_out_after: Option<Duration>,
    /// The clocks of Raft.
    pub timing: RaftTiming,
    /// Entries that a group's log keeps below its last checkpoint: a replica that was away for no longer than these needs no snapshot.
    pub log_kept_entries: u64,
}

impl MetadataServerConfig {
    /// A configuration with the default number of index groups and default times, that begins no cluster.
    pub fn new(
        id: u64,
        cluster: ClusterId,
        cluster_key: ClusterKey,
        peers: BTreeMap<u64, SocketAddr>,
        listen: SocketAddr,
        folder: PathBuf,
    ) -> Self {
        Self {
            id,
            cluster,
            cluster_key,
            listen,
            peers,
            folder,
            index_groups: 2,
            bootstrap: false,
            root_user: None,
            node_suspect_after: Duration::from_millis(NODE_SUSPECT_AFTER_MS),
            node_down_after: Duration::from_millis(NODE_DOWN_AFTER_MS),
            node_out_after: Some(Duration::from_millis(NODE_OUT_AFTER_MS)),
            timing: RaftTiming::default(),
            log_kept_entries: 2_000,
        }
    }
}

/// What all parts of a running replica share.
pub(crate) struct Core {
    id: u64,
    incarnation: u128,
    peers: BTreeMap<u64, SocketAddr>,
    patience: Patience,
    introduction: Introduction,
    hello: Hello,
    links: Arc<Links>,
    /// By id: group 0, then the index groups.
    groups: Vec<Group>,
    cluster: Arc<Cluster>,
    receiving: Receiving,
    fatal: watch::Sender<Option<String>>,
}

impl Core {
    fn group(&self, group: u16) -> Option<&Group> {
        self.groups.get(usize::from(group))
    }

    fn cluster_group(&self) -> &Group {
        &self.groups[0]
    }

    fn index_groups(&self) -> impl Iterator<Item = MetaGroupId> + '_ {
        self.groups.iter().skip(1).map(|group| group.id)
    }

    fn leads(&self, group: u16) -> bool {
        self.group(group).is_some_and(|group| group.leader() == Some(self.id))
    }

    /// A task that panics ends the process: what it did would not be done any more, and nobody would notice.
    async fn watched(self: Arc<Self>, name: &'static str, task: impl Future<Output = ()>) {
        let _alarm = Alarm { core: self, name };
        task.await;
    }

    fn die(&self, why: String) {
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            fatal.get_or_insert(why);
            first
        });
    }
}

/// Told when its task panics.
struct Alarm {
    core: Arc<Core>,
    name: &'static str,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.core.die(format!("the {} panicked", self.name));
        }
    }
}

/// A running replica: all its groups.
pub struct MetadataServer {
    core: Arc<Core>,
    database: Arc<Database>,
    writer: Writer,
    local_addr: SocketAddr,
    tasks: JoinSet<()>,
}

impl MetadataServer {
    /// Opens the folder, starts the groups and the listener, and begins the cluster if it is told to and may.
    pub fn start(config: MetadataServerConfig) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(start::start(config))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Resolves, with the reason, when a Raft core, a store or a task of the replica died: the process must exit, and may be started again.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.core.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the replica has stopped".to_owned(),
        }
    }

    /// Makes the tables durable and lets go of the logs below them, as happens by itself from time to time.
    pub async fn checkpoint(&self) {
        for group in &self.core.groups {
            group.checkpoint().await;
        }
    }

    /// Stops: connections end, groups stop, the store is released. What was acknowledged is durable already.
    pub fn shutdown(self) -> BoxFuture<'static, ()> {
        Box::pin(self.end())
    }

    async fn end(self) {
        let Self { core, database, writer, mut tasks, .. } = self;
        tasks.shutdown().await;
        for group in &core.groups {
            group.stop().await;
        }
        core.links.close();
        drop(core);
        let _ = tokio::task::spawn_blocking(move || writer.stop()).await;
        let released = async {
            while Arc::strong_count(&database) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(RELEASE_TIMEOUT.scaled(), released).await.is_err() {
            tracing::warn!("the replica stopped, but something still holds its store");
        }
    }
}
