//! What is refused before the S3 library sees a request, and what the request says of its body.
//!
//! The library verifies signatures, but (in the version that is pinned) does not mind headers that nobody signed, takes
//! SigV2 everywhere, and holds a whole aws-chunked chunk in memory. So, in front of it: every `x-amz-*` header must be
//! among the signed ones; there is exactly one kind of signature, and it is one that is allowed; nobody is anonymous; the
//! length of the body is known and bounded. Nothing here decides who may do what.

use super::auth;
use super::control;
use super::errors::{self, Refusal};
use super::proof::{Proof, Rules, proof};
use super::text::Query;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, header};
use s3s::S3ErrorCode;
use tenfour_types::limits::PUT_BYTES_MAX;

/// Largest body of a request that is not an object's or a part's bytes: a multi-delete of 1,000 keys, or the list of
/// 10,000 parts with their checksums.
pub const XML_BYTES_MAX: u64 = 4 << 20;
/// Largest browser form (POST policy), bytes: the library holds a form in memory.
pub const FORM_BYTES_MAX: u64 = 16 << 20;
/// Headers that must not come twice, since their readers would take different ones.
const SINGLE_HEADERS: [&str; 15] = [
    "authorization",
    "content-type",
    "date",
    "if-match",
    "if-none-match",
    "host",
    "content-length",
    "content-md5",
    "x-amz-content-sha256",
    "x-amz-copy-source",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-rdma-token",
    "x-amz-security-token",
    "x-amz-trailer",
];
/// Subresources whose PUT has an XML body, or none.
const NOT_BYTES: [&str; 10] = [
    "acl",
    "tagging",
    "retention",
    "legal-hold",
    "torrent",
    "encryption",
    "renameObject",
    "attributes",
    "restore",
    "annotation",
];

/// A request that may go on to the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// How it proves who sent it.
    pub proof: Proof,
    /// When its body is the bytes of an object or a part.
    pub payload: Option<Payload>,
}

/// A body of bytes to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Object bytes in it.
    pub size: u64,
    /// How they are framed.
    pub framing: Framing,
    /// Their SHA-256, when the signature covers it.
    pub sha256: Option<[u8; 32]>,
}

/// How bytes are framed in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// Not at all.
    Plain,
    /// aws-chunked without signatures; trailers may follow.
    UnsignedChunks,
    /// aws-chunked, every chunk signed; `trailers` when signed trailers must follow.
    SignedChunks {
        /// Signed trailers must follow.
        trailers: bool,
    },
}

/// Admits a request, or says why not.
pub fn admit(parts: &Parts, rules: &Rules) -> Result<Admitted, Refusal> {
    let query = Query::parse(parts.uri.query())
        .ok_or_else(|| errors::refusal(S3ErrorCode::InvalidURI, "The query of the URI is malformed."))?;
    no_duplicates(&parts.headers)?;
    let proof = proof(parts, &query, rules)?;
    let length = content_length(&parts.headers)?;
    if !is_bytes(parts, &query, rules) {
        let most = if proof == Proof::Form { FORM_BYTES_MAX } else { XML_BYTES_MAX };
        return match length {
            Some(length) if length > most => Err(too_large(most)),
            None if proof == Proof::Form => Err(no_length()),
            _ => Ok(Admitted { proof, payload: None }),
        };
    }
    let payload = payload(&parts.headers, &proof, length)?;
    if payload.size > PUT_BYTES_MAX {
        return Err(too_large(PUT_BYTES_MAX));
    }
    Ok(Admitted { proof, payload: Some(payload) })
}

fn too_large(most: u64) -> Refusal {
    let text =
        format!("Your proposed upload exceeds the maximum allowed size of {most} bytes for this request.");
    errors::refusal(S3ErrorCode::EntityTooLarge, text)
}

fn no_length() -> Refusal {
    errors::refusal(S3ErrorCode::MissingContentLength, "You must provide the Content-Length HTTP header.")
}

fn no_duplicates(headers: &HeaderMap) -> Result<(), Refusal> {
    match SINGLE_HEADERS.iter().find(|&&name| headers.get_all(name).iter().count() > 1) {
        Some(name) => {
            let text = format!("The header {name} was sent more than once.");
            Err(errors::refusal(S3ErrorCode::InvalidRequest, text))
        }
        None => Ok(()),
    }
}

/// Whether the request's body is the bytes of an object or a part.
fn is_bytes(parts: &Parts, query: &Query, rules: &Rules) -> bool {
    parts.method == Method::PUT
        && !parts.headers.contains_key("x-amz-copy-source")
        && !query.has_any(&NOT_BYTES)
        && !is_control(parts, rules)
        && names_object(parts, rules)
}

/// Says what a bucket's name looks like when that in the path is none: the library's own refusal has no text.
pub fn bucket_name(parts: &Parts, rules: &Rules) -> Result<(), Refusal> {
    let path = parts.uri.path().trim_start_matches('/');
    let name = path.split_once('/').map_or(path, |(name, _)| name);
    if name.is_empty() || name.contains('%') || host_is_bucket(parts, rules) {
        return Ok(());
    }
    auth::bucket_name(name).map(drop)
}

/// Whether it is a control request of S3 over RDMA.
pub fn is_control(parts: &Parts, rules: &Rules) -> bool {
    control::is_control(parts.uri.path()) && !host_is_bucket(parts, rules)
}

/// Whether the bucket is part of the host's name.
fn host_is_bucket(parts: &Parts, rules: &Rules) -> bool {
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let below = |domain: &String| host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
    rules.domain.as_ref().is_some_and(below)
}

/// Whether the path, with the host, names a key.
fn names_object(parts: &Parts, rules: &Rules) -> bool {
    let path = parts.uri.path().trim_start_matches('/');
    if host_is_bucket(parts, rules) {
        return !path.is_empty();
    }
    path.split_once('/').is_some_and(|(_, key)| !key.is_empty())
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    number(headers, header::CONTENT_LENGTH.as_str())
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|text| text.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => {
            Err(errors::refusal(S3ErrorCode::InvalidArgument, format!("The header {name} is not a number.")))
        }
    }
}

fn payload(headers: &HeaderMap, proof: &Proof, length: Option<u64>) -> Result<Payload, Refusal> {
    let (framing, sha256) = framing(headers)?;
    if framing != Framing::Plain && !matches!(proof, Proof::Header(_)) {
        let text = "Chunked payloads must be authenticated by the Authorization header.";
        return Err(errors::refusal(S3ErrorCode::InvalidRequest, text));
    }
    let size = match framing {
        Framing::Plain => length,
        _ => number(headers, "x-amz-decoded-content-length")?,
    };
    Ok(Payload { size: size.ok_or_else(no_length)?, framing, sha256 })
}

fn framing(headers: &HeaderMap) -> Result<(Framing, Option<[u8; 32]>), Refusal> {
    let Some(value) = headers.get("x-amz-content-sha256") else { return Ok((Framing::Plain, None)) };
    Ok(match value.to_str().unwrap_or_default() {
        "UNSIGNED-PAYLOAD" => (Framing::Plain, None),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => (Framing::UnsignedChunks, None),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => (Framing::SignedChunks { trailers: false }, None),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => (Framing::SignedChunks { trailers: true }, None),
        text if text.starts_with("STREAMING-AWS4-ECDSA") => {
            let text = "Signatures of version 4A are not supported; sign with AWS4-HMAC-SHA256.";
            return Err(errors::refusal(S3ErrorCode::NotImplemented, text));
        }
        text => {
            let mut sha256 = [0; 32];
            if hex::decode_to_slice(text, &mut sha256).is_err() {
                let text = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
                            STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, or a valid \
                            sha256 value.";
                return Err(errors::refusal(S3ErrorCode::InvalidArgument, text));
            }
            (Framing::Plain, Some(sha256))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::proof::SigV2;
    use super::super::requests::{authorization, parts, refused, rules};
    use super::*;

    #[test]
    fn lengths_are_known_and_bounded() {
        let signed = authorization("host;x-amz-content-sha256;x-amz-decoded-content-length;x-amz-trailer");
        let put = |headers: &[(&str, &str)]| {
            let all: Vec<_> =
                [("authorization", signed.as_str())].into_iter().chain(headers.iter().copied()).collect();
            admit(&parts("PUT", "/b/k", &all), &rules(SigV2::Off))
                .map_err(|refusal| refusal.code().to_owned())
        };
        assert_eq!(put(&[("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]).unwrap_err(), "MissingContentLength");
        let chunked =
            [("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"), ("content-length", "9")];
        assert_eq!(put(&chunked).unwrap_err(), "MissingContentLength");
        let chunked = [chunked[0], chunked[1], ("x-amz-decoded-content-length", "5")];
        let payload = put(&chunked).unwrap().payload.unwrap();
        assert_eq!((payload.size, payload.framing), (5, Framing::UnsignedChunks));
        assert_eq!(put(&[("content-length", "5368709121")]).unwrap_err(), "EntityTooLarge");
        assert_eq!(
            put(&[("content-length", "5"), ("x-amz-content-sha256", "nonsense")]).unwrap_err(),
            "InvalidArgument"
        );
        let ecdsa = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD";
        assert_eq!(
            put(&[("content-length", "5"), ("x-amz-content-sha256", ecdsa)]).unwrap_err(),
            "NotImplemented"
        );
        let post = parts("POST", "/b?delete", &[("authorization", &signed), ("content-length", "4194305")]);
        assert_eq!(refused(&post, SigV2::Off), "EntityTooLarge");
        let form = [("content-type", "multipart/form-data; boundary=x")];
        assert_eq!(refused(&parts("POST", "/b", &form), SigV2::Off), "MissingContentLength");
        let form = [form[0], ("content-length", "20000000")];
        assert_eq!(refused(&parts("POST", "/b", &form), SigV2::Off), "EntityTooLarge");
    }

    #[test]
    fn bytes_to_store_are_told_from_other_bodies() {
        let signed = authorization("host;x-amz-copy-source");
        let is_bytes = |method: &str, uri: &str, headers: &[(&str, &str)]| {
            let all: Vec<_> = [("authorization", signed.as_str()), ("content-length", "3")]
                .into_iter()
                .chain(headers.iter().copied())
                .collect();
            admit(&parts(method, uri, &all), &rules(SigV2::Off)).unwrap().payload.is_some()
        };
        assert!(is_bytes("PUT", "/bucket/key", &[]));
        assert!(is_bytes("PUT", "/bucket/key?partNumber=1&uploadId=x", &[]));
        assert!(is_bytes("PUT", "/key", &[("host", "bucket.s3.example:9000")]));
        assert!(!is_bytes("PUT", "/", &[("host", "bucket.s3.example:9000")]));
        assert!(!is_bytes("PUT", "/bucket", &[]));
        assert!(!is_bytes("PUT", "/bucket/", &[]));
        assert!(!is_bytes("PUT", "/bucket/key?tagging", &[]));
        assert!(!is_bytes("PUT", "/bucket/key", &[("x-amz-copy-source", "/b/k")]));
        assert!(!is_bytes("POST", "/bucket/key?uploads", &[]));
    }
}
