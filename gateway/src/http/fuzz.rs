//! What must hold of any bytes that an S3 client sends: the fuzz targets of this crate, which plain tests replay over `fuzz/corpus`.
//!
//! Each function takes any bytes, panics where a promise is broken, and returns whether they were what it reads. What the S3 library
//! parses by itself (XML, policies, signatures) is not tried here.

use super::chunk_signer::ChunkSigner;
use super::chunked::{Decoder, FramingError, Step};
use super::expect::{self, Expected, verify_trailer};
use super::guard::{Admitted, admit};
use super::proof::{Proof, Rules, SigV2};
use super::text::{Query, percent_decode, percent_encode};
use super::{headers, translate, unranged};
use crate::ops::checksum::KINDS;
use crate::ops::conditions::parse_etag;
use crate::ops::listing::{read_token, token};
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Uri};
use tenfour_types::limits::{HEADERS_BYTES_MAX, PUT_BYTES_MAX};

/// Bytes before a body that say where it is cut.
const CUTS: usize = 4;
const HEADERS_MAX: usize = 64;
const SECRET: &str = "secret";
const DATE: &str = "20261123T000000Z";
const SCOPE: &str = "20261123/us-east-1/s3/aws4_request";
const SEED: &str = "00";

type Decoded = Result<(Vec<u8>, Vec<(String, String)>), FramingError>;

/// An `aws-chunked` body: however it is cut into frames, the same comes out.
pub fn chunked(bytes: &[u8]) -> bool {
    let Some((cuts, body)) = bytes.split_first_chunk::<CUTS>() else { return false };
    let decoders: [fn() -> Decoder; 3] = [
        || Decoder::new(None, false),
        || Decoder::new(Some(ChunkSigner::new(SECRET, DATE, SCOPE, SEED)), false),
        || Decoder::new(Some(ChunkSigner::new(SECRET, DATE, SCOPE, SEED)), true),
    ];
    let mut any = false;
    for decoder in decoders {
        let whole = decode(decoder(), body, &[]);
        assert_eq!(decode(decoder(), body, cuts), whole, "cut at {cuts:?}");
        any |= whole.is_ok();
    }
    if let Ok((data, trailers)) = decode(Decoder::new(None, false), body, &[]) {
        assert!(data.len() <= body.len());
        let trailing: Vec<String> = trailers.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        let mut again =
            if data.is_empty() { Vec::new() } else { format!("{:x}\r\n", data.len()).into_bytes() };
        again.extend_from_slice(&data);
        again.extend_from_slice(if data.is_empty() { b"0\r\n" } else { b"\r\n0\r\n" });
        again.extend_from_slice(trailing.join("\n").as_bytes());
        assert_eq!(decode(Decoder::new(None, false), &again, cuts), Ok((data, trailers.clone())));
        for kind in KINDS {
            assert!(verify_trailer(kind, &trailers).map_or(true, |sum| sum.value.len() == kind.bytes()));
        }
    }
    any
}

fn decode(mut decoder: Decoder, body: &[u8], cuts: &[u8]) -> Decoded {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) % (body.len() + 1)).collect();
    ends.push(body.len());
    ends.sort_unstable();
    let (mut data, mut start) = (Vec::new(), 0);
    for end in ends {
        let mut frame = Bytes::copy_from_slice(body.get(start..end).unwrap_or_default());
        start = end;
        while let Step::Data(ready) = decoder.step(&mut frame)? {
            let taken = frame.split_to(ready);
            data.extend_from_slice(&taken);
            decoder.taken(&taken)?;
        }
    }
    decoder.end()?;
    Ok((data, decoder.trailers().to_vec()))
}

/// The head of a request, as lines: method and URI, then headers. Nothing is admitted whose signature leaves out what steers it.
pub fn request(bytes: &[u8]) -> bool {
    let Some(parts) = head(bytes) else { return false };
    let rules = |sigv2| Rules { region: "us-east-1".into(), sigv2, domain: Some("s3.example".into()) };
    let [off, presigned, on] =
        [SigV2::Off, SigV2::Presigned, SigV2::On].map(|sigv2| admit(&parts, &rules(sigv2)).ok());
    for admitted in [&off, &presigned, &on].into_iter().flatten() {
        check_admitted(&parts, admitted);
    }
    let is_v2 = |admitted: &Admitted| matches!(admitted.proof, Proof::PresignedV2 | Proof::HeaderV2);
    assert!(!off.as_ref().is_some_and(is_v2));
    assert!(!presigned.as_ref().is_some_and(|admitted| admitted.proof == Proof::HeaderV2));
    assert!(off.is_none() || (off == presigned && off == on), "SigV2 changes what other signatures are");
    read_headers(&parts);
    on.is_some()
}

fn head(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(first.next()?).ok()?;
    *request.uri_mut() = Uri::try_from(first.next()?).ok()?;
    for line in lines.take(HEADERS_MAX).filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..)?.trim_ascii();
        request
            .headers_mut()
            .append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(request.into_parts().0)
}

fn check_admitted(parts: &Parts, admitted: &Admitted) {
    let query = Query::parse(parts.uri.query());
    let has = |name: &str| query.as_ref().is_some_and(|query| query.has(name));
    let ways = [parts.headers.contains_key(AUTHORIZATION), has("X-Amz-Signature"), has("Signature")];
    assert!(ways.into_iter().filter(|way| *way).count() <= 1, "two signatures");
    assert!(!parts.headers.contains_key("x-amz-security-token") && !has("X-Amz-Security-Token"));
    let signed_by_form_or_v2 = !matches!(admitted.proof, Proof::Header(_) | Proof::PresignedV4);
    if let Some(payload) = &admitted.payload {
        assert!(
            payload.size <= PUT_BYTES_MAX && parts.method == Method::PUT && admitted.proof != Proof::Form
        );
    }
    if signed_by_form_or_v2 {
        return;
    }
    let signed = match &admitted.proof {
        Proof::Header(header) => header.signed_headers.clone(),
        _ => {
            let names = query.as_ref().and_then(|query| query.get("X-Amz-SignedHeaders")).unwrap_or_default();
            names.split(';').map(str::to_ascii_lowercase).collect()
        }
    };
    assert!(signed.iter().any(|name| name == "host"));
    for name in parts.headers.keys().map(HeaderName::as_str) {
        let may_be_unsigned = !name.starts_with("x-amz-") || name == "x-amz-content-sha256";
        assert!(may_be_unsigned || signed.iter().any(|signed| signed == name), "{name} is not signed");
    }
}

/// The readers of headers that run after a request was admitted.
fn read_headers(parts: &Parts) {
    if let Ok(kept) = headers::kept(&parts.headers) {
        assert!(kept.bytes() <= HEADERS_BYTES_MAX);
    }
    let _ = headers::refuse_unsupported(&parts.headers);
    let _ = translate::precondition_of(&parts.headers);
    let mut marked = Request::new(()).into_parts().0;
    (marked.method, marked.headers) = (parts.method.clone(), parts.headers.clone());
    unranged::mark(&mut marked);
    if let Some(uri) = unranged::unsigned(&parts.uri) {
        let left = Query::parse(uri.query());
        let signature = ["X-Amz-Signature", "Signature", "AWSAccessKeyId", "Expires"];
        assert!(left.is_none_or(|query| !query.has_any(&signature)), "a signature is left in {uri}");
    }
    if let Ok(expected) = Expected::of(&parts.headers) {
        assert!(expected.checksum.is_none() || expected.trailer.is_none());
    }
    if let Some(text) = parts.headers.get("x-amz-copy-source-range").and_then(|value| value.to_str().ok())
        && let Ok((first, end)) = translate::copy_range(text)
    {
        assert!(first < end);
    }
    if let Some(text) = parts.headers.get("if-range").and_then(|value| value.to_str().ok()) {
        let _ = translate::if_range(text);
    }
}

/// Texts in queries and headers that are ours to read: each has one meaning.
pub fn text(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    assert_eq!(percent_decode(&percent_encode(text), false).as_deref(), Some(text));
    let query = Query::parse(Some(text)).is_some();
    let token = read_token(text).is_some_and(|after| {
        assert_eq!(token(&after), text, "a token has one form");
        true
    });
    let etag = parse_etag(text).is_some_and(|etag| {
        assert_eq!(etag.to_string(), text.to_ascii_lowercase(), "an ETag has one form");
        true
    });
    let mut sums = KINDS.into_iter().filter_map(|kind| expect::parse(kind, bytes));
    let sum = sums.any(|sum| {
        assert_eq!(expect::print(&sum), text, "a checksum has one form");
        true
    });
    query | token | etag | sum | translate::copy_range(text).is_ok()
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::super::chunk_signer::hmac_sha256;
    use super::replay::replay;
    use super::*;
    use sha2::{Digest as _, Sha256};

    /// A body whose chunks are signed, and its trailers, if there are some.
    fn signed(chunks: &[&[u8]], trailers: &str) -> Vec<u8> {
        let key = ChunkSigner::new(SECRET, DATE, SCOPE, SEED);
        let sign = |text: String| hex::encode(hmac_sha256(key.key(), text.as_bytes()));
        let empty = hex::encode(Sha256::digest(b""));
        let (mut body, mut previous) = (vec![9, 90, 40, 200], SEED.to_owned());
        for chunk in chunks {
            let data = hex::encode(Sha256::digest(chunk));
            previous =
                sign(format!("AWS4-HMAC-SHA256-PAYLOAD\n{DATE}\n{SCOPE}\n{previous}\n{empty}\n{data}"));
            body.extend(format!("{:x};chunk-signature={previous}\r\n", chunk.len()).bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(if chunk.is_empty() { b"" } else { b"\r\n" });
        }
        if !trailers.is_empty() {
            let canonical = hex::encode(Sha256::digest(trailers));
            let signature =
                sign(format!("AWS4-HMAC-SHA256-TRAILER\n{DATE}\n{SCOPE}\n{previous}\n{canonical}"));
            body.extend(format!("{trailers}x-amz-trailer-signature:{signature}\r\n").bytes());
        }
        body.extend_from_slice(b"\r\n");
        body
    }

    #[test]
    fn chunked_bodies_are_the_same_however_they_are_cut() {
        let plain = |body: &str| [&[1, 2, 30, 200], body.as_bytes()].concat();
        let seeds = [
            ("empty", plain("0\r\n\r\n")),
            ("plain", plain("b\r\nhello world\r\n0\r\n\r\n")),
            (
                "trailers",
                plain("3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\r\n\r\n"),
            ),
            ("signed", signed(&[b"abc", b""], "")),
            ("signed-twice", signed(&[b"abc", b"0123456789", b""], "")),
            ("signed-trailers", signed(&[b"abc", b""], "x-amz-checksum-crc32:NSRBwg==\n")),
        ];
        replay("gateway_chunked", chunked, &seeds);
    }

    #[test]
    fn nothing_is_admitted_that_is_not_signed() {
        const V4: &str = "Credential=AK/20261123/us-east-1/s3/aws4_request";
        let put = format!(
            "PUT /b/k\nhost: a\nauthorization: AWS4-HMAC-SHA256 {V4}, SignedHeaders=host;x-amz-date;x-amz-meta-a, Signature=ab\n\
             x-amz-date: d\nx-amz-meta-a: 1\nx-amz-content-sha256: UNSIGNED-PAYLOAD\ncontent-length: 5\ncontent-type: text/plain\n"
        );
        let chunks = format!(
            "PUT /k?partNumber=1\nhost: b.s3.example\nauthorization: AWS4-HMAC-SHA256 {V4},SignedHeaders=host;x-amz-trailer;\
             x-amz-decoded-content-length,Signature=ab\nx-amz-trailer: x-amz-checksum-crc32\nx-amz-decoded-content-length: 3\n\
             x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER\ncontent-length: 200\ncontent-encoding: aws-chunked,gzip\n"
        );
        let presigned = "GET /b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20261123%2Fus-east-1%2Fs3%2Faws4_request\
                         &X-Amz-SignedHeaders=host&X-Amz-Signature=ab&response-content-type=a%2Fb\nhost: a\nrange: bytes=-\n\
                         if-range: \"abababababababababababababababab-3\"\n";
        let v2 = "GET /b/k?AWSAccessKeyId=AK&Signature=ab&Expires=1\nhost: a\nrange: bytes=0-1\n";
        let form = "POST /b\nhost: a\ncontent-type: multipart/form-data; boundary=x\ncontent-length: 900\n";
        let copy = format!(
            "PUT /b/k\nhost: a\nauthorization: AWS4-HMAC-SHA256 {V4}, SignedHeaders=host;x-amz-copy-source;\
             x-amz-copy-source-range, Signature=ab\nx-amz-copy-source: /b/o\nx-amz-copy-source-range: bytes=0-9\n"
        );
        let seeds = [
            ("put", put.into_bytes()),
            ("chunks", chunks.into_bytes()),
            ("presigned", presigned.into()),
            ("presigned-v2", v2.into()),
            ("form", form.into()),
            ("copy", copy.into_bytes()),
        ];
        replay("gateway_request", request, &seeds);
        assert!(!request(b"GET /b/k\nhost: a\n"), "nobody signed it");
    }

    #[test]
    fn texts_have_one_meaning() {
        let seeds = [
            ("query", b"list-type=2&prefix=a%2Fb+c&acl&&x=1=2".to_vec()),
            ("token", token("photos/ä").into_bytes()),
            ("etag", b"abababababababababababababababab-12".to_vec()),
            ("crc32", b"NSRBwg==".to_vec()),
            ("copy-range", b"bytes=0-9".to_vec()),
        ];
        replay("gateway_text", text, &seeds);
    }
}
