//! `tenfour node`: a storage server: its targets, its place in the map, its heartbeat, its repair.

use super::targets::{Place, places};
use super::{ProcessArguments, announce_ready, asked_to_end};
use crate::cluster;
use crate::config::{self, NodeFile};
use anyhow::{Context, Result, anyhow, bail};
use std::time::Duration;
use tenfour_metadata::Metadata;
use tenfour_metadata::api::ClusterCommand;
use tenfour_metadata::api::cluster::Heartbeat;
use tenfour_node::{Node, NodeConfig, Repair, RepairConfig};
use tenfour_placement::{ClusterMap, NodeState};
use tenfour_rdma::{Advertised, Endpoint, Fabric, ListenAt};
use tenfour_types::limits::NODE_HEARTBEAT_MS;
use tenfour_types::{NodeId, Scaled, TargetId};
use tokio::time::{MissedTickBehavior, interval};

/// Runs the node until it is asked to end, or has to.
pub async fn run(arguments: ProcessArguments) -> Result<()> {
    let file: NodeFile = config::read(&arguments.config)?;
    file.cluster.timeout_scale.set_for_process();
    let metadata = cluster::connect_within(&file.cluster, cluster::READY_DEADLINE.scaled()).await?;
    let map = metadata.refresh_map().await?;
    let id = NodeId(file.id);
    if is_out(&map, id) {
        bail!("{}", taken_out(id));
    }
    let places = places(&file, &map, &metadata).await?;
    let config = node_config(&file, &places, &map)?;
    for target in config.targets.iter().filter(|target| target.create) {
        std::fs::create_dir_all(&target.folder)
            .with_context(|| format!("cannot create {}", target.folder.display()))?;
    }
    let node = Node::start(config).await.context("the node cannot start")?;
    register(&metadata, &file, &places, &map, &node).await?;
    let repair = node.repair(metadata.clone());
    announce_ready();
    let outcome = tokio::select! {
        asked = asked_to_end(arguments.end_with_stdin) => asked,
        why = beat(&metadata, &node, &repair, &places, id) => Err(anyhow!(why)),
    };
    drop(repair);
    node.shutdown().await;
    outcome
}

fn is_out(map: &ClusterMap, id: NodeId) -> bool {
    map.nodes.get(&id).is_some_and(|node| node.state == NodeState::Out)
}

fn taken_out(id: NodeId) -> String {
    format!(
        "node {0} was taken out of the cluster, and its shards are made anew elsewhere; \
         to bring it back, run `tenfour admin node return {0}` and start it again",
        id.0
    )
}

fn node_config(file: &NodeFile, places: &[Place<'_>], map: &ClusterMap) -> Result<NodeConfig> {
    Ok(NodeConfig {
        fabric: listen_at(file)?,
        targets: places.iter().map(|place| place.config(map)).collect(),
        staging_bytes: file.staging.as_usize(),
        segment_bytes: u32::try_from(file.segment.0).context("segment: at most 4GiB")?,
        repair: RepairConfig {
            memory_bytes: file.repair_memory.as_usize(),
            bytes_per_second: file.repair_bandwidth.0,
        },
        ..NodeConfig::new(file.cluster.cluster_id()?, file.cluster.cluster_key()?, NodeId(file.id))
    })
}

/// The places to listen at; others are told of them, so that each must mean one machine.
fn listen_at(file: &NodeFile) -> Result<Vec<ListenAt>> {
    let places = file.fabric.parse::<Fabric>()?.endpoints(&file.listen)?;
    for ListenAt { endpoint, .. } in &places {
        if let Endpoint::Tcp(address) | Endpoint::Verbs(address) = endpoint
            && address.ip().is_unspecified()
        {
            bail!(
                "listen: {endpoint} is every address of this machine; name the one that gateways are to connect to"
            );
        }
    }
    Ok(places)
}

/// A new target that could not be opened is left out: once it were known, its folder would be taken for a lost one.
async fn register(
    metadata: &Metadata,
    file: &NodeFile,
    places: &[Place<'_>],
    map: &ClusterMap,
    node: &Node,
) -> Result<()> {
    let is_unborn = |id: &TargetId| {
        !map.targets.contains_key(id) && node.unopened().iter().any(|(unopened, _)| unopened == id)
    };
    let command = ClusterCommand::RegisterNode {
        node: NodeId(file.id),
        endpoints: node
            .endpoints()
            .iter()
            .map(|endpoint| Advertised::by_this_process(endpoint.clone()).to_string())
            .collect(),
        rack: file.rack.clone(),
        targets: places
            .iter()
            .map(|place| (place.id, place.weight()))
            .filter(|(id, _)| !is_unborn(id))
            .collect(),
    };
    match metadata.cluster(command).await.context("the node cannot be registered")? {
        Ok(_) => Ok(()),
        Err(refusal) => bail!("the cluster refuses this node: {refusal}"),
    }
}

/// Heartbeats until this process has to end, and why; a metadata service that does not answer is no reason to stop serving shards.
async fn beat(metadata: &Metadata, node: &Node, repair: &Repair, places: &[Place<'_>], id: NodeId) -> String {
    let mut ticks = interval(Duration::from_millis(NODE_HEARTBEAT_MS).scaled());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut poisoned = node.poisoned();
    loop {
        // A poisoned target is told at once, not at the next beat.
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = poisoned.changed() => {}
        }
        let lost: Vec<TargetId> = poisoned.borrow_and_update().clone();
        // Told by the next life of this process, together with what takes its place, so that its slots move once.
        let replaced = places.iter().find(|place| lost.contains(&place.id) && place.is_to_be_replaced());
        if let Some(place) = replaced {
            let folder = place.section.folder.display();
            return format!(
                "the folder {folder} of target {} is gone: started again, it becomes another one",
                place.id
            );
        }
        let map = metadata.map();
        if is_out(&map, id) {
            return taken_out(id);
        }
        node.set_epoch(map.epoch);
        let heartbeat = Heartbeat { node: id, epoch: map.epoch, poisoned: lost, repair: repair.progress() };
        if let Err(error) = metadata.heartbeat(heartbeat).await {
            tracing::warn!(%error, "heartbeat not delivered");
        }
    }
}
