//! Who is asked for a shard: the holders that the map names, those that answer, and not again those that had no good copy.
//!
//! A node that is busy, or whose connection has just broken, has its shards all the same: when a stripe cannot do without them they are
//! asked for again, for a moment, before the read is given up.

use super::Gather;
use crate::counters::count;
use crate::nodes::Failure;
use std::time::Duration;
use tenfour_placement::NodeState;
use tenfour_types::limits::DATA_SHARDS;
use tenfour_types::shard_service::ShardError;
use tenfour_types::{Scaled, ShardIndex, TargetId};
use tokio::time::{Instant, sleep};

/// Shards that cannot be had now are looked for again for so long: connections that broke are back within a second.
const LOOK_AGAIN_FOR: Duration = Duration::from_secs(3);
/// The first and the longest pause before another look.
const LOOK_PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(320)];

/// A holder that was asked for a shard in vain.
pub(super) struct PassedOver {
    index: ShardIndex,
    target: TargetId,
    /// It has no good copy. Else it was busy, or the connection broke: it may be asked again.
    is_final: bool,
}

/// Looking again for what cannot be had: at once by the newest map, then after pauses, until it has taken too long.
#[derive(Default)]
pub(super) struct SecondLooks {
    until: Option<Instant>,
    pause: Duration,
}

impl Gather {
    /// Which shards can be asked for at all, and which of those are late already.
    pub(super) fn look_for_holders(&mut self) {
        for index in ShardIndex::all() {
            let holder = self.holder(index);
            let shard = &mut self.shards[index.get()];
            shard.failed = holder.is_none();
            shard.late |= holder.is_some_and(|(_, is_ready)| !is_ready);
        }
    }

    /// The target to ask for a shard next, and whether its node is ready.
    pub(super) fn holder(&self, index: ShardIndex) -> Option<(TargetId, bool)> {
        self.map.holders(&self.row, index).filter(|target| !self.is_passed_over(index, *target)).find_map(
            |target| {
                let node = self.map.node_of(target).filter(|node| self.view.is_connected(*node))?;
                Some((target, self.view.is_ready(node)))
            },
        )
    }

    fn is_passed_over(&self, index: ShardIndex, target: TargetId) -> bool {
        self.passed_over.iter().any(|over| (over.index, over.target) == (index, target))
    }

    /// Whether repair has yet to bring the shards of this slot to where they belong: they need not be there.
    fn is_moving(&self, index: ShardIndex) -> bool {
        self.map.row(self.row.group).is_some_and(|row| !row.slot(index).sources.is_empty())
    }

    /// Whether a shard that cannot be asked for may be there in a moment: on a node that lives, as far as the map knows.
    fn may_come_back(&self, index: ShardIndex) -> bool {
        let is_final = |target| {
            let mut over =
                self.passed_over.iter().filter(|over| (over.index, over.target) == (index, target));
            over.any(|over| over.is_final)
        };
        self.map.holders(&self.row, index).filter(|target| !is_final(*target)).any(|target| {
            let node = self.map.node_of(target).and_then(|node| self.map.nodes.get(&node));
            node.is_some_and(|node| node.state == NodeState::Up)
        })
    }

    /// Looks anew who has what; false when that has been done for long enough, or nothing can come of it.
    pub(super) async fn look_again(&mut self) -> bool {
        let until = Instant::now() + LOOK_AGAIN_FOR.scaled();
        let until = *self.second_looks.until.get_or_insert(until.min(self.deadline));
        let pause = self.second_looks.pause;
        if pause.is_zero() {
            if let Ok(map) = self.inner.metadata.refresh_map().await {
                self.map = map;
            }
        } else {
            let hoped_for = ShardIndex::all()
                .filter(|index| !self.shards[index.get()].failed || self.may_come_back(*index))
                .count();
            if hoped_for < DATA_SHARDS || Instant::now() >= until {
                return false;
            }
            sleep(pause).await;
        }
        self.second_looks.pause = (pause * 2).clamp(LOOK_PAUSE[0].scaled(), LOOK_PAUSE[1].scaled());
        self.view = self.inner.nodes.view_for_reading();
        self.passed_over.retain(|over| over.is_final);
        self.look_for_holders();
        true
    }

    pub(super) fn fetch_failed(&mut self, index: ShardIndex, target: TargetId, failure: Failure) {
        if let Failure::Refused(
            error @ (ShardError::Damaged | ShardError::NotFound | ShardError::UnknownTarget),
        ) = failure
            && !(self.is_moving(index) && error != ShardError::Damaged)
        {
            count(&self.inner.counters.bad_shards);
            tracing::warn!(stripe = %self.row.id, %index, %target, %error, "a bad shard is read around; repair will find it");
        }
        let is_final =
            !matches!(failure, Failure::Lost | Failure::Busy | Failure::Refused(ShardError::Overloaded));
        self.passed_over.push(PassedOver { index, target, is_final });
        let holder = self.holder(index);
        let shard = &mut self.shards[index.get()];
        shard.failed = holder.is_none();
        shard.late = holder.is_some_and(|(_, is_ready)| !is_ready);
    }
}
