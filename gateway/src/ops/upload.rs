//! Multipart uploads: begin, list, complete, abort. Parts themselves are stored by the PUT pipeline.

use super::checksum::{multipart_etag, name, of_parts};
use super::requester::Wants;
use super::{Backend, OpError, Place, now_ms};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tenfour_metadata::api::index::IndexDone;
use tenfour_metadata::api::{
    Bucket, IndexAnswer, IndexCommand, IndexQuery, Part, PartView, Precondition, UploadView,
};
use tenfour_types::limits::{OBJECT_BYTES_MAX, PART_BYTES_MIN, PARTS_MAX};
use tenfour_types::{
    Body, Checksum, ChecksumKind, CommandId, ETag, Headers, LeaseId, Manifest, ObjectKey, PartRef, UploadId,
};

/// What an upload keeps when its creator named no checksum: CRC-64/NVME of the whole object.
pub const DEFAULT_CHECKSUM: (ChecksumKind, bool) = (ChecksumKind::Crc64Nvme, true);
/// Parts asked for at once.
const PARTS_AT_ONCE: u32 = 1000;

/// Begins an upload.
pub async fn create<B: Backend>(
    backend: &B,
    wants: &Wants,
    key: &ObjectKey,
    headers: Headers,
    checksum: Option<(ChecksumKind, bool)>,
) -> Result<UploadId, OpError> {
    let sent = Mutex::new(None);
    let created_ms = now_ms();
    let command = |bucket: &Bucket, id: CommandId| {
        *sent.lock() = Some(id);
        IndexCommand::CreateUpload {
            bucket: bucket.id,
            key: key.clone(),
            headers: headers.clone(),
            checksum,
            created_ms,
        }
    };
    backend.commit(wants, key, command).await?;
    let id = sent.lock().take();
    id.map(UploadId).ok_or_else(|| OpError::unexpected("CreateUpload"))
}

/// One page of an upload's parts.
pub async fn parts<B: Backend>(
    backend: &B,
    wants: &Wants,
    key: &ObjectKey,
    upload: UploadId,
    after: u32,
    most: u32,
) -> Result<PartView, OpError> {
    let query =
        |bucket: &Bucket| IndexQuery::Parts { bucket: bucket.id, key: key.clone(), upload, after, most };
    match backend.query(wants, Place::Key(key), query).await? {
        IndexAnswer::Parts(view) => view.ok_or(OpError::NoSuchUpload),
        _ => Err(OpError::unexpected("Parts")),
    }
}

/// The kind of checksum that a part must have, so that the whole can have one.
pub fn kept_kind(view: &UploadView, chosen: Option<ChecksumKind>) -> Result<ChecksumKind, OpError> {
    match (view.checksum, chosen) {
        (Some((kind, _)), Some(chosen)) if chosen != kind => {
            let (kind, chosen) = (name(kind), name(chosen));
            Err(OpError::Invalid(format!(
                "Checksum Type mismatch occurred, expected checksum Type: {kind}, actual checksum Type: {chosen}"
            )))
        }
        (announced, _) => Ok(announced.unwrap_or(DEFAULT_CHECKSUM).0),
    }
}

/// Lets an upload and its parts go.
pub async fn abort<B: Backend>(
    backend: &B,
    wants: &Wants,
    key: &ObjectKey,
    upload: UploadId,
) -> Result<(), OpError> {
    let command = |bucket: &Bucket, _: CommandId| IndexCommand::AbortUpload {
        bucket: bucket.id,
        key: key.clone(),
        upload,
    };
    backend.commit(wants, key, command).await.map(drop)
}

/// A part as the client names it in Complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// 1 to 10,000.
    pub number: u32,
    /// Its ETag; `None` when it is none that a part could have.
    pub etag: Option<ETag>,
    /// Its checksums, where the client gives them.
    pub checksums: Vec<Checksum>,
}

/// What the client says of the whole.
#[derive(Debug, Clone, Default)]
pub struct Completion {
    /// The parts, in ascending order.
    pub parts: Vec<Named>,
    /// What must hold of the object that is there.
    pub precondition: Precondition,
    /// The checksum of the whole.
    pub checksum: Option<Checksum>,
    /// Whether that is one of all bytes.
    pub full_object: Option<bool>,
    /// The size of the whole.
    pub size: Option<u64>,
}

/// The object that an upload became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// Its ETag.
    pub etag: ETag,
    /// Its checksum; `None` when it had been completed before.
    pub checksum: Option<Checksum>,
}

/// Makes the parts the object. Completing again what was completed succeeds.
pub async fn complete<B: Backend>(
    backend: &B,
    wants: &Wants,
    key: &ObjectKey,
    upload: UploadId,
    completion: &Completion,
) -> Result<Completed, OpError> {
    in_order(&completion.parts)?;
    let manifest = match all_parts(backend, wants, key, upload).await {
        Ok((view, stored)) => assemble(&view, &stored, completion)?,
        // Completed before, perhaps: the state machine knows, and answers as it did then.
        Err(OpError::NoSuchUpload) => unknown(upload, completion),
        Err(error) => return Err(error),
    };
    let command = |bucket: &Bucket, version: CommandId| IndexCommand::CompleteUpload {
        bucket: bucket.id,
        key: key.clone(),
        upload,
        precondition: completion.precondition.clone(),
        manifest: Manifest { version, ..manifest.clone() },
    };
    match backend.commit(wants, key, command).await? {
        IndexDone::Completed { etag, .. } => {
            Ok(Completed { etag, checksum: manifest.checksums.into_iter().next() })
        }
        _ => Err(OpError::unexpected("CompleteUpload")),
    }
}

fn in_order(parts: &[Named]) -> Result<(), OpError> {
    if parts.is_empty() || parts.len() > PARTS_MAX as usize {
        return Err(OpError::Invalid("You must specify at least one part, and at most 10,000.".into()));
    }
    let ascending = parts.windows(2).all(|pair| matches!(pair, [a, b] if a.number < b.number));
    if ascending { Ok(()) } else { Err(OpError::InvalidPartOrder) }
}

async fn all_parts<B: Backend>(
    backend: &B,
    wants: &Wants,
    key: &ObjectKey,
    upload: UploadId,
) -> Result<(UploadView, BTreeMap<u32, Part>), OpError> {
    let mut all = BTreeMap::new();
    loop {
        let after = all.last_key_value().map_or(0, |(&number, _)| number);
        let page = parts(backend, wants, key, upload, after, PARTS_AT_ONCE).await?;
        let more = page.more && !page.parts.is_empty();
        all.extend(page.parts.into_iter().map(|part| (part.number, part)));
        if !more {
            return Ok((page.upload, all));
        }
    }
}

/// The manifest of the whole, when all that the client says of it is so.
fn assemble(
    view: &UploadView,
    stored: &BTreeMap<u32, Part>,
    completion: &Completion,
) -> Result<Manifest, OpError> {
    let mut parts = Vec::with_capacity(completion.parts.len());
    for named in &completion.parts {
        let part = stored.get(&named.number).filter(|part| is_same(named, part));
        parts.push(part.ok_or(OpError::InvalidPart(named.number))?);
    }
    if let Some(small) = parts.iter().rev().skip(1).find(|part| part.size < PART_BYTES_MIN) {
        return Err(OpError::PartTooSmall(small.number));
    }
    let size = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.size));
    if size > OBJECT_BYTES_MAX {
        return Err(OpError::TooLarge);
    }
    if completion.size.is_some_and(|given| given != size) {
        return Err(OpError::Invalid(
            "The provided 'x-amz-mp-object-size' header does not match the parts.".into(),
        ));
    }
    let checksum = checksum(view, &parts, completion)?;
    let of_part = |part: &&Part| PartRef { number: part.number, version: part.version, bytes: part.size };
    Ok(Manifest {
        version: NO_COMMAND,
        size,
        etag: multipart_etag(parts.iter().map(|part| part.etag)),
        modified_ms: now_ms(),
        checksums: checksum.into_iter().collect(),
        headers: view.headers.clone(),
        body: Body::Parts { upload: view.upload, parts: parts.iter().map(of_part).collect() },
    })
}

const NO_COMMAND: CommandId = CommandId { lease: LeaseId(0), sequence: 0 };

fn is_same(named: &Named, part: &Part) -> bool {
    let known = |given: &Checksum| match part.checksums.iter().find(|known| known.kind == given.kind) {
        Some(known) => known == given,
        None => false,
    };
    named.etag == Some(part.etag) && named.checksums.iter().all(known)
}

/// The checksum of the whole, compared with the one that the client gives.
fn checksum(
    view: &UploadView,
    parts: &[&Part],
    completion: &Completion,
) -> Result<Option<Checksum>, OpError> {
    let (kind, full_object) = view.checksum.unwrap_or(DEFAULT_CHECKSUM);
    if completion.full_object.is_some_and(|given| given != full_object) {
        let text = "The x-amz-checksum-type of CompleteMultipartUpload is not that of CreateMultipartUpload.";
        return Err(OpError::Invalid(text.into()));
    }
    let of_kind = |part: &&Part| part.checksums.iter().find(|checksum| checksum.kind == kind).cloned();
    let sums: Vec<(u64, Option<Checksum>)> = parts.iter().map(|part| (part.size, of_kind(part))).collect();
    let sums: Vec<(u64, Option<&Checksum>)> = sums.iter().map(|(size, sum)| (*size, sum.as_ref())).collect();
    let whole = of_parts(kind, full_object, &sums);
    match (&completion.checksum, &whole) {
        (None, _) => Ok(whole),
        (Some(given), Some(whole)) if given.kind == whole.kind && given.value == whole.value => {
            Ok(Some(whole.clone()))
        }
        (Some(given), _) => Err(OpError::ChecksumMismatch(name(given.kind))),
    }
}

/// Stands for an upload that is not there (any more): no state machine makes this an object.
fn unknown(upload: UploadId, completion: &Completion) -> Manifest {
    let parts = completion.parts.iter();
    Manifest {
        version: NO_COMMAND,
        size: 0,
        etag: multipart_etag(parts.clone().filter_map(|part| part.etag)),
        modified_ms: now_ms(),
        checksums: Vec::new(),
        headers: Headers::default(),
        body: Body::Parts {
            upload,
            parts: parts.map(|part| PartRef { number: part.number, version: NO_COMMAND, bytes: 0 }).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checksum::Hasher;

    const UPLOAD: UploadId = UploadId(CommandId { lease: LeaseId(1), sequence: 7 });

    fn part(number: u32, bytes: &[u8], size: u64) -> Part {
        let checksum = |kind| {
            let mut hasher = Hasher::new(kind);
            hasher.update(bytes);
            hasher.finish()
        };
        let checksums = [ChecksumKind::Crc64Nvme, ChecksumKind::Sha1].map(checksum).to_vec();
        let etag = ETag { md5: <md5::Md5 as sha2::Digest>::digest(bytes).into(), parts: None };
        let version = CommandId { lease: LeaseId(1), sequence: u64::from(number) };
        Part { number, version, size, etag, checksums, modified_ms: 0, extents: Vec::new() }
    }

    fn view(checksum: Option<(ChecksumKind, bool)>) -> UploadView {
        UploadView { key: "k".into(), upload: UPLOAD, created_ms: 0, checksum, headers: Headers::default() }
    }

    fn named(part: &Part) -> Named {
        Named { number: part.number, etag: Some(part.etag), checksums: Vec::new() }
    }

    fn run(
        parts: &[Part],
        completion: &Completion,
        checksum: Option<(ChecksumKind, bool)>,
    ) -> Result<Manifest, String> {
        let stored = parts.iter().map(|part| (part.number, part.clone())).collect();
        in_order(&completion.parts)
            .and_then(|()| assemble(&view(checksum), &stored, completion))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn parts_become_one_manifest() {
        let parts = [part(1, b"a", PART_BYTES_MIN), part(3, b"b", 5)];
        let completion = Completion { parts: parts.iter().map(named).collect(), ..Completion::default() };
        let manifest = run(&parts, &completion, None).unwrap();
        assert_eq!((manifest.size, manifest.etag.parts), (PART_BYTES_MIN + 5, Some(2)));
        assert_eq!(manifest.checksums.len(), 1);
        assert_eq!(manifest.checksums[0].parts, None);
        let composite = run(&parts, &completion, Some((ChecksumKind::Sha1, false))).unwrap();
        assert_eq!(composite.checksums[0].parts, Some(2));
    }

    #[test]
    fn what_was_not_uploaded_is_refused() {
        let parts = [part(1, b"a", PART_BYTES_MIN - 1), part(2, b"b", 5)];
        let all: Vec<Named> = parts.iter().map(named).collect();
        let with = |parts: Vec<Named>| Completion { parts, ..Completion::default() };
        assert_eq!(run(&parts, &with(all.clone()), None).unwrap_err(), "part 1 is too small");
        assert!(run(&parts, &with(vec![all[0].clone()]), None).is_ok());
        assert_eq!(
            run(&parts, &with(vec![all[1].clone(), all[0].clone()]), None).unwrap_err(),
            OpError::InvalidPartOrder.to_string()
        );
        assert_eq!(
            run(&parts, &with(vec![all[0].clone(), all[0].clone()]), None).unwrap_err(),
            OpError::InvalidPartOrder.to_string()
        );
        let other = Named { etag: Some(parts[0].etag), ..all[1].clone() };
        assert_eq!(run(&parts, &with(vec![other]), None).unwrap_err(), OpError::InvalidPart(2).to_string());
        let absent = Named { number: 9, ..all[0].clone() };
        assert_eq!(run(&parts, &with(vec![absent]), None).unwrap_err(), OpError::InvalidPart(9).to_string());
        let wrong = Named { checksums: parts[1].checksums.clone(), ..all[0].clone() };
        assert_eq!(run(&parts, &with(vec![wrong]), None).unwrap_err(), OpError::InvalidPart(1).to_string());
        assert!(run(&parts, &with(Vec::new()), None).is_err());
    }

    #[test]
    fn the_whole_is_compared_with_what_the_client_says() {
        let parts = [part(1, b"a", PART_BYTES_MIN), part(2, b"b", 5)];
        let base = Completion { parts: parts.iter().map(named).collect(), ..Completion::default() };
        let whole = run(&parts, &base, None).unwrap().checksums.remove(0);
        let right =
            Completion { checksum: Some(whole.clone()), size: Some(PART_BYTES_MIN + 5), ..base.clone() };
        assert!(run(&parts, &right, None).is_ok());
        let wrong = Checksum { value: vec![0; 8], ..whole };
        assert!(run(&parts, &Completion { checksum: Some(wrong), ..base.clone() }, None).is_err());
        assert!(run(&parts, &Completion { size: Some(1), ..base.clone() }, None).is_err());
        assert!(run(&parts, &Completion { full_object: Some(false), ..base }, None).is_err());
    }
}
