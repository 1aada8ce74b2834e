//! How a cluster begins, and how a replica without a past finds out whether it has one.
//!
//! A new cluster is begun by one replica that is told to, after *all* its peers have answered that they know of none: a peer
//! that does not answer might. The members' incarnations are part of the first entry of every group, so a replica whose store
//! is lost later can never be taken for the member that it was. The first leaders are spread over the replicas.

use crate::api::ClusterCommand;
use crate::client::{Metadata, MetadataConfig};
use crate::net::{Expect, Kind, Link, LinkError};
use crate::raft::Replica;
use crate::server::connection::Asked;
use crate::server::{Core, MetadataServerConfig, StartError, members};
use openraft::error::{InitializeError, RaftError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_types::Scaled;
use tenfour_types::{CommandId, LeaseId};
use tokio::task::JoinSet;

/// All peers of a new cluster answer within this, or it is not begun.
const GATHER_TIMEOUT: Duration = Duration::from_secs(30);
/// A replica with an empty folder waits so long for a peer that knows better.
const GREET_TIMEOUT: Duration = Duration::from_millis(1500);
/// The first command of a new cluster is decided within this, or sent again.
const BEGIN_DEADLINE: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What a replica says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// It belongs to a cluster.
    pub(crate) begun: bool,
    pub(crate) index_groups: u16,
    /// Members of group 0 as it knows them.
    pub(crate) members: Vec<(u64, u128)>,
}

pub(super) fn greeting(core: &Core) -> Greeting {
    let metrics = core.cluster_group().raft.metrics();
    let metrics = metrics.borrow();
    let membership = metrics.membership_config.membership();
    Greeting {
        begun: metrics.last_log_index.is_some(),
        index_groups: core.groups.len() as u16 - 1,
        members: membership.nodes().map(|(id, replica)| (*id, replica.incarnation)).collect(),
    }
}

/// After the groups have started: begins the cluster if told to, and refuses to run where the id is another's.
pub(super) async fn run(
    core: &Arc<Core>,
    config: &MetadataServerConfig,
    begun: bool,
    tasks: &mut JoinSet<()>,
) -> Result<(), StartError> {
    if begun {
        // A bootstrap that was cut off goes on where it was; on a cluster that runs it changes nothing.
        if config.bootstrap && core.cluster.local()?.overview.cluster.is_none() {
            let plan = plan_of(core);
            spawn_begin(core, config, plan, tasks);
        }
        return Ok(());
    }
    if !config.bootstrap {
        return look_for_past(core, GREET_TIMEOUT.scaled(), tasks).await;
    }
    let plan = gather(core, config).await?;
    initialise_here(core, 0, plan.clone()).await.map_err(StartError::Raft)?;
    spawn_begin(core, config, plan, tasks);
    Ok(())
}

/// The members as group 0's first entry names them.
fn plan_of(core: &Core) -> BTreeMap<u64, Replica> {
    let metrics = core.cluster_group().raft.metrics();
    let metrics = metrics.borrow();
    metrics.membership_config.membership().nodes().map(|(id, replica)| (*id, replica.clone())).collect()
}

/// Asks every peer; all have to answer, and none may know of a cluster.
async fn gather(core: &Core, config: &MetadataServerConfig) -> Result<BTreeMap<u64, Replica>, StartError> {
    let deadline = Instant::now() + GATHER_TIMEOUT.scaled();
    let mut plan = BTreeMap::new();
    for (&id, &address) in &config.peers {
        if id == core.id {
            plan.insert(id, Replica { address: address.to_string(), incarnation: core.incarnation });
            continue;
        }
        let (incarnation, greeting) = loop {
            match greet(core, id, address).await {
                Ok(answer) => break answer,
                Err(LinkError::Stranger(_, why)) => return Err(StartError::Config(why)),
                Err(error) if Instant::now() > deadline => {
                    return Err(StartError::PeersUnreachable(error.to_string()));
                }
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        };
        if let Some((_, known)) = greeting.members.iter().find(|(member, _)| *member == core.id)
            && *known != core.incarnation
        {
            return Err(StartError::LostStore { id: core.id });
        }
        if greeting.begun {
            return Err(StartError::ClusterExists { peer: id, address });
        }
        if greeting.index_groups != config.index_groups {
            return Err(StartError::Config(format!(
                "replica {id} has {} index groups",
                greeting.index_groups
            )));
        }
        plan.insert(id, Replica { address: address.to_string(), incarnation });
    }
    Ok(plan)
}

async fn greet(core: &Core, id: u64, address: SocketAddr) -> Result<(u128, Greeting), LinkError> {
    let link = Link::new(address, core.introduction.clone(), Expect::AnyReplica);
    let pipe = link.pipe().await?;
    if pipe.replica != id {
        let why = format!("replica {} answers at {address}, not replica {id}", pipe.replica);
        return Err(LinkError::Stranger(address, why));
    }
    let answer = pipe.ask_within(GREET_TIMEOUT.scaled(), Kind::Greet, 0, |_| Ok(())).await?;
    let unreadable = || LinkError::Stranger(address, "its greeting is not readable".to_owned());
    Ok((pipe.incarnation, answer.decode().ok_or_else(unreadable)?))
}

/// An empty folder under an id that is a member's has lost its store. Who cannot be asked within the time will refuse this
/// replica's incarnation anyway; asking goes on until one peer has answered.
async fn look_for_past(core: &Arc<Core>, wait: Duration, tasks: &mut JoinSet<()>) -> Result<(), StartError> {
    let asked = ask_for_past(Arc::clone(core));
    tokio::pin!(asked);
    match tokio::time::timeout(wait, &mut asked).await {
        Ok(true) => Err(StartError::LostStore { id: core.id }),
        Ok(false) => Ok(()),
        Err(_) => {
            tasks.spawn(keep_looking_for_past(Arc::clone(core)));
            Ok(())
        }
    }
}

async fn keep_looking_for_past(core: Arc<Core>) {
    while members::member(&core, core.id).is_none() {
        match tokio::time::timeout(GREET_TIMEOUT.scaled(), ask_for_past(Arc::clone(&core))).await {
            Ok(true) => return core.die(StartError::LostStore { id: core.id }.to_string()),
            Ok(false) => return,
            Err(_) => tokio::time::sleep(GREET_TIMEOUT.scaled()).await,
        }
    }
}

/// Whether a peer knows this id in another life; waits for one that belongs to a cluster, or for all to answer.
async fn ask_for_past(core: Arc<Core>) -> bool {
    let mut left: BTreeMap<u64, SocketAddr> = core.peers.clone();
    left.remove(&core.id);
    while !left.is_empty() {
        for (id, address) in left.clone() {
            match greet(&core, id, address).await {
                Ok((_, greeting)) => {
                    let known = greeting.members.iter().find(|(member, _)| *member == core.id);
                    if let Some((_, incarnation)) = known {
                        return *incarnation != core.incarnation;
                    }
                    left.remove(&id);
                }
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }
    false
}

/// Begins what is left to begin: the index groups, each on another replica, and the cluster's first command.
fn spawn_begin(
    core: &Arc<Core>,
    config: &MetadataServerConfig,
    plan: BTreeMap<u64, Replica>,
    tasks: &mut JoinSet<()>,
) {
    let command = ClusterCommand::Bootstrap {
        cluster: config.cluster,
        index_groups: config.index_groups,
        root: config.root_user.clone(),
    };
    let core = Arc::clone(core);
    tasks.spawn(async move {
        while let Err(why) = begin(&core, &plan, &command).await {
            tracing::warn!(why, "the new cluster is not complete yet");
            tokio::time::sleep(ASK_AGAIN).await;
        }
    });
}

async fn begin(core: &Core, plan: &BTreeMap<u64, Replica>, command: &ClusterCommand) -> Result<(), String> {
    for group in core.index_groups() {
        let first = plan.iter().nth(usize::from(group.0) % plan.len().max(1));
        match first {
            Some((id, replica)) if *id != core.id => {
                let pipe = core.links.link(*id, replica)?.pipe().await.map_err(|error| error.to_string())?;
                let fill = |out: &mut Vec<u8>| {
                    postcard::to_io(plan, out).map(drop).map_err(|_| std::io::ErrorKind::InvalidInput.into())
                };
                let answer = pipe.ask_within(GREET_TIMEOUT.scaled(), Kind::Initialise, group.0, fill).await;
                let answer = answer.map_err(|error| error.to_string())?;
                if answer.kind != Kind::Done {
                    return Err(answer.decode().unwrap_or_else(|| "a peer refused".to_owned()));
                }
            }
            _ => initialise_here(core, group.0, plan.clone()).await?,
        }
    }
    let metadata = Metadata::unconnected(&MetadataConfig {
        cluster: core.hello.cluster,
        cluster_key: core.introduction.key.clone(),
        peers: core.peers.values().copied().collect(),
        deadline: BEGIN_DEADLINE,
    });
    // The same id from every attempt: it happens once.
    let id = CommandId { lease: LeaseId(0), sequence: 0 };
    match metadata.cluster_as(Some(id), command.clone()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) => {
            core.die(format!("the new cluster cannot be begun: {refusal}"));
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A peer that begins the cluster has chosen this replica for a group's first leader.
pub(super) async fn initialise(asked: &Asked) {
    let Some(plan) = asked.frame.decode::<BTreeMap<u64, Replica>>() else {
        return asked.refuse("the plan of the new cluster is not readable");
    };
    match plan.get(&asked.core.id) {
        Some(replica) if replica.incarnation == asked.core.incarnation => {}
        _ => return asked.refuse("the plan does not name this replica"),
    }
    match initialise_here(&asked.core, asked.frame.group, plan).await {
        Ok(()) => asked.done(&()),
        Err(why) => asked.refuse(why),
    }
}

async fn initialise_here(core: &Core, group: u16, plan: BTreeMap<u64, Replica>) -> Result<(), String> {
    let Some(group) = core.group(group) else { return Err("there is no such group".to_owned()) };
    match group.raft.initialize(plan).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
