//! The stripe table: rows come with the commit that names them, and go with the last byte that refers to them.
//!
//! Invariant: a row's `live_bytes` is the sum of the lengths of all extents, of objects, of past versions not yet let go and of
//! parts, that name it; a row with none does not exist. (What the sender put into `live_bytes` is not looked at.)
//!
//! **Late commits.** A commit may have been written by a map that is older than the one this group was fenced to. Where a slot of its
//! placement group has moved since, repair may already have declared the slot whole, so "at home" would no longer mean
//! where the shard was written: such a shard becomes an override to the target that the older map named. The fence brings the
//! moves of each epoch; those of the last `MOVE_EPOCHS_MAX` epochs that had any are kept, and what is older is refused.

use super::{Group, away, malformed, refuse};
use crate::api::index::IndexRefusal;
use crate::state::keys;
use crate::state::rows::{self, Head, LeaseRow};
use crate::table::{Scan, Space, Table, TableError, TableMut};
use std::collections::BTreeMap;
use tenfour_types::limits::STRIPE_DATA_BYTES_MAX;
use tenfour_types::{CommandId, Epoch, Extent, GroupId, Override, ShardIndex, StripeId, StripeRow, TargetId};

/// Rows to be written once everything else of the command is found good.
pub(super) struct Admitted(Vec<StripeRow>);

impl Admitted {
    pub(super) fn write(&self, table: &mut dyn TableMut) -> Result<(), TableError> {
        for row in &self.0 {
            away::mark(table, row, false)?;
            rows::put(table, Space::Stripes, row.id.to_bytes().to_vec(), row)?;
        }
        Ok(())
    }
}

/// Checks what a commit says of its stripes; `size` is what its extents have to add up to.
pub(super) fn check(
    group: &Group<'_>,
    id: CommandId,
    lease: &LeaseRow,
    size: u64,
    extents: &[Extent],
    stripes: &[StripeRow],
) -> Result<Result<Admitted, IndexRefusal>, TableError> {
    let mut named: BTreeMap<StripeId, (&StripeRow, u64)> = BTreeMap::new();
    for row in stripes {
        let data_bytes = 1..=STRIPE_DATA_BYTES_MAX as u32;
        if row.id.meta_group != group.head.group
            || row.id.lease != id.lease
            || !data_bytes.contains(&row.data_bytes)
        {
            return Ok(Err(malformed("a stripe of another group or lease, or of no length")));
        }
        if named.insert(row.id, (row, 0)).is_some() {
            return Ok(Err(malformed("a stripe twice")));
        }
    }
    let mut total = 0u64;
    for extent in extents {
        let Some((row, live)) = named.get_mut(&extent.stripe) else {
            return Ok(Err(malformed("an extent of a stripe that the command does not bring")));
        };
        let end = u64::from(extent.offset) + u64::from(extent.bytes);
        if extent.bytes == 0 || end > u64::from(row.data_bytes) {
            return Ok(Err(malformed("an extent beyond its stripe")));
        }
        *live += u64::from(extent.bytes);
        total = total.saturating_add(u64::from(extent.bytes));
    }
    if total != size {
        return Ok(Err(malformed("extents that do not add up to the size")));
    }
    let mut admitted = Vec::with_capacity(named.len());
    for (row, live) in named.into_values() {
        admitted.push(refuse!(admit(group, lease, row, live)?));
    }
    Ok(Ok(Admitted(admitted)))
}

/// The row as it will be in the table.
fn admit(
    group: &Group<'_>,
    lease: &LeaseRow,
    sent: &StripeRow,
    live: u64,
) -> Result<Result<StripeRow, IndexRefusal>, TableError> {
    let known: Option<StripeRow> = rows::get(group.table, Space::Stripes, &sent.id.to_bytes())?;
    let live = known.as_ref().map_or(0, |row| u64::from(row.live_bytes)).saturating_add(live);
    let Ok(live_bytes) = u32::try_from(live) else {
        return Ok(Err(malformed("a stripe that is named too often")));
    };
    if live_bytes == 0 {
        return Ok(Err(malformed("a stripe that no extent names")));
    }
    if let Some(known) = known {
        let same =
            known.digests == sent.digests && known.data_bytes == sent.data_bytes && known.group == sent.group;
        return Ok(if same {
            Ok(StripeRow { live_bytes, ..known })
        } else {
            Err(malformed("a stripe that differs"))
        });
    }
    if sent.id.counter < lease.watermark.stripes_below {
        return Ok(Err(malformed("a stripe that was given up")));
    }
    if sent.epoch < group.head.moves_since {
        return Ok(Err(IndexRefusal::StaleEpoch { oldest: group.head.moves_since }));
    }
    let mut row = StripeRow { live_bytes, ..sent.clone() };
    if row.epoch < group.head.moves_until {
        let late = moved_since(group.table, &group.head, row.group, row.epoch)?;
        row.overrides.extend(
            late.into_iter()
                .filter(|(index, _)| sent.override_of(*index).is_none())
                .map(|(index, target)| Override { index, target }),
        );
        row.overrides.sort_by_key(|entry| entry.index);
    }
    Ok(Ok(row))
}

/// The slots of a placement group that have another target now than they had at `epoch`, with the one they had.
pub(super) fn moved_since(
    table: &dyn Table,
    head: &Head,
    group: GroupId,
    epoch: Epoch,
) -> Result<BTreeMap<ShardIndex, TargetId>, TableError> {
    let mut moved: BTreeMap<ShardIndex, (TargetId, TargetId)> = BTreeMap::new();
    let mut at = Epoch(epoch.0 + 1);
    while at <= head.moves_until {
        // Skips from epoch to epoch: each seek finds the group's moves of one, or else the next that has any.
        let mut next = None;
        table.scan(Space::State, &keys::moves(at, Some(group), None), &mut |key, value| {
            let Some((epoch, of, index)) = keys::parse_move(key) else { return Ok(Scan::Stop) };
            if epoch != at || of != group {
                next = Some(epoch);
                return Ok(Scan::Stop);
            }
            let (from, to): (TargetId, TargetId) = rows::decode(value)?;
            moved.entry(index).or_insert((from, to)).1 = to;
            Ok(Scan::On)
        })?;
        at = match next {
            Some(epoch) => epoch.max(Epoch(at.0 + 1)),
            None => break,
        };
    }
    Ok(moved
        .into_iter()
        .filter(|(_, (from, to))| from != to)
        .map(|(index, (from, _))| (index, from))
        .collect())
}

/// Takes back what an extent held; the row goes with its last byte.
///
/// A row that is missing is not an error here: every replica would stop at the same entry, for ever, over a counter.
pub(super) fn credit(table: &mut dyn TableMut, extent: &Extent) -> Result<(), TableError> {
    let key = extent.stripe.to_bytes();
    let Some(mut row): Option<StripeRow> = rows::get(table, Space::Stripes, &key)? else { return Ok(()) };
    row.live_bytes = row.live_bytes.saturating_sub(extent.bytes);
    if row.live_bytes == 0 {
        let had = !row.overrides.is_empty();
        row.overrides.clear();
        away::mark(table, &row, had)?;
        table.remove(Space::Stripes, &key);
        return Ok(());
    }
    rows::put(table, Space::Stripes, key.to_vec(), &row)
}
