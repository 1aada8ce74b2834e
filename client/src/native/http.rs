//! The same calls over HTTP, for where there is no RDMA. Bodies are copied once into or out of the caller's buffers.
//!
//! Requests are signed in the query string; every `x-amz-*` header is among what is signed.

use super::config::{ClientConfig, GetOptions, ListOptions, PutOptions};
use super::error::{Error, Failure};
use super::objects::{Got, Head, Served, Stored, unexpected};
use super::put::Target;
use super::uploads::{CompleteOptions, Completed};
use super::xml::{self, text_of};
use crate::{Body, ClientError, S3, next_frame};
use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rusty_s3::actions::{CreateMultipartUpload, ListObjectsV2, S3Action};
use rusty_s3::{Bucket, Credentials, Map};
use std::time::Duration;
use tenfour_rdma::{Buffer, Frozen};
use tenfour_types::native::login::day_number;
use tenfour_types::native::{
    Conditions, Entry, From, IfRange, NamedPart, ObjectInfo, Precondition, Range, Refusal, Retry, Tag,
};
use tenfour_types::{Checksum, ChecksumKind, ETag, Headers};

/// How long a signed request may wait before it is sent.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(900);
/// Most keys of one page.
const PAGE_KEYS: u64 = 1000;
const KINDS: [ChecksumKind; 5] = [
    ChecksumKind::Crc32,
    ChecksumKind::Crc32c,
    ChecksumKind::Crc64Nvme,
    ChecksumKind::Sha1,
    ChecksumKind::Sha256,
];
/// Headers of an object that are kept beside it.
const STANDARD_HEADERS: [&str; 6] = [
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];

pub(super) const fn checksum_name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::Crc32 => "crc32",
        ChecksumKind::Crc32c => "crc32c",
        ChecksumKind::Crc64Nvme => "crc64nvme",
        ChecksumKind::Sha1 => "sha1",
        ChecksumKind::Sha256 => "sha256",
    }
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// S3 over HTTP at one address.
pub(crate) struct HttpDoor {
    url: String,
    region: String,
    access_key: String,
    secret_key: String,
    /// Its connections are shared by all buckets.
    any: S3,
}

type Named = Vec<(String, String)>;

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
        let (bucket, credentials) = self.bucket(bucket)?;
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
        let (bucket, credentials) = self.bucket(bucket)?;
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
        let (bucket, credentials) = self.bucket(bucket)?;
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
        let (bucket, credentials) = self.bucket(bucket)?;
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
        let (bucket, credentials) = self.bucket(bucket)?;
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
        let (bucket, credentials) = self.bucket(bucket)?;
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
        let (bucket, credentials) = self.bucket(bucket)?;
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

fn type_name(full_object: bool) -> &'static str {
    if full_object { "FULL_OBJECT" } else { "COMPOSITE" }
}

fn checksum_header(kind: ChecksumKind) -> String {
    format!("x-amz-checksum-{}", checksum_name(kind))
}

fn quoted(tags: &[ETag]) -> String {
    tags.iter().map(|tag| format!("\"{tag}\"")).collect::<Vec<_>>().join(", ")
}

fn precondition(given: &Precondition) -> Option<(String, String)> {
    let header = |name: &str, value: String| Some((name.to_owned(), value));
    match given {
        Precondition::None => None,
        Precondition::Absent => header("if-none-match", "*".to_owned()),
        Precondition::Present => header("if-match", "*".to_owned()),
        Precondition::Match(tags) => header("if-match", quoted(tags)),
    }
}

/// Range and conditions, and the wish for checksums.
fn conditions(options: &GetOptions) -> Named {
    let Conditions { matches, none_matches, modified_since, unmodified_since } = &options.conditions;
    let tag = |tag: &Tag| match tag {
        Tag::Any => "*".to_owned(),
        Tag::OneOf(tags) => quoted(tags),
    };
    let range = match options.range {
        Range::All | Range::Part(_) => None,
        Range::From(first, None) => Some(format!("bytes={first}-")),
        Range::From(first, Some(end)) => Some(format!("bytes={first}-{}", end.saturating_sub(1))),
        Range::Last(bytes) => Some(format!("bytes=-{bytes}")),
    };
    let if_range = options.if_range.map(|known| match known {
        IfRange::Is(etag) => format!("\"{etag}\""),
        IfRange::Date(seconds) => http_date(seconds),
    });
    let all = [
        ("x-amz-checksum-mode", Some("ENABLED".to_owned())),
        ("range", range),
        ("if-match", matches.as_ref().map(tag)),
        ("if-none-match", none_matches.as_ref().map(tag)),
        ("if-modified-since", modified_since.map(http_date)),
        ("if-unmodified-since", unmodified_since.map(http_date)),
        ("if-range", if_range),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// What a GET or HEAD says of its object, and the range that it brings.
fn object(headers: &HeaderMap) -> Result<(ObjectInfo, (u64, u64)), Failure> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let length: u64 = value("content-length").and_then(|text| text.parse().ok()).ok_or_else(unexpected)?;
    let (range, size) = match value("content-range") {
        None => ((0, length), length),
        Some(text) => content_range(text).ok_or_else(unexpected)?,
    };
    let is_kept = |name: &str| name.starts_with("x-amz-meta-") || STANDARD_HEADERS.contains(&name);
    let kept = headers.iter().filter(|(name, _)| is_kept(name.as_str()));
    let kept =
        kept.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let object = ObjectInfo {
        size,
        etag: etag(headers).ok_or_else(unexpected)?,
        modified_ms: value("last-modified").and_then(http_date_ms).unwrap_or(0),
        headers: Headers(kept.collect()),
        checksums: checksums(headers),
        parts: value("x-amz-mp-parts-count").and_then(|text| text.parse().ok()),
    };
    Ok((object, range))
}

/// `bytes 2-4/10`
fn content_range(text: &str) -> Option<((u64, u64), u64)> {
    let (ends, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = ends.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some(((first, last.checked_add(1).filter(|end| *end >= first)?), size.parse().ok()?))
}

fn etag(headers: &HeaderMap) -> Option<ETag> {
    parse_etag(headers.get("etag")?.to_str().ok()?)
}

fn parse_etag(text: &str) -> Option<ETag> {
    let text = text.trim_matches('"');
    let (digits, parts) = match text.split_once('-') {
        Some((digits, parts)) => (digits, Some(parts.parse().ok()?)),
        None => (text, None),
    };
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    let number = u128::from_str_radix(digits, 16).ok()?;
    Some(ETag { md5: number.to_be_bytes(), parts })
}

fn checksums(headers: &HeaderMap) -> Vec<Checksum> {
    let of_kind =
        |kind: ChecksumKind| parse_checksum(kind, headers.get(checksum_header(kind))?.to_str().ok()?);
    KINDS.into_iter().filter_map(of_kind).collect()
}

fn parse_checksum(kind: ChecksumKind, text: &str) -> Option<Checksum> {
    let (value, parts) = match text.split_once('-') {
        Some((value, parts)) => (value, Some(parts.parse().ok()?)),
        None => (text, None),
    };
    Some(Checksum { kind, value: STANDARD.decode(value).ok()?, parts })
}

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970 as HTTP writes them.
fn http_date(seconds: i64) -> String {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let date = tenfour_types::native::login::date_of(day);
    let field = |range: std::ops::Range<usize>| date.get(range).unwrap_or_default();
    let month = field(4..6).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    let weekday = DAYS.get(usize::try_from(day.rem_euclid(7)).unwrap_or(0));
    let (weekday, month) = (weekday.copied().unwrap_or_default(), month.copied().unwrap_or_default());
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {} {month} {} {hour:02}:{minute:02}:{second:02} GMT", field(6..8), field(0..4))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in milliseconds since 1970.
fn http_date_ms(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace().skip(1);
    let (day, month, year) = (words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|known| *known == month)? + 1;
    clock_ms(&format!("{year}{month:02}{day}"), words.next()?)
}

/// `2026-11-28T03:04:05.678Z` in milliseconds since 1970.
fn iso_ms(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    clock_ms(&date.replace('-', ""), time.trim_end_matches('Z'))
}

fn clock_ms(date: &str, time: &str) -> Option<u64> {
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut fields = clock.split(':').map(|field| field.parse::<u64>().ok());
    let (hour, minute, second) = (fields.next()??, fields.next()??, fields.next()??);
    let ms: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let day = u64::try_from(day_number(date)?).ok()?;
    Some(((day * 24 + hour) * 3600 + minute * 60 + second) * 1000 + ms)
}

/// What an HTTP error says.
fn failed(error: ClientError, changes: bool) -> Failure {
    match error {
        ClientError::Status { status: StatusCode::NOT_MODIFIED, .. } => Failure::before(Error::NotModified),
        ClientError::Status { status, text } => {
            let code = text_of(&text, "Code").unwrap_or_else(|| code_of(status).to_owned());
            let message = text_of(&text, "Message").unwrap_or_else(|| status.to_string());
            refusal(code, message).into()
        }
        ClientError::Connection(_) | ClientError::TimedOut => Failure::broken(changes),
        other => Failure::before(Error::Http(other)),
    }
}

fn refusal(code: String, message: String) -> Refusal {
    let retry = match code.as_str() {
        "SlowDown" | "ServiceUnavailable" | "OperationAborted" | "RequestTimeout" => Retry::Later,
        "InternalError" => Retry::OutcomeUnknown,
        _ => Retry::Never,
    };
    Refusal { code, message, retry }
}

/// The code of an answer without a body, to a HEAD.
fn code_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 => "AccessDenied",
        404 => "NoSuchKey",
        412 => "PreconditionFailed",
        416 => "InvalidRange",
        503 => "ServiceUnavailable",
        500 => "InternalError",
        _ => "InvalidRequest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_written() {
        assert_eq!(http_date_ms("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(iso_ms("1994-11-06T08:49:37.250Z"), Some(784_111_777_250));
        assert_eq!(iso_ms("nonsense"), None);
    }

    #[test]
    fn what_answers_say_is_read() {
        assert_eq!(content_range("bytes 2-4/10"), Some(((2, 5), 10)));
        assert_eq!(content_range("bytes */10"), None);
        let etag = parse_etag(&format!("\"{}-3\"", "0a".repeat(16))).unwrap();
        assert_eq!((etag.md5, etag.parts), ([10; 16], Some(3)));
        assert_eq!(parse_etag("\"abc\""), None);
        let failure = failed(
            ClientError::Status {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: "<Code>SlowDown</Code><Message>m</Message>".into(),
            },
            true,
        );
        assert!(!failure.may_have_happened && failure.error.is_retryable());
    }
}
