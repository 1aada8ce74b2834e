//! `tenfour node`: a storage server: its targets, its place in the map, its heartbeat.

use super::{ProcessArguments, announce_ready, asked_to_end};
use crate::cluster;
use crate::config::{self, NodeFile, TargetSection};
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tenfour_metadata::Metadata;
use tenfour_metadata::api::ClusterCommand;
use tenfour_metadata::api::cluster::Heartbeat;
use tenfour_node::{Node, NodeConfig, TargetConfig};
use tenfour_placement::ClusterMap;
use tenfour_rdma::{Advertised, Endpoint, Fabric, ListenAt};
use tenfour_types::limits::NODE_HEARTBEAT_MS;
use tenfour_types::{NodeId, Scaled, TargetId};
use tokio::time::{MissedTickBehavior, interval};

/// Runs the node until it is asked to end.
pub async fn run(arguments: ProcessArguments) -> Result<()> {
    let file: NodeFile = config::read(&arguments.config)?;
    file.cluster.timeout_scale.set_for_process();
    let metadata = cluster::connect_within(&file.cluster, cluster::READY_DEADLINE.scaled()).await?;
    let map = metadata.refresh_map().await?;
    let config = node_config(&file, &map)?;
    for target in config.targets.iter().filter(|target| target.create) {
        std::fs::create_dir_all(&target.folder)
            .with_context(|| format!("cannot create {}", target.folder.display()))?;
    }
    let node = Node::start(config).await.context("the node cannot start")?;
    register(&metadata, &file, &map, &node).await?;
    announce_ready();
    tokio::select! {
        asked = asked_to_end(arguments.end_with_stdin) => asked?,
        () = beat(&metadata, &node, NodeId(file.id)) => {}
    }
    node.shutdown().await;
    Ok(())
}

/// The metadata service, not the disk, says whether a target is new: an empty folder is never taken for one that it knows.
fn node_config(file: &NodeFile, map: &ClusterMap) -> Result<NodeConfig> {
    let target = |section: &TargetSection| TargetConfig {
        id: TargetId(section.id),
        folder: section.folder.clone(),
        capacity_bytes: section.capacity.0,
        create: !map.targets.contains_key(&TargetId(section.id)),
    };
    if file.targets.is_empty() {
        bail!("the node has no [[target]]");
    }
    Ok(NodeConfig {
        fabric: listen_at(file)?,
        targets: file.targets.iter().map(target).collect(),
        staging_bytes: file.staging.as_usize(),
        segment_bytes: u32::try_from(file.segment.0).context("segment: at most 4GiB")?,
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
async fn register(metadata: &Metadata, file: &NodeFile, map: &ClusterMap, node: &Node) -> Result<()> {
    let is_unborn = |id: &TargetId| {
        !map.targets.contains_key(id) && node.unopened().iter().any(|(unopened, _)| unopened == id)
    };
    let weight = |section: &TargetSection| (section.capacity.0 >> 30).clamp(1, u64::from(u32::MAX)) as u32;
    let command = ClusterCommand::RegisterNode {
        node: NodeId(file.id),
        endpoints: node
            .endpoints()
            .iter()
            .map(|endpoint| Advertised::by_this_process(endpoint.clone()).to_string())
            .collect(),
        rack: file.rack.clone(),
        targets: file
            .targets
            .iter()
            .map(|section| (TargetId(section.id), weight(section)))
            .filter(|(id, _)| !is_unborn(id))
            .collect(),
    };
    match metadata.cluster(command).await.context("the node cannot be registered")? {
        Ok(_) => Ok(()),
        Err(refusal) => bail!("the cluster refuses this node: {refusal}"),
    }
}

/// Heartbeats for ever; a metadata service that does not answer is no reason to stop serving shards.
async fn beat(metadata: &Metadata, node: &Node, id: NodeId) {
    let mut ticks = interval(Duration::from_millis(NODE_HEARTBEAT_MS).scaled());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut poisoned = node.poisoned();
    loop {
        // A poisoned target is told at once, not at the next beat.
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = poisoned.changed() => {}
        }
        let epoch = metadata.map().epoch;
        node.set_epoch(epoch);
        let heartbeat = Heartbeat { node: id, epoch, poisoned: poisoned.borrow_and_update().clone() };
        if let Err(error) = metadata.heartbeat(heartbeat).await {
            tracing::warn!(%error, "heartbeat not delivered");
        }
    }
}
