//! Starting a replica: folder, identity, stores, groups, listener, and a new cluster if it is told to.

use crate::api::ClusterQuery;
use crate::net::{Hello, Identity as Introduction, Role};
use crate::raft::{
    AnswerCluster, CheckpointDone, Group, GroupConfig, Links, Machine, NetworkFactory, Tables,
};
use crate::server::cluster::Cluster;
use crate::server::detector::Patience;
use crate::server::peers::Receiving;
use crate::server::{
    Core, LOOK_EVERY, MetadataServer, MetadataServerConfig, bootstrap, connection, detector, fences,
};
use crate::store::{Database, Identity, IdentityError, LogStore, StoreError, Writer};
use crate::table::{FjallStore, SledStore, Table, TableError};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use tenfour_types::limits::ACCESS_KEY_BYTES_MAX;
use tenfour_types::{MetaGroupId, Scaled};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Most index groups.
const INDEX_GROUPS_MAX: u16 = 64;

/// Why a replica does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error("the configuration of the replica: {0}")]
    Config(String),
    /// The port is taken, or the address is not of this machine.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the operating system said.
        error: io::Error,
    },
    /// The folder is another's, or its store was lost.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tables.
    #[error("the tables of the metadata groups: {0}")]
    Table(#[from] TableError),
    /// A Raft core did not start.
    #[error("Raft: {0}")]
    Raft(String),
    /// A new cluster was to be begun where there is one.
    #[error(
        "replica {peer} at {address} belongs to a cluster already: no new one is begun. Start without bootstrap, or give the replicas new folders"
    )]
    ClusterExists {
        /// Who knows of it.
        peer: u64,
        /// Where.
        address: SocketAddr,
    },
    /// This id is a member's whose store is not here.
    #[error(
        "replica {id} is a member of the cluster, but this folder is empty: its store was lost. Remove replica {id} from the cluster and let this one join under a new id"
    )]
    LostStore {
        /// The id.
        id: u64,
    },
    /// A new cluster needs all its replicas.
    #[error("a new cluster is begun only when all its replicas answer: {0}")]
    PeersUnreachable(String),
    /// Something else.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl StartError {
    /// Whether starting again, unchanged, can succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::PeersUnreachable(_) | Self::Listen { .. })
    }
}

pub(super) async fn start(config: MetadataServerConfig) -> Result<MetadataServer, StartError> {
    check(&config)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| StartError::Listen { address: config.listen, error })?;
    let local_addr = listener.local_addr()?;
    let opened = {
        let wanted = Identity {
            cluster: config.cluster,
            replica: config.id,
            incarnation: rand::random(),
            index_groups: config.index_groups,
        };
        let folder = config.folder.clone();
        tokio::task::spawn_blocking(move || Opened::open(&folder, wanted))
            .await
            .map_err(io::Error::other)??
    };
    let Opened { identity, database, writer, logs, machines } = opened;
    let hello =
        Hello::new(config.cluster, Role::Replica { id: config.id, incarnation: identity.incarnation });
    let introduction = Introduction { key: config.cluster_key.clone(), hello: hello.clone() };
    let mut others = config.peers.clone();
    others.remove(&config.id);
    let links = Arc::new(Links::new(introduction.clone(), others));
    let begun = logs.first().is_some_and(LogStore::is_begun);
    let cluster = Arc::new(Cluster::new(machines[0].clone(), config.node_suspect_after.scaled()));
    let answer_cluster: AnswerCluster = {
        let cluster = Arc::clone(&cluster);
        Arc::new(move |table: &dyn Table, applied, query: ClusterQuery| cluster.answer(table, applied, query))
    };
    let mut groups = Vec::new();
    for (number, (log, machine)) in logs.into_iter().zip(machines).enumerate() {
        let number = number as u16;
        let group = GroupConfig {
            group: MetaGroupId(number),
            replica: config.id,
            timing: config.timing,
            log_kept_entries: config.log_kept_entries,
            log,
            machine,
            network: NetworkFactory { group: number, links: Arc::clone(&links) },
            answer_cluster: Arc::clone(&answer_cluster),
        };
        groups.push(Group::start(group).await.map_err(StartError::Raft)?);
    }
    let core = Arc::new(Core {
        id: config.id,
        incarnation: identity.incarnation,
        peers: config.peers.clone(),
        patience: Patience {
            down: config.node_down_after.scaled(),
            out: config.node_out_after.map(Scaled::scaled),
        },
        introduction,
        hello,
        links,
        receiving: Receiving::new(groups.len()),
        groups,
        cluster,
        fatal: watch::Sender::new(None),
    });
    let mut tasks = JoinSet::new();
    let watched =
        |name, task: Pin<Box<dyn Future<Output = ()> + Send>>| Arc::clone(&core).watched(name, task);
    tasks.spawn(watched("listener", Box::pin(connection::listen(Arc::clone(&core), listener))));
    tasks.spawn(watched("watch over the groups", Box::pin(watch_over(Arc::clone(&core), writer.clone()))));
    tasks.spawn(watched("view of group 0", Box::pin(Arc::clone(&core.cluster).follow())));
    tasks.spawn(watched("failure detector", Box::pin(detector::run(Arc::clone(&core)))));
    fences::spawn(&core, &mut tasks);
    let begun = bootstrap::run(&core, &config, begun, &mut tasks).await;
    let server = MetadataServer { core, database, writer, local_addr, tasks };
    match begun {
        Ok(()) => Ok(server),
        Err(error) => {
            server.shutdown().await;
            Err(error)
        }
    }
}

fn check(config: &MetadataServerConfig) -> Result<(), StartError> {
    let wrong = |text: &str| Err(StartError::Config(text.to_owned()));
    if config.id == 0 {
        return wrong("ids begin at 1");
    }
    if !config.peers.contains_key(&config.id) {
        return wrong("its peers have to contain the replica itself");
    }
    if !(1..=INDEX_GROUPS_MAX).contains(&config.index_groups) {
        return wrong("there are 1 to 64 index groups");
    }
    let root = config.root_user.as_ref().map(|user| user.access_key.len());
    if root.is_some_and(|bytes| !(1..=ACCESS_KEY_BYTES_MAX).contains(&bytes)) {
        return wrong("the root user's access key has 1 to 128 bytes");
    }
    Ok(())
}

/// A replica's folder, open.
struct Opened {
    identity: Identity,
    database: Arc<Database>,
    writer: Writer,
    logs: Vec<LogStore>,
    machines: Vec<Machine>,
}

impl Opened {
    /// Blocks.
    fn open(folder: &Path, wanted: Identity) -> Result<Self, StartError> {
        std::fs::create_dir_all(folder)?;
        let log_folder = folder.join("log");
        let known = Identity::read(folder, &wanted)?;
        if known.is_some() && !log_folder.join("db").exists() {
            return Err(IdentityError::LostStore { folder: folder.to_owned() }.into());
        }
        let database = Arc::new(Database::open(&log_folder)?);
        let identity = match known {
            Some(known) => {
                known.check_store(folder, &database)?;
                known
            }
            None => wanted.create(folder, &database)?,
        };
        let mut loaded = database.load()?;
        let writer = Writer::start(Arc::clone(&database))?;
        let (mut logs, mut machines) = (Vec::new(), Vec::new());
        for group in 0..=identity.index_groups {
            let tables = if group == 0 {
                let (sled, sync) = database.shared();
                Tables::Cluster(SledStore::open(sled, "cluster", sync)?)
            } else {
                Tables::Index(FjallStore::open(&folder.join(format!("group-{group}")))?)
            };
            let machine = Machine::open(MetaGroupId(group), tables, folder)?;
            let found = loaded.remove(&group).unwrap_or_default();
            if let Some(purged) = found.purged
                && *machine.applied().borrow() < purged.index
            {
                let what = format!("the tables of group {group} are older than what is left of its log");
                return Err(StoreError::Damaged { folder: folder.to_owned(), what }.into());
            }
            logs.push(LogStore::new(group, Arc::clone(&database), writer.clone(), found));
            machines.push(machine);
        }
        Ok(Self { identity, database, writer, logs, machines })
    }
}

/// Notices when a group or the store died, and has logs checkpointed and purged.
async fn watch_over(core: Arc<Core>, writer: Writer) {
    let dead = writer.dead();
    drop(writer);
    let mut done: BTreeMap<u16, CheckpointDone> = BTreeMap::new();
    let mut ticks = tokio::time::interval(LOOK_EVERY.scaled());
    loop {
        tokio::select! {
            why = dead.wait() => return core.die(why.to_string()),
            _ = ticks.tick() => {}
        }
        for group in &core.groups {
            if let Some(why) = group.fatal() {
                return core.die(why);
            }
            group.checkpoint_if_due(done.entry(group.id.0).or_default()).await;
        }
    }
}
