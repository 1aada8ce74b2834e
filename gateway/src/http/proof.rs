//! How a request proves who sent it: exactly one kind of signature, of a kind that is allowed, over everything that steers it.
//!
//! Nothing is verified here: the library does that. What it would let through is refused here.

use super::errors::{self, Refusal};
use super::text::Query;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, header};
use s3s::S3ErrorCode;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc2822;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

/// How far a request's clock may be off, seconds (as S3 has it).
pub const CLOCK_SKEW_MAX_SECONDS: u32 = 15 * 60;
/// `20261123T071954Z`.
const BASIC_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

/// Where signatures of version 2 are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SigV2 {
    /// Nowhere.
    Off,
    /// In presigned URLs, since that is how boto3 presigns by default for endpoints other than Amazon's.
    #[default]
    Presigned,
    /// In headers and forms as well.
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

/// How the request proves who sent it, and that nothing that steers it was left unsigned.
pub fn proof(parts: &Parts, query: &Query, rules: &Rules) -> Result<Proof, Refusal> {
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
    if is_form(parts)? {
        if authorization.is_some() || presigned_v4 || presigned_v2 {
            let text = "A form carries its signature in its fields, and no other one.";
            return Err(errors::refusal(S3ErrorCode::InvalidArgument, text));
        }
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
            if rules.sigv2 != SigV2::On {
                return Err(v2_refused());
            }
            no_name_twice(query)?;
            is_recent(&parts.headers, OffsetDateTime::now_utc())?;
            Ok(Proof::HeaderV2)
        }
        Some(text) => {
            let header = parse_authorization(text).ok_or_else(|| {
                errors::refusal(
                    S3ErrorCode::AuthorizationHeaderMalformed,
                    "The authorization header that you provided is not valid.",
                )
            })?;
            right_scope(&header.scope, rules, S3ErrorCode::AuthorizationHeaderMalformed, "header")?;
            all_signed(&parts.headers, &header.signed_headers)?;
            Ok(Proof::Header(header))
        }
        None if presigned_v4 => presigned(parts, query, rules),
        None if presigned_v2 && rules.sigv2 == SigV2::Off => Err(v2_refused()),
        None if presigned_v2 => {
            no_name_twice(query)?;
            Ok(Proof::PresignedV2)
        }
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
    right_scope(scope, rules, malformed, "query parameters")?;
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

/// Signatures of version 2 cover one value of a name only, and its readers may take another.
fn no_name_twice(query: &Query) -> Result<(), Refusal> {
    if query.has_duplicates() {
        let text = "A name stands twice in the query of a request with a signature of version 2.";
        return Err(errors::refusal(S3ErrorCode::InvalidArgument, text));
    }
    Ok(())
}

/// The date that a signature of version 2 in a header covers is not far from now.
fn is_recent(headers: &HeaderMap, now: OffsetDateTime) -> Result<(), Refusal> {
    let text = headers.get("x-amz-date").or_else(|| headers.get(header::DATE));
    let text = text.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(date) = signed_date(text) else {
        let text = "AWS authentication requires a valid Date or x-amz-date header";
        return Err(errors::refusal(S3ErrorCode::AccessDenied, text));
    };
    if (now - date).abs() > Duration::seconds(i64::from(CLOCK_SKEW_MAX_SECONDS)) {
        let text = "The difference between the request time and the server's time is too large.";
        return Err(errors::refusal(S3ErrorCode::RequestTimeTooSkewed, text));
    }
    Ok(())
}

fn signed_date(text: &str) -> Option<OffsetDateTime> {
    let basic = PrimitiveDateTime::parse(text, BASIC_DATE).map(PrimitiveDateTime::assume_utc);
    OffsetDateTime::parse(text, &Rfc2822).or(basic).ok()
}

fn right_scope(scope: &str, rules: &Rules, code: S3ErrorCode, place: &str) -> Result<(), Refusal> {
    if scope.split('/').nth(2) != Some("s3") {
        let text = format!("The authorization {place} is malformed; the service must be 's3'.");
        return Err(errors::refusal(code, text));
    }
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

/// Whether it is a browser's form. What the library might take for one, and we do not, is refused.
fn is_form(parts: &Parts) -> Result<bool, Refusal> {
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    if parts.method != Method::POST || !media_type.starts_with("multipart/") {
        return Ok(false);
    }
    if media_type != "multipart/form-data" {
        let text = "The Content-Type of a form must be multipart/form-data.";
        return Err(errors::refusal(S3ErrorCode::InvalidRequest, text));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::guard::admit;
    use super::super::requests::{authorization, parts, refused, rules};
    use super::*;

    const SHA: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

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
        let now = crate::http::headers::http_date(crate::ops::now_ms());
        let dated = |date: &str| parts("GET", "/b/k", &[("authorization", "AWS AK:sig"), ("date", date)]);
        assert_eq!(refused(&dated(&now), SigV2::Presigned), "InvalidRequest");
        assert_eq!(admit(&dated(&now), &rules(SigV2::On)).unwrap().proof, Proof::HeaderV2);
        assert_eq!(refused(&dated("Sun, 06 Nov 1994 08:49:37 GMT"), SigV2::On), "RequestTimeTooSkewed");
        assert_eq!(refused(&dated("yesterday"), SigV2::On), "AccessDenied");
        let twice = "/b/k?AWSAccessKeyId=AK&Signature=s&Expires=1&uploadId=a&uploadId=b";
        assert_eq!(refused(&parts("GET", twice, &[]), SigV2::On), "InvalidArgument");
    }

    #[test]
    fn dates_of_version_two_are_read() {
        let day = |text: &str| signed_date(text).map(OffsetDateTime::unix_timestamp);
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 +0000", "19941106T084937Z"] {
            assert_eq!(day(text), Some(784_111_777), "{text}");
        }
        assert_eq!(day(""), None);
    }

    #[test]
    fn a_form_is_exactly_one_and_carries_no_other_signature() {
        let v4 = authorization("host");
        let post = |kind: &str, uri: &str, more: &[(&str, &str)]| {
            let base = [("content-type", kind), ("content-length", "9")];
            let headers: Vec<_> = base.into_iter().chain(more.iter().copied()).collect();
            parts("POST", uri, &headers)
        };
        let form = admit(&post("Multipart/Form-Data; boundary=x", "/b", &[]), &rules(SigV2::On));
        assert_eq!(form.unwrap().proof, Proof::Form);
        for kind in ["multipart/form-datax", "multipart/form-data+xml", "multipart/mixed"] {
            let refused = refused(&post(kind, "/b", &[("authorization", &v4)]), SigV2::On);
            assert_eq!(refused, "InvalidRequest", "{kind}");
        }
        let signed = post("multipart/form-data", "/b", &[("authorization", &v4)]);
        assert_eq!(refused(&signed, SigV2::On), "InvalidArgument");
        let presigned = post("multipart/form-data", "/b?Signature=s&AWSAccessKeyId=k&Expires=1", &[]);
        assert_eq!(refused(&presigned, SigV2::On), "InvalidArgument");
    }

    #[test]
    fn the_service_is_s3() {
        let other = authorization("host").replace("/s3/", "/sts/");
        let other = parts("GET", "/b", &[("authorization", &other)]);
        assert_eq!(refused(&other, SigV2::On), "AuthorizationHeaderMalformed");
    }
}
