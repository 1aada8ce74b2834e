//! Choices that a gateway makes for one stripe: its row, and who stands in for a target that is absent.
//!
//! Nothing here waits or asks anybody: what is usable is what the map says, and what just failed is what the caller says.

use crate::map::{ClusterMap, Row};
use crate::mix;
use crate::spread::{Counts, Domains};
use tenfour_types::limits::TOTAL_SHARDS;
use tenfour_types::{GroupId, ShardIndex, TargetId};

/// Rows looked at before one that is not whole is taken.
const ROWS_TRIED_MAX: u64 = 16;

impl ClusterMap {
    /// The row for a new stripe: uniformly one of those with all 14 targets usable; when none of a few tried is whole, the
    /// one of them with the most usable targets. `None` when there are no groups.
    pub fn choose_group(&self, seed: u64) -> Option<GroupId> {
        let group_count = self.groups.len() as u64;
        let usable = |row: &Row| row.slots.iter().filter(|slot| self.is_usable(slot.target)).count();
        let mut best = None;
        for attempt in 0..ROWS_TRIED_MAX {
            let group = mix(&[seed, attempt]).checked_rem(group_count)?;
            let width = self.groups.get(group as usize).map_or(0, usable);
            if best.is_none_or(|(best_width, _)| width > best_width) {
                best = Some((width, GroupId(group as u32)));
            }
            if width == TOTAL_SHARDS {
                break;
            }
        }
        best.map(|(_, group)| group)
    }

    /// Who takes the shards of `absent` instead of their slots' targets: for each the usable target that keeps the stripe
    /// spread widest (a node that it does not use yet before one that it does, then racks, then targets), by chance and
    /// weight among equals. No target gets two shards of the stripe while another one without any is left on an equal node.
    ///
    /// `avoid` names targets that just failed or that took another shard of this stripe as a substitute: they are not
    /// chosen, and their nodes count as used once more. `None` when no usable target is left, or the group is unknown.
    pub fn substitutes(
        &self,
        group: GroupId,
        absent: &[ShardIndex],
        avoid: &[TargetId],
        seed: u64,
    ) -> Option<Vec<(ShardIndex, TargetId)>> {
        let row = self.row(group)?;
        let domains = Domains::of(self, |target| self.is_usable(target));
        let mut counts = Counts::new(&domains);
        let staying =
            ShardIndex::all().filter(|index| !absent.contains(index)).map(|index| row.slot(index).target);
        for target in staying.chain(avoid.iter().copied()) {
            if let Some(number) = domains.find(target) {
                counts.add(number);
            }
        }
        let replaced = absent.iter().map(|&index| row.slot(index).target);
        let refused: Vec<TargetId> = avoid.iter().copied().chain(replaced).collect();
        absent
            .iter()
            .map(|&index| {
                let salt = mix(&[seed, index.get() as u64]);
                let chosen = widest(&domains, &counts, &refused, salt)
                    .or_else(|| widest(&domains, &counts, avoid, salt))?;
                counts.add(chosen);
                Some((index, domains.targets.get(chosen)?.id))
            })
            .collect()
    }
}

/// The least crowded target that is not refused; among equals by chance, in proportion to their weights.
fn widest(domains: &Domains, counts: &Counts<'_>, refused: &[TargetId], salt: u64) -> Option<usize> {
    let mut equals: Vec<(usize, u64)> = Vec::new();
    let mut least = None;
    for (number, place) in domains.targets.iter().enumerate() {
        let crowding = counts.crowding(number);
        if least.is_some_and(|least| crowding > least) || refused.contains(&place.id) {
            continue;
        }
        if least != Some(crowding) {
            least = Some(crowding);
            equals.clear();
        }
        equals.push((number, place.weight));
    }
    let total: u64 = equals.iter().map(|(_, weight)| weight).sum();
    let mut draw = salt.checked_rem(total)?;
    for (number, weight) in equals {
        if draw < weight {
            return Some(number);
        }
        draw -= weight;
    }
    None
}
