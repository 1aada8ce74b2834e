//! `tenfour status`: nodes, targets, placement groups at full width, epoch, leaders.

use crate::cluster::connect;
use crate::config::{AnyFile, ClusterSection};
use crate::counters::Counters;
use crate::layout::cluster_section_of;
use crate::table;
use anyhow::{Result, bail};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tenfour_metadata::api::cluster::ClusterStatus;
use tenfour_metadata::api::{ClusterAnswer, ClusterQuery};
use tenfour_metadata::{GroupStatus, MetadataStatus};
use tenfour_placement::{ClusterMap, NodeState, Row};
use tenfour_types::limits::DATA_SHARDS;
use tenfour_types::{MetaGroupId, NodeId};

/// Which cluster.
#[derive(clap::Args, Clone, Debug)]
pub struct Which {
    /// Folder of a cluster that `tenfour up` runs.
    #[arg(long, value_name = "DIR", default_value = "tenfour-data")]
    pub data: PathBuf,
    /// Instead: the configuration file of any process of the cluster.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Which {
    /// What the gateways of a cluster of this machine have counted; `None` when that is not to be had here.
    async fn counters(&self) -> Result<Option<Counters>> {
        match self.config {
            Some(_) => Ok(None),
            None => crate::counters::of_cluster(&self.data).await,
        }
    }

    /// How to reach it; from here on this process is as patient as the cluster is.
    pub fn section(&self) -> Result<ClusterSection> {
        let section = match &self.config {
            Some(path) => crate::config::read::<AnyFile>(path).map(|file| file.cluster),
            None => cluster_section_of(&self.data),
        }?;
        section.timeout_scale.set_for_process();
        Ok(section)
    }
}

/// Options of `tenfour status`.
#[derive(clap::Args, Clone, Debug)]
pub struct StatusArguments {
    #[command(flatten)]
    which: Which,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints how the cluster fares.
pub async fn run(arguments: StatusArguments) -> Result<()> {
    let metadata = connect(&arguments.which.section()?).await?;
    let ClusterAnswer::Status(status) = metadata.cluster_query(ClusterQuery::Status).await? else {
        bail!("the metadata service gave another answer than was asked for");
    };
    let groups = metadata.status().await?;
    if arguments.json {
        let mut document = as_json(&status, &groups);
        document["gateways"] = json!(arguments.which.counters().await?);
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    let map = &status.map;
    println!("cluster {}   epoch {}", status.cluster, map.epoch.0);
    println!("placement groups at full width: {} of {}", map.groups_at_full_width(), map.groups.len());
    println!("{}\n", survives(map));
    let row = |(id, node): (&tenfour_types::NodeId, &tenfour_placement::Node)| {
        let targets = map.targets.values().filter(|target| target.node == *id).count();
        let usable =
            map.targets.iter().filter(|(target, value)| value.node == *id && map.is_usable(**target)).count();
        let silent = status.silent_ms.get(id).map_or("-".to_owned(), |silent| format!("{silent} ms"));
        vec![
            id.to_string(),
            state_name(node.state).to_owned(),
            format!("{usable} of {targets}"),
            silent,
            node.rack.clone(),
            node.endpoints.join(" "),
        ]
    };
    table::print(
        &["node", "state", "targets", "last heard", "rack", "endpoints"],
        &map.nodes.iter().map(row).collect::<Vec<_>>(),
    );
    println!();
    table::print(
        &["metadata group", "leader", "term", "applied", "voters", "may lose"],
        &group_rows(&groups),
    );
    for address in &groups.silent {
        println!("  no answer from the metadata replica at {address}");
    }
    if let Some(counters) = arguments.which.counters().await? {
        crate::counters::print(&counters);
    }
    if !status.fences_pending.is_empty() {
        println!("\nnot yet fenced: {:?}", status.fences_pending);
    }
    Ok(())
}

/// One row a metadata group, as its leader sees it, or as somebody does when it has none.
fn group_rows(status: &MetadataStatus) -> Vec<Vec<String>> {
    let mut views: BTreeMap<MetaGroupId, (bool, &GroupStatus)> = BTreeMap::new();
    for (_, replica) in &status.replicas {
        for group in &replica.groups {
            let leads = group.leader == Some(replica.replica);
            if leads || !views.contains_key(&group.group) {
                views.insert(group.group, (leads, group));
            }
        }
    }
    let row = |(leads, group): &(bool, &GroupStatus)| {
        let leader =
            group.leader.filter(|_| *leads).map_or("NONE".to_owned(), |leader| format!("meta-{leader}"));
        let answering =
            status.replicas.iter().filter(|(_, replica)| group.voters.contains(&replica.replica)).count();
        let spare = answering.saturating_sub(group.voters.len() / 2 + 1);
        vec![
            group.group.to_string(),
            leader,
            group.term.to_string(),
            group.applied_index.to_string(),
            format!("{answering} of {}", group.voters.len()),
            spare.to_string(),
        ]
    };
    views.values().map(row).collect()
}

/// In words, what the worst placement group can still lose.
fn survives(map: &ClusterMap) -> String {
    let down = map.nodes.values().filter(|node| node.state != NodeState::Up).count();
    match map.groups.iter().map(|row| nodes_to_lose(map, row)).min() {
        None => format!("nodes down: {down}; no placement groups are laid yet"),
        Some(None) => format!("nodes down: {down}; some objects cannot be read until nodes return"),
        Some(Some(0)) => format!("nodes down: {down}; NO further node may be lost"),
        Some(Some(more)) => format!("nodes down: {down}; any {more} more may be lost"),
    }
}

/// How many more nodes, whichever they are, a row survives; `None` when it has fewer than 10 shards in service now.
fn nodes_to_lose(map: &ClusterMap, row: &Row) -> Option<usize> {
    let mut shards: BTreeMap<NodeId, usize> = BTreeMap::new();
    for target in row.slots.iter().map(|slot| slot.target).filter(|target| map.is_usable(*target)) {
        *shards.entry(map.node_of(target)?).or_default() += 1;
    }
    let mut spare = shards.values().sum::<usize>().checked_sub(DATA_SHARDS)?;
    let mut fullest: Vec<usize> = shards.into_values().collect();
    fullest.sort_unstable_by(|a, b| b.cmp(a));
    let lost = fullest
        .into_iter()
        .take_while(|held| spare.checked_sub(*held).inspect(|left| spare = *left).is_some());
    Some(lost.count())
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Down => "DOWN",
        NodeState::Out => "out",
    }
}

fn as_json(status: &ClusterStatus, groups: &MetadataStatus) -> serde_json::Value {
    let map = &status.map;
    json!({
        "cluster": status.cluster.to_string(),
        "epoch": map.epoch.0,
        "groups": map.groups.len(),
        "groups_at_full_width": map.groups_at_full_width(),
        "nodes_that_may_be_lost": map.groups.iter().map(|row| nodes_to_lose(map, row)).min().flatten(),
        "metadata_groups": group_rows(groups).iter().map(|row| json!({
            "group": row.first(), "leader": row.get(1), "term": row.get(2), "applied": row.get(3), "voters": row.get(4), "may_lose": row.get(5),
        })).collect::<Vec<_>>(),
        "nodes": map.nodes.iter().map(|(id, node)| json!({
            "id": id.0, "state": state_name(node.state), "rack": node.rack, "silent_ms": status.silent_ms.get(id),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenfour_placement::{Node, Target, TargetState, plan};
    use tenfour_types::TargetId;

    fn cluster(nodes: u32) -> ClusterMap {
        let mut map = ClusterMap::default();
        for number in 1..=nodes {
            let node = Node { endpoints: Vec::new(), rack: "r".to_owned(), state: NodeState::Up };
            map.nodes.insert(NodeId(number), node);
            map.targets
                .insert(TargetId(number), Target { node: NodeId(number), weight: 1, state: TargetState::Up });
        }
        map.groups = plan(&map, 64);
        map
    }

    #[test]
    fn what_may_be_lost_counts_nodes_not_targets() {
        let worst = |map: &ClusterMap| map.groups.iter().map(|row| nodes_to_lose(map, row)).min().flatten();
        assert_eq!(worst(&cluster(14)), Some(4));
        assert_eq!(worst(&cluster(7)), Some(2));
        assert_eq!(worst(&cluster(3)), Some(0), "five of the fourteen shards are on one node");
        let mut map = cluster(14);
        for number in 1..=5 {
            map.nodes.get_mut(&NodeId(number)).unwrap().state = NodeState::Down;
        }
        assert_eq!(worst(&map), None);
    }
}
