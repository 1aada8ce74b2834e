//! Uploads: parts are committed as they arrive; Complete makes an ordered list of them the object, in one step.
//!
//! Parts stay in their own table, also after Complete: the object's manifest names them by number and version. An upload that was
//! completed is remembered until the object that it became is let go, so that completing it again, also under another id
//! (as clients do when the first answer was lost), gets the first reply.

use super::object::Current;
use super::release::release;
use super::{Group, check_place, malformed, refuse, stripes};
use crate::api::index::{IndexDone, IndexRefusal, IndexReply, Part, Precondition};
use crate::state::keys::{self, upload_tag};
use crate::state::rows::{self, CompletedRow, LeaseRow, PartHead, Released, UploadRow};
use crate::table::{Scan, Space, TableError};
use std::collections::BTreeMap;
use tenfour_types::limits::{PART_BYTES_MIN, PARTS_MAX};
use tenfour_types::{Body, BucketId, CommandId, Manifest, ObjectKey, PartRef, StripeRow, UploadId};

/// Begins an upload.
pub(super) fn create(
    group: &mut Group<'_>,
    id: CommandId,
    place: (BucketId, &ObjectKey),
    row: &UploadRow,
) -> Result<IndexReply, TableError> {
    refuse!(check_place(group, place)?);
    rows::put(group.table, Space::Uploads, open_key(place, UploadId(id)), row)?;
    Ok(Ok(IndexDone::Done))
}

/// Takes a part, in place of an earlier one of its number.
pub(super) fn put_part(
    group: &mut Group<'_>,
    id: CommandId,
    lease: &LeaseRow,
    place: (BucketId, &ObjectKey),
    upload: UploadId,
    part: &Part,
    stripes: &[StripeRow],
) -> Result<IndexReply, TableError> {
    if part.version != id || !(1..=PARTS_MAX).contains(&part.number) {
        return Ok(Err(malformed("a part's number, or a version that is not the command's id")));
    }
    refuse!(check_place(group, place)?);
    refuse!(check_open(group, place, upload)?);
    let admitted = refuse!(stripes::check(group, id, lease, part.size, &part.extents, stripes)?);

    let key = keys::part(upload, part.number);
    let old: Option<Part> = rows::get(group.table, Space::Parts, &key)?;
    admitted.write(group.table)?;
    rows::put(group.table, Space::Parts, key, part)?;
    if let Some(old) = old {
        release(group, id, 0, Released::Extents(old.extents))?;
    }
    Ok(Ok(IndexDone::Done))
}

/// Makes the upload's parts the object.
pub(super) fn complete(
    group: &mut Group<'_>,
    id: CommandId,
    place: (BucketId, &ObjectKey),
    upload: UploadId,
    precondition: &Precondition,
    manifest: &Manifest,
) -> Result<IndexReply, TableError> {
    refuse!(check_place(group, place)?);
    let completed_key = keys::upload(upload_tag::COMPLETED, place.0, place.1.as_str(), upload);
    if let Some(CompletedRow { version, etag }) = rows::get(group.table, Space::Uploads, &completed_key)? {
        return Ok(Ok(IndexDone::Completed { version, etag }));
    }
    refuse!(check_open(group, place, upload)?);
    let parts = match &manifest.body {
        Body::Parts { upload: of, parts } if *of == upload && manifest.version == id && !parts.is_empty() => {
            parts
        }
        _ => {
            return Ok(Err(malformed(
                "a completed object consists of its upload's parts, and its version is the command's id",
            )));
        }
    };
    let leftover = refuse!(check_parts(group, upload, manifest.size, parts)?);
    let current = Current::load(group.table, place)?;
    refuse!(current.satisfies(precondition));

    current.replace(group, id, place, Some(manifest))?;
    group.table.remove(Space::Uploads, &open_key(place, upload));
    let completed = CompletedRow { version: id, etag: manifest.etag };
    rows::put(group.table, Space::Uploads, completed_key, &completed)?;
    if !leftover.is_empty() {
        release(group, id, 1, Released::Parts { upload, numbers: leftover })?;
    }
    Ok(Ok(IndexDone::Completed { version: id, etag: manifest.etag }))
}

/// Lets the upload go.
pub(super) fn abort(
    group: &mut Group<'_>,
    id: CommandId,
    place: (BucketId, &ObjectKey),
    upload: UploadId,
) -> Result<IndexReply, TableError> {
    refuse!(check_place(group, place)?);
    refuse!(check_open(group, place, upload)?);
    group.table.remove(Space::Uploads, &open_key(place, upload));
    release(group, id, 0, Released::Upload(upload))?;
    Ok(Ok(IndexDone::Done))
}

fn open_key((bucket, key): (BucketId, &ObjectKey), upload: UploadId) -> Vec<u8> {
    keys::upload(upload_tag::OPEN, bucket, key.as_str(), upload)
}

fn check_open(
    group: &Group<'_>,
    place: (BucketId, &ObjectKey),
    upload: UploadId,
) -> Result<Result<(), IndexRefusal>, TableError> {
    let open = group.table.get(Space::Uploads, &open_key(place, upload))?;
    Ok(if open.is_some() { Ok(()) } else { Err(IndexRefusal::NoSuchUpload) })
}

/// The numbers of the upload's parts that are not named, if those that are named are right.
fn check_parts(
    group: &Group<'_>,
    upload: UploadId,
    size: u64,
    named: &[PartRef],
) -> Result<Result<Vec<u32>, IndexRefusal>, TableError> {
    if !named.is_sorted_by(|one, next| one.number < next.number) {
        return Ok(Err(IndexRefusal::InvalidPartOrder));
    }
    let mut there: BTreeMap<u32, PartHead> = BTreeMap::new();
    let prefix = keys::command(upload.0);
    rows::scan_prefix(group.table, Space::Parts, &prefix, &prefix, &mut |_, value| {
        let head: PartHead = rows::decode_head(value)?;
        there.insert(head.number, head);
        Ok(Scan::On)
    })?;
    let mut total = 0u64;
    for (at, part) in named.iter().enumerate() {
        match there.remove(&part.number) {
            Some(head) if head.version == part.version && head.size == part.bytes => {}
            _ => return Ok(Err(IndexRefusal::InvalidPart(part.number))),
        }
        if at + 1 < named.len() && part.bytes < PART_BYTES_MIN {
            return Ok(Err(IndexRefusal::PartTooSmall(part.number)));
        }
        total = total.saturating_add(part.bytes);
    }
    if total != size {
        return Ok(Err(malformed("parts that do not add up to the size")));
    }
    Ok(Ok(there.into_keys().collect()))
}
