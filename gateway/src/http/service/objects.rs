//! Objects: put, delete, copy.

use super::super::auth::bucket_name;
use super::super::errors::{self, Refusal, s3};
use super::super::expect::Expected;
use super::super::headers;
use super::super::translate::{self, Sums, etag, timestamp};
use super::{DEFAULT_KIND, Front, header, requester, wants};
use crate::ops::copy::{Origin, Target};
use crate::ops::{Backend, delete};
use crate::transfer::{Destination, Wanted};
use hyper::HeaderMap;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, DeleteObjectInput, DeleteObjectOutput,
    DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, MetadataDirective, ObjectIdentifier,
    PutObjectInput, PutObjectOutput,
};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};
use tenfour_metadata::api::Precondition;
use tenfour_types::limits::LIST_KEYS_MAX;
use tenfour_types::{Manifest, ObjectKey};

impl<B: Backend> Front<B> {
    pub(super) async fn on_put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let to = Destination::Object {
            key: translate::key(&request.input.key).map_err(s3)?,
            headers: headers::kept(&request.headers).map_err(s3)?,
            precondition: precondition(&request.input)?,
        };
        let kept = if chose_checksum(&request.headers) { &[][..] } else { &[DEFAULT_KIND] };
        let (stored, headers) = self.store(&request, &wants, to, kept).await?;
        let sums = Sums::new(&stored.summary.checksums);
        let output = PutObjectOutput {
            e_tag: Some(etag(stored.summary.etag)),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.of,
            ..PutObjectOutput::default()
        };
        Ok(S3Response::with_headers(output, headers))
    }

    pub(super) async fn on_delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let key = translate::key(&request.input.key).map_err(s3)?;
        if request.input.if_match_size.is_some() || request.input.if_match_last_modified_time.is_some() {
            return Err(s3(no_such_condition()));
        }
        let precondition = translate::precondition(request.input.if_match.as_ref(), None).map_err(s3)?;
        delete::one(&self.backend, &wants, &key, precondition).await.map_err(s3)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    pub(super) async fn on_delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let names = request.input.delete.objects;
        let quiet = request.input.delete.quiet == Some(true);
        if names.is_empty() || names.len() > LIST_KEYS_MAX {
            let text = "The XML you provided was not well-formed: name 1 to 1,000 objects.";
            return Err(s3(errors::refusal(S3ErrorCode::MalformedXML, text)));
        }
        let (mut deleted, mut failed, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            match deletion(&name) {
                Ok(deletion) => keys.push(deletion),
                Err(refusal) => failed.push(failure(name.key, refusal)),
            }
        }
        let outcomes = delete::many(&self.backend, &wants, keys.clone()).await;
        for ((key, _), outcome) in keys.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) if quiet => {}
                Ok(()) => {
                    deleted.push(DeletedObject { key: Some(key.to_string()), ..DeletedObject::default() });
                }
                Err(error) => failed.push(failure(key.to_string(), error.into())),
            }
        }
        let some = |list: Vec<DeletedObject>| (!list.is_empty()).then_some(list);
        let errors = (!failed.is_empty()).then_some(failed);
        Ok(S3Response::new(DeleteObjectsOutput { deleted: some(deleted), errors, request_charged: None }))
    }

    pub(super) async fn on_copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = &request.input;
        let key = translate::key(&input.key).map_err(s3)?;
        let conditions = translate::conditions(
            input.copy_source_if_match.as_ref(),
            input.copy_source_if_none_match.as_ref(),
            input.copy_source_if_modified_since.clone(),
            input.copy_source_if_unmodified_since.clone(),
        );
        let origin = Origin { conditions, ..origin(&request, &input.copy_source)? };
        let replaces = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
            None | Some(MetadataDirective::COPY) => false,
            Some(MetadataDirective::REPLACE) => true,
            Some(_) => {
                return Err(s3(errors::refusal(S3ErrorCode::InvalidArgument, "Unknown metadata directive.")));
            }
        };
        if !replaces && origin.key == key && origin.wants.bucket() == wants.bucket() {
            let text = "This copy request is illegal because it is trying to copy an object to itself without changing \
                        the object's metadata, storage class, website redirect location or encryption attributes.";
            return Err(s3(errors::refusal(S3ErrorCode::InvalidRequest, text)));
        }
        let precondition = translate::precondition_of(&request.headers).map_err(s3)?;
        let replacement = replaces.then(|| headers::kept(&request.headers)).transpose().map_err(s3)?;
        let announced = translate::announced(input.checksum_algorithm.as_ref(), None).map_err(s3)?;
        let target = |manifest: &Manifest| {
            let known = manifest.checksums.first().map(|checksum| checksum.kind);
            let kind = announced.map(|(kind, _)| kind).or(known).unwrap_or(DEFAULT_KIND);
            let headers = replacement.unwrap_or_else(|| manifest.headers.clone());
            let destination = Destination::Object { key, headers, precondition };
            Ok(Target { destination, kept: vec![kind] })
        };
        let stored = self.copies.run(&self.backend, &origin, &wants, target).await.map_err(s3)?;
        let sums = Sums::new(&stored.summary.checksums);
        let result = CopyObjectResult {
            e_tag: Some(etag(stored.summary.etag)),
            last_modified: Some(timestamp(stored.modified_ms)),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.of,
        };
        let output = CopyObjectOutput { copy_object_result: Some(result), ..CopyObjectOutput::default() };
        Ok(S3Response::with_headers(output, headers::transport(stored.transports)))
    }
}

/// What a copy reads: all of it, unconditionally.
pub(super) fn origin<T>(request: &S3Request<T>, source: &CopySource) -> S3Result<Origin> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(s3(errors::not_implemented("An access point as the source of a copy")));
    };
    if version_id.as_deref().is_some_and(|version| version != "null") {
        let text = "The specified version does not exist: objects here have no versions.";
        return Err(s3(errors::refusal(S3ErrorCode::NoSuchVersion, text)));
    }
    let owner = header(request, "x-amz-source-expected-bucket-owner");
    Ok(Origin {
        wants: requester(request)?.wants(bucket_name(bucket).map_err(s3)?, owner),
        key: translate::key(key).map_err(s3)?,
        wanted: Wanted::All,
        conditions: crate::ops::conditions::Conditions::default(),
    })
}

fn precondition(input: &PutObjectInput) -> S3Result<Precondition> {
    translate::precondition(input.if_match.as_ref(), input.if_none_match.as_ref()).map_err(s3)
}

/// Whether a request's headers name a checksum of its own choice.
pub(super) fn chose_checksum(headers: &HeaderMap) -> bool {
    Expected::of(headers).is_ok_and(|expected| expected.kind().is_some())
}

fn deletion(name: &ObjectIdentifier) -> Result<(ObjectKey, Precondition), Refusal> {
    if name.version_id.as_deref().is_some_and(|version| version != "null") {
        let text = "The specified version does not exist: objects here have no versions.";
        return Err(errors::refusal(S3ErrorCode::NoSuchVersion, text));
    }
    if name.size.is_some() || name.last_modified_time.is_some() {
        return Err(no_such_condition());
    }
    let tag = name.e_tag.as_ref().map(|tag| crate::ops::conditions::parse_etag(tag.value()));
    let precondition = tag.map_or(Precondition::None, |tag| Precondition::Match(tag.into_iter().collect()));
    Ok((translate::key(&name.key)?, precondition))
}

fn no_such_condition() -> Refusal {
    errors::not_implemented("A delete on condition of a size or a time")
}

fn failure(key: String, refusal: Refusal) -> s3s::dto::Error {
    s3s::dto::Error {
        key: Some(key),
        code: Some(refusal.code().to_owned()),
        message: Some(refusal.message().to_owned()),
        version_id: None,
    }
}
