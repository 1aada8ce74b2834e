//! `tenfour status`: nodes, targets, placement groups and stripes at full width, repair, epoch, leaders.

use crate::cluster::connect;
use crate::config::{AnyFile, ClusterSection};
use crate::counters::Counters;
use crate::layout::cluster_section_of;
use crate::stripes::{Width, width};
use crate::table;
use anyhow::{Result, bail};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tenfour_metadata::api::cluster::{ClusterStatus, RepairProgress};
use tenfour_metadata::api::{ClusterAnswer, ClusterQuery};
use tenfour_metadata::{GroupStatus, MetadataStatus};
use tenfour_placement::{ClusterMap, NodeState, Row, Slot, nodes_to_lose};
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
    let width = width(&metadata, &status.map).await?;
    if arguments.json {
        let mut document = as_json(&status, &groups, &width);
        document["gateways"] = json!(arguments.which.counters().await?);
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    let map = &status.map;
    println!("cluster {}   epoch {}", status.cluster, map.epoch.0);
    println!("placement groups at full width: {} of {}", map.groups_at_full_width(), map.groups.len());
    println!("{}", stripes_in_words(&width));
    println!("{}", repair_in_words(&status));
    println!("{}\n", survives(map));
    let row = |(id, node): (&tenfour_types::NodeId, &tenfour_placement::Node)| {
        let targets = map.targets.values().filter(|target| target.node == *id).count();
        let usable =
            map.targets.iter().filter(|(target, value)| value.node == *id && map.is_usable(**target)).count();
        let silent = status.silent_ms.get(id).map_or("-".to_owned(), |silent| format!("{silent} ms"));
        vec![
            id.to_string(),
            if status.suspected.contains(id) { "suspect" } else { state_name(node.state) }.to_owned(),
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
    match map.groups.iter().map(|row| row_survives(map, row)).min() {
        None => format!("nodes down: {down}; no placement groups are laid yet"),
        Some(None) => format!("nodes down: {down}; some objects cannot be read until nodes return"),
        Some(Some(0)) => format!("nodes down: {down}; NO further node may be lost"),
        Some(Some(more)) => format!("nodes down: {down}; any {more} more may be lost"),
    }
}

/// How many more nodes, whichever they are, a row survives; `None` when it has fewer than 10 shards in service now.
fn row_survives(map: &ClusterMap, row: &Row) -> Option<usize> {
    let is_there = |slot: &&Slot| slot.sources.is_empty() && map.is_usable(slot.target);
    nodes_to_lose(row.slots.iter().filter(is_there).filter_map(|slot| map.node_of(slot.target)))
}

fn stripes_in_words(width: &Width) -> String {
    let of = width.stripes.map_or(String::new(), |stripes| format!(" of {stripes}"));
    let worst = match (width.below, width.unreadable, width.worst) {
        (0, ..) => String::new(),
        (_, 0, Some(more)) => format!("; the worst survives the loss of {more} more nodes"),
        (_, unreadable, _) => format!("; {unreadable} of them cannot be read now"),
    };
    let rest = if width.complete { "" } else { " (there are more stripes than were counted)" };
    format!("stripes below full width: {}{of}{worst}{rest}", width.below)
}

/// All nodes' repair together.
fn repair_of(status: &ClusterStatus) -> RepairProgress {
    let mut all = RepairProgress::default();
    for each in status.repair.values() {
        all.shards_left += each.shards_left;
        all.shards_rebuilt += each.shards_rebuilt;
        all.bytes_rebuilt += each.bytes_rebuilt;
        all.bytes_read += each.bytes_read;
        all.bytes_per_second += each.bytes_per_second;
    }
    all
}

fn repair_in_words(status: &ClusterStatus) -> String {
    let all = repair_of(status);
    let nodes = status.repair.values().filter(|each| each.shards_left > 0).count();
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let now = match all.shards_left {
        0 => "nothing to do".to_owned(),
        left => format!("{left} shards left on {nodes} nodes, {:.1} MiB/s now", mib(all.bytes_per_second)),
    };
    format!(
        "repair: {now}; made anew since the nodes started: {} shards, {:.1} MiB",
        all.shards_rebuilt,
        mib(all.bytes_rebuilt)
    )
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Down => "DOWN",
        NodeState::Out => "out",
    }
}

fn as_json(status: &ClusterStatus, groups: &MetadataStatus, width: &Width) -> serde_json::Value {
    let (map, repair) = (&status.map, repair_of(status));
    json!({
        "cluster": status.cluster.to_string(),
        "epoch": map.epoch.0,
        "groups": map.groups.len(),
        "groups_at_full_width": map.groups_at_full_width(),
        "nodes_that_may_be_lost": map.groups.iter().map(|row| row_survives(map, row)).min().flatten(),
        "stripes_below_full_width": width.below,
        "stripes_unreadable": width.unreadable,
        "worst_stripe_survives": width.worst,
        "stripes_counted_all": width.complete,
        "repair": {
            "shards_left": repair.shards_left, "shards_rebuilt": repair.shards_rebuilt, "bytes_rebuilt": repair.bytes_rebuilt,
            "bytes_read": repair.bytes_read, "bytes_per_second": repair.bytes_per_second,
        },
        "metadata_groups": group_rows(groups).iter().map(|row| json!({
            "group": row.first(), "leader": row.get(1), "term": row.get(2), "applied": row.get(3), "voters": row.get(4), "may_lose": row.get(5),
        })).collect::<Vec<_>>(),
        "nodes": map.nodes.iter().map(|(id, node)| json!({
            "id": id.0, "state": state_name(node.state), "suspected": status.suspected.contains(id), "rack": node.rack, "silent_ms": status.silent_ms.get(id),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_full_width_is_said_with_what_it_survives() {
        let width =
            |below, unreadable, worst| Width { stripes: Some(9), below, unreadable, worst, complete: true };
        assert_eq!(stripes_in_words(&width(0, 0, None)), "stripes below full width: 0 of 9");
        let told = stripes_in_words(&width(4, 0, Some(1)));
        assert_eq!(told, "stripes below full width: 4 of 9; the worst survives the loss of 1 more nodes");
        let told = stripes_in_words(&width(4, 3, Some(0)));
        assert_eq!(told, "stripes below full width: 4 of 9; 3 of them cannot be read now");
        let cut = Width { stripes: None, complete: false, ..width(0, 0, None) };
        assert!(stripes_in_words(&cut).ends_with("(there are more stripes than were counted)"));
    }
}
