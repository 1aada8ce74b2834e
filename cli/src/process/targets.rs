//! Which target each configured folder is.
//!
//! The metadata service, not the disk, says whether a target is new: an empty folder is never taken for one that it knows. With
//! `replace_lost` such a folder becomes another target, in the place of the one that was lost with it: metadata gives its id, and
//! the folder says which it is from then on.

use crate::config::{NodeFile, TargetSection};
use anyhow::{Context, Result, bail};
use tenfour_metadata::Metadata;
use tenfour_metadata::api::ClusterCommand;
use tenfour_metadata::api::cluster::ClusterDone;
use tenfour_node::TargetConfig;
use tenfour_node::target::superblock_of;
use tenfour_placement::ClusterMap;
use tenfour_types::{NodeId, TargetId};

/// A configured folder, and the target that it is, or is to become.
pub struct Place<'a> {
    /// As configured.
    pub section: &'a TargetSection,
    /// The target.
    pub id: TargetId,
}

impl Place<'_> {
    /// As the node is started with it. An id that metadata does not know was never in use.
    pub fn config(&self, map: &ClusterMap) -> TargetConfig {
        TargetConfig {
            id: self.id,
            folder: self.section.folder.clone(),
            capacity_bytes: self.section.capacity.0,
            create: !map.targets.contains_key(&self.id),
        }
    }

    /// Its share of the data: its capacity in GiB.
    pub fn weight(&self) -> u32 {
        (self.section.capacity.0 >> 30).clamp(1, u64::from(u32::MAX)) as u32
    }

    /// Whether its folder was lost and is to hold another target: a new start makes that one.
    pub fn is_to_be_replaced(&self) -> bool {
        self.section.replace_lost && matches!(superblock_of(&self.section.folder), Ok(None))
    }
}

/// Finds out which target each folder is; asks metadata for the ids of those that take a lost one's place.
pub async fn places<'a>(file: &'a NodeFile, map: &ClusterMap, metadata: &Metadata) -> Result<Vec<Place<'a>>> {
    if file.targets.is_empty() {
        bail!("the node has no [[target]]");
    }
    let mut places = Vec::with_capacity(file.targets.len());
    for section in &file.targets {
        places.push(Place { section, id: target_of(file, section, map, metadata).await? });
    }
    Ok(places)
}

async fn target_of(
    file: &NodeFile,
    section: &TargetSection,
    map: &ClusterMap,
    metadata: &Metadata,
) -> Result<TargetId> {
    let (node, configured) = (NodeId(file.id), TargetId(section.id));
    if !section.replace_lost {
        return Ok(configured);
    }
    let shown = section.folder.display();
    match superblock_of(&section.folder) {
        Ok(Some(found)) if found.cluster == file.cluster.cluster_id()? && found.node == node => {
            return Ok(found.target);
        }
        Ok(None) if map.targets.contains_key(&configured) => {}
        // What is wrong with it is said when it is opened.
        _ => return Ok(configured),
    }
    let command = ClusterCommand::ReplaceTarget { node, target: configured };
    match metadata.cluster(command).await.context("no target can be made in the place of a lost one")? {
        Ok(ClusterDone::Target(id)) => {
            tracing::warn!(%configured, %id, folder = %shown, "the folder was lost: it becomes another target");
            Ok(id)
        }
        Ok(other) => bail!("metadata answered {other:?} to the replacement of {configured}"),
        Err(refusal) => bail!("target {configured} in {shown} cannot be replaced: {refusal}"),
    }
}
