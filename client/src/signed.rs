//! Requests as they go out over HTTP: a path that names what was asked for, byte by byte, and SigV4 over all of it in a header.
//!
//! What requests mean is not here. Paths are built here, and no library for URLs sees them: one would resolve `.` and `..` in a key, and
//! the request, validly signed, would be one of another object, of another bucket, or of the bucket itself.
//!
//! Invariant: what is sent is what is signed, every header but the body's length included, and a path is one of checked names.

use crate::{Body, ClientError, answer_within, chain, next_frame};
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tenfour_types::native::login::date_of;
use tenfour_types::rdma_token::signature::{Signer, Unsigned, authorization};
use tenfour_types::{BucketName, NameError, ObjectKey, Scaled};
use tokio::time::timeout;

/// Longest error text that is read and shown, bytes.
const ERROR_TEXT_BYTES_MAX: usize = 4096;

/// Whom to ask, and as whom.
pub(crate) struct Access<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) region: &'a str,
    pub(crate) access_key: &'a str,
    pub(crate) secret_key: &'a str,
}

/// An S3 service, as one user asks it. A clone shares its connections.
#[derive(Clone)]
pub(crate) struct Service {
    /// Scheme and authority.
    origin: String,
    host: String,
    /// What stands before every path, without a slash at its end.
    prefix: String,
    region: String,
    access_key: String,
    secret_key: String,
    answer_deadline: Duration,
    http: Client<HttpConnector, Body>,
}

/// A request that is not signed yet.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// As [`bucket_path`] and [`object_path`] make it.
    pub(crate) path: String,
    /// Names and values, as they are meant.
    pub(crate) query: Vec<(&'a str, String)>,
    /// Lower-case names.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
    /// The SHA-256 of the body, to be signed with the rest; without it the signature says nothing of the body.
    pub(crate) sha256: Option<[u8; 32]>,
}

impl Call<'_> {
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self { method, path, query: Vec::new(), headers: Vec::new(), body: Body::empty(), sha256: None }
    }
}

impl Service {
    pub(crate) fn new(
        access: &Access<'_>,
        connect_deadline: Duration,
        answer_deadline: Duration,
    ) -> Result<Self, ClientError> {
        let unusable = || ClientError::Endpoint(access.endpoint.to_owned());
        let uri: http::Uri = access.endpoint.parse().map_err(|_| unusable())?;
        let host =
            uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(unusable)?.as_str();
        if host.contains('@') || uri.query().is_some() {
            return Err(unusable());
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_deadline.scaled()));
        Ok(Self {
            origin: format!("http://{host}"),
            host: host.to_owned(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            region: access.region.to_owned(),
            access_key: access.access_key.to_owned(),
            secret_key: access.secret_key.to_owned(),
            answer_deadline,
            http: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(256).build(connector),
        })
    }

    /// Signs a request and sends it; any answer but a success is an error.
    pub(crate) async fn send(&self, call: Call<'_>) -> Result<Response<Incoming>, ClientError> {
        let bytes = call.body.size_hint().exact().unwrap_or(0);
        let request = self.signed(call, SystemTime::now())?;
        let within = answer_within(self.answer_deadline, bytes).scaled();
        let answer = timeout(within, self.http.request(request)).await.map_err(|_| ClientError::TimedOut)?;
        let response = answer.map_err(|error| match error.is_connect() {
            true => ClientError::Unreachable(chain(&error)),
            false => ClientError::Connection(chain(&error)),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(ClientError::Status { status, text: error_text(response.into_body()).await })
    }

    fn signed(&self, call: Call<'_>, now: SystemTime) -> Result<Request<Body>, ClientError> {
        let Call { method, path, query, headers: named, body, sha256 } = call;
        let stamp = stamp(now);
        let path = format!("{}{path}", self.prefix);
        let mut query: Vec<(String, String)> =
            query.iter().map(|(name, value)| (encoded(name, ""), encoded(value, ""))).collect();
        query.sort_unstable();
        let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut headers = BTreeMap::from([
            ("host".to_owned(), self.host.clone()),
            ("x-amz-content-sha256".to_owned(), sha256.map_or("UNSIGNED-PAYLOAD".to_owned(), hexadecimal)),
            ("x-amz-date".to_owned(), stamp.clone()),
        ]);
        for (name, value) in named {
            // Those that come twice are one to S3, joined like this.
            headers.entry(name).and_modify(|first| *first += &format!(",{value}")).or_insert(value);
        }
        let plain: Vec<(&str, String)> =
            headers.iter().map(|(name, value)| (&**name, without_runs_of_spaces(value))).collect();
        let plain: Vec<(&str, &str)> = plain.iter().map(|(name, value)| (*name, &**value)).collect();
        let Self { region, access_key, secret_key, .. } = self;
        let signer = Signer { access_key, secret_key, region, stamp: &stamp };
        let unsigned = Unsigned { method: method.as_str(), path: &path, query: &query, headers: &plain };
        let authorization = authorization(&unsigned, &signer);
        let pairs: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let separator = if pairs.is_empty() { "" } else { "?" };
        let mut request = Request::builder()
            .uri(format!("{}{path}{separator}{}", self.origin, pairs.join("&")))
            .header(header::AUTHORIZATION, authorization);
        if let (&Method::PUT, Some(bytes)) = (&method, body.size_hint().exact()) {
            request = request.header(header::CONTENT_LENGTH, bytes);
        }
        for (name, value) in &headers {
            request = request.header(name, HeaderValue::from_bytes(value.as_bytes()).map_err(malformed)?);
        }
        request.method(method).body(body).map_err(malformed)
    }
}

fn malformed(error: impl Into<http::Error>) -> ClientError {
    ClientError::Malformed(error.into().to_string())
}

/// As much of an error's text as comes in time.
async fn error_text(mut body: Incoming) -> String {
    let mut text = Vec::new();
    while text.len() < ERROR_TEXT_BYTES_MAX
        && let Ok(Some(frame)) = next_frame(&mut body).await
    {
        text.extend(frame.into_data().unwrap_or_default());
    }
    text.truncate(ERROR_TEXT_BYTES_MAX);
    String::from_utf8_lossy(&text).into_owned()
}

/// The path of a bucket.
pub(crate) fn bucket_path(bucket: &str) -> Result<String, NameError> {
    Ok(format!("/{}", BucketName::new(bucket)?))
}

/// The path of an object.
pub(crate) fn object_path(bucket: &str, key: &str) -> Result<String, NameError> {
    Ok(format!("{}/{}", bucket_path(bucket)?, encoded(ObjectKey::new(key)?.as_str(), "/")))
}

/// Percent-encoded as SigV4 has it, but for the characters in `but`.
fn encoded(text: &str, but: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || but.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A header's value as SigV4 has it.
fn without_runs_of_spaces(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn hexadecimal(bytes: [u8; 32]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `YYYYMMDDTHHMMSSZ`.
fn stamp(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let date = date_of(i64::try_from(day).unwrap_or_default());
    format!("{date}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: Duration = Duration::from_secs(784_111_777);

    fn service(endpoint: &str) -> Result<Service, ClientError> {
        let access = Access { endpoint, region: "us-east-1", access_key: "a", secret_key: "s" };
        Service::new(&access, Duration::from_secs(1), Duration::from_secs(1))
    }

    fn signed(endpoint: &str, call: Call<'_>) -> Request<Body> {
        service(endpoint).unwrap().signed(call, UNIX_EPOCH + THEN).unwrap()
    }

    #[test]
    fn stamps_and_paths_are_as_signatures_have_them() {
        assert_eq!(stamp(UNIX_EPOCH + THEN), "19941106T084937Z");
        assert_eq!(object_path("bucket", "a key/ä+").unwrap(), "/bucket/a%20key/%C3%A4%2B");
    }

    #[test]
    fn a_path_goes_out_as_it_is_and_of_checked_names_only() {
        for key in ["x/../y", "x/..", "..", ".", "./x", "/", "//x", "%2e%2e/x"] {
            let path = object_path("bucket", key).unwrap();
            let request = signed("http://host:9000", Call::new(Method::DELETE, path.clone()));
            assert_eq!(request.uri().path(), path);
            assert_eq!(path, format!("/bucket/{}", key.replace('%', "%25")));
        }
        for (bucket, key) in [("..", "k"), (".", "k"), ("bucket", ""), ("a/b", "k"), ("bucket?x", "k")] {
            assert!(object_path(bucket, key).is_err(), "{bucket:?} {key:?}");
        }
        let below = signed("http://host/s3/", Call::new(Method::GET, bucket_path("bucket").unwrap()));
        assert_eq!(below.uri(), "http://host/s3/bucket");
    }

    #[test]
    fn what_is_signed_is_what_is_sent() {
        let mut call = Call::new(Method::PUT, object_path("bucket", "k").unwrap());
        call.query = vec![("uploadId", "a/b=".into()), ("partNumber", "3".into())];
        let headers = [("x-amz-meta-b", "two  words "), ("x-amz-meta-a", "ä"), ("x-amz-meta-a", "2")];
        call.headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        call.sha256 = Some([0xab; 32]);
        let request = signed("http://host:9000", call);
        assert_eq!(request.uri().query(), Some("partNumber=3&uploadId=a%2Fb%3D"));
        let value = |name: &str| request.headers().get(name).unwrap().as_bytes();
        assert_eq!(value("x-amz-meta-a"), "ä,2".as_bytes());
        assert_eq!(value("x-amz-content-sha256"), "ab".repeat(32).as_bytes());
        let signature = std::str::from_utf8(value("authorization")).unwrap();
        let names = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-meta-a;x-amz-meta-b,";
        assert!(signature.contains(names), "{signature}");
    }

    #[test]
    fn an_endpoint_is_an_address_over_http() {
        for endpoint in
            ["nonsense", "https://host", "host:9000", "http://", "http://u:p@host", "http://host/?a=b"]
        {
            assert!(matches!(service(endpoint), Err(ClientError::Endpoint(_))), "{endpoint}");
        }
    }
}
