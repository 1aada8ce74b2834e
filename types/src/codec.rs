//! How a value becomes bytes: one byte of format version, then postcard. A decoder takes any bytes and never panics.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Written by a newer version, or not ours at all.
    #[error("{name}: format version {found} is not one that this build reads (1 to {newest})")]
    Version {
        /// What was to be read.
        name: &'static str,
        /// The version byte found.
        found: u8,
        /// The newest version that can be read.
        newest: u8,
    },
    /// Cut off, too long, or with fields out of range.
    #[error("{name}: malformed")]
    Malformed {
        /// What was to be read.
        name: &'static str,
    },
}

/// A value with a versioned binary form, stored or sent.
pub trait Wire: Serialize + DeserializeOwned {
    /// For error messages.
    const NAME: &'static str;
    /// The version that is written; a reader knows this one and the migrations from those before it.
    const VERSION: u8 = 1;

    /// The bytes of this value.
    fn to_bytes(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![Self::VERSION]).unwrap_or_default()
    }

    /// The value of these bytes, all of them.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Malformed { name: Self::NAME };
        let (&version, body) = bytes.split_first().ok_or_else(|| malformed.clone())?;
        if version == 0 || version > Self::VERSION {
            return Err(DecodeError::Version { name: Self::NAME, found: version, newest: Self::VERSION });
        }
        Self::from_body(version, body).ok_or(malformed)
    }

    /// Reads the body of a given version; a type whose format changed overrides this with its chain of migrations.
    fn from_body(_version: u8, body: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(body) {
            Ok((value, [])) => Some(value),
            _ => None,
        }
    }
}

/// Fixed-layout fields: reads little-endian numbers and byte arrays off a slice, never past its end.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
