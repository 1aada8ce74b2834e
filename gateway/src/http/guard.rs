//! What is refused before the S3 library sees a request, and what the request says of its body.
//!
//! The library verifies signatures, but (in the version that is pinned) does not mind headers that nobody signed, takes
//! SigV2 everywhere, and holds a whole aws-chunked chunk in memory. So, in front of it: every `x-amz-*` header must be
//! among the signed ones; there is exactly one kind of signature, and it is one that is allowed; nobody is anonymous; the
//! length of the body is known and bounded. Nothing here decides who may do what.

use super::errors::{self, Refusal};
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
const SINGLE_HEADERS: [&str; 10] = [
    "authorization",
    "host",
    "content-length",
    "content-md5",
    "x-amz-content-sha256",
    "x-amz-copy-source",
    "x-amz-date",
    "x-amz-decoded-content-length",
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

/// Where signatures of version 2 are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SigV2 {
    /// Nowhere.
    Off,
    /// In presigned URLs and forms, since that is how boto3 presigns by default for endpoints other than Amazon's.
    #[default]
    Presigned,
    /// In headers as well.
    On,
}

/// What requests are measured by.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The region that signatures must name.
    pub region: String,
    /// Where signatures of version 2 are taken.
    pub sigv2: SigV2,
    /// The domain below which a bucket's name may stand in `Host`.
    pub domain: Option<String>,
}

/// How a request proves who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// `Authorization: AWS4-HMAC-SHA256 …`.
    Header(HeaderV4),
    /// `X-Amz-Signature` in the query.
    PresignedV4,
    /// `Signature` in the query.
    PresignedV2,
    /// `Authorization: AWS …`.
    HeaderV2,
    /// A signed policy in a form.
    Form,
}

/// The parts of an `Authorization` header of version 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderV4 {
    /// `date/region/service/aws4_request`.
    pub scope: String,
    /// Lower-case.
    pub signed_headers: Vec<String>,
    /// Hexadecimal.
    pub signature: String,
}

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

/// How the request proves who sent it, and that nothing that steers it was left unsigned.
fn proof(parts: &Parts, query: &Query, rules: &Rules) -> Result<Proof, Refusal> {
    let authorization =
        parts.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let presigned_v4 = query.has_any(&["X-Amz-Signature", "X-Amz-Algorithm", "X-Amz-Credential"]);
    let presigned_v2 = query.has_any(&["Signature", "AWSAccessKeyId"]);
    if parts.headers.contains_key("x-amz-security-token") || query.has("X-Amz-Security-Token") {
        let text = "Temporary credentials are not issued here; sign with an access key of a user.";
        return Err(errors::custom("InvalidToken", 400, text));
    }
    if [authorization.is_some(), presigned_v4, presigned_v2].into_iter().filter(|&present| present).count()
        > 1
    {
        let text = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string \
                    parameter or the Authorization header should be specified";
        return Err(errors::refusal(S3ErrorCode::InvalidArgument, text));
    }
    if is_form(parts) {
        all_signed(&parts.headers, &[])?;
        return Ok(Proof::Form);
    }
    let v2_refused = || {
        errors::refusal(
            S3ErrorCode::InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
        )
    };
    match authorization {
        Some(text) if text.starts_with("AWS ") => {
            if rules.sigv2 == SigV2::On {
                Ok(Proof::HeaderV2)
            } else {
                Err(v2_refused())
            }
        }
        Some(text) => {
            let header = parse_authorization(text).ok_or_else(|| {
                errors::refusal(
                    S3ErrorCode::AuthorizationHeaderMalformed,
                    "The authorization header that you provided is not valid.",
                )
            })?;
            right_region(&header.scope, rules, S3ErrorCode::AuthorizationHeaderMalformed, "header")?;
            all_signed(&parts.headers, &header.signed_headers)?;
            Ok(Proof::Header(header))
        }
        None if presigned_v4 => presigned(parts, query, rules),
        None if presigned_v2 && rules.sigv2 == SigV2::Off => Err(v2_refused()),
        None if presigned_v2 => Ok(Proof::PresignedV2),
        None => Err(errors::refusal(S3ErrorCode::AccessDenied, "Access Denied: the request is not signed.")),
    }
}

fn presigned(parts: &Parts, query: &Query, rules: &Rules) -> Result<Proof, Refusal> {
    let signed = query.get("X-Amz-SignedHeaders").unwrap_or_default();
    let signed: Vec<String> = signed.split(';').map(str::to_ascii_lowercase).collect();
    let credential = query.get("X-Amz-Credential").unwrap_or_default();
    let malformed = S3ErrorCode::AuthorizationQueryParametersError;
    let Some((_, scope)) = split_credential(credential) else {
        return Err(errors::refusal(malformed, "Error parsing the X-Amz-Credential parameter."));
    };
    right_region(scope, rules, malformed, "query parameters")?;
    all_signed(&parts.headers, &signed)?;
    Ok(Proof::PresignedV4)
}

/// The access key (which may contain slashes) and the four parts of the scope.
fn split_credential(credential: &str) -> Option<(&str, &str)> {
    let slash = credential.rmatch_indices('/').nth(3)?.0;
    let (key, scope) = credential.split_at(slash);
    let scope = scope.strip_prefix('/')?;
    (!key.is_empty() && scope.ends_with("/aws4_request")).then_some((key, scope))
}

fn right_region(scope: &str, rules: &Rules, code: S3ErrorCode, place: &str) -> Result<(), Refusal> {
    match scope.split('/').nth(1) {
        Some(region) if region == rules.region => Ok(()),
        region => {
            let region = region.unwrap_or_default();
            let text = format!(
                "The authorization {place} is malformed; the region '{region}' is wrong; expecting '{}'",
                rules.region
            );
            Err(errors::refusal(code, text).header("x-amz-bucket-region", &rules.region))
        }
    }
}

/// Every `x-amz-*` header is signed, and so is `host`. `x-amz-content-sha256` is part of what is signed in any case, and
/// can only bind the body further where it is not.
fn all_signed(headers: &HeaderMap, signed: &[String]) -> Result<(), Refusal> {
    let is_signed = |name: &str| signed.iter().any(|known| known == name);
    let forgotten = headers
        .keys()
        .map(header::HeaderName::as_str)
        .find(|name| name.starts_with("x-amz-") && *name != "x-amz-content-sha256" && !is_signed(name));
    if let Some(name) = forgotten {
        let text = format!("There were headers present in the request which were not signed: {name}");
        return Err(errors::refusal(S3ErrorCode::AccessDenied, text));
    }
    if !signed.is_empty() && !is_signed("host") {
        let text = "The header host must be among the signed headers.";
        return Err(errors::refusal(S3ErrorCode::AccessDenied, text));
    }
    Ok(())
}

fn parse_authorization(text: &str) -> Option<HeaderV4> {
    let fields = text.strip_prefix("AWS4-HMAC-SHA256")?;
    let field = |name: &str| {
        let field = fields.split(',').map(str::trim).find_map(|field| field.strip_prefix(name));
        field.and_then(|field| field.strip_prefix('=')).filter(|value| !value.is_empty())
    };
    let (_, scope) = split_credential(field("Credential")?)?;
    Some(HeaderV4 {
        scope: scope.to_owned(),
        signed_headers: field("SignedHeaders")?.split(';').map(str::to_ascii_lowercase).collect(),
        signature: field("Signature")?.to_owned(),
    })
}

fn is_form(parts: &Parts) -> bool {
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let form = |value: &str| value.trim_start().to_ascii_lowercase().starts_with("multipart/form-data");
    parts.method == Method::POST && content_type.is_some_and(form)
}

/// Whether the request's body is the bytes of an object or a part.
fn is_bytes(parts: &Parts, query: &Query, rules: &Rules) -> bool {
    parts.method == Method::PUT
        && !parts.headers.contains_key("x-amz-copy-source")
        && !query.has_any(&NOT_BYTES)
        && names_object(parts, rules)
}

/// Whether the path, with the host, names a key.
fn names_object(parts: &Parts, rules: &Rules) -> bool {
    let path = parts.uri.path().trim_start_matches('/');
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let below = |domain: &String| host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
    if rules.domain.as_ref().is_some_and(below) {
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
    use super::*;
    use hyper::Request;

    const SHA: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn rules(sigv2: SigV2) -> Rules {
        Rules { region: "us-east-1".into(), sigv2, domain: Some("s3.example:9000".into()) }
    }

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn authorization(signed: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AK/20261123/us-east-1/s3/aws4_request, SignedHeaders={signed}, Signature=ab"
        )
    }

    fn refused(parts: &Parts, sigv2: SigV2) -> String {
        admit(parts, &rules(sigv2)).unwrap_err().code().to_owned()
    }

    #[test]
    fn an_unsigned_amz_header_is_refused_in_headers_and_in_presigned_urls() {
        let signed = authorization("host;x-amz-content-sha256;x-amz-date");
        let base = [
            ("host", "a"),
            ("authorization", &signed),
            ("x-amz-date", "d"),
            ("x-amz-content-sha256", SHA),
            ("content-length", "0"),
        ];
        assert!(admit(&parts("PUT", "/b/k", &base), &rules(SigV2::Presigned)).is_ok());
        for extra in ["x-amz-acl", "x-amz-copy-source", "x-amz-meta-a"] {
            let headers: Vec<_> = base.iter().copied().chain([(extra, "v")]).collect();
            assert_eq!(refused(&parts("PUT", "/b/k", &headers), SigV2::Presigned), "AccessDenied", "{extra}");
            let uri = "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20261123%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-SignedHeaders=host&X-Amz-Signature=ab";
            assert!(admit(&parts("PUT", uri, &[("content-length", "1")]), &rules(SigV2::Off)).is_ok());
            assert_eq!(
                refused(&parts("PUT", uri, &[("content-length", "1"), (extra, "v")]), SigV2::Presigned),
                "AccessDenied"
            );
            assert!(
                admit(
                    &parts(
                        "PUT",
                        &uri.replace("=host", &format!("=host%3B{extra}")),
                        &[("content-length", "1"), (extra, "v")]
                    ),
                    &rules(SigV2::Off)
                )
                .is_ok()
            );
        }
    }

    #[test]
    fn the_host_must_be_signed_and_the_region_right() {
        let signed = authorization("x-amz-date");
        assert_eq!(
            refused(&parts("GET", "/b", &[("authorization", &signed), ("x-amz-date", "d")]), SigV2::On),
            "AccessDenied"
        );
        let elsewhere = authorization("host").replace("us-east-1", "eu-west-1");
        let refusal =
            admit(&parts("GET", "/b", &[("authorization", &elsewhere)]), &rules(SigV2::On)).unwrap_err();
        assert_eq!(refusal.code(), "AuthorizationHeaderMalformed");
        assert!(refusal.message().contains("expecting 'us-east-1'"));
    }

    #[test]
    fn nobody_is_anonymous_and_signatures_do_not_mix() {
        assert_eq!(refused(&parts("GET", "/b/k", &[]), SigV2::On), "AccessDenied");
        let v4 = authorization("host");
        assert_eq!(
            refused(&parts("GET", "/b?Signature=x&AWSAccessKeyId=y", &[("authorization", &v4)]), SigV2::On),
            "InvalidArgument"
        );
        assert_eq!(
            refused(&parts("GET", "/b", &[("authorization", &v4), ("authorization", &v4)]), SigV2::On),
            "InvalidRequest"
        );
        assert_eq!(
            refused(&parts("GET", "/b", &[("authorization", "Basic abc")]), SigV2::On),
            "AuthorizationHeaderMalformed"
        );
        assert_eq!(
            refused(&parts("GET", "/b", &[("authorization", &v4), ("x-amz-security-token", "t")]), SigV2::On),
            "InvalidToken"
        );
    }

    #[test]
    fn version_two_only_where_allowed() {
        let presigned = parts("GET", "/b/k?AWSAccessKeyId=AK&Signature=s&Expires=1", &[]);
        assert_eq!(refused(&presigned, SigV2::Off), "InvalidRequest");
        assert_eq!(admit(&presigned, &rules(SigV2::Presigned)).unwrap().proof, Proof::PresignedV2);
        let header = parts("GET", "/b/k", &[("authorization", "AWS AK:sig")]);
        assert_eq!(refused(&header, SigV2::Presigned), "InvalidRequest");
        assert_eq!(admit(&header, &rules(SigV2::On)).unwrap().proof, Proof::HeaderV2);
    }

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
