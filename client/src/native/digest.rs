//! Digests of objects, computed a piece at a time: whoever waits for a call can stop waiting between two.

use crc_fast::CrcAlgorithm;
use sha2::{Digest as _, Sha256};
use tenfour_types::{Checksum, ChecksumKind};

/// Bytes at once; some milliseconds on a slow processor.
const PIECE_BYTES: usize = 4 << 20;

async fn each_piece(bytes: &[u8], mut take: impl FnMut(&[u8])) {
    for piece in bytes.chunks(PIECE_BYTES) {
        take(piece);
        tokio::task::yield_now().await;
    }
}

/// What the native protocol compares.
pub(super) async fn blake3_of(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    each_piece(bytes, |piece| {
        hasher.update(piece);
    })
    .await;
    *hasher.finalize().as_bytes()
}

/// What a signature over HTTP covers.
pub(super) async fn sha256_of(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    each_piece(bytes, |piece| hasher.update(piece)).await;
    hasher.finalize().into()
}

/// Compares an object that arrives over HTTP with a checksum of all of its bytes, if there is one that is known here: every kind but
/// SHA-1.
pub(super) struct Arriving {
    expected: Vec<u8>,
    hasher: Hasher,
}

enum Hasher {
    Crc(crc_fast::Digest),
    Sha256(Sha256),
}

impl Arriving {
    /// With the first of these that can be compared.
    pub(super) fn with(checksums: &[Checksum]) -> Option<Self> {
        checksums.iter().filter(|checksum| checksum.parts.is_none()).find_map(|checksum| {
            let crc = |algorithm| Some(Hasher::Crc(crc_fast::Digest::new(algorithm)));
            let hasher = match checksum.kind {
                ChecksumKind::Crc32 => crc(CrcAlgorithm::Crc32IsoHdlc),
                ChecksumKind::Crc32c => crc(CrcAlgorithm::Crc32Iscsi),
                ChecksumKind::Crc64Nvme => crc(CrcAlgorithm::Crc64Nvme),
                ChecksumKind::Sha256 => Some(Hasher::Sha256(Sha256::new())),
                ChecksumKind::Sha1 => None,
            };
            Some(Self { expected: checksum.value.clone(), hasher: hasher? })
        })
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.hasher {
            Hasher::Crc(digest) => digest.update(bytes),
            Hasher::Sha256(digest) => digest.update(bytes),
        }
    }

    /// Whether what arrived is what was stored.
    pub(super) fn agrees(self) -> bool {
        match self.hasher {
            // A CRC is the last bytes of the number.
            Hasher::Crc(digest) => digest.finalize().to_be_bytes().ends_with(&self.expected),
            Hasher::Sha256(digest) => digest.finalize()[..] == self.expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agrees(kind: ChecksumKind, value: &[u8], bytes: &[u8]) -> Option<bool> {
        let mut arriving = Arriving::with(&[Checksum { kind, value: value.to_vec(), parts: None }])?;
        bytes.chunks(3).for_each(|piece| arriving.update(piece));
        Some(arriving.agrees())
    }

    /// The check values of the catalogue of CRCs, and the SHA-256 of the same.
    #[tokio::test]
    async fn what_arrives_is_compared_with_every_kind_but_one() {
        let digits = b"123456789";
        let sha256 = sha256_of(digits).await;
        for (kind, value) in [
            (ChecksumKind::Crc32, &[0xcb, 0xf4, 0x39, 0x26][..]),
            (ChecksumKind::Crc32c, &[0xe3, 0x06, 0x92, 0x83]),
            (ChecksumKind::Crc64Nvme, &[0xae, 0x8b, 0x14, 0x86, 0x0a, 0x79, 0x98, 0x88]),
            (ChecksumKind::Sha256, &sha256),
        ] {
            assert_eq!(agrees(kind, value, digits), Some(true), "{kind:?}");
            assert_eq!(agrees(kind, value, b"123456780"), Some(false), "{kind:?}");
        }
        assert_eq!(agrees(ChecksumKind::Sha1, &[0; 20], digits), None);
        let composite = Checksum { kind: ChecksumKind::Crc32, value: vec![0; 4], parts: Some(2) };
        assert!(Arriving::with(&[composite]).is_none());
    }

    #[tokio::test]
    async fn pieces_make_the_digest_of_the_whole() {
        let bytes = vec![7; 2 * PIECE_BYTES + 1];
        assert_eq!(blake3_of(&bytes).await, *blake3::hash(&bytes).as_bytes());
        assert_eq!(sha256_of(&bytes).await[..], Sha256::digest(&bytes)[..]);
    }
}
