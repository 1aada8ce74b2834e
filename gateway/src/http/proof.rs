//! How a request proves who sent it: exactly one kind of signature, of a kind that is allowed, over everything that steers it.
//!
//! Nothing is verified here: the library does that. What it would let through is refused here.

use super::errors::{self, Refusal};
use super::text::Query;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, header};
use s3s::S3ErrorCode;

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

#[cfg(test)]
mod tests {
    use super::super::guard::admit;
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
}
