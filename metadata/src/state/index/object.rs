//! Objects: PUT and DELETE, each with its precondition, in one step.

use super::release::release;
use super::{Group, check_place, malformed, refuse, stripes};
use crate::api::index::{IndexDone, IndexRefusal, IndexReply, Precondition};
use crate::state::keys;
use crate::state::rows::{self, LeaseRow, ManifestHead, PastRow, Released};
use crate::table::{Space, Table, TableError};
use tenfour_types::{Body, BucketId, CommandId, Manifest, ObjectKey, StripeRow};

/// Makes `manifest` the object.
pub(super) fn put(
    group: &mut Group<'_>,
    id: CommandId,
    lease: &LeaseRow,
    place: (BucketId, &ObjectKey),
    precondition: &Precondition,
    manifest: &Manifest,
    stripes: &[StripeRow],
) -> Result<IndexReply, TableError> {
    let Body::Extents(extents) = &manifest.body else {
        return Ok(Err(malformed("an object whose bytes are parts")));
    };
    if manifest.version != id {
        return Ok(Err(malformed("a version that is not the command's id")));
    }
    refuse!(check_place(group, place)?);
    let current = Current::load(group.table, place)?;
    refuse!(current.satisfies(precondition));
    let admitted = refuse!(stripes::check(group, id, lease, manifest.size, extents, stripes)?);

    admitted.write(group.table)?;
    current.replace(group, id, place, Some(manifest))?;
    Ok(Ok(IndexDone::Done))
}

/// Removes the object, if there is one.
pub(super) fn delete(
    group: &mut Group<'_>,
    id: CommandId,
    place: (BucketId, &ObjectKey),
    precondition: &Precondition,
) -> Result<IndexReply, TableError> {
    refuse!(check_place(group, place)?);
    let current = Current::load(group.table, place)?;
    refuse!(current.satisfies(precondition));
    let existed = current.row.is_some();
    if existed {
        current.replace(group, id, place, None)?;
    }
    Ok(Ok(IndexDone::Deleted { existed }))
}

/// The object as it is before a command.
pub(super) struct Current {
    key: Vec<u8>,
    row: Option<(ManifestHead, Vec<u8>)>,
}

impl Current {
    pub(super) fn load(table: &dyn Table, (bucket, key): (BucketId, &ObjectKey)) -> Result<Self, TableError> {
        let key = keys::object(bucket, key.as_str());
        let row = match table.get(Space::Objects, &key)? {
            Some(bytes) => Some((rows::decode_head(&bytes)?, bytes)),
            None => None,
        };
        Ok(Self { key, row })
    }

    pub(super) fn satisfies(&self, precondition: &Precondition) -> Result<(), IndexRefusal> {
        let holds = match (precondition, &self.row) {
            (Precondition::None, _) | (Precondition::Absent, None) | (Precondition::Present, Some(_)) => true,
            (Precondition::Match(_) | Precondition::Present, None) => return Err(IndexRefusal::NoSuchKey),
            (Precondition::Absent, Some(_)) | (Precondition::Version(_), None) => false,
            (Precondition::Match(etags), Some((head, _))) => etags.contains(&head.etag),
            (Precondition::Version(version), Some((head, _))) => head.version == *version,
        };
        if holds { Ok(()) } else { Err(IndexRefusal::PreconditionFailed) }
    }

    /// Puts the new version, or none, in its place; the old one goes to the past, and is let go when nobody reads it.
    pub(super) fn replace(
        self,
        group: &mut Group<'_>,
        id: CommandId,
        (bucket, key): (BucketId, &ObjectKey),
        new: Option<&Manifest>,
    ) -> Result<(), TableError> {
        match new {
            Some(manifest) => rows::put(group.table, Space::Objects, self.key, manifest)?,
            None => group.table.remove(Space::Objects, &self.key),
        }
        let Some((head, old)) = self.row else { return Ok(()) };
        let past = PastRow {
            replaced_at: group.at_index,
            bucket,
            key: key.as_str().to_owned(),
            manifest: rows::decode(&old)?,
        };
        rows::put(group.table, Space::Past, keys::command(head.version), &past)?;
        release(group, id, 0, Released::Version(head.version))
    }
}
