//! Shards that are not at home: which stripes have any, and how their overrides go once repair has brought them there.
//!
//! Invariant: a stripe has a mark exactly while its row has overrides (rows of an older release have theirs without one, until
//! they change); so those few are found without a look at all the others.
//!
//! An override is cleared by compare-and-swap: only the one that repair has seen, and only while home is where repair has stored
//! the shard. That is what the epoch says: a slot that has moved since has another home, whose own repair began after this
//! group had committed the move, and so will find the row.

use super::{Group, malformed, stripes};
use crate::api::index::{IndexDone, IndexRefusal, IndexReply, STRIPES_MAX, ShardAway};
use crate::state::keys::{self, tag};
use crate::state::rows;
use crate::table::{Scan, Space, Table, TableError, TableMut};
use tenfour_types::{Epoch, StripeId, StripeRow};

/// Marks a row that is about to be written, or takes the mark away.
pub(super) fn mark(table: &mut dyn TableMut, row: &StripeRow, had: bool) -> Result<(), TableError> {
    match (had, !row.overrides.is_empty()) {
        (_, true) => rows::put(table, Space::State, keys::away(row.id), &()),
        (true, false) => {
            table.remove(Space::State, &keys::away(row.id));
            Ok(())
        }
        (false, false) => Ok(()),
    }
}

/// Clears overrides of shards that are at home now.
pub(super) fn bring_home(
    group: &mut Group<'_>,
    epoch: Epoch,
    shards: &[ShardAway],
) -> Result<IndexReply, TableError> {
    if epoch > group.head.epoch {
        return Ok(Err(malformed("a map that this group was not fenced to")));
    }
    if epoch < group.head.moves_since {
        return Ok(Err(IndexRefusal::StaleEpoch { oldest: group.head.moves_since }));
    }
    for ShardAway { stripe, index, target } in shards {
        let key = stripe.to_bytes();
        let Some(mut row): Option<StripeRow> = rows::get(group.table, Space::Stripes, &key)? else {
            continue;
        };
        let has_moved = || {
            stripes::moved_since(group.table, &group.head, row.group, epoch)
                .map(|moved| moved.contains_key(index))
        };
        if row.override_of(*index) != Some(*target) || has_moved()? {
            continue;
        }
        row.overrides.retain(|away| away.index != *index);
        mark(group.table, &row, true)?;
        rows::put(group.table, Space::Stripes, key.to_vec(), &row)?;
    }
    Ok(Ok(IndexDone::Done))
}

/// Rows that have overrides.
pub(super) fn list(
    table: &dyn Table,
    after: Option<StripeId>,
    most: u32,
) -> Result<Vec<StripeRow>, TableError> {
    let mut start = after.map_or_else(|| keys::state(tag::AWAY), keys::away);
    if after.is_some() {
        start.push(0);
    }
    let most = (most as usize).min(STRIPES_MAX);
    let mut found = Vec::new();
    rows::scan_prefix(table, Space::State, &[tag::AWAY], &start, &mut |key, _| {
        if found.len() == most {
            return Ok(Scan::Stop);
        }
        found.push(
            keys::parse_away(key).ok_or_else(|| TableError::Corrupt("the mark of a stripe away".into()))?,
        );
        Ok(Scan::On)
    })?;
    found
        .into_iter()
        .map(|stripe| rows::get(table, Space::Stripes, &stripe.to_bytes()))
        .filter_map(Result::transpose)
        .collect()
}
