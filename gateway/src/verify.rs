//! Asks nodes whether shards are whole: each reads and verifies them from its disk. For operators and demonstrations; repairs nothing.

use crate::gateway::Gateway;
use crate::nodes::Nodes;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;
use tenfour_types::Scaled;
use tenfour_types::shard_service::{FromNode, ShardRef, ToNode};
use tenfour_types::{NodeId, ShardIndex, StripeRow};
use tokio::time::timeout;

/// Shards of one question; a node takes at most 256.
const SHARDS_AT_ONCE: usize = 200;
/// A question is given up after so long: every shard of it may be 1 MiB on a busy disk.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

impl Gateway {
    /// How many of the 14 shards of each stripe are whole on a disk now, in the order of the rows.
    pub async fn verify(&self, rows: &[StripeRow]) -> Vec<usize> {
        let map = self.metadata().map();
        let mut questions: BTreeMap<NodeId, Vec<(usize, ShardRef)>> = BTreeMap::new();
        for (position, row) in rows.iter().enumerate() {
            for index in ShardIndex::all() {
                for target in map.holders(row, index) {
                    let shard = ShardRef { stripe: row.id, index, target, digest: row.digests[index.get()] };
                    if let Some(node) = map.node_of(target) {
                        questions.entry(node).or_default().push((position, shard));
                    }
                }
            }
        }
        let asked = questions.iter().map(|(node, shards)| ask(&self.inner.nodes, *node, shards));
        let mut whole = vec![[false; 14]; rows.len()];
        for (position, index) in join_all(asked).await.into_iter().flatten() {
            if let Some(place) = whole.get_mut(position) {
                place[index.get()] = true;
            }
        }
        whole.iter().map(|shards| shards.iter().filter(|is_whole| **is_whole).count()).collect()
    }
}

/// Those of a node's shards that are whole; none of a node that does not answer.
async fn ask(nodes: &Nodes, node: NodeId, shards: &[(usize, ShardRef)]) -> Vec<(usize, ShardIndex)> {
    let mut whole = Vec::new();
    for shards in shards.chunks(SHARDS_AT_ONCE) {
        let Some(link) = nodes.link(node) else { return whole };
        let refs: Vec<ShardRef> = shards.iter().map(|(_, shard)| *shard).collect();
        let answer = link.ask(|request| ToNode::Verify { request, shards: refs });
        if let Ok(Ok(FromNode::Verified { results, .. })) = timeout(ANSWER_WAIT.scaled(), answer).await {
            let good = shards.iter().zip(results).filter(|(_, result)| result.is_ok());
            whole.extend(good.map(|((position, shard), _)| (*position, shard.index)));
        }
    }
    whole
}
