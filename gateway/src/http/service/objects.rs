//! Objects: put, post (a browser's form), get, head, delete, copy.

use super::super::auth::bucket_name;
use super::super::errors::{self, Refusal, s3};
use super::super::expect::Expected;
use super::super::handler::Partial;
use super::super::headers::{self, Answer};
use super::super::translate::{self, Sums, etag, timestamp};
use super::{DEFAULT_KIND, Front, header, open, requester, wants, write_error};
use crate::ops::conditions::{Verdict, resolve};
use crate::ops::copy::{self, Origin, Target};
use crate::ops::{Backend, OpError, delete};
use crate::transfer::{Destination, ReadError, Reading, Sink, Wanted};
use http_body_util::StreamBody;
use hyper::HeaderMap;
use hyper::body::Frame;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, DeleteObjectInput, DeleteObjectOutput,
    DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, MetadataDirective, ObjectIdentifier, PutObjectInput, PutObjectOutput, StreamingBlob,
};
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
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
        let (mut source, has_signed_chunks) = open(&request, kept)?;
        let stored = self.backend.put(&wants, to, &mut source).await;
        let stored = stored.map_err(|error| write_error(error, has_signed_chunks))?;
        let sums = Sums::new(&stored.summary.checksums);
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(etag(stored.summary.etag)),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.of,
            ..PutObjectOutput::default()
        }))
    }

    pub(super) async fn on_get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = request.input;
        let key = translate::key(&input.key).map_err(s3)?;
        let wanted = translate::wanted(input.range, input.part_number).map_err(s3)?;
        let conditions = translate::conditions(
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.clone(),
            input.if_unmodified_since.clone(),
        );
        let reading = self.backend.get(&wants, &key, wanted).await.map_err(s3)?;
        judged(conditions.judge(&reading.manifest), &reading.manifest)?;
        let replaced = replaced(&input);
        let Reading { manifest, parts, range, body } = reading;
        let answer = Answer {
            manifest: &manifest,
            parts: input.part_number.and(parts),
            range: partial(wanted, range, manifest.size),
            checksums: input.checksum_mode.is_some(),
            replaced: &replaced,
        };
        let headers = answer.headers();
        // The library sets 206 by this field; its value is that of ours.
        let content_range =
            headers.get("content-range").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let blob = if range.0 == range.1 { StreamingBlob::from(Body::empty()) } else { stream(body) };
        let output = GetObjectOutput { body: Some(blob), content_range, ..GetObjectOutput::default() };
        Ok(S3Response::with_headers(output, headers))
    }

    pub(super) async fn on_head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = request.input;
        let key = translate::key(&input.key).map_err(s3)?;
        let wanted = translate::wanted(input.range, input.part_number).map_err(s3)?;
        let conditions = translate::conditions(
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.clone(),
            input.if_unmodified_since.clone(),
        );
        // Only a part's place must be asked of the pipeline.
        let ask = if matches!(wanted, Wanted::Part(_)) { wanted } else { Wanted::Head };
        let Reading { manifest, parts, range, body } =
            self.backend.get(&wants, &key, ask).await.map_err(s3)?;
        drop(body);
        judged(conditions.judge(&manifest), &manifest)?;
        let range = match wanted {
            Wanted::Part(_) => range,
            _ => {
                resolve(wanted, manifest.size).ok_or_else(|| s3(ReadError::Range { size: manifest.size }))?
            }
        };
        let range = partial(wanted, range, manifest.size);
        let answer = Answer {
            manifest: &manifest,
            parts: input.part_number.and(parts),
            range,
            checksums: input.checksum_mode.is_some(),
            replaced: &[],
        };
        let is_partial = range.is_some();
        let mut response = S3Response::with_headers(HeadObjectOutput::default(), answer.headers());
        if is_partial {
            response.extensions.insert(Partial);
        }
        Ok(response)
    }

    pub(super) async fn on_delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let key = translate::key(&request.input.key).map_err(s3)?;
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
        let replacement = replaces.then(|| headers::kept(&request.headers)).transpose().map_err(s3)?;
        let announced = translate::announced(input.checksum_algorithm.as_ref(), None).map_err(s3)?;
        let target = |manifest: &Manifest| {
            let known = manifest.checksums.first().map(|checksum| checksum.kind);
            let kind = announced.map(|(kind, _)| kind).or(known).unwrap_or(DEFAULT_KIND);
            let headers = replacement.unwrap_or_else(|| manifest.headers.clone());
            let destination = Destination::Object { key, headers, precondition: Precondition::None };
            Ok(Target { destination, kept: vec![kind] })
        };
        let stored = copy::run(&self.backend, &origin, &wants, target).await.map_err(s3)?;
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
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            ..CopyObjectOutput::default()
        }))
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

fn judged(verdict: Verdict, manifest: &Manifest) -> S3Result<()> {
    match verdict {
        Verdict::Holds => Ok(()),
        Verdict::Failed => Err(s3(OpError::PreconditionFailed)),
        Verdict::NotModified => {
            let mut error = S3Error::new(S3ErrorCode::NotModified);
            let answer = Answer { manifest, parts: None, range: None, checksums: false, replaced: &[] };
            let mut headers = answer.headers();
            headers.remove("content-length");
            headers.remove("content-type");
            error.set_headers(headers);
            Err(error)
        }
    }
}

/// The range to name in the answer: none when the whole object was asked for.
fn partial(wanted: Wanted, range: (u64, u64), size: u64) -> Option<(u64, u64)> {
    match wanted {
        Wanted::Head | Wanted::All => None,
        Wanted::Part(_) if range == (0, size) => None,
        _ => Some(range),
    }
}

/// The headers that a GET replaces.
fn replaced(input: &GetObjectInput) -> Vec<&'static str> {
    let all = [
        ("content-type", input.response_content_type.is_some()),
        ("content-language", input.response_content_language.is_some()),
        ("expires", input.response_expires.is_some()),
        ("cache-control", input.response_cache_control.is_some()),
        ("content-disposition", input.response_content_disposition.is_some()),
        ("content-encoding", input.response_content_encoding.is_some()),
    ];
    all.into_iter().filter(|(_, is_replaced)| *is_replaced).map(|(name, _)| name).collect()
}

/// The bytes as they come; an error breaks the connection, since the length was announced.
fn stream<S: Sink + 'static>(sink: S) -> StreamingBlob {
    let frames = futures::stream::unfold(Some(sink), |sink| async move {
        let mut sink = sink?;
        match sink.next().await? {
            Ok(bytes) => Some((Ok(Frame::data(bytes)), Some(sink))),
            Err(error) => {
                tracing::warn!(%error, "an answer breaks off");
                Some((Err(error), None))
            }
        }
    });
    StreamingBlob::from(Body::http_body_unsync(StreamBody::new(frames)))
}

fn deletion(name: &ObjectIdentifier) -> Result<(ObjectKey, Precondition), Refusal> {
    if name.version_id.as_deref().is_some_and(|version| version != "null") {
        let text = "The specified version does not exist: objects here have no versions.";
        return Err(errors::refusal(S3ErrorCode::NoSuchVersion, text));
    }
    let tag = name.e_tag.as_ref().map(|tag| crate::ops::conditions::parse_etag(tag.value()));
    let precondition = tag.map_or(Precondition::None, |tag| Precondition::Match(tag.into_iter().collect()));
    Ok((translate::key(&name.key)?, precondition))
}

fn failure(key: String, refusal: Refusal) -> s3s::dto::Error {
    s3s::dto::Error {
        key: Some(key),
        code: Some(refusal.code().to_owned()),
        message: Some(refusal.message().to_owned()),
        version_id: None,
    }
}
