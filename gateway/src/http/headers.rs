//! Headers of objects: which are kept of a request, which are answered, and which requests ask for what is not there.

use super::errors::{self, Refusal, not_implemented};
use super::expect::print;
use crate::ops::checksum::header as checksum_header;
use crate::ops::headers::{USER, check_size, is_kept};
use crate::transport::Transports;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use s3s::S3ErrorCode;
use tenfour_types::{Headers, Manifest};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// The type of an object whose creator named none.
const DEFAULT_TYPE: &str = "binary/octet-stream";

const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// Says by which door a request came, and what carried the shards that it moved: `http` or `http; fabric=shm,tcp`; `http+verbs` when its
/// body went by RDMA.
pub const TRANSPORT: HeaderName = HeaderName::from_static("x-tenfour-transport");

/// The header for shards that went by these transports; a request that moved none has the door's name alone.
pub fn transport(transports: Transports) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(value) = transport_value(transports) {
        headers.insert(TRANSPORT, value);
    }
    headers
}

/// The header's value for a body that something else than HTTP carried: `http+verbs`, or `http+verbs; fabric=shm`.
pub fn transport_over(door: &'static str, transports: Transports) -> HeaderValue {
    let text = (!transports.is_empty()).then(|| format!("{door}; fabric={transports}"));
    let value = text.and_then(|text| HeaderValue::from_str(&text).ok());
    value.unwrap_or(HeaderValue::from_static(door))
}

/// As in [`transport`]; `None` when no shard was moved.
pub fn transport_value(transports: Transports) -> Option<HeaderValue> {
    let text = (!transports.is_empty()).then(|| format!("http; fabric={transports}"))?;
    HeaderValue::from_str(&text).ok()
}

/// What is kept of a request's headers.
pub fn kept(headers: &HeaderMap) -> Result<Headers, Refusal> {
    let mut kept = Headers::default();
    for name in headers.keys().filter(|name| is_kept(name.as_str())) {
        let Some(value) = value(headers, name)? else { continue };
        kept.0.push((name.as_str().to_owned(), value));
    }
    check_size(&kept)?;
    Ok(kept)
}

/// All values of a header, joined; `None` when nothing is left to keep.
fn value(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Refusal> {
    let mut joined = String::new();
    for value in headers.get_all(name) {
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| {
            errors::refusal(S3ErrorCode::InvalidArgument, format!("The header {name} is not UTF-8."))
        })?;
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(text);
    }
    if name.as_str() == "content-encoding" {
        joined = without_aws_chunked(&joined);
    }
    Ok((!joined.is_empty() || name.as_str().starts_with(USER)).then_some(joined))
}

fn without_aws_chunked(encodings: &str) -> String {
    let kept = |encoding: &&str| !encoding.is_empty() && !encoding.eq_ignore_ascii_case("aws-chunked");
    encodings.split(',').map(str::trim).filter(kept).collect::<Vec<_>>().join(",")
}

/// What a GET or HEAD is answered with.
pub struct Answer<'a> {
    /// The object.
    pub manifest: &'a Manifest,
    /// Number of parts, where it is asked for.
    pub parts: Option<u32>,
    /// The range, when it is not the whole object.
    pub range: Option<(u64, u64)>,
    /// Whether checksums are asked for.
    pub checksums: bool,
    /// Standard headers that the request replaces (`response-…`), and by what.
    pub replaced: &'a [(&'static str, String)],
}

impl Answer<'_> {
    /// The headers.
    pub fn headers(&self) -> HeaderMap {
        let manifest = self.manifest;
        let is_replaced = |name: &str| self.replaced.iter().any(|(known, _)| *known == name);
        let mut out = HeaderMap::with_capacity(16);
        let mut put = |name: &str, value: &str| {
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes()))
            {
                out.insert(name, value);
            }
        };
        put("accept-ranges", "bytes");
        put("etag", &format!("\"{}\"", manifest.etag));
        put("last-modified", &http_date(manifest.modified_ms));
        if !is_replaced("content-type") {
            put("content-type", manifest.headers.get("content-type").unwrap_or(DEFAULT_TYPE));
        }
        let others = manifest.headers.0.iter().filter(|(name, _)| name != "content-type");
        for (name, value) in others.filter(|(name, _)| !is_replaced(name)) {
            put(name, value);
        }
        for (name, value) in self.replaced {
            put(name, value);
        }
        let (first, end) = self.range.unwrap_or((0, manifest.size));
        put("content-length", &(end - first).to_string());
        if self.range.is_some() {
            put("content-range", &format!("bytes {first}-{}/{}", end.saturating_sub(1), manifest.size));
        }
        if let Some(parts) = self.parts {
            put("x-amz-mp-parts-count", &parts.to_string());
        }
        if self.checksums && (first, end) == (0, manifest.size) {
            for checksum in &manifest.checksums {
                put(checksum_header(checksum.kind), &print(checksum));
                put(
                    "x-amz-checksum-type",
                    if checksum.parts.is_some() { "COMPOSITE" } else { "FULL_OBJECT" },
                );
            }
        }
        out
    }
}

/// A date as HTTP writes it.
pub fn http_date(ms: u64) -> String {
    date(ms).format(HTTP_DATE).unwrap_or_default()
}

/// Milliseconds since 1970 as a date.
pub fn date(ms: u64) -> OffsetDateTime {
    let nanoseconds = i128::from(ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Refuses what is asked for and not there, rather than leaving it out in silence.
pub fn refuse_unsupported(headers: &HeaderMap) -> Result<(), Refusal> {
    for (name, value) in headers {
        let name = name.as_str();
        let value = value.to_str().unwrap_or_default();
        let encryption = name.contains("-server-side-encryption");
        match name {
            _ if encryption => return Err(not_implemented("Server-side encryption")),
            "x-amz-acl" if !matches!(value, "private" | "bucket-owner-full-control") => return Err(no_acls()),
            _ if name.starts_with("x-amz-grant-") => return Err(no_acls()),
            "x-amz-bucket-object-lock-enabled" if value.eq_ignore_ascii_case("false") => {}
            _ if name.starts_with("x-amz-object-lock-") || name == "x-amz-bucket-object-lock-enabled" => {
                return Err(not_implemented("Object lock"));
            }
            "x-amz-object-ownership" if value != "BucketOwnerEnforced" => return Err(no_acls()),
            "x-amz-tagging" if !value.is_empty() => return Err(not_implemented("Tagging")),
            "x-amz-tagging-directive" if value != "COPY" => return Err(not_implemented("Tagging")),
            "x-amz-storage-class" if value != "STANDARD" => {
                let text = "The storage class you specified is not valid: there is STANDARD only.";
                return Err(errors::refusal(S3ErrorCode::InvalidStorageClass, text));
            }
            "x-amz-website-redirect-location" => return Err(not_implemented("Website redirection")),
            "x-amz-write-offset-bytes" => return Err(not_implemented("Appending to objects")),
            _ => {}
        }
    }
    Ok(())
}

fn no_acls() -> Refusal {
    let text = "The bucket does not allow ACLs: a bucket's owner owns every object in it and nobody else has access.";
    errors::refusal(S3ErrorCode::AccessControlListNotSupported, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenfour_types::limits::HEADERS_BYTES_MAX;
    use tenfour_types::{Body, Checksum, ChecksumKind, CommandId, ETag, LeaseId};

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    #[test]
    fn standard_headers_and_metadata_are_kept_and_no_others() {
        let kept = kept(&map(&[
            ("content-type", "text/plain"),
            ("content-encoding", "aws-chunked, gzip"),
            ("content-length", "5"),
            ("x-amz-date", "d"),
            ("x-amz-meta-a", "1"),
            ("x-amz-meta-a", "2"),
            ("x-amz-meta-empty", ""),
            ("expires", "Thu, 01 Dec 1994 16:00:00 GMT"),
        ]))
        .unwrap();
        let text = |name: &str| kept.get(name).map(str::to_owned);
        assert_eq!(text("content-encoding").as_deref(), Some("gzip"));
        assert_eq!(text("x-amz-meta-a").as_deref(), Some("1,2"));
        assert_eq!(text("x-amz-meta-empty").as_deref(), Some(""));
        assert_eq!(kept.0.len(), 5);
        assert_eq!(super::kept(&map(&[("content-encoding", "aws-chunked")])).unwrap().0.len(), 0);
    }

    #[test]
    fn too_much_metadata_is_refused() {
        let long = "x".repeat(2049);
        assert_eq!(kept(&map(&[("x-amz-meta-a", &long)])).unwrap_err().code(), "MetadataTooLarge");
        let long = "x".repeat(HEADERS_BYTES_MAX + 1);
        assert_eq!(kept(&map(&[("cache-control", &long)])).unwrap_err().code(), "MetadataTooLarge");
    }

    #[test]
    fn what_is_not_there_is_refused_clearly() {
        let code = |name: &'static str, value: &str| {
            refuse_unsupported(&map(&[(name, value)])).err().map(|refusal| refusal.code().to_owned())
        };
        let is =
            |name, value, expected: &str| assert_eq!(code(name, value).as_deref(), Some(expected), "{name}");
        is("x-amz-server-side-encryption", "AES256", "NotImplemented");
        is("x-amz-server-side-encryption-customer-key", "k", "NotImplemented");
        is("x-amz-copy-source-server-side-encryption-customer-key", "k", "NotImplemented");
        is("x-amz-acl", "public-read", "AccessControlListNotSupported");
        is("x-amz-grant-read", "id=x", "AccessControlListNotSupported");
        is("x-amz-object-lock-mode", "GOVERNANCE", "NotImplemented");
        is("x-amz-tagging", "a=b", "NotImplemented");
        is("x-amz-storage-class", "GLACIER", "InvalidStorageClass");
        for (name, value) in [
            ("x-amz-acl", "private"),
            ("x-amz-acl", "bucket-owner-full-control"),
            ("x-amz-storage-class", "STANDARD"),
        ] {
            assert_eq!(code(name, value), None, "{name}");
        }
    }

    #[test]
    fn answers_name_what_is_known() {
        let manifest = Manifest {
            version: CommandId { lease: LeaseId(1), sequence: 1 },
            size: 10,
            etag: ETag { md5: [0xab; 16], parts: None },
            modified_ms: 784_111_777_000,
            checksums: vec![Checksum { kind: ChecksumKind::Crc32, value: vec![0; 4], parts: None }],
            headers: Headers(vec![
                ("x-amz-meta-a".into(), "1".into()),
                ("cache-control".into(), "no-cache".into()),
            ]),
            body: Body::Extents(Vec::new()),
        };
        let base = Answer { manifest: &manifest, parts: None, range: None, checksums: true, replaced: &[] };
        let headers = base.headers();
        assert_eq!(headers["last-modified"], "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(headers["content-type"], "binary/octet-stream");
        assert_eq!(headers["x-amz-checksum-crc32"], "AAAAAA==");
        assert_eq!(headers["x-amz-checksum-type"], "FULL_OBJECT");
        assert_eq!(headers["content-length"], "10");
        let ranged = Answer { range: Some((2, 5)), replaced: &[("cache-control", "a".into())], ..base };
        let ranged = ranged.headers();
        assert_eq!(ranged["content-range"], "bytes 2-4/10");
        assert_eq!(ranged["content-length"], "3");
        assert!(!ranged.contains_key("x-amz-checksum-crc32"));
        assert_eq!(ranged["cache-control"], "a");
    }
}
