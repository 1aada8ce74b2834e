//! The errors of the operations ([`crate::ops::refusal`]) and of HTTP itself as the S3 library wants them.

use super::body::BodyError;
pub use crate::ops::refusal::Refusal;
use crate::ops::refusal::slow_down;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use s3s::{S3Error, S3ErrorCode};
use std::borrow::Cow;

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> Self {
        let code = S3ErrorCode::from_bytes(refusal.code().as_bytes()).unwrap_or(S3ErrorCode::InternalError);
        let mut error = S3Error::with_message(code, refusal.message().to_owned());
        if let Some(status) = refusal.status().and_then(|status| StatusCode::from_u16(status).ok()) {
            error.set_status_code(status);
        }
        if !refusal.headers().is_empty() {
            // The library puts these in place of its own. One whose value cannot be sent is left out.
            let own = [("content-type", HeaderValue::from_static("application/xml"))];
            let given = refusal.headers().iter();
            let given = given.filter_map(|(name, value)| Some((*name, HeaderValue::from_str(value).ok()?)));
            let all = own.into_iter().chain(given);
            error.set_headers(all.map(|(name, value)| (HeaderName::from_static(name), value)).collect());
        }
        error
    }
}

/// A refusal with a code whose status is S3's own.
pub fn refusal(code: S3ErrorCode, message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(code.as_str().to_owned(), message)
}

/// A refusal with a code that the S3 library does not know.
pub fn custom(code: &'static str, status: u16, message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(code, message).with_status(status)
}

/// What is not there yet.
pub fn not_implemented(what: &str) -> Refusal {
    let text = format!("{what} is not supported: send the request without it.");
    refusal(S3ErrorCode::NotImplemented, text)
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Source(error) => error.into(),
            BodyError::NoRoom => slow_down(),
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
    use crate::ops::OpError;
    use crate::transfer::{AccessError, ReadError, SourceError, WriteError};
    use tenfour_metadata::api::ClusterRefusal;

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
