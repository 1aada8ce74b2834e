//! Index groups: what one command does.
//!
//! Each command passes the same gate: its lease lives, it was not decided before, it was authorised by the newest buckets and
//! users. Then it is run, and its reply is recorded under its id, with what it changed, so that sent again it gets that reply
//! and changes nothing.
//!
//! **Which refusals are recorded.** Those that a later state could turn into a success: a precondition, a missing upload, a closed
//! bucket (it may be reopened). Were they not, a second delivery could happen after its sender was told that it did not.
//! Refusals that hold for ever for the same id are not, since the same envelope will always be refused: `StaleConfig` (versions only rise),
//! `LeaseEnded` (a lease never comes back), `BelowWatermark`, `StaleEpoch`. Their sender sends anew under a new id.
//!
//! Fences and watermarks are not recorded either: they only ever raise numbers, so a repeated one changes nothing. Nor is what
//! repair says of shards at home, which compares before it clears.

mod away;
mod fence;
mod list;
mod multipart;
mod object;
mod query;
mod release;
mod stripes;

pub use query::query_index;

use super::keys::{self, tag};
use super::rows::{self, BucketFence, Head, LeaseRow};
use crate::api::Envelope;
use crate::api::index::{IndexCommand, IndexRefusal, IndexReply};
use crate::table::{Space, Table, TableError, TableMut};
use tenfour_types::{BucketId, CommandId, ConfigVersion, LeaseId, MetaGroupId, ObjectKey, key_slot};

/// Says which group the tables are of; once, before anything is applied. Every replica does it by itself, with the same result.
pub fn init_index(table: &mut dyn TableMut, group: MetaGroupId) -> Result<(), TableError> {
    let head = Head::load(table)?;
    if head == Head::default() {
        Head { group, ..head }.save(table)
    } else if head.group == group {
        Ok(())
    } else {
        Err(TableError::Corrupt(format!("the tables are of {}, not of {group}", head.group)))
    }
}

/// Applies one command of the entry at log index `at_index` (an entry may hold many commands: call it for each, in order,
/// on one overlay).
pub fn apply_index(
    table: &mut dyn TableMut,
    at_index: u64,
    envelope: &Envelope<IndexCommand>,
) -> Result<IndexReply, TableError> {
    let head = Head::load(table)?;
    match &envelope.command {
        IndexCommand::Fence { number, fence } => {
            fence::apply(&mut Group { table, head, at_index }, *number, fence)
        }
        IndexCommand::Watermark { lease, watermark } => {
            fence::watermark(&mut Group { table, head, at_index }, *lease, *watermark)
        }
        IndexCommand::BringHome { epoch, shards } => {
            away::bring_home(&mut Group { table, head, at_index }, *epoch, shards)
        }
        command => {
            let lease = match admit(table, &head, envelope)? {
                Admission::Run(lease) => lease,
                Admission::Reply(reply) => return Ok(reply),
            };
            let mut group = Group { table, head, at_index };
            let reply = run(&mut group, envelope.id, &lease, command)?;
            if !matches!(reply, Err(IndexRefusal::StaleEpoch { .. })) {
                rows::put(group.table, Space::Replies, keys::command(envelope.id), &reply)?;
            }
            Ok(reply)
        }
    }
}

/// The version of buckets and users that this group was fenced to.
pub fn fenced_config(table: &dyn Table) -> Result<ConfigVersion, TableError> {
    Ok(Head::load(table)?.config)
}

/// The number of the last fence that this group has committed.
pub fn fenced_number(table: &dyn Table) -> Result<u64, TableError> {
    Ok(Head::load(table)?.fence)
}

/// The tables while one command is applied.
struct Group<'a> {
    table: &'a mut dyn TableMut,
    head: Head,
    at_index: u64,
}

enum Admission {
    Run(LeaseRow),
    Reply(IndexReply),
}

/// The gate: whether a command is to be run, or what it is answered without.
fn admit(table: &dyn Table, head: &Head, envelope: &Envelope<IndexCommand>) -> Result<Admission, TableError> {
    let id = envelope.id;
    let Some(lease) = lease_row(table, id.lease)? else {
        return Ok(Admission::Reply(Err(IndexRefusal::LeaseEnded)));
    };
    if let Some(reply) = rows::get(table, Space::Replies, &keys::command(id))? {
        return Ok(Admission::Reply(reply));
    }
    let refusal = if lease.ended.is_some() {
        IndexRefusal::LeaseEnded
    } else if id.sequence < lease.watermark.commands_below {
        IndexRefusal::BelowWatermark
    } else if envelope.config < head.config {
        IndexRefusal::StaleConfig { current: head.config }
    } else {
        return Ok(Admission::Run(lease));
    };
    Ok(Admission::Reply(Err(refusal)))
}

fn lease_row(table: &dyn Table, lease: LeaseId) -> Result<Option<LeaseRow>, TableError> {
    rows::get(table, Space::State, &keys::lease(lease))
}

fn run(
    group: &mut Group<'_>,
    id: CommandId,
    lease: &LeaseRow,
    command: &IndexCommand,
) -> Result<IndexReply, TableError> {
    match command {
        IndexCommand::PutObject { bucket, key, precondition, manifest, stripes } => {
            object::put(group, id, lease, (*bucket, key), precondition, manifest, stripes)
        }
        IndexCommand::DeleteObject { bucket, key, precondition } => {
            object::delete(group, id, (*bucket, key), precondition)
        }
        IndexCommand::CreateUpload { bucket, key, headers, checksum, created_ms } => {
            let row =
                rows::UploadRow { created_ms: *created_ms, checksum: *checksum, headers: headers.clone() };
            multipart::create(group, id, (*bucket, key), &row)
        }
        IndexCommand::PutPart { bucket, key, upload, part, stripes } => {
            multipart::put_part(group, id, lease, (*bucket, key), *upload, part, stripes)
        }
        IndexCommand::CompleteUpload { bucket, key, upload, precondition, manifest } => {
            multipart::complete(group, id, (*bucket, key), *upload, precondition, manifest)
        }
        IndexCommand::AbortUpload { bucket, key, upload } => {
            multipart::abort(group, id, (*bucket, key), *upload)
        }
        IndexCommand::Fence { .. } | IndexCommand::Watermark { .. } | IndexCommand::BringHome { .. } => {
            Ok(Err(malformed("not a client's command")))
        }
    }
}

/// Refuses a key of another group, and a bucket that takes no commits.
fn check_place(
    group: &Group<'_>,
    (bucket, key): (BucketId, &ObjectKey),
) -> Result<Result<(), IndexRefusal>, TableError> {
    if let Some(slots) = group.table.get(Space::State, &keys::state(tag::SLOTS))? {
        let at = usize::from(key_slot(bucket, key.as_str())) * 2;
        if slots.get(at..at + 2) != Some(&group.head.group.0.to_be_bytes()) {
            return Ok(Err(malformed("the key belongs to another group")));
        }
    }
    let fence: Option<BucketFence> = rows::get(group.table, Space::State, &keys::bucket_fence(bucket))?;
    Ok(if fence.is_some() { Err(IndexRefusal::BucketClosed) } else { Ok(()) })
}

fn malformed(what: &str) -> IndexRefusal {
    IndexRefusal::Malformed(what.to_owned())
}

/// Returns a refusal from a function that may also fail.
macro_rules! refuse {
    ($checked:expr) => {
        match $checked {
            Ok(value) => value,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}
use refuse;
