//! Every error of the operations as S3 says it: code, and a text that tells what to do. The only place that maps them, for every front.
//!
//! A request whose outcome is unknown is `InternalError` (500 over HTTP), not `ServiceUnavailable`: S3 clients retry both, but 503
//! says that nothing was done, which would be untrue. What carries `retry-after` did nothing.

use super::OpError;
use crate::transfer::{AccessError, ReadError, SourceError, WriteError};
use std::borrow::Cow;
use tenfour_metadata::api::ClusterRefusal;
use tenfour_types::native;
pub use tenfour_types::native::Retry;

/// Longest text that goes into a message of the native protocol, bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: Cow<'static, str>,
    status: Option<u16>,
    message: Cow<'static, str>,
    headers: Vec<(&'static str, String)>,
    retry: Retry,
}

impl Refusal {
    /// With a code whose HTTP status is S3's own.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        let (code, message) = (code.into(), message.into());
        Self { code, status: None, message, headers: Vec::new(), retry: Retry::Never }
    }
    /// The S3 code.
    pub fn code(&self) -> &str {
        &self.code
    }
    /// The text.
    pub fn message(&self) -> &str {
        &self.message
    }
    /// Whether it helps to ask again.
    pub fn retry(&self) -> Retry {
        self.retry
    }
    /// The HTTP status, where the code does not say it.
    pub fn status(&self) -> Option<u16> {
        self.status
    }
    /// Headers that go with it over HTTP.
    pub fn headers(&self) -> &[(&'static str, String)] {
        &self.headers
    }
    /// With a header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
    /// With a status of its own.
    pub fn with_status(self, status: u16) -> Self {
        Self { status: Some(status), ..self }
    }
    /// Saying whether it helps to ask again.
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }
}

impl From<Refusal> for native::Refusal {
    fn from(refusal: Refusal) -> Self {
        let mut message = refusal.message.into_owned();
        let end = (0..=TEXT_BYTES_MAX.min(message.len())).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or(0));
        Self { code: refusal.code.into_owned(), message, retry: refusal.retry }
    }
}

fn refusal(code: &'static str, message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(code, message)
}

fn custom(code: &'static str, status: u16, message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(code, message).with_status(status)
}

fn unavailable(why: &str) -> Refusal {
    let text = format!("{why}. Nothing was changed; try again shortly.");
    refusal("ServiceUnavailable", text).header("retry-after", "1").with_retry(Retry::Later)
}

/// Too much at once.
pub fn slow_down() -> Refusal {
    refusal("SlowDown", "Too many requests wait for memory. Please reduce your request rate.")
        .header("retry-after", "1")
        .with_retry(Retry::Later)
}

fn no_such_key() -> Refusal {
    refusal("NoSuchKey", "The specified key does not exist.")
}

fn no_such_upload() -> Refusal {
    let text = "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted \
                or completed.";
    refusal("NoSuchUpload", text)
}

fn precondition_failed() -> Refusal {
    let text = "At least one of the pre-conditions you specified did not hold";
    refusal("PreconditionFailed", text)
}

fn outcome_unknown() -> Refusal {
    let text = "The metadata service did not answer in time. The change was either made as a whole or not at all: \
                read it back, or send it again.";
    refusal("InternalError", text).with_retry(Retry::OutcomeUnknown)
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Denied => refusal("AccessDenied", "Access Denied"),
            AccessError::NoSuchBucket => refusal("NoSuchBucket", "The specified bucket does not exist"),
        }
    }
}

impl From<SourceError> for Refusal {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Truncated | SourceError::TooLong => {
                let text =
                    "You did not provide the number of bytes specified by the Content-Length HTTP header.";
                refusal("IncompleteBody", text)
            }
            SourceError::Md5Mismatch => {
                refusal("BadDigest", "The Content-MD5 you specified did not match what we received.")
            }
            SourceError::ChecksumMismatch(kind) => {
                let kind = kind.to_uppercase();
                refusal(
                    "BadDigest",
                    format!("The {kind} you specified did not match the calculated checksum."),
                )
            }
            SourceError::SignatureMismatch => {
                let text = "The provided 'x-amz-content-sha256' header, or the signature of a chunk, does not match what \
                            was computed.";
                custom("XAmzContentSHA256Mismatch", 400, text)
            }
            SourceError::Malformed(why) => refusal("InvalidRequest", why),
            SourceError::NoRoom => slow_down(),
            SourceError::TimedOut => {
                let text =
                    "Your socket connection to the server was not written to within the timeout period.";
                refusal("RequestTimeout", text).with_retry(Retry::Later)
            }
        }
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Access(error) => error.into(),
            WriteError::Source(error) => error.into(),
            WriteError::PreconditionFailed => precondition_failed(),
            WriteError::NoSuchKey => no_such_key(),
            WriteError::NoSuchUpload => no_such_upload(),
            WriteError::TooLarge => {
                let text =
                    "Your proposed upload exceeds the maximum allowed size of one PUT: upload it in parts.";
                refusal("EntityTooLarge", text)
            }
            WriteError::Full => {
                let text = "The storage targets are full: delete objects or add targets.";
                custom("InsufficientStorage", 507, text)
            }
            WriteError::Overloaded => slow_down(),
            WriteError::Unavailable(_) | WriteError::Metadata(_) => unavailable(&error.to_string()),
            WriteError::OutcomeUnknown => outcome_unknown(),
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Access(error) => error.into(),
            ReadError::NoSuchKey => no_such_key(),
            ReadError::Range { size } => refusal("InvalidRange", "The requested range is not satisfiable")
                .header("content-range", &format!("bytes */{size}")),
            ReadError::NoSuchPart => {
                custom("InvalidPartNumber", 416, "The requested partnumber is not satisfiable")
            }
            ReadError::Overloaded => slow_down(),
            ReadError::Unavailable(_) | ReadError::Metadata(_) => unavailable(&error.to_string()),
        }
    }
}

impl From<ClusterRefusal> for Refusal {
    fn from(error: ClusterRefusal) -> Self {
        match error {
            ClusterRefusal::BucketExists => {
                let text = "The requested bucket name is not available: somebody else has it. Select a different name.";
                refusal("BucketAlreadyExists", text)
            }
            ClusterRefusal::BucketOwnedByYou => {
                let text =
                    "Your previous request to create the named bucket succeeded and you already own it.";
                refusal("BucketAlreadyOwnedByYou", text)
            }
            ClusterRefusal::NoSuchBucket => AccessError::NoSuchBucket.into(),
            ClusterRefusal::NotClosing => OpError::BucketClosing.into(),
            ClusterRefusal::BucketNotEmpty => bucket_not_empty(),
            ClusterRefusal::TooManyBuckets => {
                refusal("TooManyBuckets", "You have attempted to create more buckets than allowed")
            }
            ClusterRefusal::NoSuchUser => AccessError::Denied.into(),
            other => refusal("InternalError", other.to_string()),
        }
    }
}

fn bucket_not_empty() -> Refusal {
    let text = "The bucket you tried to delete is not empty: delete its objects and abort its multipart uploads first.";
    refusal("BucketNotEmpty", text)
}

impl From<OpError> for Refusal {
    fn from(error: OpError) -> Self {
        match error {
            OpError::Access(error) => error.into(),
            OpError::Read(error) => error.into(),
            OpError::Write(error) => error.into(),
            OpError::Cluster(error) => error.into(),
            OpError::BucketNotEmpty => bucket_not_empty(),
            OpError::BucketClosing => {
                let text = "The bucket is being deleted. Please try again.";
                refusal("OperationAborted", text).with_retry(Retry::Later)
            }
            OpError::NoSuchKey => no_such_key(),
            OpError::NoSuchUpload => no_such_upload(),
            OpError::PreconditionFailed => precondition_failed(),
            OpError::InvalidPart(number) => {
                let text = format!(
                    "Part {number} could not be found. It may not have been uploaded, or its entity tag or checksum \
                     does not match."
                );
                refusal("InvalidPart", text)
            }
            OpError::InvalidPartOrder => {
                let text = "The list of parts was not in ascending order. The parts list must be specified in order by \
                            part number.";
                refusal("InvalidPartOrder", text)
            }
            OpError::PartTooSmall(number) => {
                let text =
                    format!("Your proposed upload is smaller than the minimum allowed size: part {number}.");
                refusal("EntityTooSmall", text)
            }
            OpError::TooLarge => refusal("EntityTooLarge", "The object would be larger than allowed."),
            OpError::ChecksumMismatch(kind) => SourceError::ChecksumMismatch(kind).into(),
            OpError::Invalid(why) => refusal("InvalidRequest", why),
            OpError::Metadata(why) => unavailable(&format!("The metadata service cannot be reached: {why}")),
            OpError::OutcomeUnknown => outcome_unknown(),
        }
    }
}
