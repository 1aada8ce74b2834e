//! Buckets, and the questions about them that clients ask as a matter of course.

use super::super::auth::bucket_name;
use super::super::errors::{self, custom, s3};
use super::super::headers::refuse_unsupported;
use super::super::translate::timestamp;
use super::{Front, owner, requester, wants};
use crate::ops::{Backend, buckets};
use crate::transfer::Wanted;
use s3s::dto::{
    Bucket, BucketLocationConstraint, BucketVersioningStatus, CreateBucketInput, CreateBucketOutput,
    DeleteBucketInput, DeleteBucketOutput, GetBucketAclInput, GetBucketAclOutput, GetBucketCorsInput,
    GetBucketCorsOutput, GetBucketLifecycleConfigurationInput, GetBucketLifecycleConfigurationOutput,
    GetBucketLocationInput, GetBucketLocationOutput, GetBucketPolicyInput, GetBucketPolicyOutput,
    GetBucketTaggingInput, GetBucketTaggingOutput, GetBucketVersioningInput, GetBucketVersioningOutput,
    GetObjectAclInput, GetObjectAclOutput, GetObjectLockConfigurationInput, GetObjectLockConfigurationOutput,
    GetObjectTaggingInput, GetObjectTaggingOutput, Grant, Grantee, HeadBucketInput, HeadBucketOutput,
    ListBucketsInput, ListBucketsOutput, Permission, Type,
};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};

/// The region that is not named in a LocationConstraint.
const FIRST_REGION: &str = "us-east-1";

impl<B: Backend> Front<B> {
    pub(super) async fn on_list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let (user, all) = buckets::list(&self.backend, &requester(&request)?).await.map_err(s3)?;
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.unwrap_or_default();
        let most = input.max_buckets.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX).max(1);
        let elsewhere = input.bucket_region.is_some_and(|region| *region != *self.region);
        let mut shown: Vec<_> = all
            .into_iter()
            .filter(|bucket| {
                !elsewhere
                    && bucket.name.as_str().starts_with(&prefix)
                    && bucket.name.as_str() > after.as_str()
            })
            .collect();
        let more = shown.len() > most;
        shown.truncate(most);
        let continuation_token = if more { shown.last().map(|bucket| bucket.name.to_string()) } else { None };
        let entry = |bucket: tenfour_metadata::api::Bucket| Bucket {
            name: Some(bucket.name.to_string()),
            creation_date: Some(timestamp(bucket.created_ms)),
            bucket_region: Some(self.region.to_string()),
        };
        Ok(S3Response::new(ListBucketsOutput {
            owner: Some(owner(&user.access_key, &user.display_name)),
            buckets: Some(shown.into_iter().map(entry).collect()),
            continuation_token,
            prefix: input.prefix,
        }))
    }

    pub(super) async fn on_create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        refuse_unsupported(&request.headers).map_err(s3)?;
        let configuration = request.input.create_bucket_configuration.as_ref();
        let constraint = configuration.and_then(|configuration| configuration.location_constraint.as_ref());
        if let Some(constraint) =
            constraint.map(BucketLocationConstraint::as_str).filter(|text| !text.is_empty())
        {
            self.in_this_region(constraint)?;
        }
        let name = bucket_name(&request.input.bucket).map_err(s3)?;
        let bucket = buckets::create(&self.backend, &requester(&request)?, name).await.map_err(s3)?;
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", bucket.name)) }))
    }

    fn in_this_region(&self, constraint: &str) -> S3Result<()> {
        if constraint == &*self.region {
            return Ok(());
        }
        let text = format!(
            "The {constraint} location constraint is incompatible for the region this request was sent to: it is {}.",
            self.region
        );
        Err(s3(errors::refusal(S3ErrorCode::IllegalLocationConstraintException, text)))
    }

    pub(super) async fn on_head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        buckets::find(&self.backend, &wants).await.map_err(s3)?;
        Ok(S3Response::new(HeadBucketOutput {
            bucket_region: Some(self.region.to_string()),
            ..Default::default()
        }))
    }

    pub(super) async fn on_delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        buckets::remove(&self.backend, &wants).await.map_err(s3)?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    pub(super) async fn on_get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        buckets::find(&self.backend, &wants).await.map_err(s3)?;
        let named =
            (&*self.region != FIRST_REGION).then(|| BucketLocationConstraint::from(self.region.to_string()));
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint: named }))
    }

    /// Versioning was never enabled: the answer is empty.
    pub(super) async fn on_get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        buckets::find(&self.backend, &wants).await.map_err(s3)?;
        let status: Option<BucketVersioningStatus> = None;
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
    }

    pub(super) async fn on_get_bucket_acl(
        &self,
        request: S3Request<GetBucketAclInput>,
    ) -> S3Result<S3Response<GetBucketAclOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let bucket = buckets::find(&self.backend, &wants).await.map_err(s3)?;
        let output = GetBucketAclOutput {
            owner: Some(self.owner_of(&bucket)),
            grants: Some(vec![self.full_control(&bucket)]),
        };
        Ok(S3Response::new(output))
    }

    pub(super) async fn on_get_object_acl(
        &self,
        request: S3Request<GetObjectAclInput>,
    ) -> S3Result<S3Response<GetObjectAclOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        self.must_exist(&wants, &request.input.key).await?;
        let bucket = wants.bucket_now(&self.backend).await.map_err(s3)?;
        let (owner, grant) = (self.owner_of(&bucket), self.full_control(&bucket));
        Ok(S3Response::new(GetObjectAclOutput {
            owner: Some(owner),
            grants: Some(vec![grant]),
            ..Default::default()
        }))
    }

    /// No object has tags: putting them is refused.
    pub(super) async fn on_get_object_tagging(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        self.must_exist(&wants, &request.input.key).await?;
        Ok(S3Response::new(GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None }))
    }

    async fn must_exist(&self, wants: &crate::ops::requester::Wants, key: &str) -> S3Result<()> {
        let key = super::super::translate::key(key).map_err(s3)?;
        self.backend.get(wants, &key, Wanted::Head).await.map(drop).map_err(s3)
    }

    fn owner_of(&self, bucket: &tenfour_metadata::api::Bucket) -> s3s::dto::Owner {
        let config = self.backend.config();
        let name = config.users.get(&bucket.owner).map_or("", |user| user.display_name.as_str());
        owner(&bucket.owner, name)
    }

    fn full_control(&self, bucket: &tenfour_metadata::api::Bucket) -> Grant {
        let owner = self.owner_of(bucket);
        let grantee = Grantee {
            type_: Type::from_static(Type::CANONICAL_USER),
            id: owner.id,
            display_name: owner.display_name,
            email_address: None,
            uri: None,
        };
        Grant { grantee: Some(grantee), permission: Some(Permission::from_static(Permission::FULL_CONTROL)) }
    }

    pub(super) async fn on_get_bucket_policy(
        &self,
        _: S3Request<GetBucketPolicyInput>,
    ) -> S3Result<S3Response<GetBucketPolicyOutput>> {
        Err(s3(errors::refusal(S3ErrorCode::NoSuchBucketPolicy, "The bucket policy does not exist")))
    }

    pub(super) async fn on_get_bucket_lifecycle_configuration(
        &self,
        _: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let text = "The lifecycle configuration does not exist";
        Err(s3(errors::refusal(S3ErrorCode::NoSuchLifecycleConfiguration, text)))
    }

    pub(super) async fn on_get_bucket_tagging(
        &self,
        _: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        Err(s3(errors::refusal(S3ErrorCode::NoSuchTagSet, "The TagSet does not exist")))
    }

    pub(super) async fn on_get_bucket_cors(
        &self,
        _: S3Request<GetBucketCorsInput>,
    ) -> S3Result<S3Response<GetBucketCorsOutput>> {
        Err(s3(custom("NoSuchCORSConfiguration", 404, "The CORS configuration does not exist")))
    }

    pub(super) async fn on_get_object_lock_configuration(
        &self,
        _: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        let text = "Object Lock configuration does not exist for this bucket";
        Err(s3(custom("ObjectLockConfigurationNotFoundError", 404, text)))
    }
}
