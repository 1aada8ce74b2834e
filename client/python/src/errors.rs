//! The SDK's errors as Python's exceptions. The classes are Python's own: `python/tenfour/errors.py`.

use pyo3::prelude::{PyAnyMethods, PyErr, PyResult, Python};
use tenfour_client::ClientError;
use tenfour_client::native::Error;
use tenfour_rdma::LeaseError;

/// The exception for an error.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, class_of(error), &error.to_string(), error.code(), error.is_retryable())
}

/// An exception of `tenfour.errors`, by its name.
pub fn exception(py: Python<'_>, class: &str, text: &str, code: Option<&str>, is_retryable: bool) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let class = py.import("tenfour.errors")?.getattr(class)?;
        Ok(PyErr::from_value(class.call1((text, code, is_retryable))?))
    };
    make().unwrap_or_else(|error| error)
}

fn class_of(error: &Error) -> &'static str {
    match error {
        Error::Refused(refusal) => class_of_code(&refusal.code),
        Error::Connect(_)
        | Error::Broken
        | Error::Http(ClientError::Unreachable(_) | ClientError::Connection(_) | ClientError::TimedOut) => {
            "Unreachable"
        }
        Error::OutcomeUnknown => "OutcomeUnknown",
        Error::Corrupt => "Corrupt",
        Error::Memory(LeaseError::Overloaded) | Error::Grant(_) => "Busy",
        Error::Memory(LeaseError::LargerThanPool { .. })
        | Error::Config(_)
        | Error::Buffer(_)
        | Error::Http(ClientError::Endpoint(_)) => "InvalidRequest",
        Error::NotModified => "Error",
        Error::Untrusted(_) | Error::Http(_) => "ProtocolError",
    }
}

/// S3's codes, as `gateway/src/ops/refusal.rs` makes them.
fn class_of_code(code: &str) -> &'static str {
    match code {
        "NoSuchKey" | "NoSuchBucket" | "NoSuchUpload" | "NotFound" => "NotFound",
        "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "RequestTimeTooSkewed"
        | "AccountProblem" => "AccessDenied",
        "PreconditionFailed" => "PreconditionFailed",
        "SlowDown" | "ServiceUnavailable" | "OperationAborted" | "RequestTimeout" => "Busy",
        "XAmzContentSHA256Mismatch" => "Corrupt",
        // Of a call that changes nothing; of others the SDK says that the outcome is unknown.
        "InternalError" | "InsufficientStorage" => "Error",
        _ => "InvalidRequest",
    }
}
