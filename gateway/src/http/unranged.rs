//! Requests whose `Range` means nothing: malformed, reversed, several ranges, another unit. RFC 9110 (section 14.2) and S3
//! answer with the whole object; the library would refuse them.
//!
//! The header may be signed, so it cannot be taken away before the signature was verified. So the library verifies the
//! request with it, hands it over here, and gets it back without the header and without its signature, with the user whose
//! signature it was. Nobody else can name a user so: nothing that a client sends gets into a request's extensions.

use super::errors::{self, s3};
use super::text::percent_decode;
use crate::ops::requester::Requester;
use hyper::header::{AUTHORIZATION, RANGE};
use hyper::http::{Extensions, request};
use hyper::{HeaderMap, Method, Request, Uri};
use s3s::dto::Range;
use s3s::route::S3Route;
use s3s::service::S3Service;
use s3s::{Body, S3ErrorCode, S3Request, S3Response, S3Result};

/// Marks such a request.
#[derive(Clone, Copy)]
struct Meaningless;

/// Marks a request whose range means nothing.
pub fn mark(parts: &mut request::Parts) {
    let mut ranges = parts.headers.get_all(RANGE).iter();
    let (first, second) = (ranges.next(), ranges.next());
    let Some(first) = first.filter(|_| matches!(parts.method, Method::GET | Method::HEAD)) else { return };
    // The library reads a suffix of no digits as one of no bytes.
    let means_something = |text: &str| text.is_empty() || (text != "bytes=-" && Range::parse(text).is_ok());
    if second.is_some() || !first.to_str().is_ok_and(means_something) {
        parts.extensions.insert(Meaningless);
    }
}

/// Answers them by a service that finds no signature in them.
pub struct Unranged(pub S3Service);

#[async_trait::async_trait]
impl S3Route for Unranged {
    fn is_match(&self, _: &Method, _: &Uri, _: &HeaderMap, extensions: &mut Extensions) -> bool {
        extensions.remove::<Meaningless>().is_some()
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let internal = |why: &str| s3(errors::refusal(S3ErrorCode::InternalError, why.to_owned()));
        let Some(known) = &request.credentials else {
            return Err(s3(errors::refusal(S3ErrorCode::AccessDenied, "Access Denied")));
        };
        let requester = Requester::new(&known.access_key, known.secret_key.expose());
        let mut again = Request::new(Body::empty());
        *again.method_mut() = request.method;
        *again.uri_mut() = unsigned(&request.uri).ok_or_else(|| internal("no URI is left"))?;
        *again.headers_mut() = request.headers;
        again.headers_mut().remove(AUTHORIZATION);
        again.headers_mut().remove(RANGE);
        again.extensions_mut().insert(requester);
        let response = self.0.call(again).await.map_err(|_| internal("the answer could not be made"))?;
        let (parts, body) = response.into_parts();
        let mut response = S3Response::with_headers(body, parts.headers);
        (response.status, response.extensions) = (Some(parts.status), parts.extensions);
        Ok(response)
    }
}

/// The URI without a signature.
pub fn unsigned(uri: &Uri) -> Option<Uri> {
    let is_signature = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        let name = percent_decode(name, true).unwrap_or_default();
        name.starts_with("X-Amz-") || ["Signature", "AWSAccessKeyId", "Expires"].contains(&name.as_str())
    };
    let query = uri.query().unwrap_or_default();
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !is_signature(pair)).collect();
    format!("{}?{}", uri.path(), kept.join("&")).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_marked(method: Method, ranges: &[&str]) -> bool {
        let mut request = Request::builder().method(method);
        for range in ranges {
            request = request.header(RANGE, *range);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        mark(&mut parts);
        parts.extensions.get::<Meaningless>().is_some()
    }

    #[test]
    fn only_what_means_nothing_is_marked() {
        for range in ["bytes=5-2", "bytes=0-1,4-5", "bytes=a-b", "lines=1-2", "bytes=-", "bytes"] {
            assert!(is_marked(Method::GET, &[range]), "{range}");
            assert!(is_marked(Method::HEAD, &[range]), "{range}");
            assert!(!is_marked(Method::PUT, &[range]), "{range}");
        }
        for range in ["bytes=0-0", "bytes=7-", "bytes=-9", "bytes=-0", ""] {
            assert!(!is_marked(Method::GET, &[range]), "{range}");
        }
        assert!(!is_marked(Method::GET, &[]));
        assert!(is_marked(Method::GET, &["bytes=0-0", "bytes=0-0"]));
    }

    #[test]
    fn the_signature_is_taken_out_of_the_uri() {
        let signed = "/b/k?X-Amz-Signature=s&response-content-type=a&X%2DAmz-Date=d&Signature=x&partNumber=1";
        let uri = unsigned(&signed.parse().unwrap()).unwrap();
        assert_eq!(uri, "/b/k?response-content-type=a&partNumber=1");
    }
}
