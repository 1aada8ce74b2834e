//! What a request says of its body: Content-MD5 and `x-amz-checksum-*`, in headers or announced as a trailer.

use super::errors::{self, Refusal};
use crate::ops::checksum::{KINDS, header, kind, name};
use crate::transfer::SourceError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use s3s::S3ErrorCode;
use tenfour_types::{Checksum, ChecksumKind};

/// What must be found of the body's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expected {
    /// `Content-MD5`.
    pub md5: Option<[u8; 16]>,
    /// The value of an `x-amz-checksum-*` header.
    pub checksum: Option<Checksum>,
    /// The kind that a trailer will give.
    pub trailer: Option<ChecksumKind>,
    /// The kind that was named without a value (`x-amz-sdk-checksum-algorithm`): computed and kept.
    pub named: Option<ChecksumKind>,
}

impl Expected {
    /// Reads them.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let checksum = given(headers)?;
        let trailer = trailer(headers)?;
        if checksum.is_some() && trailer.is_some() {
            return Err(invalid(
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
        let named = named(headers)?;
        let value_of = checksum.as_ref().map(|checksum| checksum.kind).or(trailer);
        if let (Some(named), Some(value_of)) = (named, value_of)
            && named != value_of
        {
            return Err(invalid(
                "Value for x-amz-sdk-checksum-algorithm header is not the kind of the checksum given.",
            ));
        }
        Ok(Self { md5: md5(headers)?, checksum, trailer, named })
    }

    /// The kind of checksum that the client chose.
    pub fn kind(&self) -> Option<ChecksumKind> {
        self.checksum.as_ref().map(|checksum| checksum.kind).or(self.trailer).or(self.named)
    }
}

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    errors::refusal(S3ErrorCode::InvalidRequest, text)
}

fn md5(headers: &HeaderMap) -> Result<Option<[u8; 16]>, Refusal> {
    let Some(value) = headers.get("content-md5") else { return Ok(None) };
    let bytes = STANDARD.decode(value.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Some).ok_or_else(|| {
        errors::refusal(
            S3ErrorCode::InvalidDigest,
            "The Content-MD5 you specified is not valid: 16 bytes in base64.",
        )
    })
}

fn given(headers: &HeaderMap) -> Result<Option<Checksum>, Refusal> {
    let mut found = None;
    for kind in KINDS {
        let mut values = headers.get_all(header(kind)).iter();
        let Some(value) = values.next() else { continue };
        if found.is_some() || values.next().is_some() {
            return Err(invalid(
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
        let checksum = parse(kind, value.as_bytes());
        found =
            Some(checksum.ok_or_else(|| invalid(format!("Value for {} header is invalid.", header(kind))))?);
    }
    Ok(found)
}

/// A value in base64.
pub fn parse(kind: ChecksumKind, text: &[u8]) -> Option<Checksum> {
    let value = STANDARD.decode(text).ok().filter(|value| value.len() == kind.bytes())?;
    Some(Checksum { kind, value, parts: None })
}

/// As answers carry it: base64, and the number of parts of a composite one.
pub fn print(checksum: &Checksum) -> String {
    let value = STANDARD.encode(&checksum.value);
    checksum.parts.map_or(value.clone(), |parts| format!("{value}-{parts}"))
}

fn trailer(headers: &HeaderMap) -> Result<Option<ChecksumKind>, Refusal> {
    let Some(value) = headers.get("x-amz-trailer") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    match KINDS.into_iter().find(|&kind| header(kind).eq_ignore_ascii_case(text)) {
        Some(kind) => Ok(Some(kind)),
        None => Err(invalid("The value specified in the x-amz-trailer header is not supported")),
    }
}

fn named(headers: &HeaderMap) -> Result<Option<ChecksumKind>, Refusal> {
    let Some(value) = headers.get("x-amz-sdk-checksum-algorithm") else { return Ok(None) };
    match kind(value.to_str().unwrap_or_default()) {
        Some(kind) => Ok(Some(kind)),
        None => Err(invalid("Value for x-amz-sdk-checksum-algorithm header is invalid.")),
    }
}

/// The checksum that a trailer gives.
pub fn verify_trailer(kind: ChecksumKind, trailers: &[(String, String)]) -> Result<Checksum, SourceError> {
    let value = trailers.iter().find(|(known, _)| known == header(kind)).map(|(_, value)| value);
    let value = value.ok_or_else(|| {
        SourceError::Malformed(format!("the announced trailer {} did not come", header(kind)))
    })?;
    parse(kind, value.as_bytes())
        .ok_or_else(|| SourceError::Malformed(format!("the trailing {} is not a checksum", name(kind))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &str)]) -> Result<Expected, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Expected::of(&map).map_err(|refusal| refusal.code().to_owned())
    }

    #[test]
    fn one_checksum_at_most() {
        assert_eq!(of(&[]).unwrap(), Expected::default());
        assert_eq!(of(&[("x-amz-checksum-crc32", "AAAAAA==")]).unwrap().kind(), Some(ChecksumKind::Crc32));
        let two = [("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")];
        assert_eq!(of(&two).unwrap_err(), "InvalidRequest");
        let both = [("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-trailer", "x-amz-checksum-crc32")];
        assert_eq!(of(&both).unwrap_err(), "InvalidRequest");
        let differing = [("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-sdk-checksum-algorithm", "SHA1")];
        assert_eq!(of(&differing).unwrap_err(), "InvalidRequest");
    }

    #[test]
    fn malformed_values_are_refused() {
        assert_eq!(of(&[("content-md5", "abc")]).unwrap_err(), "InvalidDigest");
        assert_eq!(of(&[("x-amz-checksum-sha1", "AAAA")]).unwrap_err(), "InvalidRequest");
        assert_eq!(of(&[("x-amz-trailer", "x-amz-meta-a")]).unwrap_err(), "InvalidRequest");
        assert_eq!(of(&[("x-amz-sdk-checksum-algorithm", "MD4")]).unwrap_err(), "InvalidRequest");
    }

    #[test]
    fn a_named_kind_is_kept() {
        assert_eq!(
            of(&[("x-amz-sdk-checksum-algorithm", "CRC64NVME")]).unwrap().kind(),
            Some(ChecksumKind::Crc64Nvme)
        );
        let composite = Checksum { kind: ChecksumKind::Crc32, value: vec![0; 4], parts: Some(3) };
        assert_eq!(print(&composite), "AAAAAA==-3");
    }
}
