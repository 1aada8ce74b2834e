//! Every error of the gateway as S3 says it: code, status, and a text that tells what to do. The only place that maps them.
//!
//! A request whose outcome is unknown is answered `500 InternalError`, not 503: S3 clients retry both, but 503 says that
//! nothing was done, which would be untrue. 503 always carries `Retry-After`.

use super::body::BodyError;
use crate::ops::OpError;
use crate::transfer::{AccessError, ReadError, SourceError, WriteError};
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use s3s::{S3Error, S3ErrorCode};
use std::borrow::Cow;
use tenfour_metadata::api::ClusterRefusal;

/// An answer that is not what was asked for.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: S3ErrorCode,
    status: Option<StatusCode>,
    message: Cow<'static, str>,
    headers: Vec<(&'static str, HeaderValue)>,
}

impl Refusal {
    /// The S3 code.
    pub fn code(&self) -> &str {
        self.code.as_str()
    }
    /// The text.
    pub fn message(&self) -> &str {
        &self.message
    }
    /// With a header; left out when its value cannot be sent.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }
}

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> Self {
        let Refusal { code, status, message, headers } = refusal;
        let mut error = S3Error::with_message(code, message);
        if let Some(status) = status {
            error.set_status_code(status);
        }
        if !headers.is_empty() {
            // The library puts these in place of its own.
            let own = [("content-type", HeaderValue::from_static("application/xml"))];
            let all = own.into_iter().chain(headers);
            error.set_headers(all.map(|(name, value)| (HeaderName::from_static(name), value)).collect());
        }
        error
    }
}

/// A refusal with a code whose status is S3's own.
pub fn refusal(code: S3ErrorCode, message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal { code, status: None, message: message.into(), headers: Vec::new() }
}

/// A refusal with a code that the S3 library does not know.
pub fn custom(code: &'static str, status: u16, message: impl Into<Cow<'static, str>>) -> Refusal {
    let status = StatusCode::from_u16(status).ok();
    Refusal { status, ..refusal(S3ErrorCode::Custom(code.into()), message) }
}

/// What is not there yet.
pub fn not_implemented(what: &str) -> Refusal {
    let text = format!("{what} is not supported: send the request without it.");
    refusal(S3ErrorCode::NotImplemented, text)
}

fn unavailable(why: &str) -> Refusal {
    let text = format!("{why}. Nothing was changed; try again shortly.");
    refusal(S3ErrorCode::ServiceUnavailable, text).header("retry-after", "1")
}

fn slow_down() -> Refusal {
    refusal(S3ErrorCode::SlowDown, "Too many requests wait for memory. Please reduce your request rate.")
        .header("retry-after", "1")
}

fn no_such_key() -> Refusal {
    refusal(S3ErrorCode::NoSuchKey, "The specified key does not exist.")
}

fn no_such_upload() -> Refusal {
    let text = "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted \
                or completed.";
    refusal(S3ErrorCode::NoSuchUpload, text)
}

fn precondition_failed() -> Refusal {
    let text = "At least one of the pre-conditions you specified did not hold";
    refusal(S3ErrorCode::PreconditionFailed, text)
}

fn outcome_unknown() -> Refusal {
    let text = "The metadata service did not answer in time. The change was either made as a whole or not at all: \
                read it back, or send it again.";
    refusal(S3ErrorCode::InternalError, text)
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Denied => refusal(S3ErrorCode::AccessDenied, "Access Denied"),
            AccessError::NoSuchBucket => {
                refusal(S3ErrorCode::NoSuchBucket, "The specified bucket does not exist")
            }
        }
    }
}

impl From<SourceError> for Refusal {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Truncated | SourceError::TooLong => {
                let text =
                    "You did not provide the number of bytes specified by the Content-Length HTTP header.";
                refusal(S3ErrorCode::IncompleteBody, text)
            }
            SourceError::Md5Mismatch => refusal(
                S3ErrorCode::BadDigest,
                "The Content-MD5 you specified did not match what we received.",
            ),
            SourceError::ChecksumMismatch(kind) => {
                let kind = kind.to_uppercase();
                refusal(
                    S3ErrorCode::BadDigest,
                    format!("The {kind} you specified did not match the calculated checksum."),
                )
            }
            SourceError::SignatureMismatch => {
                let text = "The provided 'x-amz-content-sha256' header, or the signature of a chunk, does not match what \
                            was computed.";
                custom("XAmzContentSHA256Mismatch", 400, text)
            }
            SourceError::Malformed(why) => refusal(S3ErrorCode::InvalidRequest, why),
            SourceError::TimedOut => {
                let text =
                    "Your socket connection to the server was not written to within the timeout period.";
                refusal(S3ErrorCode::RequestTimeout, text)
            }
        }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Source(error) => error.into(),
            BodyError::NoRoom => slow_down(),
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
                refusal(S3ErrorCode::EntityTooLarge, text)
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
            ReadError::Range { size } => {
                refusal(S3ErrorCode::InvalidRange, "The requested range is not satisfiable")
                    .header("content-range", &format!("bytes */{size}"))
            }
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
                refusal(S3ErrorCode::BucketAlreadyExists, text)
            }
            ClusterRefusal::BucketOwnedByYou => {
                let text =
                    "Your previous request to create the named bucket succeeded and you already own it.";
                refusal(S3ErrorCode::BucketAlreadyOwnedByYou, text)
            }
            ClusterRefusal::NoSuchBucket => AccessError::NoSuchBucket.into(),
            ClusterRefusal::NotClosing => OpError::BucketClosing.into(),
            ClusterRefusal::BucketNotEmpty => bucket_not_empty(),
            ClusterRefusal::TooManyBuckets => {
                refusal(S3ErrorCode::TooManyBuckets, "You have attempted to create more buckets than allowed")
            }
            ClusterRefusal::NoSuchUser => AccessError::Denied.into(),
            other => refusal(S3ErrorCode::InternalError, other.to_string()),
        }
    }
}

fn bucket_not_empty() -> Refusal {
    let text = "The bucket you tried to delete is not empty: delete its objects and abort its multipart uploads first.";
    refusal(S3ErrorCode::BucketNotEmpty, text)
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
                refusal(S3ErrorCode::OperationAborted, text)
            }
            OpError::NoSuchKey => no_such_key(),
            OpError::NoSuchUpload => no_such_upload(),
            OpError::PreconditionFailed => precondition_failed(),
            OpError::InvalidPart(number) => {
                let text = format!(
                    "Part {number} could not be found. It may not have been uploaded, or its entity tag or checksum \
                     does not match."
                );
                refusal(S3ErrorCode::InvalidPart, text)
            }
            OpError::InvalidPartOrder => {
                let text = "The list of parts was not in ascending order. The parts list must be specified in order by \
                            part number.";
                refusal(S3ErrorCode::InvalidPartOrder, text)
            }
            OpError::PartTooSmall(number) => {
                let text =
                    format!("Your proposed upload is smaller than the minimum allowed size: part {number}.");
                refusal(S3ErrorCode::EntityTooSmall, text)
            }
            OpError::TooLarge => {
                refusal(S3ErrorCode::EntityTooLarge, "The object would be larger than allowed.")
            }
            OpError::ChecksumMismatch(kind) => SourceError::ChecksumMismatch(kind).into(),
            OpError::Invalid(why) => refusal(S3ErrorCode::InvalidRequest, why),
            OpError::Metadata(why) => unavailable(&format!("The metadata service cannot be reached: {why}")),
            OpError::OutcomeUnknown => outcome_unknown(),
        }
    }
}

/// As the library wants it.
pub fn s3(error: impl Into<Refusal>) -> S3Error {
    error.into().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(error: impl Into<Refusal>) -> (String, u16) {
        let error = s3(error);
        (error.code().as_str().to_owned(), error.status_code().map_or(0, |status| status.as_u16()))
    }

    #[test]
    fn codes_and_statuses_are_those_of_s3() {
        let check = |(code, number): (String, u16), expected: (&str, u16)| {
            assert_eq!((code.as_str(), number), expected);
        };
        check(status(AccessError::Denied), ("AccessDenied", 403));
        check(status(AccessError::NoSuchBucket), ("NoSuchBucket", 404));
        check(status(SourceError::Truncated), ("IncompleteBody", 400));
        check(status(SourceError::Md5Mismatch), ("BadDigest", 400));
        check(status(SourceError::ChecksumMismatch("crc32")), ("BadDigest", 400));
        check(status(SourceError::SignatureMismatch), ("XAmzContentSHA256Mismatch", 400));
        check(status(SourceError::TimedOut), ("RequestTimeout", 400));
        check(status(WriteError::PreconditionFailed), ("PreconditionFailed", 412));
        check(status(WriteError::Full), ("InsufficientStorage", 507));
        check(status(WriteError::OutcomeUnknown), ("InternalError", 500));
        check(status(WriteError::Overloaded), ("SlowDown", 503));
        check(status(WriteError::Unavailable(String::new())), ("ServiceUnavailable", 503));
        check(status(ReadError::NoSuchKey), ("NoSuchKey", 404));
        check(status(ReadError::Range { size: 1 }), ("InvalidRange", 416));
        check(status(ReadError::NoSuchPart), ("InvalidPartNumber", 416));
        check(status(ClusterRefusal::BucketExists), ("BucketAlreadyExists", 409));
        check(status(ClusterRefusal::BucketOwnedByYou), ("BucketAlreadyOwnedByYou", 409));
        check(status(OpError::BucketNotEmpty), ("BucketNotEmpty", 409));
        check(status(OpError::InvalidPartOrder), ("InvalidPartOrder", 400));
        check(status(OpError::PartTooSmall(1)), ("EntityTooSmall", 400));
        check(status(not_implemented("x")), ("NotImplemented", 501));
    }

    #[test]
    fn what_can_be_tried_again_says_when() {
        for error in [WriteError::Overloaded, WriteError::Metadata("gone".into())] {
            let error = s3(error);
            assert_eq!(error.headers().unwrap().get("retry-after").unwrap(), "1");
        }
        let range = s3(ReadError::Range { size: 7 });
        assert_eq!(range.headers().unwrap().get("content-range").unwrap(), "bytes */7");
    }
}
