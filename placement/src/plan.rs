//! Which rows there are, and how they change when targets come and go.
//!
//! Three steps, the same for a first plan (a table with every slot vacant) and for a change (vacant where a target left):
//! 1. *fill*: each vacant slot gets the least crowded target, among equals the least loaded, among equals one by chance;
//! 2. *widen*: where the failure domains now allow a wider row, slots move until the row is as wide as can be;
//! 3. *balance*: slots move from loaded to idle targets in rows that stay as wide, over a few intermediate targets if need be.
//!
//! The chance is a draw by group and target, as in rendezvous hashing, so the rows of one target have partners everywhere and
//! its repair reads from everybody. Load is slots per weight; the bound on width comes before it. Nothing moves that does not
//! have to: a slot keeps its position and, unless one of the three steps needs it, its target.

use crate::map::{ClusterMap, Row, Slot};
use crate::mix;
use crate::spread::{Counts, Crowding, Domains};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use tenfour_types::limits::TOTAL_SHARDS;
use tenfour_types::{GroupId, ShardIndex, TargetId};

/// Slots that a target should have at least, so that its share can be fine-tuned to a percent.
const SLOTS_PER_TARGET: usize = 100;
const GROUPS_MIN: usize = 64;
const GROUPS_MAX: usize = 8192;
/// Earlier holders that a slot may have before it is no longer moved for the balance alone.
const CHAIN_MAX: usize = 4;
/// Loads that differ by less than this part (a sixteenth) are balanced. Evening out the rest could move nearly half as much
/// again as has to be moved, where racks of unequal size bound who may take whose slots.
const TOLERANCE_PART: u64 = 16;
/// Targets on the way of one balancing exchange.
const PATH_MAX: usize = 3;
/// Rounds of balancing; the second finds little, the last nothing.
const BALANCE_ROUNDS_MAX: usize = 4;
const VACANT: u32 = u32::MAX;

/// Placement groups for a cluster that begins with so many targets: a power of two, 64 to 8,192, with 100 slots or more per
/// target as far as that goes.
pub fn default_group_count(targets: usize) -> usize {
    targets
        .saturating_mul(SLOTS_PER_TARGET)
        .div_ceil(TOTAL_SHARDS)
        .clamp(GROUPS_MIN, GROUPS_MAX)
        .next_power_of_two()
}

/// The rows of a new cluster; none when the map has no target that shards may live on.
///
/// For any number of nodes from one up, every row is as wide as can be, and targets have slots in proportion to their
/// weights as far as the width allows.
pub fn plan(map: &ClusterMap, group_count: usize) -> Vec<Row> {
    let domains = Domains::of_residents(map);
    if domains.targets.is_empty() {
        return Vec::new();
    }
    let table = Table::settled(
        &domains,
        vec![[VACANT; TOTAL_SHARDS]; group_count],
        vec![[true; TOTAL_SHARDS]; group_count],
    );
    let slot = |&number: &u32| Slot { target: domains.targets[number as usize].id, sources: Vec::new() };
    table.rows.iter().map(|row| Row { slots: row.each_ref().map(slot) }).collect()
}

/// The rows after targets came, went, or changed their weight: as wide and balanced as a new plan, with nearly as little
/// moved as possible: within 1.3 of what the target or node that came or went holds, up to about 1.5 where racks of unequal
/// size leave so little choice that others' shares shift too. A slot that moves remembers where its shards may still be
/// ([`Slot::sources`]).
///
/// Without any target that shards may live on, the rows stay as they are.
pub fn rebalance(old: &[Row], map: &ClusterMap) -> Vec<Row> {
    let domains = Domains::of_residents(map);
    if domains.targets.is_empty() {
        return old.to_vec();
    }
    let number = |slot: &Slot| domains.find(slot.target).map_or(VACANT, |number| number as u32);
    let rows = old.iter().map(|row| row.slots.each_ref().map(number)).collect();
    let movable: Vec<_> =
        old.iter().map(|row| row.slots.each_ref().map(|slot| slot.sources.len() < CHAIN_MAX)).collect();
    let table = Table::settled(&domains, rows, movable);
    let moved = |(old, row): (&Row, &[u32; TOTAL_SHARDS])| {
        let slot = |at: usize| successor(&old.slots[at], domains.targets[row[at] as usize].id, map);
        Row { slots: std::array::from_fn(slot) }
    };
    old.iter().zip(&table.rows).map(moved).collect()
}

/// A slot that goes from where it is to `target`, and the chain of those that held its shards. A lost target stays on it, though it
/// has nothing to give: a chain that is empty would say that the slot is whole.
fn successor(old: &Slot, target: TargetId, map: &ClusterMap) -> Slot {
    if old.target == target {
        return old.clone();
    }
    let mut seen = BTreeSet::from([target]);
    let chain = std::iter::once(old.target).chain(old.sources.iter().copied());
    let known = chain.filter(|id| map.targets.contains_key(id));
    Slot { target, sources: known.filter(|&id| seen.insert(id)).collect() }
}

/// One slot that moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The row.
    pub group: GroupId,
    /// The slot in it.
    pub index: ShardIndex,
    /// Where its shards were.
    pub from: TargetId,
    /// Where they go.
    pub to: TargetId,
}

/// The slots whose target differs between two tables, in order; rows that only one of them has are not compared.
pub fn diff(old: &[Row], new: &[Row]) -> Vec<Move> {
    let mut moves = Vec::new();
    for (group, (old, new)) in old.iter().zip(new).enumerate() {
        for index in ShardIndex::all() {
            let (from, to) = (old.slot(index).target, new.slot(index).target);
            if from != to {
                moves.push(Move { group: GroupId(group as u32), index, from, to });
            }
        }
    }
    moves
}

/// A table in the making; targets are dense numbers.
struct Table<'a> {
    domains: &'a Domains,
    rows: Vec<[u32; TOTAL_SHARDS]>,
    /// As it was at first: moving a slot that moves anyway costs nothing.
    origin: Vec<[u32; TOTAL_SHARDS]>,
    movable: Vec<[bool; TOTAL_SHARDS]>,
    /// Slots of each target.
    load: Vec<u64>,
}

/// A slot of the table: row and position.
type At = (usize, usize);

impl<'a> Table<'a> {
    fn settled(
        domains: &'a Domains,
        rows: Vec<[u32; TOTAL_SHARDS]>,
        movable: Vec<[bool; TOTAL_SHARDS]>,
    ) -> Self {
        let mut load = vec![0; domains.targets.len()];
        for &number in rows.iter().flatten().filter(|&&number| number != VACANT) {
            load[number as usize] += 1;
        }
        let mut table = Self { domains, origin: rows.clone(), rows, movable, load };
        table.fill();
        table.widen();
        table.balance();
        table
    }

    fn fill(&mut self) {
        for group in 0..self.rows.len() {
            if !self.rows[group].contains(&VACANT) {
                continue;
            }
            let mut counts = self.counts(group);
            for position in 0..TOTAL_SHARDS {
                if self.rows[group][position] == VACANT {
                    let target = self.best_for(group, &counts);
                    counts.add(target);
                    self.put((group, position), target);
                }
            }
        }
    }

    /// The least crowded target; among equals the least loaded, among equals the one that wins the draw.
    fn best_for(&self, group: usize, counts: &Counts<'_>) -> usize {
        let draw = |target: usize| mix(&[group as u64, u64::from(self.domains.targets[target].id.0)]);
        let better = |&a: &usize, &b: &usize| {
            let load = || self.cmp_load((a, self.load[a] + 1), (b, self.load[b] + 1));
            counts.crowding(a).cmp(&counts.crowding(b)).then_with(load).then_with(|| draw(a).cmp(&draw(b)))
        };
        (0..self.load.len()).min_by(better).unwrap_or_default()
    }

    fn widen(&mut self) {
        for group in 0..self.rows.len() {
            let mut counts = self.counts(group);
            while let Some((position, target)) = self.widening(group, &mut counts) {
                counts.remove(self.rows[group][position] as usize);
                counts.add(target);
                self.put((group, position), target);
            }
        }
    }

    /// The exchange that makes a row wider by the most; among equals it moves what moves anyway, then from the most loaded target.
    fn widening(&self, group: usize, counts: &mut Counts<'_>) -> Option<(usize, usize)> {
        let exchange = |position: usize| {
            let from = self.rows[group][position] as usize;
            counts.remove(from);
            let to = self.best_for(group, counts);
            let gain = gain(counts.crowding(from), counts.crowding(to));
            counts.add(from);
            (gain > (0, 0, 0)).then(|| (position, from, to, (gain, self.is_moving((group, position)))))
        };
        let (position, _, to, _) =
            (0..TOTAL_SHARDS).filter_map(exchange).max_by(|(_, a, _, gain_a), (_, b, _, gain_b)| {
                gain_a.cmp(gain_b).then_with(|| self.cmp_load((*a, self.load[*a]), (*b, self.load[*b])))
            })?;
        Some((position, to))
    }

    fn balance(&mut self) {
        let mut slots_of = vec![BTreeSet::new(); self.load.len()];
        for (group, row) in self.rows.iter().enumerate() {
            for (position, &number) in row.iter().enumerate() {
                slots_of[number as usize].insert((group, position));
            }
        }
        for _ in 0..BALANCE_ROUNDS_MAX {
            let mut stuck = vec![false; self.load.len()];
            let mut moved = false;
            while let Some(source) = self.most_loaded(&stuck) {
                let path = self.relief(source, &slots_of);
                stuck[source] = path.is_empty();
                moved |= !path.is_empty();
                for (at, to) in path {
                    let from = self.put(at, to);
                    slots_of[from].remove(&at);
                    slots_of[to].insert(at);
                }
            }
            if !moved || !stuck.contains(&true) {
                break;
            }
        }
    }

    fn most_loaded(&self, stuck: &[bool]) -> Option<usize> {
        let by_load =
            |&a: &usize, &b: &usize| self.cmp_load((a, self.load[a]), (b, self.load[b])).then(b.cmp(&a));
        (0..self.load.len()).filter(|&target| !stuck[target] && self.load[target] > 0).max_by(by_load)
    }

    /// The shortest way to take one slot off a target so that the balance gets better and no row gets narrower: the
    /// exchanges, in different rows; none when there is no way.
    fn relief(&self, source: usize, slots_of: &[BTreeSet<At>]) -> Vec<(At, usize)> {
        if !(0..self.load.len()).any(|target| self.is_relieved(source, target)) {
            return Vec::new();
        }
        let mut reached: Vec<Option<(usize, At)>> = vec![None; self.load.len()];
        let mut front = vec![source];
        for _ in 0..PATH_MAX {
            let mut next = Vec::new();
            for &target in &front {
                self.exchanges(target, slots_of, |to, at| {
                    if to != source && reached[to].is_none() {
                        reached[to] = Some((target, at));
                        next.push(to);
                    }
                });
            }
            let by_load = |&&a: &&usize, &&b: &&usize| {
                self.cmp_load((a, self.load[a]), (b, self.load[b])).then(a.cmp(&b))
            };
            if let Some(&best) = next.iter().min_by(by_load).filter(|&&best| self.is_relieved(source, best)) {
                return trace(source, best, &reached);
            }
            front = next;
        }
        Vec::new()
    }

    /// Calls `visit` for each exchange that takes a slot off a target and leaves its row as wide; those first whose slot
    /// moves anyway.
    fn exchanges(&self, from: usize, slots_of: &[BTreeSet<At>], mut visit: impl FnMut(usize, At)) {
        let mut counts = Counts::new(self.domains);
        for moving in [true, false] {
            for &at in slots_of[from].iter().filter(|&&at| self.is_moving(at) == moving) {
                if !self.movable[at.0][at.1] && !moving {
                    continue;
                }
                let row = self.rows[at.0].map(|number| number as usize);
                row.iter().for_each(|&target| counts.add(target));
                counts.remove(from);
                let crowding = counts.crowding(from);
                for to in (0..self.load.len()).filter(|&to| to != from) {
                    if counts.crowding(to) == crowding {
                        visit(to, at);
                    }
                }
                counts.add(from);
                row.iter().for_each(|&target| counts.remove(target));
            }
        }
    }

    /// Whether a slot going from one target to another lowers the worse of the two loads by more than the tolerance.
    fn is_relieved(&self, from: usize, to: usize) -> bool {
        let then = self.load[to] + 1;
        self.cmp_load((to, then + then / TOLERANCE_PART), (from, self.load[from])).is_lt()
    }

    /// Compares slots per weight.
    fn cmp_load(&self, (a, slots_a): (usize, u64), (b, slots_b): (usize, u64)) -> Ordering {
        (slots_a * self.domains.targets[b].weight).cmp(&(slots_b * self.domains.targets[a].weight))
    }

    fn is_moving(&self, (group, position): At) -> bool {
        self.rows[group][position] != self.origin[group][position]
    }

    /// Puts a target in a slot and returns the one that was there (the new one, if none).
    fn put(&mut self, (group, position): At, target: usize) -> usize {
        let before = std::mem::replace(&mut self.rows[group][position], target as u32);
        self.load[target] += 1;
        if before == VACANT {
            return target;
        }
        self.load[before as usize] -= 1;
        before as usize
    }

    fn counts(&self, group: usize) -> Counts<'a> {
        let mut counts = Counts::new(self.domains);
        for &number in self.rows[group].iter().filter(|&&number| number != VACANT) {
            counts.add(number as usize);
        }
        counts
    }
}

/// How much wider a row gets when a shard goes from one crowd to another: nodes, then racks, then targets.
fn gain(now: Crowding, then: Crowding) -> (i32, i32, i32) {
    let less = |now: u16, then: u16| i32::from(now) - i32::from(then);
    (less(now.0, then.0), less(now.1, then.1), less(now.2, then.2))
}

/// The exchanges that lead from `source` to `end`; none when two of them are in one row, since each was checked on its own.
fn trace(source: usize, end: usize, reached: &[Option<(usize, At)>]) -> Vec<(At, usize)> {
    let mut path = Vec::new();
    let mut rows = BTreeSet::new();
    let mut to = end;
    while to != source {
        let Some((from, at)) = reached[to] else { return Vec::new() };
        if !rows.insert(at.0) {
            return Vec::new();
        }
        path.push((at, to));
        to = from;
    }
    path
}
