//! The secret that the processes of one cluster share. It never travels; `handshake` proves that both ends have it.

use std::fmt;
use std::hint::black_box;
use thiserror::Error;

/// Why text is no cluster key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a cluster key is 64 hexadecimal digits")]
pub struct KeyError;

/// 32 secret bytes, zeroed when dropped and hidden from `Debug`.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// A key of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A key from 64 hexadecimal digits; surrounding white space is ignored.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let digits = text.trim().as_bytes();
        if digits.len() != 64 {
            return Err(KeyError);
        }
        let mut key = Self([0; 32]);
        for (byte, pair) in key.0.iter_mut().zip(digits.chunks_exact(2)) {
            let text = std::str::from_utf8(pair).map_err(|_| KeyError)?;
            if !pair.iter().all(u8::is_ascii_hexdigit) {
                return Err(KeyError);
            }
            *byte = u8::from_str_radix(text, 16).map_err(|_| KeyError)?;
        }
        Ok(key)
    }

    /// A fresh random key.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The secret bytes, for those who must store or use them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ClusterKey(hidden)")
    }
}

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the compiler from leaving out a store that nothing reads.
        black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_strict_and_debug_says_nothing() {
        let key = ClusterKey::from_hex(&format!(" {}\n", "0a".repeat(32))).unwrap();
        assert_eq!(key.expose(), &[10; 32]);
        assert_eq!(format!("{key:?}"), "ClusterKey(hidden)");
        for bad in ["", "0a", &"0g".repeat(32), &"+1".repeat(32), &"é".repeat(32)] {
            assert!(ClusterKey::from_hex(bad).is_err(), "{bad}");
        }
    }
}
