//! What clients name and see: buckets, keys, ETags, checksums, headers.

use crate::limits::{BUCKET_NAME_BYTES_MAX, KEY_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// A name that S3 does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// See the S3 rules for bucket names.
    #[error(
        "a bucket name has 3 to 63 of a-z, 0-9, '.' and '-', begins and ends with a letter or digit, \
         has no two dots in a row and is not an IP address"
    )]
    Bucket,
    /// Empty or over 1,024 bytes.
    #[error("a key has 1 to 1024 bytes of UTF-8")]
    Key,
}

/// The name of a bucket, by the S3 rules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BucketName(Arc<str>);

impl BucketName {
    /// Checks the name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
        let ends =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = name.as_bytes();
        let valid = (3..=BUCKET_NAME_BYTES_MAX).contains(&bytes.len())
            && bytes.iter().all(|&byte| allowed(byte))
            && ends(bytes.first())
            && ends(bytes.last())
            && !name.contains("..")
            && name.parse::<std::net::Ipv4Addr>().is_err();
        if valid { Ok(Self(name.into())) } else { Err(NameError::Bucket) }
    }
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An object's key: 1 to 1,024 bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// Checks the key.
    pub fn new(key: &str) -> Result<Self, NameError> {
        if (1..=KEY_BYTES_MAX).contains(&key.len()) { Ok(Self(key.into())) } else { Err(NameError::Key) }
    }
    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! checked_name {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }
    };
}
checked_name!(BucketName);
checked_name!(ObjectKey);

/// An entity tag as S3 clients expect it: the MD5 of the bytes, or for a multipart object the MD5 of its parts' MD5s and their number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ETag {
    /// 16 bytes of MD5.
    pub md5: [u8; 16],
    /// The number of parts, for an object that was uploaded in parts.
    pub parts: Option<u32>,
}

impl fmt::Display for ETag {
    /// Without the quotes that HTTP puts around it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.md5.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        self.parts.map_or(Ok(()), |parts| write!(f, "-{parts}"))
    }
}
impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The checksums that S3 knows beside MD5.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum ChecksumKind {
    /// CRC-32 (ISO-HDLC), 4 bytes.
    Crc32,
    /// CRC-32C (Castagnoli), 4 bytes.
    Crc32c,
    /// CRC-64/NVME, 8 bytes.
    Crc64Nvme,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
}

impl ChecksumKind {
    /// Length of a value, bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// A checksum of an object or a part, as the client sent it and it was verified, or as it was computed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checksum {
    /// Which.
    pub kind: ChecksumKind,
    /// Big-endian, as S3 encodes it in base64.
    pub value: Vec<u8>,
    /// The number of parts when this is a checksum of the parts' checksums (COMPOSITE); `None` when it is one of all bytes (`FULL_OBJECT`).
    pub parts: Option<u32>,
}

/// What a client stored beside the bytes and gets back with them: lower-case names of standard headers
/// (`content-type`, `cache-control`, …) and of user metadata (`x-amz-meta-…`), in the order they came.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of a header, by its lower-case name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
    /// Names and values together, bytes: what `HEADERS_BYTES_MAX` bounds.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_s3_rules() {
        for good in ["abc", "my-bucket.v2", "0ab", &"a".repeat(63)] {
            assert!(BucketName::new(good).is_ok(), "{good}");
        }
        for bad in ["ab", "Abc", "-abc", "abc-", "a..b", "192.168.0.1", "a_b", "", "a/b", &"a".repeat(64)] {
            assert_eq!(BucketName::new(bad), Err(NameError::Bucket), "{bad}");
        }
    }

    #[test]
    fn keys_have_1_to_1024_bytes() {
        assert!(ObjectKey::new("").is_err());
        assert!(ObjectKey::new(&"ä".repeat(512)).is_ok());
        assert!(ObjectKey::new(&"ä".repeat(513)).is_err());
    }

    #[test]
    fn etags_print_as_clients_expect() {
        let md5 = [0xab; 16];
        assert_eq!(ETag { md5, parts: None }.to_string(), "ab".repeat(16));
        assert_eq!(ETag { md5, parts: Some(3) }.to_string(), format!("{}-3", "ab".repeat(16)));
    }
}
