//! The S3 operations as the library calls them. Each is a line here; what it does is in the files beside this one. An
//! operation that is not here is answered with 501 by the library.

mod buckets;
mod forms;
mod listings;
mod objects;
mod reads;
pub mod tokens;
mod uploads;

use super::auth::bucket_name;
use super::errors::{self, s3};
use super::expect::Expected;
use super::payload::{BodySource, Parcel};
use super::proof::{Rules, SigV2};
use crate::ops::Backend;
use crate::ops::copy::Copies;
use crate::ops::requester::{Requester, Wants};
use crate::rdma::token::Tokens;
use hyper::body::Incoming;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CreateBucketInput, CreateBucketOutput,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteBucketInput, DeleteBucketOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, GetBucketAclInput,
    GetBucketAclOutput, GetBucketCorsInput, GetBucketCorsOutput, GetBucketLifecycleConfigurationInput,
    GetBucketLifecycleConfigurationOutput, GetBucketLocationInput, GetBucketLocationOutput,
    GetBucketPolicyInput, GetBucketPolicyOutput, GetBucketTaggingInput, GetBucketTaggingOutput,
    GetBucketVersioningInput, GetBucketVersioningOutput, GetObjectAclInput, GetObjectAclOutput,
    GetObjectInput, GetObjectLockConfigurationInput, GetObjectLockConfigurationOutput, GetObjectOutput,
    GetObjectTaggingInput, GetObjectTaggingOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput,
    HeadObjectOutput, ListBucketsInput, ListBucketsOutput, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output,
    ListPartsInput, ListPartsOutput, Owner, PostObjectInput, PostObjectOutput, PutObjectInput,
    PutObjectOutput, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use std::sync::Arc;
use tenfour_types::ChecksumKind;

/// What an object keeps when its creator names no checksum.
const DEFAULT_KIND: ChecksumKind = ChecksumKind::Crc64Nvme;

/// The operations, over a backend.
pub struct Front<B> {
    backend: B,
    region: Arc<str>,
    sigv2: SigV2,
    copies: Copies,
    tokens: Arc<Tokens>,
}

impl<B: Backend> Front<B> {
    /// Over a backend.
    pub fn new(backend: B, rules: &Rules, tokens: Arc<Tokens>) -> Self {
        let copies = Copies::new(backend.memory_bytes());
        Self { backend, region: rules.region.as_str().into(), sigv2: rules.sigv2, copies, tokens }
    }
}

/// Who sent a request.
fn requester<T>(request: &S3Request<T>) -> S3Result<Requester> {
    let credentials = request.credentials.as_ref();
    let requester = credentials.map(|known| Requester::new(&known.access_key, known.secret_key.expose()));
    let verified = || request.extensions.get::<Requester>().cloned();
    requester.or_else(verified).ok_or_else(|| s3(errors::refusal(S3ErrorCode::AccessDenied, "Access Denied")))
}

fn header<'a, T>(request: &'a S3Request<T>, name: &str) -> Option<&'a str> {
    request.headers.get(name).and_then(|value| value.to_str().ok())
}

/// Who sent a request, for which bucket.
fn wants<T>(request: &S3Request<T>, bucket: &str) -> S3Result<Wants> {
    let bucket = bucket_name(bucket).map_err(s3)?;
    Ok(requester(request)?.wants(bucket, header(request, "x-amz-expected-bucket-owner")))
}

/// The bytes that a request brings. `kept` are the kinds of checksums that are wanted when the client chose none.
fn open<T>(request: &S3Request<T>, kept: &[ChecksumKind]) -> S3Result<(BodySource<Incoming>, bool)> {
    let parcel = request.extensions.get::<Parcel>();
    let expected = Expected::of(&request.headers).map_err(s3)?;
    let secret_key = request.credentials.as_ref().map_or("", |known| known.secret_key.expose());
    let date = header(request, "x-amz-date").unwrap_or_default();
    let opened = parcel.and_then(|parcel| {
        let source = parcel.open(expected, secret_key, date, kept)?;
        Some((source, parcel.has_signed_chunks()))
    });
    // A path that our guard did not take for an object's.
    opened.ok_or_else(|| s3(errors::refusal(S3ErrorCode::InvalidURI, "Couldn't parse the specified URI.")))
}

/// A write's error; the signature of a chunk is not that of the payload.
fn write_error(error: crate::transfer::WriteError, has_signed_chunks: bool) -> S3Error {
    use crate::transfer::{SourceError, WriteError};
    if has_signed_chunks && matches!(error, WriteError::Source(SourceError::SignatureMismatch)) {
        let text = "The signature of a chunk or of the trailers does not match what was computed.";
        return s3(errors::refusal(S3ErrorCode::SignatureDoesNotMatch, text));
    }
    s3(error)
}

fn owner(id: &str, display_name: &str) -> Owner {
    Owner { id: Some(id.to_owned()), display_name: Some(display_name.to_owned()) }
}

#[async_trait::async_trait]
impl<B: Backend> S3 for Front<B> {
    async fn list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        self.on_list_buckets(request).await
    }
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.on_create_bucket(request).await
    }
    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.on_head_bucket(request).await
    }
    async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.on_delete_bucket(request).await
    }
    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.on_get_bucket_location(request).await
    }
    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        self.on_get_bucket_versioning(request).await
    }
    async fn get_bucket_acl(
        &self,
        request: S3Request<GetBucketAclInput>,
    ) -> S3Result<S3Response<GetBucketAclOutput>> {
        self.on_get_bucket_acl(request).await
    }
    async fn get_object_acl(
        &self,
        request: S3Request<GetObjectAclInput>,
    ) -> S3Result<S3Response<GetObjectAclOutput>> {
        self.on_get_object_acl(request).await
    }
    async fn get_object_tagging(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        self.on_get_object_tagging(request).await
    }
    async fn get_bucket_policy(
        &self,
        request: S3Request<GetBucketPolicyInput>,
    ) -> S3Result<S3Response<GetBucketPolicyOutput>> {
        self.on_get_bucket_policy(request).await
    }
    async fn get_bucket_lifecycle_configuration(
        &self,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        self.on_get_bucket_lifecycle_configuration(request).await
    }
    async fn get_bucket_tagging(
        &self,
        request: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        self.on_get_bucket_tagging(request).await
    }
    async fn get_bucket_cors(
        &self,
        request: S3Request<GetBucketCorsInput>,
    ) -> S3Result<S3Response<GetBucketCorsOutput>> {
        self.on_get_bucket_cors(request).await
    }
    async fn get_object_lock_configuration(
        &self,
        request: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        self.on_get_object_lock_configuration(request).await
    }
    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        self.on_list_objects(request).await
    }
    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.on_list_objects_v2(request).await
    }
    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        self.on_list_multipart_uploads(request).await
    }
    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.on_list_parts(request).await
    }
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.on_put_object(request).await
    }
    async fn post_object(
        &self,
        request: S3Request<PostObjectInput>,
    ) -> S3Result<S3Response<PostObjectOutput>> {
        self.on_post_object(request).await
    }
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.on_get_object(request).await
    }
    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.on_head_object(request).await
    }
    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.on_delete_object(request).await
    }
    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.on_delete_objects(request).await
    }
    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        self.on_copy_object(request).await
    }
    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.on_create_multipart_upload(request).await
    }
    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.on_upload_part(request).await
    }
    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        self.on_upload_part_copy(request).await
    }
    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.on_complete_multipart_upload(request).await
    }
    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.on_abort_multipart_upload(request).await
    }
}
