//! What group 0 decided, and how far the gateways are. Both only ever raise numbers.

use super::release::{advance, release};
use super::{Group, lease_row, malformed};
use crate::api::index::{Fence, IndexDone, IndexRefusal, IndexReply, SlotMove, Watermark};
use crate::state::keys::{self, tag};
use crate::state::rows::{self, BucketFence, LeaseRow, Released};
use crate::table::{Scan, Space, TableError};
use tenfour_types::limits::KEY_SLOTS;
use tenfour_types::{CommandId, Epoch, LeaseId};

/// Replies that one watermark forgets; the next one goes on.
const REPLIES_PER_ROUND: usize = 8192;
/// Leases that ended and whose replies are still known: a gateway that slept for so long learns no more what became of its commands.
const ENDED_LEASES_MAX: usize = 64;
/// Epochs with moves that are kept for late commits.
const MOVE_EPOCHS_MAX: usize = 256;

/// Commits a decision. Fences come in the order of their numbers, none left out.
pub(super) fn apply(group: &mut Group<'_>, number: u64, fence: &Fence) -> Result<IndexReply, TableError> {
    if number <= group.head.fence {
        return Ok(Ok(IndexDone::Done));
    }
    if number != group.head.fence + 1 {
        return Ok(Err(malformed("a fence out of order")));
    }
    if matches!(fence, Fence::Slots(slots) if slots.len() != usize::from(KEY_SLOTS)) {
        return Ok(Err(malformed("a fence with another number of slots")));
    }
    group.head.fence = number;
    match fence {
        Fence::Config(version) => group.head.config = group.head.config.max(*version),
        Fence::Epoch(epoch) => group.head.epoch = group.head.epoch.max(*epoch),
        Fence::Moves { epoch, moves } => keep_moves(group, number, *epoch, moves)?,
        Fence::Slots(slots) => {
            let row = slots.iter().flat_map(|group| group.0.to_be_bytes()).collect();
            group.table.put(Space::State, keys::state(tag::SLOTS), row);
        }
        Fence::LeaseGranted(lease) => {
            // It has read nothing yet, and what it will read is this state or a later one.
            let watermark = Watermark { reads_below: group.at_index, ..Watermark::default() };
            let row = LeaseRow { ended: None, watermark, forgotten_below: 0 };
            rows::put(group.table, Space::State, keys::lease(*lease), &row)?;
        }
        Fence::LeaseEnded(lease) => end_lease(group, number, *lease)?,
        Fence::BucketClosed(bucket) => {
            rows::put(group.table, Space::State, keys::bucket_fence(*bucket), &BucketFence::Closed)?;
        }
        Fence::BucketReopened(bucket) => group.table.remove(Space::State, &keys::bucket_fence(*bucket)),
        Fence::BucketRemoved(bucket) => {
            rows::put(group.table, Space::State, keys::bucket_fence(*bucket), &BucketFence::Removed)?;
        }
    }
    group.head.save(group.table)?;
    advance(group)?;
    Ok(Ok(IndexDone::Done))
}

/// Takes a gateway's progress.
pub(super) fn watermark(
    group: &mut Group<'_>,
    lease: LeaseId,
    to: Watermark,
) -> Result<IndexReply, TableError> {
    let Some(mut row) = lease_row(group.table, lease)?.filter(|row| row.ended.is_none()) else {
        return Ok(Err(IndexRefusal::LeaseEnded));
    };
    let from = row.watermark;
    row.watermark = Watermark {
        commands_below: from.commands_below.max(to.commands_below),
        stripes_below: from.stripes_below.max(to.stripes_below),
        // Nobody can have read a state that is not there yet.
        reads_below: from.reads_below.max(to.reads_below.min(group.at_index)),
    };
    let forgotten = forget(group, lease, &mut row)?;
    if forgotten || row.watermark != from {
        rows::put(group.table, Space::State, keys::lease(lease), &row)?;
    }
    advance(group)?;
    Ok(Ok(IndexDone::Done))
}

/// Removes replies below the watermark, and notes how far it came.
fn forget(group: &mut Group<'_>, lease: LeaseId, row: &mut LeaseRow) -> Result<bool, TableError> {
    let below = row.watermark.commands_below;
    let from = row.forgotten_below;
    if from >= below {
        return Ok(false);
    }
    let at = |sequence| keys::command(CommandId { lease, sequence });
    let (end, mut gone) = (at(below), Vec::new());
    group.table.scan(Space::Replies, &at(from), &mut |key, _| {
        if key >= end.as_slice() || gone.len() == REPLIES_PER_ROUND {
            return Ok(Scan::Stop);
        }
        gone.push(key.to_vec());
        Ok(Scan::On)
    })?;
    let last =
        gone.last().filter(|_| gone.len() == REPLIES_PER_ROUND).and_then(|key| keys::parse_command(key));
    row.forgotten_below = last.map_or(below, |id| id.sequence + 1);
    for key in gone {
        group.table.remove(Space::Replies, &key);
    }
    Ok(true)
}

/// From here on commits of the lease are refused, and its reads no longer count. Its replies stay known for a while, so that what
/// it sent before is still answered by what became of it.
fn end_lease(group: &mut Group<'_>, number: u64, lease: LeaseId) -> Result<(), TableError> {
    let mut all = rows::leases(group.table)?;
    let Some(row) = all.get_mut(&lease).filter(|row| row.ended.is_none()) else { return Ok(()) };
    row.ended = Some(number);
    rows::put(group.table, Space::State, keys::lease(lease), row)?;
    let mut ended: Vec<(u64, LeaseId)> =
        all.iter().filter_map(|(&lease, row)| Some((row.ended?, lease))).collect();
    ended.sort_unstable();
    // Those before it were taken care of when their time came.
    if ended.len() > ENDED_LEASES_MAX {
        let oldest = ended.len() - ENDED_LEASES_MAX - 1;
        for &(_, lease) in ended.get(oldest..=oldest).unwrap_or_default() {
            let id = CommandId { lease: LeaseId(0), sequence: number };
            release(group, id, 0, Released::Lease(lease))?;
        }
    }
    Ok(())
}

fn keep_moves(
    group: &mut Group<'_>,
    number: u64,
    epoch: Epoch,
    moves: &[SlotMove],
) -> Result<(), TableError> {
    for slot in moves {
        let key = keys::moves(epoch, Some(slot.group), Some(slot.index));
        rows::put(group.table, Space::State, key, &(slot.from, slot.to))?;
    }
    group.head.moves_until = group.head.moves_until.max(epoch);
    let key = keys::state(tag::MOVE_EPOCHS);
    let mut epochs: Vec<Epoch> = rows::get(group.table, Space::State, &key)?.unwrap_or_default();
    if epochs.last() == Some(&epoch) {
        return Ok(());
    }
    epochs.push(epoch);
    if epochs.len() > MOVE_EPOCHS_MAX {
        let oldest = epochs.remove(0);
        group.head.moves_since = oldest;
        let id = CommandId { lease: LeaseId(0), sequence: number };
        release(group, id, 0, Released::Moves(oldest))?;
    }
    rows::put(group.table, Space::State, key, &epochs)
}
