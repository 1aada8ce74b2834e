//! Listings of objects, both versions; of uploads; of parts.

use super::super::errors::{self, s3};
use super::super::text::percent_encode;
use super::super::translate::{self, Sums, algorithm, checksum_type, etag, timestamp};
use super::{Front, owner, wants};
use crate::ops::listing::{self, Page};
use crate::ops::{Backend, upload, upload_listing};
use s3s::dto::{
    CommonPrefix, EncodingType, Initiator, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, ListPartsInput,
    ListPartsOutput, MultipartUpload, Object, ObjectStorageClass, Owner, Part, StorageClass,
};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};
use tenfour_metadata::api::{ListEntry, ListPage};

/// How keys are written in an answer.
#[derive(Clone, Copy)]
struct Writing {
    encoded: bool,
}

impl Writing {
    fn new(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self { encoded: false }),
            Some(EncodingType::URL) => Ok(Self { encoded: true }),
            Some(_) => {
                let text = "Invalid Encoding Method specified in Request";
                Err(s3(errors::refusal(S3ErrorCode::InvalidArgument, text)))
            }
        }
    }

    fn text(self, text: &str) -> String {
        if self.encoded { percent_encode(text) } else { text.to_owned() }
    }

    fn optional(self, text: Option<&String>) -> Option<String> {
        text.map(|text| self.text(text))
    }
}

/// A page, as answers have it.
struct Shown {
    contents: Vec<Object>,
    prefixes: Vec<CommonPrefix>,
    /// What the next page comes after.
    next: Option<String>,
}

fn show(page: ListPage, writing: Writing, owner: Option<&Owner>) -> Shown {
    let last = page.entries.last().map(|entry| entry.sort_key().to_owned());
    let mut shown =
        Shown { contents: Vec::new(), prefixes: Vec::new(), next: if page.more { last } else { None } };
    for entry in page.entries {
        match entry {
            ListEntry::Object { key, size, etag: tag, modified_ms, checksums } => {
                shown.contents.push(Object {
                    key: Some(writing.text(&key)),
                    size: i64::try_from(size).ok(),
                    e_tag: Some(etag(tag)),
                    last_modified: Some(timestamp(modified_ms)),
                    storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                    checksum_algorithm: (!checksums.is_empty())
                        .then(|| checksums.into_iter().map(algorithm).collect()),
                    owner: owner.cloned(),
                    ..Object::default()
                });
            }
            ListEntry::CommonPrefix(prefix) => {
                shown.prefixes.push(CommonPrefix { prefix: Some(writing.text(&prefix)) });
            }
        }
    }
    shown
}

fn delimiter(given: Option<&String>) -> Option<String> {
    given.filter(|text| !text.is_empty()).cloned()
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

impl<B: Backend> Front<B> {
    pub(super) async fn on_list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = request.input;
        let writing = Writing::new(input.encoding_type.as_ref())?;
        let most = translate::most(input.max_keys, "max-keys").map_err(s3)?;
        let page = Page {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: delimiter(input.delimiter.as_ref()),
            after: delimiter(input.marker.as_ref()),
            most,
        };
        let found = listing::page(&self.backend, &wants, &page).await.map_err(s3)?;
        let owner = self.owner(&wants).await?;
        let shown = show(found, writing, Some(&owner));
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(writing.text(&page.prefix)),
            marker: Some(writing.text(input.marker.as_deref().unwrap_or_default())),
            max_keys: i32::try_from(most).ok(),
            is_truncated: Some(shown.next.is_some()),
            next_marker: writing.optional(shown.next.as_ref()),
            contents: some(shown.contents),
            common_prefixes: some(shown.prefixes),
            delimiter: writing.optional(input.delimiter.as_ref()),
            encoding_type: input.encoding_type,
            request_charged: None,
        }))
    }

    pub(super) async fn on_list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = request.input;
        let writing = Writing::new(input.encoding_type.as_ref())?;
        let most = translate::most(input.max_keys, "max-keys").map_err(s3)?;
        let after = match input.continuation_token.as_deref() {
            Some(token) => Some(listing::read_token(token).ok_or_else(|| {
                s3(errors::refusal(
                    S3ErrorCode::InvalidArgument,
                    "The continuation token provided is incorrect",
                ))
            })?),
            None => delimiter(input.start_after.as_ref()),
        };
        let page = Page {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: delimiter(input.delimiter.as_ref()),
            after,
            most,
        };
        let found = listing::page(&self.backend, &wants, &page).await.map_err(s3)?;
        let owner = if input.fetch_owner == Some(true) { Some(self.owner(&wants).await?) } else { None };
        let shown = show(found, writing, owner.as_ref());
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(writing.text(&page.prefix)),
            max_keys: i32::try_from(most).ok(),
            key_count: i32::try_from(shown.contents.len() + shown.prefixes.len()).ok(),
            continuation_token: input.continuation_token,
            is_truncated: Some(shown.next.is_some()),
            next_continuation_token: shown.next.as_deref().map(listing::token),
            contents: some(shown.contents),
            common_prefixes: some(shown.prefixes),
            delimiter: writing.optional(input.delimiter.as_ref()),
            encoding_type: input.encoding_type,
            start_after: writing.optional(input.start_after.as_ref()),
            request_charged: None,
        }))
    }

    async fn owner(&self, wants: &crate::ops::requester::Wants) -> S3Result<Owner> {
        let bucket = wants.bucket_now(&self.backend).await.map_err(s3)?;
        let config = self.backend.config();
        let name = config.users.get(&bucket.owner).map_or("", |user| user.display_name.as_str());
        Ok(owner(&bucket.owner, name))
    }

    pub(super) async fn on_list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = request.input;
        let writing = Writing::new(input.encoding_type.as_ref())?;
        let most = translate::most(input.max_uploads, "max-uploads").map_err(s3)?;
        let upload_marker = delimiter(input.upload_id_marker.as_ref());
        let marker = upload_marker.map(|text| translate::upload(&text)).transpose().map_err(s3)?;
        let page = upload_listing::UploadsPage {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: delimiter(input.delimiter.as_ref()),
            after: delimiter(input.key_marker.as_ref()).map(|key| (key, marker)),
            most,
        };
        let found = upload_listing::list(&self.backend, &wants, &page).await.map_err(s3)?;
        let owner = self.owner(&wants).await?;
        let uploads = found.uploads.into_iter().map(|upload| MultipartUpload {
            key: Some(writing.text(&upload.key)),
            upload_id: Some(upload.upload.to_string()),
            initiated: Some(timestamp(upload.created_ms)),
            initiator: Some(Initiator { id: owner.id.clone(), display_name: owner.display_name.clone() }),
            owner: Some(owner.clone()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            checksum_algorithm: upload.checksum.map(|(kind, _)| algorithm(kind)),
            checksum_type: upload.checksum.map(|(_, full_object)| checksum_type(full_object)),
        });
        let prefixes =
            found.prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(writing.text(prefix)) });
        let next = found.next.as_ref();
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            uploads: some(uploads.collect()),
            common_prefixes: some(prefixes.collect()),
            is_truncated: Some(next.is_some()),
            next_key_marker: next.map(|(key, _)| writing.text(key)),
            next_upload_id_marker: next.and_then(|(_, upload)| upload.map(|upload| upload.to_string())),
            key_marker: writing.optional(input.key_marker.as_ref()),
            upload_id_marker: input.upload_id_marker,
            prefix: writing.optional(input.prefix.as_ref()),
            delimiter: writing.optional(input.delimiter.as_ref()),
            encoding_type: input.encoding_type,
            max_uploads: i32::try_from(most).ok(),
            request_charged: None,
        }))
    }

    pub(super) async fn on_list_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = request.input;
        let key = translate::key(&input.key).map_err(s3)?;
        let id = translate::upload(&input.upload_id).map_err(s3)?;
        let most = translate::most(input.max_parts, "max-parts").map_err(s3)?;
        let after = input.part_number_marker.map_or(0, |marker| u32::try_from(marker).unwrap_or(0));
        let view = upload::parts(&self.backend, &wants, &key, id, after, most).await.map_err(s3)?;
        let owner = self.owner(&wants).await?;
        let last = view.parts.last().and_then(|part| i32::try_from(part.number).ok());
        let parts = view.parts.into_iter().map(|part| {
            let sums = Sums::new(&part.checksums);
            Part {
                part_number: i32::try_from(part.number).ok(),
                size: i64::try_from(part.size).ok(),
                e_tag: Some(etag(part.etag)),
                last_modified: Some(timestamp(part.modified_ms)),
                checksum_crc32: sums.crc32,
                checksum_crc32c: sums.crc32c,
                checksum_crc64nvme: sums.crc64nvme,
                checksum_sha1: sums.sha1,
                checksum_sha256: sums.sha256,
            }
        });
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            parts: some(parts.collect()),
            is_truncated: Some(view.more),
            next_part_number_marker: last,
            part_number_marker: input.part_number_marker.or(Some(0)),
            max_parts: i32::try_from(most).ok(),
            initiator: Some(Initiator { id: owner.id.clone(), display_name: owner.display_name.clone() }),
            owner: Some(owner),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            checksum_algorithm: view.upload.checksum.map(|(kind, _)| algorithm(kind)),
            checksum_type: view.upload.checksum.map(|(_, full_object)| checksum_type(full_object)),
            ..ListPartsOutput::default()
        }))
    }
}
