//! Letting go: what was replaced at a log index stays readable until every gateway's reads from before that index have ended,
//! and then its parts and its stripes' bytes are given back.
//!
//! The work of one command is bounded: what is left is done by the commands that follow. Each command that releases something also lets
//! go a little more than one such thing, so the queue cannot grow without end between watermarks.

use super::{Group, stripes};
use crate::state::keys::{self, tag, upload_tag};
use crate::state::rows::{self, PastRow, Released, ReleasedRow};
use crate::table::{Scan, Space, TableError};
use tenfour_types::{Body, CommandId, Extent, LeaseId, UploadId};

/// Rows that one fence or watermark lets go (one large part more, at most).
const ROWS_PER_ROUND: usize = 256;
/// Rows that a command lets go which releases something itself.
const ROWS_PER_COMMAND: usize = 4;

/// Notes what is to be let go; `ordinal` tells several of one command apart.
pub(super) fn release(
    group: &mut Group<'_>,
    id: CommandId,
    ordinal: u8,
    what: Released,
) -> Result<(), TableError> {
    let key = keys::released(group.at_index, id, ordinal);
    rows::put(group.table, Space::Released, key, &ReleasedRow { what, done: 0 })?;
    drain(group, ROWS_PER_COMMAND)
}

/// Recomputes how far things may be let go, after a watermark or the end of a lease, and lets some go.
pub(super) fn advance(group: &mut Group<'_>) -> Result<(), TableError> {
    let leases = rows::leases(group.table)?;
    let live = leases.values().filter(|lease| lease.ended.is_none());
    // Without any reader, everything up to now may go.
    let floor = live.map(|lease| lease.watermark.reads_below).min().unwrap_or(group.at_index);
    if floor > group.head.floor {
        group.head.floor = floor;
        group.head.save(group.table)?;
    }
    drain(group, ROWS_PER_ROUND)
}

fn drain(group: &mut Group<'_>, mut budget: usize) -> Result<(), TableError> {
    let before = group.head.released_from;
    if group.head.floor < before {
        return Ok(());
    }
    while budget > 0 {
        let Some((key, index, row)) = first(group)? else { break };
        group.head.released_from = index;
        match let_go(group, row, &mut budget)? {
            None => group.table.remove(Space::Released, &key),
            Some(rest) => {
                rows::put(group.table, Space::Released, key, &rest)?;
                break;
            }
        }
    }
    if group.head.released_from != before {
        group.head.save(group.table)?;
    }
    Ok(())
}

/// The first thing that may go.
fn first(group: &Group<'_>) -> Result<Option<(Vec<u8>, u64, ReleasedRow)>, TableError> {
    let mut found = None;
    let start = group.head.released_from.to_be_bytes();
    group.table.scan(Space::Released, &start, &mut |key, value| {
        let index =
            keys::released_index(key).ok_or_else(|| TableError::Corrupt("a released row's key".into()))?;
        if index <= group.head.floor {
            found = Some((key.to_vec(), index, rows::decode(value)?));
        }
        Ok(Scan::Stop)
    })?;
    Ok(found)
}

/// Lets go as much as the budget allows; what is left, if anything.
fn let_go(
    group: &mut Group<'_>,
    row: ReleasedRow,
    budget: &mut usize,
) -> Result<Option<ReleasedRow>, TableError> {
    let ReleasedRow { what, done } = row;
    let progress = match &what {
        Released::Version(version) => let_go_version(group, *version, done, budget)?,
        Released::Extents(extents) => let_go_extents(group, extents, done, budget)?,
        Released::Parts { upload, numbers } => let_go_parts(group, *upload, numbers, done, budget)?,
        Released::Upload(upload) => let_go_upload(group, *upload, budget)?,
        Released::Lease(lease) => let_go_lease(group, *lease, budget)?,
        Released::Moves(epoch) => let_go_rows(group, Space::State, &keys::moves(*epoch, None, None), budget)?,
    };
    Ok(progress.map(|done| ReleasedRow { what, done }))
}

fn let_go_version(
    group: &mut Group<'_>,
    version: CommandId,
    done: u32,
    budget: &mut usize,
) -> Result<Option<u32>, TableError> {
    let key = keys::command(version);
    let Some(PastRow { bucket, key: name, manifest, .. }) = rows::get(group.table, Space::Past, &key)? else {
        return Ok(None);
    };
    let left = match &manifest.body {
        Body::Extents(extents) => let_go_extents(group, extents, done, budget)?,
        Body::Parts { upload, parts } => {
            let numbers: Vec<u32> = parts.iter().map(|part| part.number).collect();
            let left = let_go_parts(group, *upload, &numbers, done, budget)?;
            if left.is_none() {
                let completed = keys::upload(upload_tag::COMPLETED, bucket, &name, *upload);
                group.table.remove(Space::Uploads, &completed);
            }
            left
        }
    };
    if left.is_none() {
        group.table.remove(Space::Past, &key);
        *budget = budget.saturating_sub(1);
    }
    Ok(left)
}

fn let_go_extents(
    group: &mut Group<'_>,
    extents: &[Extent],
    done: u32,
    budget: &mut usize,
) -> Result<Option<u32>, TableError> {
    for (at, extent) in extents.iter().enumerate().skip(done as usize) {
        if *budget == 0 {
            return Ok(Some(at as u32));
        }
        stripes::credit(group.table, extent)?;
        *budget -= 1;
    }
    Ok(None)
}

fn let_go_parts(
    group: &mut Group<'_>,
    upload: UploadId,
    numbers: &[u32],
    done: u32,
    budget: &mut usize,
) -> Result<Option<u32>, TableError> {
    for (at, &number) in numbers.iter().enumerate().skip(done as usize) {
        if *budget == 0 {
            return Ok(Some(at as u32));
        }
        let_go_part(group, &keys::part(upload, number), budget)?;
    }
    Ok(None)
}

fn let_go_upload(
    group: &mut Group<'_>,
    upload: UploadId,
    budget: &mut usize,
) -> Result<Option<u32>, TableError> {
    let parts = first_keys(group, Space::Parts, &keys::command(upload.0), *budget)?;
    for key in parts {
        if *budget == 0 {
            return Ok(Some(0));
        }
        let_go_part(group, &key, budget)?;
    }
    Ok(if *budget == 0 { Some(0) } else { None })
}

/// A part goes whole: its extents number a few hundred at most.
fn let_go_part(group: &mut Group<'_>, key: &[u8], budget: &mut usize) -> Result<(), TableError> {
    let part: Option<crate::api::index::Part> = rows::get(group.table, Space::Parts, key)?;
    for extent in part.iter().flat_map(|part| &part.extents) {
        stripes::credit(group.table, extent)?;
    }
    *budget = budget.saturating_sub(1 + part.map_or(0, |part| part.extents.len()));
    group.table.remove(Space::Parts, key);
    Ok(())
}

fn let_go_lease(
    group: &mut Group<'_>,
    lease: LeaseId,
    budget: &mut usize,
) -> Result<Option<u32>, TableError> {
    let left = let_go_rows(group, Space::Replies, &lease.0.to_be_bytes(), budget)?;
    if left.is_none() {
        group.table.remove(Space::State, &keys::state_number(tag::LEASE, lease.0));
    }
    Ok(left)
}

/// Removes the rows whose keys begin with `prefix`.
fn let_go_rows(
    group: &mut Group<'_>,
    space: Space,
    prefix: &[u8],
    budget: &mut usize,
) -> Result<Option<u32>, TableError> {
    let keys = first_keys(group, space, prefix, *budget)?;
    for key in &keys {
        group.table.remove(space, key);
    }
    *budget -= keys.len();
    Ok(if *budget == 0 { Some(0) } else { None })
}

fn first_keys(
    group: &Group<'_>,
    space: Space,
    prefix: &[u8],
    most: usize,
) -> Result<Vec<Vec<u8>>, TableError> {
    let mut found = Vec::new();
    rows::scan_prefix(group.table, space, prefix, prefix, &mut |key, _| {
        if found.len() == most {
            return Ok(Scan::Stop);
        }
        found.push(key.to_vec());
        Ok(Scan::On)
    })?;
    Ok(found)
}
