//! Values of the workload: one number says who wrote it, the how-manieth it is and how long, and all of its bytes follow from it.
//!
//! The first eight bytes of a body are the number itself, so that bytes tell what they should be; its ETag is known before it is sent.

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use tenfour_client::Pattern;

/// The smallest body: its number.
pub const BYTES_MIN: u64 = 8;
/// Bits of the number that hold the length; the sequence stands above them.
const LENGTH_BITS: u32 = 24;
/// Bits of the sequence; the client stands above them.
const SEQUENCE_BITS: u32 = 28;

/// One version of one object, written once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Value(pub u64);

impl Value {
    /// The `sequence`-th value of `client`, `bytes` long: at least [`BYTES_MIN`], less than 16 MiB.
    pub fn new(client: u16, sequence: u32, bytes: u64) -> Self {
        let client = u64::from(client) << (LENGTH_BITS + SEQUENCE_BITS);
        let sequence = (u64::from(sequence) % (1 << SEQUENCE_BITS)) << LENGTH_BITS;
        Self(client | sequence | bytes.clamp(BYTES_MIN, (1 << LENGTH_BITS) - 1))
    }

    /// Its length, bytes.
    pub fn bytes(self) -> u64 {
        self.0 % (1 << LENGTH_BITS)
    }

    /// Its content.
    pub fn pattern(self) -> Pattern {
        Pattern::new(self.0, self.bytes())
    }

    /// The ETag of one PUT of it, as text without quotes.
    pub fn etag(self) -> String {
        hex(&Md5::digest(self.pattern().to_bytes()))
    }

    /// The ETag of an upload of it in parts that end at these positions.
    pub fn etag_of_parts(self, ends: &[usize]) -> String {
        let content = self.pattern().to_bytes();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let parts = starts.zip(ends).map(|(start, end)| content.get(start..*end).unwrap_or_default());
        let digests: Vec<u8> = parts.flat_map(Md5::digest).collect();
        format!("{}-{}", hex(&Md5::digest(&digests)), ends.len())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_in_the_bytes_and_the_etag_is_their_md5() {
        let value = Value::new(3, 9, 8);
        assert_eq!(value.bytes(), 8);
        assert_eq!(value.pattern().to_bytes(), value.0.to_le_bytes().as_slice());
        assert_ne!(value, Value::new(3, 10, 8));
        assert_ne!(value, Value::new(4, 9, 8));
        let content = Value::new(1, 1, 5000);
        assert_eq!(content.etag(), hex(&Md5::digest(content.pattern().to_bytes())));
        assert!(content.etag_of_parts(&[2500, 5000]).ends_with("-2"));
    }
}
