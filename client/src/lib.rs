//! A lean S3 client: what demos, loads and checks need to speak to any S3 endpoint over HTTP, with SigV4.
//!
//! It keeps no state but its connections and never retries: a load generator must see every failure. The SDK, which does, and which
//! speaks S3 over RDMA, is [`native`].

mod body;
pub mod native;
mod signed;
pub mod token;

pub use body::{Body, Pattern};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use rusty_s3::actions::ListObjectsV2;
use signed::{Access, Call, Service, bucket_path, object_path};
use std::time::Duration;
use tenfour_types::{NameError, Scaled};
use thiserror::Error;

/// A connection that does not stand after so long is given up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// A request that moves no bytes is given up when its answer has not begun after so long.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// The slowest transfer that is waited for, bytes a second.
const BYTES_PER_SECOND_MIN: u64 = 256 << 10;
/// A body is given up when nothing of it came for so long.
const FRAME_DEADLINE: Duration = Duration::from_secs(30);

/// How long an answer is waited for, of a request that moves so many bytes before it comes.
pub(crate) fn answer_within(deadline: Duration, bytes: u64) -> Duration {
    deadline + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
}

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The endpoint is not a URL with a host.
    #[error("{0:?} is not the URL of an S3 endpoint (expected something like http://127.0.0.1:9000)")]
    Endpoint(String),
    /// No bucket, or no key, can be named so.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No connection could be made: nothing was sent.
    #[error("{0}")]
    Unreachable(String),
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
    bucket: String,
    service: Service,
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
        bucket_path(bucket)?;
        let access = Access { endpoint, region, access_key, secret_key };
        let service = Service::new(&access, CONNECT_DEADLINE, ANSWER_DEADLINE)?;
        Ok(Self { bucket: bucket.to_owned(), service })
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Creates the bucket; an existing one of ours is fine.
    pub async fn create_bucket(&self) -> Result<(), ClientError> {
        match self.service.send(Call::new(Method::PUT, bucket_path(&self.bucket)?)).await {
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
        let response = self.service.send(Call { body: body.into(), ..self.call(Method::PUT, key)? }).await?;
        unquoted(response.headers().get(header::ETAG))
            .ok_or_else(|| ClientError::Malformed("no ETag".to_owned()))
    }

    /// Opens an object for reading, wholly or a range of it (first and last byte).
    pub async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Response<Incoming>, ClientError> {
        let range = range.map(|(first, last)| ("range".to_owned(), format!("bytes={first}-{last}")));
        let headers = range.into_iter().collect();
        self.service.send(Call { headers, ..self.call(Method::GET, key)? }).await
    }

    fn call(&self, method: Method, key: &str) -> Result<Call<'static>, ClientError> {
        Ok(Call::new(method, object_path(&self.bucket, key)?))
    }

    /// Reads a whole object, or a range of it, into memory.
    pub async fn get_bytes(&self, key: &str, range: Option<(u64, u64)>) -> Result<Bytes, ClientError> {
        all_of(self.get(key, range).await?.into_body()).await.map(Bytes::from)
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
        self.service.send(self.call(Method::DELETE, key)?).await.map(drop)
    }

    /// One page of a listing.
    pub async fn list(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        token: Option<&str>,
    ) -> Result<Listing, ClientError> {
        let mut call = Call::new(Method::GET, bucket_path(&self.bucket)?);
        let given = [("delimiter", delimiter), ("continuation-token", token)];
        call.query = [("list-type", "2"), ("encoding-type", "url"), ("prefix", prefix)].map(owned).into();
        call.query.extend(given.into_iter().filter_map(|(name, value)| Some(owned((name, value?)))));
        let response = self.service.send(call).await?;
        let body = all_of(response.into_body()).await?;
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
}

fn owned((name, value): (&'static str, &str)) -> (&'static str, String) {
    (name, value.to_owned())
}

/// The next frame of a body; `None` at its end.
pub async fn next_frame(body: &mut Incoming) -> Result<Option<Frame<Bytes>>, ClientError> {
    let frame = tokio::time::timeout(FRAME_DEADLINE.scaled(), body.frame())
        .await
        .map_err(|_| ClientError::TimedOut)?;
    frame.transpose().map_err(connection)
}

/// All of a body.
pub(crate) async fn all_of(mut body: Incoming) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    while let Some(frame) = next_frame(&mut body).await? {
        bytes.extend(frame.into_data().unwrap_or_default());
    }
    Ok(bytes)
}

fn unquoted(etag: Option<&http::HeaderValue>) -> Option<String> {
    Some(etag?.to_str().ok()?.trim_matches('"').to_owned())
}

fn connection(error: hyper::Error) -> ClientError {
    ClientError::Connection(chain(&error))
}

/// An error with its causes: hyper's own text alone never says "connection refused".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
