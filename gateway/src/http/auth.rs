//! Who a signature belongs to, for the S3 library, and the check that comes before an operation's body is read.
//!
//! The library asks for the secret of an access key; it comes from the cached users. An unknown key asks the metadata
//! service first, so that a user who was created a moment ago gets in at once; such questions are gathered, since anybody
//! can send unknown keys.

use super::errors::{self, s3};
use super::headers::refuse_unsupported;
use super::text::Query;
use crate::ops::Backend;
use crate::ops::requester::Requester;
use crate::ops::users::Refresher;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3ErrorCode, S3Result};
use tenfour_metadata::api::Config;
use tenfour_types::BucketName;

/// Knows the users.
pub struct Users<B> {
    backend: B,
    refresher: Refresher<B>,
}

impl<B: Backend> Users<B> {
    /// Over a backend's users.
    pub fn new(backend: B) -> Self {
        Self { refresher: Refresher::new(backend.clone()), backend }
    }
}

fn secret(config: &Config, access_key: &str) -> Option<SecretKey> {
    let user = config.users.get(access_key).filter(|user| user.enabled);
    user.map(|user| SecretKey::from(user.secret_key.clone()))
}

#[async_trait::async_trait]
impl<B: Backend> S3Auth for Users<B> {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if let Some(secret) = secret(&self.backend.config(), access_key) {
            return Ok(secret);
        }
        let config = self.refresher.refreshed().await.map_err(s3)?;
        secret(&config, access_key).ok_or_else(|| {
            let text = "The AWS Access Key Id you provided does not exist in our records.";
            s3(errors::refusal(S3ErrorCode::InvalidAccessKeyId, text))
        })
    }
}

/// Lets nobody anonymous in, nobody into somebody else's bucket, and nothing that is not there be asked for.
pub struct Door<B>(pub B);

#[async_trait::async_trait]
impl<B: Backend> S3Access for Door<B> {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let signer =
            context.credentials().map(|known| Requester::new(&known.access_key, known.secret_key.expose()));
        let Some(requester) = signer.or_else(|| context.extensions_mut().get().cloned()) else {
            return Err(s3(errors::refusal(
                S3ErrorCode::AccessDenied,
                "Access Denied: the request is not signed.",
            )));
        };
        refuse_unsupported(context.headers()).map_err(s3)?;
        no_versions(context.uri().query()).map_err(s3)?;
        let Some(bucket) = context.s3_path().get_bucket_name() else { return Ok(()) };
        if context.s3_op().name() == "CreateBucket" {
            return Ok(());
        }
        let bucket = bucket_name(bucket).map_err(s3)?;
        let owner =
            context.headers().get("x-amz-expected-bucket-owner").and_then(|value| value.to_str().ok());
        requester.wants(bucket, owner).bucket_now(&self.0).await.map_err(s3)?;
        Ok(())
    }
}

/// A bucket's name, checked.
pub fn bucket_name(name: &str) -> Result<BucketName, errors::Refusal> {
    BucketName::new(name).map_err(|error| errors::refusal(S3ErrorCode::InvalidBucketName, error.to_string()))
}

/// There are no versions: `versionId` may be `null` only.
fn no_versions(query: Option<&str>) -> Result<(), errors::Refusal> {
    let version = Query::parse(query).and_then(|query| query.get("versionId").map(str::to_owned));
    match version.as_deref() {
        None | Some("null") => Ok(()),
        Some(_) => {
            let text = "The specified version does not exist: objects here have no versions.";
            Err(errors::refusal(S3ErrorCode::NoSuchVersion, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_null_version_is_there() {
        assert!(no_versions(None).is_ok());
        assert!(no_versions(Some("versionId=null")).is_ok());
        assert_eq!(no_versions(Some("a=b&versionId=3")).unwrap_err().code(), "NoSuchVersion");
    }
}
