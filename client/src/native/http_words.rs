//! What S3 over HTTP writes into headers and answers: conditions, ranges, ETags, checksums, dates, errors.

use super::config::GetOptions;
use super::error::{Error, Failure};
use super::objects::unexpected;
use super::xml::text_of;
use crate::ClientError;
use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, StatusCode};
use tenfour_types::native::login::day_number;
use tenfour_types::native::{Conditions, IfRange, ObjectInfo, Precondition, Range, Refusal, Retry, Tag};
use tenfour_types::{Checksum, ChecksumKind, ETag, Headers, NameError};

/// Headers, by name.
pub(super) type Named = Vec<(String, String)>;

pub(super) const KINDS: [ChecksumKind; 5] = [
    ChecksumKind::Crc32,
    ChecksumKind::Crc32c,
    ChecksumKind::Crc64Nvme,
    ChecksumKind::Sha1,
    ChecksumKind::Sha256,
];
/// Headers of an object that are kept beside it.
const STANDARD_HEADERS: [&str; 6] = [
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];

pub(super) const fn checksum_name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::Crc32 => "crc32",
        ChecksumKind::Crc32c => "crc32c",
        ChecksumKind::Crc64Nvme => "crc64nvme",
        ChecksumKind::Sha1 => "sha1",
        ChecksumKind::Sha256 => "sha256",
    }
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn type_name(full_object: bool) -> &'static str {
    if full_object { "FULL_OBJECT" } else { "COMPOSITE" }
}

pub(super) fn checksum_header(kind: ChecksumKind) -> String {
    format!("x-amz-checksum-{}", checksum_name(kind))
}

fn quoted(tags: &[ETag]) -> String {
    tags.iter().map(|tag| format!("\"{tag}\"")).collect::<Vec<_>>().join(", ")
}

pub(super) fn precondition(given: &Precondition) -> Option<(String, String)> {
    let header = |name: &str, value: String| Some((name.to_owned(), value));
    match given {
        Precondition::None => None,
        Precondition::Absent => header("if-none-match", "*".to_owned()),
        Precondition::Present => header("if-match", "*".to_owned()),
        Precondition::Match(tags) => header("if-match", quoted(tags)),
    }
}

/// Range and conditions, and the wish for checksums. A range that ends before it begins HTTP answers with the whole object; it is refused
/// here, as a gateway does natively.
pub(super) fn conditions(options: &GetOptions) -> Result<Named, Failure> {
    let Conditions { matches, none_matches, modified_since, unmodified_since } = &options.conditions;
    let tag = |tag: &Tag| match tag {
        Tag::Any => "*".to_owned(),
        Tag::OneOf(tags) => quoted(tags),
    };
    let range = match options.range {
        Range::All | Range::Part(_) => None,
        Range::From(first, None) => Some(format!("bytes={first}-")),
        Range::From(first, Some(end)) if first < end => Some(format!("bytes={first}-{}", end - 1)),
        Range::From(..) => return Err(refused("InvalidArgument", "The range ends before it begins.")),
        Range::Last(bytes) => Some(format!("bytes=-{bytes}")),
    };
    let if_range = options.if_range.map(|known| match known {
        IfRange::Is(etag) => format!("\"{etag}\""),
        IfRange::Date(seconds) => http_date(seconds),
    });
    let all = [
        ("x-amz-checksum-mode", Some("ENABLED".to_owned())),
        ("range", range),
        ("if-match", matches.as_ref().map(tag)),
        ("if-none-match", none_matches.as_ref().map(tag)),
        ("if-modified-since", modified_since.map(http_date)),
        ("if-unmodified-since", unmodified_since.map(http_date)),
        ("if-range", if_range),
    ];
    Ok(all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

/// What this client refuses over HTTP as a gateway refuses it natively.
fn refused(code: &str, message: impl Into<String>) -> Failure {
    Refusal { code: code.to_owned(), message: message.into(), retry: Retry::Never }.into()
}

pub(super) fn unnameable(error: NameError) -> Failure {
    let code = match error {
        NameError::Bucket => "InvalidBucketName",
        NameError::Key => "KeyTooLongError",
    };
    refused(code, error.to_string())
}

/// Whether an object keeps a header of this lower-case name beside its bytes.
fn is_kept(name: &str) -> bool {
    name.starts_with("x-amz-meta-") || STANDARD_HEADERS.contains(&name)
}

/// Headers that an object is to keep, and that HTTP can say.
pub(super) fn kept(headers: &Headers) -> Result<Named, Failure> {
    let is_name = |name: &str| HeaderName::from_lowercase(name.as_bytes()).is_ok();
    for (name, value) in &headers.0 {
        if !is_kept(name) || !is_name(name) {
            let told = format!(
                "An object does not keep the header {name:?}: send lower-case x-amz-meta-* or a standard one."
            );
            return Err(refused("InvalidArgument", told));
        }
        if value.bytes().any(|byte| byte < 32 || byte == 127) {
            return Err(refused("InvalidArgument", format!("The header {name} has control characters.")));
        }
    }
    Ok(headers.0.clone())
}

/// What a GET or HEAD says of its object, and the range that it brings.
pub(super) fn object(headers: &HeaderMap) -> Result<(ObjectInfo, (u64, u64)), Failure> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let length: u64 = value("content-length").and_then(|text| text.parse().ok()).ok_or_else(unexpected)?;
    let (range, size) = match value("content-range") {
        None => ((0, length), length),
        Some(text) => content_range(text).ok_or_else(unexpected)?,
    };
    let kept = headers.iter().filter(|(name, _)| is_kept(name.as_str()));
    let kept =
        kept.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let object = ObjectInfo {
        size,
        etag: etag(headers).ok_or_else(unexpected)?,
        modified_ms: value("last-modified").and_then(http_date_ms).unwrap_or(0),
        headers: Headers(kept.collect()),
        checksums: checksums(headers),
        parts: value("x-amz-mp-parts-count").and_then(|text| text.parse().ok()),
    };
    Ok((object, range))
}

/// `bytes 2-4/10`
fn content_range(text: &str) -> Option<((u64, u64), u64)> {
    let (ends, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = ends.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some(((first, last.checked_add(1).filter(|end| *end >= first)?), size.parse().ok()?))
}

pub(super) fn etag(headers: &HeaderMap) -> Option<ETag> {
    parse_etag(headers.get("etag")?.to_str().ok()?)
}

/// An ETag, with or without the quotes around it.
pub fn parse_etag(text: &str) -> Option<ETag> {
    let text = text.trim_matches('"');
    let (digits, parts) = match text.split_once('-') {
        Some((digits, parts)) => (digits, Some(parts.parse().ok()?)),
        None => (text, None),
    };
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let number = u128::from_str_radix(digits, 16).ok()?;
    Some(ETag { md5: number.to_be_bytes(), parts })
}

pub(super) fn checksums(headers: &HeaderMap) -> Vec<Checksum> {
    let of_kind =
        |kind: ChecksumKind| parse_checksum(kind, headers.get(checksum_header(kind))?.to_str().ok()?);
    KINDS.into_iter().filter_map(of_kind).collect()
}

pub(super) fn parse_checksum(kind: ChecksumKind, text: &str) -> Option<Checksum> {
    let (value, parts) = match text.split_once('-') {
        Some((value, parts)) => (value, Some(parts.parse().ok()?)),
        None => (text, None),
    };
    Some(Checksum { kind, value: STANDARD.decode(value).ok()?, parts })
}

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970 as HTTP writes them.
fn http_date(seconds: i64) -> String {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let date = tenfour_types::native::login::date_of(day);
    let field = |range: std::ops::Range<usize>| date.get(range).unwrap_or_default();
    let month = field(4..6).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    let weekday = DAYS.get(usize::try_from(day.rem_euclid(7)).unwrap_or(0));
    let (weekday, month) = (weekday.copied().unwrap_or_default(), month.copied().unwrap_or_default());
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {} {month} {} {hour:02}:{minute:02}:{second:02} GMT", field(6..8), field(0..4))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in milliseconds since 1970.
fn http_date_ms(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace().skip(1);
    let (day, month, year) = (words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|known| *known == month)? + 1;
    clock_ms(&format!("{year}{month:02}{day}"), words.next()?)
}

/// `2026-11-28T03:04:05.678Z` in milliseconds since 1970.
pub(super) fn iso_ms(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    clock_ms(&date.replace('-', ""), time.trim_end_matches('Z'))
}

fn clock_ms(date: &str, time: &str) -> Option<u64> {
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut fields = clock.split(':').map(|field| field.parse::<u64>().ok());
    let (hour, minute, second) = (fields.next()??, fields.next()??, fields.next()??);
    let ms: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let day = u64::try_from(day_number(date)?).ok()?;
    Some(((day * 24 + hour) * 3600 + minute * 60 + second) * 1000 + ms)
}

/// What an HTTP error says.
pub(super) fn failed(error: ClientError, changes: bool) -> Failure {
    match error {
        ClientError::Status { status: StatusCode::NOT_MODIFIED, .. } => Failure::before(Error::NotModified),
        ClientError::Status { status, text } => {
            let code = text_of(&text, "Code").unwrap_or_else(|| code_of(status).to_owned());
            let message = text_of(&text, "Message").unwrap_or_else(|| status.to_string());
            refusal(code, message).into()
        }
        ClientError::Unreachable(_) => Failure::broken(false),
        ClientError::Connection(_) | ClientError::TimedOut => Failure::broken(changes),
        other => Failure::before(Error::Http(other)),
    }
}

pub(super) fn refusal(code: String, message: String) -> Refusal {
    let retry = match code.as_str() {
        "SlowDown" | "ServiceUnavailable" | "OperationAborted" | "RequestTimeout" => Retry::Later,
        "InternalError" => Retry::OutcomeUnknown,
        _ => Retry::Never,
    };
    Refusal { code, message, retry }
}

/// The code of an answer that says none: to a HEAD, or of something between the gateway and here.
fn code_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => "AccessDenied",
        404 => "NoSuchKey",
        408 => "RequestTimeout",
        412 => "PreconditionFailed",
        416 => "InvalidRange",
        429 => "SlowDown",
        503 => "ServiceUnavailable",
        500..600 => "InternalError",
        _ => "InvalidRequest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_written() {
        assert_eq!(http_date_ms("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(iso_ms("1994-11-06T08:49:37.250Z"), Some(784_111_777_250));
        assert_eq!(iso_ms("nonsense"), None);
    }

    #[test]
    fn what_answers_say_is_read() {
        assert_eq!(content_range("bytes 2-4/10"), Some(((2, 5), 10)));
        assert_eq!(content_range("bytes */10"), None);
        let etag = parse_etag(&format!("\"{}-3\"", "0a".repeat(16))).unwrap();
        assert_eq!((etag.md5, etag.parts), ([10; 16], Some(3)));
        assert_eq!(parse_etag("\"abc\""), None);
        let failure = failed(
            ClientError::Status {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: "<Code>SlowDown</Code><Message>m</Message>".into(),
            },
            true,
        );
        assert!(!failure.may_have_happened && failure.error.is_retryable());
    }
    #[test]
    fn an_etag_is_hexadecimal() {
        assert_eq!(parse_etag(&format!("+{}", "0".repeat(31))), None);
    }

    #[test]
    fn what_http_cannot_say_is_refused_as_natively() {
        let code = |failure: Failure| failure.error.code().unwrap_or_default().to_owned();
        for (first, end) in [(0, 0), (5, 5), (5, 2)] {
            let options = GetOptions { range: Range::From(first, Some(end)), ..GetOptions::default() };
            assert_eq!(code(conditions(&options).unwrap_err()), "InvalidArgument");
        }
        let header = |name: &str, value: &str| kept(&Headers(vec![(name.to_owned(), value.to_owned())]));
        for (name, value) in [
            ("x-amz-meta-a b", "v"),
            ("x-amz-meta-ä", "v"),
            ("X-Amz-Meta-A", "v"),
            ("host", "v"),
            ("x-amz-meta-a", "two\nlines"),
        ] {
            assert_eq!(code(header(name, value).unwrap_err()), "InvalidArgument", "{name:?} {value:?}");
        }
        assert!(header("x-amz-meta-a", "ä, and more").is_ok());
        assert_eq!(code(unnameable(NameError::Bucket)), "InvalidBucketName");
    }

    #[test]
    fn what_fails_says_what_is_known_of_the_outcome() {
        let outcome = |error: ClientError| {
            let failure = failed(error, true);
            (failure.may_have_happened, failure.error.is_retryable())
        };
        let status = |code: u16| {
            outcome(ClientError::Status { status: StatusCode::from_u16(code).unwrap(), text: String::new() })
        };
        assert_eq!(outcome(ClientError::Unreachable("refused".into())), (false, true));
        assert_eq!(outcome(ClientError::Connection("reset".into())), (true, true));
        assert_eq!([500, 502, 504].map(status), [(true, true); 3]);
        assert_eq!([429, 503, 408].map(status), [(false, true); 3]);
        assert_eq!([400, 403, 404].map(status), [(false, false); 3]);
    }
}
