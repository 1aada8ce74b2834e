//! S3 over RDMA by HTTP headers: the descriptors that clients of several vendors send in `x-amz-rdma-token`, and the words by which
//! a reliable connection is agreed on beforehand.
//!
//! Read from public sources (NVIDIA's cuObject documents, NooBaa's design, AMD's hipObject, elbencho's `tools/s3rdma`); where these
//! differ, what all of them send is taken. Numbers are hexadecimal unless a field says otherwise; lower case is written, either is
//! read. Nothing in here does I/O, and no decoder panics or allocates more than what it was given.
//!
//! Invariant: what decodes encodes to a text that decodes to the same again.

pub mod control;
mod descriptor;
pub mod headers;
pub mod signature;

mod tests;

pub use descriptor::{DcDescriptor, QueuePairToken, RcToken, Transport};
pub use headers::HIPOBJ_RC_V2;

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A descriptor that names memory of a client, or a queue pair of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// cuObject's: memory that is reached over dynamically connected transport.
    Dc(DcDescriptor),
    /// Memory that is reached over a connection that stands.
    Rc(RcToken),
    /// hipObject's: a queue pair. By itself it is no connection. The pair is the buffer's address and length, where they are appended.
    QueuePair(QueuePairToken, Option<(u64, u64)>),
}

/// What is wrong with a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It has none of the forms that are known.
    #[error(
        "{characters} characters in {fields} fields are no RDMA descriptor: known are cuObject's (81 or 115 characters), rc:CONNECTION:ADDRESS:SIZE:RKEY, \
         and hipObject's 88 digits"
    )]
    Form {
        /// Its length.
        characters: usize,
        /// Parts between colons.
        fields: usize,
    },
    /// A field is not what it has to be.
    #[error("the descriptor's {0} is not {1}")]
    Field(&'static str, &'static str),
    /// The memory has no bytes, or ends beyond the address space.
    #[error("the descriptor's buffer is empty, or ends beyond the address space")]
    Range,
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if let Some(rest) = text.strip_prefix("rc:") {
            return rest.parse().map(Self::Rc);
        }
        let fields = text.split(':').count();
        match (text.split(':').next().map(str::len), fields) {
            (Some(QueuePairToken::DIGITS), 1 | 3) => {
                let (digits, buffer) = text.split_once(':').map_or((text, None), |(a, b)| (a, Some(b)));
                let buffer = buffer.map(buffer_of).transpose()?;
                Ok(Self::QueuePair(digits.parse()?, buffer))
            }
            (_, 7 | 9) => text.parse().map(Self::Dc),
            _ => Err(TokenError::Form { characters: text.len(), fields }),
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dc(descriptor) => descriptor.fmt(out),
            Self::Rc(token) => token.fmt(out),
            Self::QueuePair(token, None) => token.fmt(out),
            Self::QueuePair(token, Some((address, bytes))) => write!(out, "{token}:{address:x}:{bytes:x}"),
        }
    }
}

/// `ADDRESS:SIZE`.
fn buffer_of(text: &str) -> Result<(u64, u64), TokenError> {
    let (address, bytes) = text.split_once(':').ok_or(TokenError::Field("buffer", "ADDRESS:SIZE"))?;
    let number =
        |name, text| hexadecimal(text, 1..=16).ok_or(TokenError::Field(name, "1 to 16 hexadecimal digits"));
    Ok((number("address", address)?, number("size", bytes)?))
}

/// A number of so many hexadecimal digits.
pub(crate) fn hexadecimal(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let is_number = digits.contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_number.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// Exactly so many bytes in hexadecimal.
pub(crate) fn bytes_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = hexadecimal(std::str::from_utf8(digits).ok()?, 2..=2)?.try_into().ok()?;
    }
    Some(bytes)
}

/// Bytes in lower-case hexadecimal.
pub(crate) struct Hexadecimal<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hexadecimal<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// The name of a connection or of a transfer that was agreed on: random, of one user.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl FromStr for SessionId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        bytes_of(text).map(Self).ok_or(TokenError::Field("session", "32 hexadecimal digits"))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hexadecimal(&self.0).fmt(out)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever sees a log must not have the whole of it.
        let [first, second, ..] = self.0;
        write!(out, "SessionId({first:02x}{second:02x}…)")
    }
}

/// A first packet sequence number: 24 bits, not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Psn(u32);

impl Psn {
    /// Of any number: its low 24 bits, or 1 where these are zero.
    pub fn of(number: u32) -> Self {
        Self((number & 0xff_ffff).max(1))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for Psn {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let number = hexadecimal(text, 1..=6).and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| *number != 0);
        number
            .map(Self)
            .ok_or(TokenError::Field("packet sequence number", "1 to 6 hexadecimal digits, not zero"))
    }
}

impl fmt::Display for Psn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:06x}", self.0)
    }
}
