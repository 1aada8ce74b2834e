//! What can be read in an index group. Every answer is bounded, in rows and so in bytes.

use super::{away, list};
use crate::api::index::{
    IndexAnswer, IndexAnswerAt, IndexQuery, ObjectView, Part, PartView, SEGMENTS_MAX, Segment, UploadView,
};
use crate::state::keys::{self, upload_tag};
use crate::state::rows::{self, Head, PastRow, UploadRow};
use crate::table::{Scan, Space, Table, TableError};
use std::sync::Arc;
use tenfour_types::limits::{LIST_KEYS_MAX, PARTS_MAX};
use tenfour_types::{
    Body, BucketId, CommandId, Extent, Headers, Manifest, ObjectKey, StripeId, StripeRow, UploadId,
};

use crate::api::index::STRIPES_MAX;

/// Answers a query from a view; `applied` is the log index of the view.
pub fn query_index(table: &dyn Table, applied: u64, query: &IndexQuery) -> Result<IndexAnswerAt, TableError> {
    let answer = match query {
        IndexQuery::Object { bucket, key, range } => {
            IndexAnswer::Object(object(table, (*bucket, key), *range)?)
        }
        IndexQuery::ObjectPart { bucket, key, number } => {
            IndexAnswer::Object(object_part(table, (*bucket, key), *number)?)
        }
        IndexQuery::Segments { bucket, key, version, range } => {
            let manifest = version_of(table, (*bucket, key), *version)?;
            IndexAnswer::Segments(manifest.map(|manifest| segments(table, &manifest, *range)).transpose()?)
        }
        IndexQuery::List(request) => IndexAnswer::List(list::list(table, request)?),
        IndexQuery::Uploads { bucket, prefix, after, most } => {
            IndexAnswer::Uploads(uploads(table, *bucket, prefix, after.as_ref(), *most)?)
        }
        IndexQuery::Parts { bucket, key, upload, after, most } => {
            IndexAnswer::Parts(parts(table, (*bucket, key), *upload, *after, *most)?)
        }
        IndexQuery::IsEmpty { bucket } => IndexAnswer::IsEmpty(is_empty(table, *bucket)?),
        IndexQuery::Stripes { after, most } => IndexAnswer::Stripes(stripes(table, *after, *most)?),
        IndexQuery::StripesAway { after, most } => IndexAnswer::Stripes(away::list(table, *after, *most)?),
    };
    Ok(IndexAnswerAt { config: Head::load(table)?.config, applied, answer })
}

fn object(
    table: &dyn Table,
    (bucket, key): (BucketId, &ObjectKey),
    range: Option<(u64, u64)>,
) -> Result<Option<ObjectView>, TableError> {
    let Some(mut manifest) =
        rows::get::<Manifest>(table, Space::Objects, &keys::object(bucket, key.as_str()))?
    else {
        return Ok(None);
    };
    let segments = range.map_or(Ok(Vec::new()), |range| segments(table, &manifest, range))?;
    let parts = match &manifest.body {
        Body::Extents(_) => None,
        Body::Parts { parts, .. } => Some(parts.len() as u32),
    };
    manifest.body = Body::Extents(Vec::new());
    Ok(Some(ObjectView { manifest, parts, segments }))
}

/// The same, of one part.
fn object_part(
    table: &dyn Table,
    (bucket, key): (BucketId, &ObjectKey),
    number: u32,
) -> Result<Option<ObjectView>, TableError> {
    let stored = rows::get::<Manifest>(table, Space::Objects, &keys::object(bucket, key.as_str()))?;
    let Some(Body::Parts { upload, parts }) = stored.as_ref().map(|manifest| &manifest.body) else {
        return object(table, (bucket, key), Some((0, u64::MAX)));
    };
    let (mut offset, mut found) = (0, None);
    for (position, part) in (1..).zip(parts) {
        if position == number {
            found = Some(*part);
            break;
        }
        offset += part.bytes;
    }
    let range = found.map(|part| (offset, offset + part.bytes));
    let view = object(table, (bucket, key), range)?;
    let body = Body::Parts { upload: *upload, parts: found.into_iter().collect() };
    Ok(view.map(|view| ObjectView { manifest: Manifest { body, ..view.manifest }, ..view }))
}

/// A version by its identity: the current one, or one of the past.
fn version_of(
    table: &dyn Table,
    (bucket, key): (BucketId, &ObjectKey),
    version: CommandId,
) -> Result<Option<Manifest>, TableError> {
    let current: Option<Manifest> = rows::get(table, Space::Objects, &keys::object(bucket, key.as_str()))?;
    if current.as_ref().is_some_and(|manifest| manifest.version == version) {
        return Ok(current);
    }
    let past: Option<PastRow> = rows::get(table, Space::Past, &keys::command(version))?;
    let floor = Head::load(table)?.floor;
    let readable =
        |past: &PastRow| past.replaced_at > floor && past.bucket == bucket && past.key == key.as_str();
    Ok(past.filter(readable).map(|past| past.manifest))
}

/// The first segments that overlap a range of object bytes.
fn segments(table: &dyn Table, manifest: &Manifest, range: (u64, u64)) -> Result<Vec<Segment>, TableError> {
    let mut found = Segments { table, range, offset: 0, found: Vec::new() };
    match &manifest.body {
        Body::Extents(extents) => found.add(extents)?,
        Body::Parts { upload, parts } => {
            for part in parts {
                if found.is_done() {
                    break;
                }
                if found.offset + part.bytes <= range.0 {
                    found.offset += part.bytes;
                    continue;
                }
                let row: Option<Part> = rows::get(table, Space::Parts, &keys::part(*upload, part.number))?;
                let row = row.filter(|row| row.version == part.version).ok_or_else(|| {
                    TableError::Corrupt(format!("part {} of {upload} is missing", part.number))
                })?;
                found.add(&row.extents)?;
            }
        }
    }
    Ok(found.found)
}

struct Segments<'a> {
    table: &'a dyn Table,
    range: (u64, u64),
    /// Object bytes before the next extent.
    offset: u64,
    found: Vec<Segment>,
}

impl Segments<'_> {
    fn is_done(&self) -> bool {
        self.offset >= self.range.1 || self.found.len() == SEGMENTS_MAX
    }

    fn add(&mut self, extents: &[Extent]) -> Result<(), TableError> {
        for extent in extents {
            if self.is_done() {
                break;
            }
            let end = self.offset + u64::from(extent.bytes);
            if end > self.range.0 {
                let row = self.row(extent.stripe)?;
                self.found.push(Segment { object_offset: self.offset, extent: *extent, row });
            }
            self.offset = end;
        }
        Ok(())
    }

    fn row(&self, id: StripeId) -> Result<Arc<StripeRow>, TableError> {
        if let Some(last) = self.found.last().filter(|last| last.row.id == id) {
            return Ok(Arc::clone(&last.row));
        }
        let row: Option<StripeRow> = rows::get(self.table, Space::Stripes, &id.to_bytes())?;
        row.map(Arc::new).ok_or_else(|| TableError::Corrupt(format!("{id:?} is missing")))
    }
}

fn uploads(
    table: &dyn Table,
    bucket: BucketId,
    prefix: &str,
    after: Option<&(String, Option<UploadId>)>,
    most: u32,
) -> Result<Vec<UploadView>, TableError> {
    let within = keys::uploads_of_prefix(upload_tag::OPEN, bucket, prefix);
    let start = match after {
        None => within.clone(),
        Some((key, None)) => keys::past_prefix(keys::uploads_of_key(upload_tag::OPEN, bucket, key)),
        Some((key, Some(upload))) => {
            let mut start = keys::upload(upload_tag::OPEN, bucket, key, *upload);
            start.push(0);
            start
        }
    };
    let most = (most as usize).min(LIST_KEYS_MAX);
    let mut found = Vec::new();
    rows::scan_prefix(table, Space::Uploads, &within, &within.clone().max(start), &mut |key, value| {
        if found.len() == most {
            return Ok(Scan::Stop);
        }
        let view = upload_view(key, value)?;
        // A page of headers could exceed a message, and no listing shows them.
        found.push(UploadView { headers: Headers::default(), ..view });
        Ok(Scan::On)
    })?;
    Ok(found)
}

fn upload_view(key: &[u8], value: &[u8]) -> Result<UploadView, TableError> {
    let (key, upload) =
        keys::parse_upload(key).ok_or_else(|| TableError::Corrupt("an upload's key".into()))?;
    let UploadRow { created_ms, checksum, headers } = rows::decode(value)?;
    Ok(UploadView { key, upload, created_ms, checksum, headers })
}

fn parts(
    table: &dyn Table,
    (bucket, key): (BucketId, &ObjectKey),
    upload: UploadId,
    after: u32,
    most: u32,
) -> Result<Option<PartView>, TableError> {
    let row = keys::upload(upload_tag::OPEN, bucket, key.as_str(), upload);
    let Some(value) = table.get(Space::Uploads, &row)? else { return Ok(None) };
    let most = most.min(PARTS_MAX) as usize;
    let (mut parts, mut more) = (Vec::new(), false);
    let start = keys::part(upload, after.saturating_add(1));
    rows::scan_prefix(table, Space::Parts, &keys::command(upload.0), &start, &mut |_, value| {
        if parts.len() == most {
            more = most > 0;
            return Ok(Scan::Stop);
        }
        parts.push(Part { extents: Vec::new(), ..rows::decode(value)? });
        Ok(Scan::On)
    })?;
    Ok(Some(PartView { upload: upload_view(&row, &value)?, parts, more }))
}

fn is_empty(table: &dyn Table, bucket: BucketId) -> Result<bool, TableError> {
    let mut empty = true;
    let object = keys::object(bucket, "");
    let upload = keys::uploads_of_prefix(upload_tag::OPEN, bucket, "");
    for (space, prefix) in [(Space::Objects, object), (Space::Uploads, upload)] {
        rows::scan_prefix(table, space, &prefix, &prefix, &mut |_, _| {
            empty = false;
            Ok(Scan::Stop)
        })?;
    }
    Ok(empty)
}

fn stripes(table: &dyn Table, after: Option<StripeId>, most: u32) -> Result<Vec<StripeRow>, TableError> {
    let mut start = after.map_or(Vec::new(), |id| id.to_bytes().to_vec());
    if after.is_some() {
        start.push(0);
    }
    let most = (most as usize).min(STRIPES_MAX);
    let mut found = Vec::new();
    table.scan(Space::Stripes, &start, &mut |_, value| {
        if found.len() == most {
            return Ok(Scan::Stop);
        }
        found.push(rows::decode(value)?);
        Ok(Scan::On)
    })?;
    Ok(found)
}
