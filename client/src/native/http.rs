//! The same calls over HTTP, for where there is no RDMA. Bodies are copied once into or out of the caller's buffers.
//!
//! Requests are signed in the query string; every `x-amz-*` header is among what is signed.

use super::config::{ClientConfig, GetOptions, ListOptions, PutOptions};
use super::error::{Error, Failure};
use super::http_words::{
    KINDS, Named, base64, checksum_header, checksum_name, checksums, conditions, etag, failed, iso_ms,
    object, parse_checksum, parse_etag, precondition, refusal, type_name,
};
use super::objects::{Got, Head, Served, Stored, unexpected};
use super::put::Target;
use super::uploads::{CompleteOptions, Completed};
use super::xml::{self, text_of};
use crate::{Body, S3, next_frame};
use bytes::Bytes;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rusty_s3::actions::{CreateMultipartUpload, ListObjectsV2, S3Action};
use rusty_s3::{Bucket, Credentials, Map};
use std::time::Duration;
use tenfour_rdma::{Buffer, Frozen};
use tenfour_types::native::{Entry, From, NamedPart, Precondition, Range, Refusal, Retry};
use tenfour_types::{ChecksumKind, Headers};

/// How long a signed request may wait before it is sent.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(900);
/// Most keys of one page.
const PAGE_KEYS: u64 = 1000;
/// S3 over HTTP at one address.
pub(crate) struct HttpDoor {
    url: String,
    region: String,
    access_key: String,
    secret_key: String,
    /// Its connections are shared by all buckets.
    any: S3,
}

impl HttpDoor {
    pub(super) fn new(url: &str, config: &ClientConfig) -> Result<Self, Error> {
        let ClientConfig { region, access_key, secret_key, .. } = config;
        let any = S3::new(url, region, "any", access_key, secret_key)
            .map_err(|error| Error::Config(error.to_string()))?;
        Ok(Self {
            url: url.to_owned(),
            region: region.clone(),
            access_key: access_key.clone(),
            secret_key: secret_key.clone(),
            any,
        })
    }

    fn bucket(&self, name: &str) -> Result<(Bucket, Credentials), Failure> {
        let unusable =
            || Failure::before(Error::Config(format!("{:?} is not the URL of an S3 endpoint", self.url)));
        let url = self.url.parse().map_err(|_| unusable())?;
        let style = rusty_s3::UrlStyle::Path;
        let bucket = Bucket::new(url, style, name.to_owned(), self.region.clone()).map_err(|_| unusable())?;
        Ok((bucket, Credentials::new(&*self.access_key, &*self.secret_key)))
    }

    /// The same for calls of an object: without a key they would be calls of the bucket.
    fn bucket_of(&self, name: &str, key: &str) -> Result<(Bucket, Credentials), Failure> {
        if key.is_empty() {
            let message = "A key has at least one byte.".to_owned();
            return Err(Refusal { code: "InvalidRequest".to_owned(), message, retry: Retry::Never }.into());
        }
        self.bucket(name)
    }

    /// Signs an action with these headers, and sends it.
    async fn send<'a>(
        &self,
        mut action: impl S3Action<'a>,
        method: Method,
        body: Body,
        headers: Named,
        changes: bool,
    ) -> Result<Response<Incoming>, Failure> {
        let map: &mut Map<'_> = action.headers_mut();
        for (name, value) in &headers {
            map.insert(name.clone(), value.clone());
        }
        let url = action.sign(SIGNATURE_LIFETIME);
        let headers: Vec<(&str, String)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        self.any.send(method, url.as_str(), body, &headers).await.map_err(|error| failed(error, changes))
    }

    pub(super) async fn get(
        &self,
        bucket: &str,
        key: &str,
        mut into: Buffer,
        options: &GetOptions,
    ) -> (Option<Buffer>, Result<Got, Failure>) {
        let got = self.get_into(bucket, key, &mut into, options).await;
        (Some(into), got)
    }

    async fn get_into(
        &self,
        bucket: &str,
        key: &str,
        into: &mut [u8],
        options: &GetOptions,
    ) -> Result<Got, Failure> {
        let (bucket, credentials) = self.bucket_of(bucket, key)?;
        let mut action = bucket.get_object(Some(&credentials), key);
        if let Range::Part(number) = options.range {
            action.query_mut().insert("partNumber", number.to_string());
        }
        let response = self.send(action, Method::GET, Body::empty(), conditions(options), false).await?;
        let (object, range) = object(response.headers())?;
        let bytes = usize::try_from(range.1 - range.0).map_err(|_| unexpected())?;
        let room = into.len();
        let Some(mut rest) = into.get_mut(..bytes) else {
            let message = format!(
                "The range has {bytes} bytes, the client's buffer {room}: offer more, or ask for less."
            );
            return Err(Refusal { code: "InvalidRequest".to_owned(), message, retry: Retry::Never }.into());
        };
        let mut body = response.into_body();
        while let Some(frame) = next_frame(&mut body).await.map_err(|error| failed(error, false))? {
            let Ok(data) = frame.into_data() else { continue };
            let (now, later) = rest.split_at_mut_checked(data.len()).ok_or_else(unexpected)?;
            now.copy_from_slice(&data);
            rest = later;
        }
        if !rest.is_empty() {
            return Err(Failure::broken(false));
        }
        Ok(Got { object, range, bytes, served: served() })
    }

    pub(super) async fn head(&self, bucket: &str, key: &str, options: &GetOptions) -> Result<Head, Failure> {
        let (bucket, credentials) = self.bucket_of(bucket, key)?;
        let mut action = bucket.head_object(Some(&credentials), key);
        if let Range::Part(number) = options.range {
            action.query_mut().insert("partNumber", number.to_string());
        }
        let response = self.send(action, Method::HEAD, Body::empty(), conditions(options), false).await?;
        let (object, range) = object(response.headers())?;
        Ok(Head { object, range, served: served() })
    }

    pub(super) async fn put(
        &self,
        target: Target<'_>,
        bucket: &str,
        key: &str,
        body: &Frozen,
        options: &PutOptions,
    ) -> Result<Stored, Failure> {
        let (bucket, credentials) = self.bucket_of(bucket, key)?;
        let mut headers = Named::new();
        if let Some(checksum) = &options.checksum {
            headers.push((checksum_header(checksum.kind), base64(&checksum.value)));
        } else if let Some(kind) = options.keep {
            headers.push(("x-amz-sdk-checksum-algorithm".to_owned(), checksum_name(kind).to_uppercase()));
        }
        headers.extend(options.md5.map(|md5| ("content-md5".to_owned(), base64(&md5))));
        let content = Body::from(Bytes::from_owner(body.clone()));
        let response = match target {
            Target::Object => {
                headers.extend(options.headers.0.iter().cloned());
                headers.extend(precondition(&options.precondition));
                let action = bucket.put_object(Some(&credentials), key);
                self.send(action, Method::PUT, content, headers, true).await?
            }
            Target::Part(upload, number) => {
                let number = u16::try_from(number).unwrap_or(u16::MAX);
                let action = bucket.upload_part(Some(&credentials), key, number, upload);
                self.send(action, Method::PUT, content, headers, true).await?
            }
        };
        let etag = etag(response.headers()).ok_or_else(unexpected)?;
        Ok(Stored { etag, checksums: checksums(response.headers()), served: served() })
    }

    pub(super) async fn delete(&self, bucket: &str, key: &str, given: &Precondition) -> Result<(), Failure> {
        let (bucket, credentials) = self.bucket_of(bucket, key)?;
        let action = bucket.delete_object(Some(&credentials), key);
        let headers = precondition(given).into_iter().collect();
        self.send(action, Method::DELETE, Body::empty(), headers, true).await.map(drop)
    }

    pub(super) async fn list(
        &self,
        bucket: &str,
        options: &ListOptions,
        take: &mut (dyn FnMut(Vec<Entry>) + Send),
    ) -> Result<(Option<String>, Served), Failure> {
        let (bucket, credentials) = self.bucket(bucket)?;
        let (mut from, mut left) = (options.from.clone(), options.most);
        loop {
            let mut action: ListObjectsV2<'_> = bucket.list_objects_v2(Some(&credentials));
            action.with_prefix(options.prefix.clone());
            if !options.delimiter.is_empty() {
                action.with_delimiter(options.delimiter.clone());
            }
            match &from {
                From::Start => {}
                From::After(key) => action.with_start_after(key.clone()),
                From::Token(token) => action.with_continuation_token(token.clone()),
            }
            action.query_mut().insert("max-keys", left.min(PAGE_KEYS).to_string());
            let response = self.send(action, Method::GET, Body::empty(), Named::new(), false).await?;
            let text = text(response).await?;
            let page = ListObjectsV2::parse_response(&text).map_err(|_| unexpected())?;
            let mut entries: Vec<Entry> = Vec::new();
            for object in page.contents {
                entries.push(Entry::Object {
                    key: object.key,
                    size: object.size.unwrap_or_default(),
                    etag: object.etag.as_deref().and_then(parse_etag).ok_or_else(unexpected)?,
                    modified_ms: object.last_modified.as_deref().and_then(iso_ms).unwrap_or(0),
                    checksums: Vec::new(),
                });
            }
            entries.extend(page.common_prefixes.into_iter().map(|prefix| Entry::CommonPrefix(prefix.prefix)));
            entries.sort_by(|a, b| sort_key(a).cmp(sort_key(b)));
            left = left.saturating_sub(entries.len() as u64);
            take(entries);
            match page.next_continuation_token {
                Some(token) if left > 0 => from = From::Token(token),
                next => return Ok((next, served())),
            }
        }
    }

    pub(super) async fn create_upload(
        &self,
        bucket: &str,
        key: &str,
        kept: &Headers,
        checksum: Option<(ChecksumKind, bool)>,
    ) -> Result<String, Failure> {
        let (bucket, credentials) = self.bucket_of(bucket, key)?;
        let mut headers: Named = kept.0.clone();
        if let Some((kind, full_object)) = checksum {
            headers.push(("x-amz-checksum-algorithm".to_owned(), checksum_name(kind).to_uppercase()));
            headers.push(("x-amz-checksum-type".to_owned(), type_name(full_object).to_owned()));
        }
        let action = bucket.create_multipart_upload(Some(&credentials), key);
        let text = text(self.send(action, Method::POST, Body::empty(), headers, true).await?).await?;
        let created = CreateMultipartUpload::parse_response(&text).map_err(|_| unexpected())?;
        Ok(created.upload_id().to_owned())
    }

    pub(super) async fn complete_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        parts: &[NamedPart],
        options: &CompleteOptions,
    ) -> Result<Completed, Failure> {
        let (bucket, credentials) = self.bucket_of(bucket, key)?;
        let mut headers: Named = precondition(&options.precondition).into_iter().collect();
        if let Some(checksum) = &options.checksum {
            headers.push((checksum_header(checksum.kind), base64(&checksum.value)));
        }
        headers.extend(
            options.full_object.map(|full| ("x-amz-checksum-type".to_owned(), type_name(full).to_owned())),
        );
        headers.extend(options.size.map(|size| ("x-amz-mp-object-size".to_owned(), size.to_string())));
        let names = parts.iter().map(|_| "");
        let action = bucket.complete_multipart_upload(Some(&credentials), key, upload, names);
        let body = Body::from(Bytes::from(xml::complete(parts)));
        let text = text(self.send(action, Method::POST, body, headers, true).await?).await?;
        // A completion that takes long is answered 200, and its error stands in the body.
        if let Some(code) = text_of(&text, "Code") {
            return Err(refusal(code, text_of(&text, "Message").unwrap_or_default()).into());
        }
        let etag = text_of(&text, "ETag").as_deref().and_then(parse_etag).ok_or_else(unexpected)?;
        let of_kind = |kind: ChecksumKind| {
            let text = text_of(&text, &format!("Checksum{}", checksum_name(kind).to_uppercase()))?;
            parse_checksum(kind, &text)
        };
        Ok(Completed { etag, checksum: KINDS.into_iter().find_map(of_kind), served: served() })
    }

    pub(super) async fn abort_upload(&self, bucket: &str, key: &str, upload: &str) -> Result<(), Failure> {
        let (bucket, credentials) = self.bucket_of(bucket, key)?;
        let action = bucket.abort_multipart_upload(Some(&credentials), key, upload);
        self.send(action, Method::DELETE, Body::empty(), Named::new(), true).await.map(drop)
    }
}

fn served() -> Served {
    Served { carrier: "http".to_owned(), fabric: String::new() }
}

fn sort_key(entry: &Entry) -> &str {
    match entry {
        Entry::Object { key, .. } | Entry::CommonPrefix(key) => key,
    }
}

async fn text(response: Response<Incoming>) -> Result<String, Failure> {
    let body = response.into_body().collect().await.map_err(|_| Failure::broken(true))?.to_bytes();
    String::from_utf8(body.to_vec()).map_err(|_| unexpected())
}
