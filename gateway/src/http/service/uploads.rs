//! Multipart uploads.

use super::super::errors::{self, s3};
use super::super::expect::Expected;
use super::super::headers;
use super::super::translate::{self, Sums, algorithm, announced, checksum_type, etag, timestamp};
use super::objects::origin;
use super::{Front, wants};
use crate::ops::conditions::parse_etag;
use crate::ops::copy::{Origin, Target};
use crate::ops::requester::Wants;
use crate::ops::upload::{self, Completed, Completion, Named};
use crate::ops::{Backend, OpError};
use crate::transfer::{Destination, Wanted};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CopyPartResult, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};
use std::time::Duration;
use tenfour_metadata::api::UploadView;
use tenfour_types::{Manifest, ObjectKey, Scaled, UploadId};

/// A completion that takes longer than this is answered at once with a body that is kept alive until it is done; its error,
/// if any, then stands in that body, as S3 has it.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

impl<B: Backend> Front<B> {
    pub(super) async fn on_create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let headers = headers::kept(&request.headers).map_err(s3)?;
        let input = request.input;
        let key = translate::key(&input.key).map_err(s3)?;
        let checksum =
            announced(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref()).map_err(s3)?;
        let id = upload::create(&self.backend, &wants, &key, headers, checksum).await.map_err(s3)?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id.to_string()),
            checksum_algorithm: checksum.map(|(kind, _)| algorithm(kind)),
            checksum_type: checksum.map(|(_, full_object)| checksum_type(full_object)),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    pub(super) async fn on_upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let key = translate::key(&request.input.key).map_err(s3)?;
        let upload = translate::upload(&request.input.upload_id).map_err(s3)?;
        let number = translate::part_number(request.input.part_number).map_err(s3)?;
        let view = self.upload(&wants, &key, upload).await?;
        let chosen = Expected::of(&request.headers).map_err(s3)?.kind();
        let kind = upload::kept_kind(&view, chosen).map_err(s3)?;
        let to = Destination::Part { key, upload, number };
        let (stored, headers) = self.store(&request, &wants, to, &[kind]).await?;
        let sums = Sums::new(&stored.summary.checksums);
        let output = UploadPartOutput {
            e_tag: Some(etag(stored.summary.etag)),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            ..UploadPartOutput::default()
        };
        Ok(S3Response::with_headers(output, headers))
    }

    async fn upload(&self, wants: &Wants, key: &ObjectKey, upload: UploadId) -> S3Result<UploadView> {
        let view = upload::parts(&self.backend, wants, key, upload, 0, 1).await.map_err(s3)?;
        Ok(view.upload)
    }

    pub(super) async fn on_upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = &request.input;
        let key = translate::key(&input.key).map_err(s3)?;
        let upload = translate::upload(&input.upload_id).map_err(s3)?;
        let number = translate::part_number(input.part_number).map_err(s3)?;
        let range = input.copy_source_range.as_deref().map(translate::copy_range).transpose().map_err(s3)?;
        let conditions = translate::conditions(
            input.copy_source_if_match.as_ref(),
            input.copy_source_if_none_match.as_ref(),
            input.copy_source_if_modified_since.clone(),
            input.copy_source_if_unmodified_since.clone(),
        );
        let wanted = range.map_or(Wanted::All, |(first, end)| Wanted::From(first, Some(end)));
        let origin = Origin { conditions, wanted, ..origin(&request, &input.copy_source)? };
        let view = self.upload(&wants, &key, upload).await?;
        let kind = upload::kept_kind(&view, None).map_err(s3)?;
        let target = |manifest: &Manifest| {
            if range.is_some_and(|(_, end)| end > manifest.size) {
                let text =
                    format!("Range specified is not valid for source object of size: {}", manifest.size);
                return Err(OpError::Invalid(text));
            }
            Ok(Target { destination: Destination::Part { key, upload, number }, kept: vec![kind] })
        };
        let stored = self.copies.run(&self.backend, &origin, &wants, target).await.map_err(s3)?;
        let sums = Sums::new(&stored.summary.checksums);
        let result = CopyPartResult {
            e_tag: Some(etag(stored.summary.etag)),
            last_modified: Some(timestamp(stored.modified_ms)),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
        };
        let output =
            UploadPartCopyOutput { copy_part_result: Some(result), ..UploadPartCopyOutput::default() };
        Ok(S3Response::with_headers(output, headers::transport(stored.transports)))
    }

    pub(super) async fn on_complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = request.input;
        let key = translate::key(&input.key).map_err(s3)?;
        let id = translate::upload(&input.upload_id).map_err(s3)?;
        let completion = completion(&input)?;
        let backend = self.backend.clone();
        let mut completing = Box::pin(async move {
            let done = upload::complete(&backend, &wants, &key, id, &completion).await.map_err(s3)?;
            Ok(answer(input.bucket, input.key, &done))
        });
        match tokio::time::timeout(ANSWER_WITHIN.scaled(), &mut completing).await {
            Ok(done) => done.map(S3Response::new),
            Err(_) => {
                let output = CompleteMultipartUploadOutput { future: Some(completing), ..Default::default() };
                Ok(S3Response::new(output))
            }
        }
    }

    pub(super) async fn on_abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let key = translate::key(&request.input.key).map_err(s3)?;
        let upload = translate::upload(&request.input.upload_id).map_err(s3)?;
        upload::abort(&self.backend, &wants, &key, upload).await.map_err(s3)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

fn completion(input: &CompleteMultipartUploadInput) -> S3Result<Completion> {
    let listed = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_ref());
    let parts = listed.into_iter().flatten().map(named).collect::<S3Result<_>>()?;
    let whole = Sums {
        crc32: input.checksum_crc32.clone(),
        crc32c: input.checksum_crc32c.clone(),
        crc64nvme: input.checksum_crc64nvme.clone(),
        sha1: input.checksum_sha1.clone(),
        sha256: input.checksum_sha256.clone(),
        of: None,
    };
    let full_object =
        input.checksum_type.as_ref().map(|of| of.as_str() == s3s::dto::ChecksumType::FULL_OBJECT);
    let size = input.mpu_object_size.map(u64::try_from).transpose();
    Ok(Completion {
        parts,
        precondition: translate::precondition(input.if_match.as_ref(), input.if_none_match.as_ref())
            .map_err(s3)?,
        checksum: whole.read().map_err(s3)?.into_iter().next(),
        full_object,
        size: size.map_err(|_| {
            s3(errors::refusal(S3ErrorCode::InvalidArgument, "x-amz-mp-object-size is negative."))
        })?,
    })
}

fn named(part: &CompletedPart) -> S3Result<Named> {
    let sums = Sums {
        crc32: part.checksum_crc32.clone(),
        crc32c: part.checksum_crc32c.clone(),
        crc64nvme: part.checksum_crc64nvme.clone(),
        sha1: part.checksum_sha1.clone(),
        sha256: part.checksum_sha256.clone(),
        of: None,
    };
    let number = part
        .part_number
        .ok_or_else(|| s3(errors::refusal(S3ErrorCode::MalformedXML, "A part has no number.")))?;
    Ok(Named {
        number: translate::part_number(number).map_err(s3)?,
        etag: part.e_tag.as_ref().and_then(|tag| parse_etag(tag.value())),
        checksums: sums.read().map_err(s3)?,
    })
}

fn answer(bucket: String, key: String, done: &Completed) -> CompleteMultipartUploadOutput {
    let sums = Sums::new(done.checksum.as_slice());
    CompleteMultipartUploadOutput {
        location: Some(format!("/{bucket}/{key}")),
        bucket: Some(bucket),
        key: Some(key),
        e_tag: Some(etag(done.etag)),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        checksum_type: sums.of,
        ..CompleteMultipartUploadOutput::default()
    }
}
