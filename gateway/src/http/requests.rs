//! Requests that tests of the guards make by hand.
#![cfg(test)]

use super::guard::admit;
use super::proof::{Rules, SigV2};
use hyper::Request;
use hyper::http::request::Parts;

pub(super) fn rules(sigv2: SigV2) -> Rules {
    Rules { region: "us-east-1".into(), sigv2, domain: Some("s3.example:9000".into()) }
}

pub(super) fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

pub(super) fn authorization(signed: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=AK/20261123/us-east-1/s3/aws4_request, SignedHeaders={signed}, Signature=ab"
    )
}

pub(super) fn refused(parts: &Parts, sigv2: SigV2) -> String {
    admit(parts, &rules(sigv2)).unwrap_err().code().to_owned()
}
