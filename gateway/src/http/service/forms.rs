//! Objects that a browser's form brings.

use super::super::errors::{self, s3};
use super::super::expect::Expected;
use super::super::headers::{self, refuse_unsupported};
use super::super::payload::BodySource;
use super::super::proof::SigV2;
use super::super::translate::{self, etag};
use super::{DEFAULT_KIND, Front, wants};
use crate::ops::Backend;
use crate::transfer::Destination;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use s3s::dto::{PostObjectInput, PostObjectOutput};
use s3s::region::Region;
use s3s::stream::ByteStream as _;
use s3s::{Body, S3ErrorCode, S3Request, S3Response, S3Result};
use tenfour_metadata::api::Precondition;

impl<B: Backend> Front<B> {
    /// The library has read the form (it is small), and verified its policy and its signature.
    pub(super) async fn on_post_object(
        &self,
        request: S3Request<PostObjectInput>,
    ) -> S3Result<S3Response<PostObjectOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        self.signed_as_allowed(request.region.as_ref(), request.service.as_deref())?;
        let mut input = request.input;
        let fields = form_headers(&input);
        refuse_unsupported(&fields).map_err(s3)?;
        let expected = Expected::of(&fields).map_err(s3)?;
        let to = Destination::Object {
            key: translate::key(&input.key).map_err(s3)?,
            headers: headers::kept(&fields).map_err(s3)?,
            precondition: Precondition::None,
        };
        let blob = input.body.take();
        let size = blob.as_ref().and_then(|blob| blob.remaining_length().exact()).unwrap_or(0);
        let body = blob.map_or_else(Body::empty, Body::from);
        let kept = if expected.kind().is_some() { &[][..] } else { &[DEFAULT_KIND] };
        let mut source = BodySource::new(body, size as u64, None, None, expected, kept);
        let stored = self.backend.put(&wants, to, &mut source).await.map_err(s3)?;
        let output =
            PostObjectOutput { e_tag: Some(etag(stored.summary.etag)), ..PostObjectOutput::default() };
        Ok(S3Response::with_headers(output, headers::transport(stored.transports)))
    }

    /// A form's signature is inside it, where our guard does not see it. One of version 2 names no region.
    fn signed_as_allowed(&self, region: Option<&Region>, service: Option<&str>) -> S3Result<()> {
        match region {
            Some(region) if region.as_str() == self.region.as_ref() && service == Some("s3") => Ok(()),
            None if self.sigv2 == SigV2::On => Ok(()),
            _ => {
                let text =
                    format!("The form must be signed with AWS4-HMAC-SHA256 for the region {}.", self.region);
                Err(s3(errors::refusal(S3ErrorCode::AccessDenied, text)))
            }
        }
    }
}

/// The fields of a form that are headers of a PUT.
fn form_headers(input: &PostObjectInput) -> HeaderMap {
    let expires = input.expires.clone().map(|time| {
        let ms = time::OffsetDateTime::from(time).unix_timestamp().saturating_mul(1000);
        headers::http_date(u64::try_from(ms).unwrap_or(0))
    });
    let fields = [
        ("content-type", input.content_type.as_ref().map(ToString::to_string)),
        ("cache-control", input.cache_control.clone()),
        ("content-disposition", input.content_disposition.clone()),
        ("content-encoding", input.content_encoding.clone()),
        ("content-language", input.content_language.clone()),
        ("expires", expires),
        ("content-md5", input.content_md5.clone()),
        ("x-amz-checksum-crc32", input.checksum_crc32.clone()),
        ("x-amz-checksum-crc32c", input.checksum_crc32c.clone()),
        ("x-amz-checksum-crc64nvme", input.checksum_crc64nvme.clone()),
        ("x-amz-checksum-sha1", input.checksum_sha1.clone()),
        ("x-amz-checksum-sha256", input.checksum_sha256.clone()),
        ("x-amz-acl", input.acl.as_ref().map(|acl| acl.as_str().to_owned())),
        ("x-amz-storage-class", input.storage_class.as_ref().map(|class| class.as_str().to_owned())),
        ("x-amz-tagging", input.tagging.clone()),
        ("x-amz-website-redirect-location", input.website_redirect_location.clone()),
        (
            "x-amz-server-side-encryption",
            input.server_side_encryption.as_ref().map(|kind| kind.as_str().to_owned()),
        ),
        ("x-amz-server-side-encryption-customer-algorithm", input.sse_customer_algorithm.clone()),
        ("x-amz-object-lock-mode", input.object_lock_mode.as_ref().map(|mode| mode.as_str().to_owned())),
    ];
    let user = input
        .metadata
        .iter()
        .flatten()
        .map(|(name, value)| (format!("x-amz-meta-{name}"), Some(value.clone())));
    let mut map = HeaderMap::new();
    for (name, value) in fields.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(user) {
        let name = name.parse::<hyper::header::HeaderName>();
        let value = value.and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
        if let (Ok(name), Some(value)) = (name, value) {
            map.insert(name, value);
        }
    }
    map
}
