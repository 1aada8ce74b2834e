//! Between the S3 library's types and ours.

use super::errors::{self, Refusal};
use super::expect::{parse, print};
use super::headers::date;
use crate::ops::checksum;
use crate::ops::conditions::{Conditions, IfRange, Tag, parse_etag};
use crate::transfer::Wanted;
use hyper::HeaderMap;
use hyper::header::{self, HeaderName};
use s3s::S3ErrorCode;
use s3s::dto::{self, ETagCondition, Range, Timestamp, TimestampFormat};
use tenfour_metadata::api::Precondition;
use tenfour_types::{Checksum, ChecksumKind, ETag, ObjectKey, UploadId};
use time::OffsetDateTime;

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    errors::refusal(S3ErrorCode::InvalidArgument, text)
}

/// A key, checked.
pub fn key(key: &str) -> Result<ObjectKey, Refusal> {
    ObjectKey::new(key).map_err(|error| errors::refusal(S3ErrorCode::KeyTooLongError, error.to_string()))
}

/// An upload's id; one that none could be is one that is not there.
pub fn upload(text: &str) -> Result<UploadId, Refusal> {
    text.parse().map_err(|_| crate::ops::OpError::NoSuchUpload.into())
}

/// A part's number, 1 to 10,000.
pub fn part_number(number: i32) -> Result<u32, Refusal> {
    u32::try_from(number)
        .ok()
        .filter(|number| (1..=tenfour_types::limits::PARTS_MAX).contains(number))
        .ok_or_else(|| invalid("Part number must be an integer between 1 and 10000, inclusive"))
}

/// A limit of a listing, 0 to 1,000.
pub fn most(given: Option<i32>, name: &str) -> Result<u32, Refusal> {
    let most = u32::try_from(given.unwrap_or(1000));
    most.map(|most| most.min(1000))
        .map_err(|_| invalid(format!("Argument {name} must be an integer between 0 and 2147483647")))
}

/// An ETag for an answer.
pub fn etag(etag: ETag) -> dto::ETag {
    dto::ETag::Strong(etag.to_string())
}

/// A time for an answer.
pub fn timestamp(ms: u64) -> Timestamp {
    Timestamp::from(date(ms))
}

fn seconds(time: Timestamp) -> i64 {
    OffsetDateTime::from(time).unix_timestamp()
}

/// The ETags of a condition. The library takes a list for one ETag with quotes in it; none of ours has a comma.
fn tag(condition: &ETagCondition) -> Tag {
    let Some(listed) = condition.as_etag() else { return Tag::Any };
    let one = |text: &str| {
        let text = text.trim();
        parse_etag(text.strip_prefix("W/").unwrap_or(text).trim_matches('"'))
    };
    Tag::OneOf(listed.value().split(',').filter_map(one).collect())
}

/// What a write is bound to by `If-Match` and `If-None-Match`.
pub fn precondition(
    matches: Option<&ETagCondition>,
    none_matches: Option<&ETagCondition>,
) -> Result<Precondition, Refusal> {
    match (matches.map(tag), none_matches.map(tag)) {
        (None, None) => Ok(Precondition::None),
        (None, Some(Tag::Any)) => Ok(Precondition::Absent),
        (Some(Tag::Any), None) => Ok(Precondition::Present),
        (Some(Tag::OneOf(tags)), None) => Ok(Precondition::Match(tags)),
        (None, Some(Tag::OneOf(_))) => {
            let text = "If-None-Match of a write may be * only.";
            Err(errors::refusal(S3ErrorCode::NotImplemented, text))
        }
        (Some(_), Some(_)) => {
            let text = "If-Match and If-None-Match exclude each other.";
            Err(errors::refusal(S3ErrorCode::NotImplemented, text))
        }
    }
}

/// What a write is bound to by headers that the library does not read for it.
pub fn precondition_of(headers: &HeaderMap) -> Result<Precondition, Refusal> {
    let read = |name: HeaderName| match headers.get(&name).filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => ETagCondition::parse_http_header(value.as_bytes())
            .map(Some)
            .map_err(|_| invalid(format!("The header {name} is neither * nor an ETag."))),
    };
    precondition(read(header::IF_MATCH)?.as_ref(), read(header::IF_NONE_MATCH)?.as_ref())
}

/// What a read is bound to.
pub fn conditions(
    matches: Option<&ETagCondition>,
    none_matches: Option<&ETagCondition>,
    modified_since: Option<Timestamp>,
    unmodified_since: Option<Timestamp>,
) -> Conditions {
    Conditions {
        matches: matches.map(tag),
        none_matches: none_matches.map(tag),
        modified_since: modified_since.map(seconds),
        unmodified_since: unmodified_since.map(seconds),
    }
}

/// What a range is bound to, by `If-Range`: a strong ETag or a date. What is neither holds of no object.
pub fn if_range(text: &str) -> IfRange {
    let text = text.trim();
    let date = || Timestamp::parse(TimestampFormat::HttpDate, text).ok().map(seconds);
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(tag) => parse_etag(tag).map_or(IfRange::Never, IfRange::Is),
        None => date().map_or(IfRange::Never, IfRange::Date),
    }
}

/// What part of an object is wanted, by `Range` or `partNumber`.
pub fn wanted(range: Option<Range>, part: Option<i32>) -> Result<Wanted, Refusal> {
    match (range, part) {
        (None, None) => Ok(Wanted::All),
        (Some(Range::Int { first, last }), None) => {
            Ok(Wanted::From(first, last.map(|last| last.saturating_add(1))))
        }
        (Some(Range::Suffix { length }), None) => Ok(Wanted::Last(length)),
        (None, Some(part)) => part_number(part).map(Wanted::Part),
        (Some(_), Some(_)) => Err(errors::refusal(
            S3ErrorCode::InvalidRequest,
            "Cannot specify both Range header and partNumber query parameter",
        )),
    }
}

/// `x-amz-copy-source-range`: both ends are given.
pub fn copy_range(text: &str) -> Result<(u64, u64), Refusal> {
    let ends = text.strip_prefix("bytes=").and_then(|ends| ends.split_once('-'));
    let number = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten()
    };
    match ends.and_then(|(first, last)| Some((number(first)?, number(last)?))) {
        Some((first, last)) if first <= last && last < u64::MAX => Ok((first, last + 1)),
        _ => Err(invalid(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy",
        )),
    }
}

/// The checksums of an answer, each in its field.
#[derive(Default)]
pub struct Sums {
    /// CRC-32
    pub crc32: Option<String>,
    /// CRC-32C
    pub crc32c: Option<String>,
    /// CRC-64/NVME
    pub crc64nvme: Option<String>,
    /// SHA-1
    pub sha1: Option<String>,
    /// SHA-256
    pub sha256: Option<String>,
    /// COMPOSITE or FULL_OBJECT
    pub of: Option<dto::ChecksumType>,
}

impl Sums {
    /// Sorts them into their fields.
    pub fn new(checksums: &[Checksum]) -> Self {
        let mut sums = Self::default();
        for checksum in checksums {
            let field = match checksum.kind {
                ChecksumKind::Crc32 => &mut sums.crc32,
                ChecksumKind::Crc32c => &mut sums.crc32c,
                ChecksumKind::Crc64Nvme => &mut sums.crc64nvme,
                ChecksumKind::Sha1 => &mut sums.sha1,
                ChecksumKind::Sha256 => &mut sums.sha256,
            };
            *field = Some(print(checksum));
            sums.of = Some(checksum_type(checksum.parts.is_none()));
        }
        sums
    }

    /// Reads what a client gives; the number of parts after a composite one may be left out.
    pub fn read(&self) -> Result<Vec<Checksum>, Refusal> {
        let fields = [
            (ChecksumKind::Crc32, &self.crc32),
            (ChecksumKind::Crc32c, &self.crc32c),
            (ChecksumKind::Crc64Nvme, &self.crc64nvme),
            (ChecksumKind::Sha1, &self.sha1),
            (ChecksumKind::Sha256, &self.sha256),
        ];
        let mut read = Vec::new();
        for (kind, text) in fields {
            let Some(text) = text else { continue };
            let value = text.split_once('-').map_or(text.as_str(), |(value, _)| value);
            let refused =
                || invalid(format!("The value of the {} checksum is invalid.", checksum::name(kind)));
            read.push(parse(kind, value.as_bytes()).ok_or_else(refused)?);
        }
        Ok(read)
    }
}

/// COMPOSITE or FULL_OBJECT.
pub fn checksum_type(full_object: bool) -> dto::ChecksumType {
    dto::ChecksumType::from_static(if full_object {
        dto::ChecksumType::FULL_OBJECT
    } else {
        dto::ChecksumType::COMPOSITE
    })
}

/// The name of a kind as XML has it.
pub fn algorithm(kind: ChecksumKind) -> dto::ChecksumAlgorithm {
    dto::ChecksumAlgorithm::from(checksum::name(kind).to_uppercase())
}

/// A kind and whether it is of the whole object, from what CreateMultipartUpload names.
pub fn announced(
    kind: Option<&dto::ChecksumAlgorithm>,
    of: Option<&dto::ChecksumType>,
) -> Result<Option<(ChecksumKind, bool)>, Refusal> {
    let Some(name) = kind else {
        let text =
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.";
        return if of.is_some() { Err(errors::refusal(S3ErrorCode::InvalidRequest, text)) } else { Ok(None) };
    };
    let kind = checksum::kind(name.as_str()).ok_or_else(|| {
        errors::refusal(S3ErrorCode::InvalidRequest, "Checksum algorithm provided is unsupported.")
    })?;
    let full_object = match of.map(dto::ChecksumType::as_str) {
        None => kind == ChecksumKind::Crc64Nvme,
        Some(dto::ChecksumType::FULL_OBJECT) => true,
        Some(dto::ChecksumType::COMPOSITE) => false,
        Some(_) => return Err(invalid("Value for x-amz-checksum-type header is invalid.")),
    };
    let possible = if full_object { checksum::combines(kind) } else { kind != ChecksumKind::Crc64Nvme };
    if possible {
        return Ok(Some((kind, full_object)));
    }
    let of = if full_object { "FULL_OBJECT" } else { "COMPOSITE" };
    let text = format!(
        "The {of} checksum type cannot be used with the {} checksum algorithm.",
        checksum::name(kind)
    );
    Err(errors::refusal(S3ErrorCode::InvalidRequest, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(text: &str) -> ETagCondition {
        ETagCondition::parse_http_header(text.as_bytes()).unwrap()
    }

    #[test]
    fn preconditions_of_writes() {
        let etag = format!("\"{}\"", "ab".repeat(16));
        assert_eq!(precondition(None, None).unwrap(), Precondition::None);
        assert_eq!(precondition(None, Some(&condition("*"))).unwrap(), Precondition::Absent);
        assert_eq!(precondition(Some(&condition("*")), None).unwrap(), Precondition::Present);
        let one = Precondition::Match(vec![ETag { md5: [0xab; 16], parts: None }]);
        assert_eq!(precondition(Some(&condition(&etag)), None).unwrap(), one);
        assert_eq!(precondition(Some(&condition("\"other\"")), None).unwrap(), Precondition::Match(vec![]));
        let list = format!("{etag}, \"other\", W/\"{}-2\"", "cd".repeat(16));
        let both = [ETag { md5: [0xab; 16], parts: None }, ETag { md5: [0xcd; 16], parts: Some(2) }];
        assert_eq!(
            precondition(Some(&condition(&list)), None).unwrap(),
            Precondition::Match(both.to_vec()),
            "a list"
        );
        assert!(precondition(None, Some(&condition(&etag))).is_err());
        assert!(precondition(Some(&condition("*")), Some(&condition("*"))).is_err());
    }

    #[test]
    fn ranges_and_parts() {
        let range = |text: &str| Range::parse(text).ok();
        assert_eq!(wanted(None, None).unwrap(), Wanted::All);
        assert_eq!(wanted(range("bytes=2-4"), None).unwrap(), Wanted::From(2, Some(5)));
        assert_eq!(wanted(range("bytes=2-"), None).unwrap(), Wanted::From(2, None));
        assert_eq!(wanted(range("bytes=-7"), None).unwrap(), Wanted::Last(7));
        assert_eq!(wanted(None, Some(3)).unwrap(), Wanted::Part(3));
        assert!(wanted(range("bytes=2-4"), Some(3)).is_err());
        for bad in [0, -1, 10_001] {
            assert!(wanted(None, Some(bad)).is_err());
        }
    }

    #[test]
    fn copy_ranges_name_both_ends() {
        assert_eq!(copy_range("bytes=0-9").unwrap(), (0, 10));
        for bad in ["bytes=0-", "bytes=-5", "0-9", "bytes=9-0", "bytes=+1-2", "bytes=0-18446744073709551615"]
        {
            assert!(copy_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn announced_checksums_must_be_possible() {
        let of = |kind: &'static str, of: Option<&'static str>| {
            announced(
                Some(&dto::ChecksumAlgorithm::from_static(kind)),
                of.map(dto::ChecksumType::from_static).as_ref(),
            )
        };
        assert_eq!(announced(None, None).unwrap(), None);
        assert_eq!(of("CRC32", None).unwrap(), Some((ChecksumKind::Crc32, false)));
        assert_eq!(of("CRC64NVME", None).unwrap(), Some((ChecksumKind::Crc64Nvme, true)));
        assert_eq!(of("CRC32", Some("FULL_OBJECT")).unwrap(), Some((ChecksumKind::Crc32, true)));
        assert!(of("SHA256", Some("FULL_OBJECT")).is_err());
        assert!(of("CRC64NVME", Some("COMPOSITE")).is_err());
        assert!(of("MD4", None).is_err());
    }

    #[test]
    fn limits_of_listings() {
        assert_eq!(most(None, "max-keys").unwrap(), 1000);
        assert_eq!(most(Some(0), "max-keys").unwrap(), 0);
        assert_eq!(most(Some(5000), "max-keys").unwrap(), 1000);
        assert!(most(Some(-1), "max-keys").is_err());
    }
}
