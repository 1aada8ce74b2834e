//! `tenfour status`: nodes, targets, placement groups at full width, epoch, leaders.

use crate::cluster::connect;
use crate::config::ClusterSection;
use crate::layout::cluster_section_of;
use crate::table;
use anyhow::{Result, bail};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tenfour_metadata::api::cluster::ClusterStatus;
use tenfour_metadata::api::{ClusterAnswer, ClusterQuery};
use tenfour_metadata::{GroupStatus, MetadataStatus};
use tenfour_placement::{ClusterMap, NodeState};
use tenfour_types::MetaGroupId;

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
    /// How to reach it.
    pub fn section(&self) -> Result<ClusterSection> {
        #[derive(serde::Deserialize)]
        struct AnyFile {
            cluster: ClusterSection,
        }
        match &self.config {
            Some(path) => crate::config::read::<AnyFile>(path).map(|file| file.cluster),
            None => cluster_section_of(&self.data),
        }
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
        println!("{}", serde_json::to_string_pretty(&as_json(&status))?);
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
    let worst = map
        .groups
        .iter()
        .map(|row| row.slots.iter().filter(|slot| map.is_usable(slot.target)).count())
        .min()
        .unwrap_or(0);
    match worst.checked_sub(tenfour_types::limits::DATA_SHARDS) {
        Some(more) => format!(
            "nodes down: {down}; the narrowest group has {worst} of 14 targets in service and may lose {more} more"
        ),
        None => format!(
            "nodes down: {down}; the narrowest group has {worst} of 14 targets in service: some objects cannot be read until nodes return"
        ),
    }
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Down => "DOWN",
        NodeState::Out => "out",
    }
}

fn as_json(status: &ClusterStatus) -> serde_json::Value {
    let map = &status.map;
    json!({
        "cluster": status.cluster.to_string(),
        "epoch": map.epoch.0,
        "groups": map.groups.len(),
        "groups_at_full_width": map.groups_at_full_width(),
        "nodes": map.nodes.iter().map(|(id, node)| json!({
            "id": id.0, "state": state_name(node.state), "rack": node.rack, "silent_ms": status.silent_ms.get(id),
        })).collect::<Vec<_>>(),
    })
}
