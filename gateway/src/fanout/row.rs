//! Before a fan-out: which row a stripe takes, who stands in for absent targets, and staging slots for all 14 at once.

use super::FanoutError;
use crate::gateway::Inner;
use crate::nodes::{Credit, Nodes, View};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tenfour_placement::ClusterMap;
use tenfour_types::Scaled;
use tenfour_types::limits::TOTAL_SHARDS;
use tenfour_types::{GroupId, NodeId, ShardIndex, TargetId};
use tokio::time::{Instant, sleep, timeout};

/// Rows looked at for one whose 14 nodes answer.
const ROWS_TRIED_MAX: u64 = 8;
/// When no row can be had, one is looked for again every so often, for so long.
const ROW_PAUSE: Duration = Duration::from_millis(50);
const ROW_WAIT: Duration = Duration::from_secs(2);
/// Before another row is looked for, since a node has just gone.
const RESERVE_PAUSE: Duration = Duration::from_millis(1);
/// While slots are waited for, the nodes' health is looked at not more often than this.
const CREDITS_LOOK: Duration = Duration::from_millis(10);

/// Everything that a stripe needs to be written at one moment.
pub(super) struct Reserved {
    pub(super) map: Arc<ClusterMap>,
    pub(super) row: Row,
    /// None only where a node has fewer slots than shards to take.
    pub(super) credits: Vec<Option<Credit>>,
}

/// A row, and a staging slot for each of its shards, all taken at one moment. Slots that are long in coming are waited for
/// while their nodes answer others; when one of the nodes is silent, another row is taken.
pub(super) async fn reserve(inner: &Inner, deadline: Instant) -> Result<Reserved, FanoutError> {
    loop {
        let map = inner.metadata.map();
        let row = Row::choose(inner, &map).await?;
        if let Some(credits) = row.credits(inner, &map, deadline).await {
            return Ok(Reserved { map, row, credits });
        }
        if Instant::now() >= deadline {
            return Err(FanoutError::Unavailable("no staging slots became free in time".to_owned()));
        }
        sleep(RESERVE_PAUSE).await;
    }
}

/// A placement group, and the targets that the shards go to first.
pub(super) struct Row {
    pub(super) group: GroupId,
    pub(super) home: [TargetId; TOTAL_SHARDS],
    pub(super) first: [TargetId; TOTAL_SHARDS],
}

impl Row {
    /// A row whose 14 targets answer, if there is one; absent ones get substitutes at once. When hardly anybody answers,
    /// those that are slow or refused something will have to do, and some may come back in a moment.
    async fn choose(inner: &Inner, map: &ClusterMap) -> Result<Self, FanoutError> {
        let seed = rand::random();
        let give_up = Instant::now() + ROW_WAIT.scaled();
        loop {
            for strict in [true, false] {
                if let Some(row) = Self::among(map, &Absent::now(map, &inner.nodes, strict), seed) {
                    return Ok(row);
                }
            }
            if Instant::now() >= give_up {
                return Err(FanoutError::Unavailable("no targets, or none that answers".to_owned()));
            }
            sleep(ROW_PAUSE).await;
        }
    }

    fn among(map: &ClusterMap, absent_now: &Absent<'_>, seed: u64) -> Option<Self> {
        let mut best: Option<(GroupId, Vec<ShardIndex>)> = None;
        for attempt in 0..ROWS_TRIED_MAX {
            let group = map.choose_group(seed.wrapping_add(attempt))?;
            let row = map.row(group)?;
            let absent: Vec<_> =
                ShardIndex::all().filter(|index| absent_now.is(row.slot(*index).target)).collect();
            let is_whole = absent.is_empty();
            if best.as_ref().is_none_or(|(_, fewest)| absent.len() < fewest.len()) {
                best = Some((group, absent));
            }
            if is_whole {
                break;
            }
        }
        let (group, absent) = best?;
        let home = map.row(group)?.slots.each_ref().map(|slot| slot.target);
        let mut first = home;
        if !absent.is_empty() {
            for (index, target) in map.substitutes(group, &absent, &absent_now.all(), seed)? {
                first[index.get()] = target;
            }
        }
        Some(Self { group, home, first })
    }

    /// A staging slot for each shard, as far as their nodes have so many; `None` when one of the nodes went or is silent.
    async fn credits(
        &self,
        inner: &Inner,
        map: &ClusterMap,
        deadline: Instant,
    ) -> Option<Vec<Option<Credit>>> {
        let (nodes, credits) = (&inner.nodes, inner.nodes.credits());
        let mut wanted: Vec<NodeId> = Vec::with_capacity(TOTAL_SHARDS);
        let mut has_slot = [false; TOTAL_SHARDS];
        for (target, has_slot) in self.first.iter().zip(&mut has_slot) {
            let node = map.node_of(*target)?;
            let before = wanted.iter().filter(|other| **other == node).count();
            // Nearly always the first shard of its node, which has a slot if it has any.
            *has_slot = before == 0 || before < credits.slots_of(node);
            if *has_slot {
                wanted.push(node);
            }
        }
        let mut taking = pin!(credits.all(&wanted));
        let taken = loop {
            let patience = nodes.store_hedge_delay().max(CREDITS_LOOK);
            match timeout(patience, &mut taking).await {
                Ok(taken) => break taken.ok()?,
                Err(_) if Instant::now() >= deadline => return None,
                Err(_) => {
                    let view = nodes.view();
                    if !wanted.iter().all(|node| view.is_ready(*node)) {
                        return None;
                    }
                }
            }
        };
        let mut taken = taken.into_iter();
        Some(has_slot.into_iter().map(|has_slot| if has_slot { taken.next() } else { None }).collect())
    }
}

/// The targets that are not worth asking now.
pub(super) struct Absent<'a> {
    map: &'a ClusterMap,
    nodes: &'a Nodes,
    view: View,
    /// Late nodes and refusing targets count as well.
    strict: bool,
}

impl<'a> Absent<'a> {
    pub(super) fn now(map: &'a ClusterMap, nodes: &'a Nodes, strict: bool) -> Self {
        Self::among(map, nodes, nodes.view(), strict)
    }

    pub(super) fn among(map: &'a ClusterMap, nodes: &'a Nodes, view: View, strict: bool) -> Self {
        Self { map, nodes, view, strict }
    }

    fn is(&self, target: TargetId) -> bool {
        let Some(node) = self.map.node_of(target).filter(|_| self.map.is_usable(target)) else { return true };
        if self.strict {
            !self.view.is_ready(node) || self.nodes.is_refusing(target)
        } else {
            !self.view.is_connected(node)
        }
    }

    pub(super) fn all(&self) -> Vec<TargetId> {
        self.map.targets.keys().copied().filter(|target| self.is(*target)).collect()
    }
}
