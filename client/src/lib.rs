//! A lean S3 client: what demos, loads and checks need to speak to any S3 endpoint over HTTP, with SigV4 in the query string.
//!
//! It keeps no state but its connections and never retries: a load generator must see every failure. The SDK, which does, and which
//! speaks S3 over RDMA, is [`native`].

mod body;
pub mod native;
pub mod token;

pub use body::{Body, Pattern};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rusty_s3::actions::{ListObjectsV2, S3Action};
use rusty_s3::{Bucket, Credentials, UrlStyle};
use std::time::Duration;
use tenfour_types::Scaled;
use thiserror::Error;

/// How long a signed request may wait before it is sent.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(900);
/// A request is given up when its answer has not begun after so long.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// A body is given up when nothing of it came for so long.
const FRAME_DEADLINE: Duration = Duration::from_secs(30);
/// Longest error text that is read and shown, bytes.
const ERROR_TEXT_BYTES_MAX: usize = 4096;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The endpoint is not a URL with a host.
    #[error("{0:?} is not the URL of an S3 endpoint (expected something like http://127.0.0.1:9000)")]
    Endpoint(String),
    /// The connection failed.
    #[error("{0}")]
    Connection(String),
    /// Nothing came for too long.
    #[error("no answer in time")]
    TimedOut,
    /// The server answered with an error.
    #[error("{status}: {text}")]
    Status {
        /// HTTP status.
        status: StatusCode,
        /// S3's error code and message, as they came.
        text: String,
    },
    /// The answer is not S3.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// The body is not what was stored.
    #[error("wrong content: {0}")]
    Content(String),
}

/// One bucket of one S3 endpoint.
#[derive(Clone)]
pub struct S3 {
    bucket: Bucket,
    credentials: Credentials,
    http: Client<HttpConnector, Body>,
}

/// One page of a listing.
pub struct Listing {
    /// Keys with their sizes.
    pub objects: Vec<(String, u64)>,
    /// Common prefixes.
    pub prefixes: Vec<String>,
    /// Where the next page begins, when there is one.
    pub next: Option<String>,
}

impl S3 {
    /// A client of `bucket` at `endpoint` (path style), with the keys of a user.
    pub fn new(
        endpoint: &str,
        region: &str,
        bucket: &str,
        access_key: &str,
        secret_key: &str,
    ) -> Result<Self, ClientError> {
        let unusable = || ClientError::Endpoint(endpoint.to_owned());
        let url = endpoint.parse().map_err(|_| unusable())?;
        let bucket =
            Bucket::new(url, UrlStyle::Path, bucket.to_owned(), region.to_owned()).map_err(|_| unusable())?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(256).build(connector);
        Ok(Self { bucket, credentials: Credentials::new(access_key, secret_key), http })
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        self.bucket.name()
    }

    /// Creates the bucket; an existing one of ours is fine.
    pub async fn create_bucket(&self) -> Result<(), ClientError> {
        let url = self.bucket.create_bucket(&self.credentials).sign(SIGNATURE_LIFETIME);
        match self.send(Method::PUT, url.as_str(), Body::empty(), &[]).await {
            Ok(_) => Ok(()),
            Err(ClientError::Status { status: StatusCode::CONFLICT, text })
                if text.contains("BucketAlreadyOwnedByYou") =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Stores an object; returns its ETag without quotes.
    pub async fn put(&self, key: &str, body: impl Into<Body>) -> Result<String, ClientError> {
        let url = self.bucket.put_object(Some(&self.credentials), key).sign(SIGNATURE_LIFETIME);
        let response = self.send(Method::PUT, url.as_str(), body.into(), &[]).await?;
        unquoted(response.headers().get(header::ETAG))
            .ok_or_else(|| ClientError::Malformed("no ETag".to_owned()))
    }

    /// Opens an object for reading, wholly or a range of it (first and last byte).
    pub async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Response<Incoming>, ClientError> {
        let url = self.bucket.get_object(Some(&self.credentials), key).sign(SIGNATURE_LIFETIME);
        let range = range.map(|(first, last)| ("range", format!("bytes={first}-{last}")));
        self.send(Method::GET, url.as_str(), Body::empty(), range.as_slice()).await
    }

    /// Reads a whole object, or a range of it, into memory.
    pub async fn get_bytes(&self, key: &str, range: Option<(u64, u64)>) -> Result<Bytes, ClientError> {
        let response = self.get(key, range).await?;
        response.into_body().collect().await.map(http_body_util::Collected::to_bytes).map_err(connection)
    }

    /// Reads a whole object and compares it with the pattern it was stored as, holding one frame of it at a time.
    pub async fn get_compare(&self, key: &str, expected: &Pattern) -> Result<u64, ClientError> {
        let mut body = self.get(key, None).await?.into_body();
        let mut position = 0;
        while let Some(frame) = next_frame(&mut body).await? {
            let Ok(data) = frame.into_data() else { continue };
            if !expected.matches(position, &data) {
                return Err(ClientError::Content(format!(
                    "{key}: differs within {} bytes at {position}",
                    data.len()
                )));
            }
            position += data.len() as u64;
        }
        if position == expected.len() {
            return Ok(position);
        }
        Err(ClientError::Content(format!("{key}: {position} bytes came, {} were stored", expected.len())))
    }

    /// Removes an object.
    pub async fn delete(&self, key: &str) -> Result<(), ClientError> {
        let url = self.bucket.delete_object(Some(&self.credentials), key).sign(SIGNATURE_LIFETIME);
        self.send(Method::DELETE, url.as_str(), Body::empty(), &[]).await.map(|_| ())
    }

    /// One page of a listing.
    pub async fn list(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        token: Option<&str>,
    ) -> Result<Listing, ClientError> {
        let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
        action.with_prefix(prefix.to_owned());
        if let Some(delimiter) = delimiter {
            action.with_delimiter(delimiter.to_owned());
        }
        if let Some(token) = token {
            action.with_continuation_token(token.to_owned());
        }
        let url = action.sign(SIGNATURE_LIFETIME);
        let response = self.send(Method::GET, url.as_str(), Body::empty(), &[]).await?;
        let body = response.into_body().collect().await.map_err(connection)?.to_bytes();
        let text = std::str::from_utf8(&body).map_err(|error| ClientError::Malformed(error.to_string()))?;
        let page =
            ListObjectsV2::parse_response(text).map_err(|error| ClientError::Malformed(error.to_string()))?;
        Ok(Listing {
            objects: page
                .contents
                .into_iter()
                .map(|object| (object.key, object.size.unwrap_or_default()))
                .collect(),
            prefixes: page.common_prefixes.into_iter().map(|prefix| prefix.prefix).collect(),
            next: page.next_continuation_token,
        })
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        body: Body,
        headers: &[(&str, String)],
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder().method(&method).uri(url);
        if let (Method::PUT, Some(bytes)) = (method, body.size_hint().exact()) {
            request = request.header(header::CONTENT_LENGTH, bytes);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(body).map_err(|error| ClientError::Malformed(error.to_string()))?;
        let answer = tokio::time::timeout(ANSWER_DEADLINE.scaled(), self.http.request(request));
        let response = answer.await.map_err(|_| ClientError::TimedOut)?;
        let response = response.map_err(|error| ClientError::Connection(chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut text = Vec::new();
        let mut body = response.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            text.extend(frame.into_data().unwrap_or_default());
            if text.len() > ERROR_TEXT_BYTES_MAX {
                break;
            }
        }
        text.truncate(ERROR_TEXT_BYTES_MAX);
        Err(ClientError::Status { status, text: String::from_utf8_lossy(&text).into_owned() })
    }
}

/// The next frame of a body; `None` at its end.
pub async fn next_frame(body: &mut Incoming) -> Result<Option<Frame<Bytes>>, ClientError> {
    let frame = tokio::time::timeout(FRAME_DEADLINE.scaled(), body.frame())
        .await
        .map_err(|_| ClientError::TimedOut)?;
    frame.transpose().map_err(connection)
}

fn unquoted(etag: Option<&http::HeaderValue>) -> Option<String> {
    Some(etag?.to_str().ok()?.trim_matches('"').to_owned())
}

fn connection(error: hyper::Error) -> ClientError {
    ClientError::Connection(chain(&error))
}

/// An error with its causes: hyper's own text alone never says "connection refused".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
