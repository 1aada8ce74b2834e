//! The checksums of object bytes: the five kinds that S3 knows, computed while the bytes are warm, and the ETags of what was
//! uploaded in parts.
//!
//! Nothing here knows where the bytes come from. Each kind that is wanted costs one pass and no more: nothing is computed
//! that was neither asked for nor has to be kept.

use crate::transfer::Digested;
use crc_fast::CrcAlgorithm;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tenfour_erasure::Md5;
use tenfour_types::{Checksum, ChecksumKind, ETag};

/// All kinds, in the order in which answers name them.
pub const KINDS: [ChecksumKind; 5] = [
    ChecksumKind::Crc32,
    ChecksumKind::Crc32c,
    ChecksumKind::Crc64Nvme,
    ChecksumKind::Sha1,
    ChecksumKind::Sha256,
];

/// The name that headers use: `x-amz-checksum-` and this.
pub const fn name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::Crc32 => "crc32",
        ChecksumKind::Crc32c => "crc32c",
        ChecksumKind::Crc64Nvme => "crc64nvme",
        ChecksumKind::Sha1 => "sha1",
        ChecksumKind::Sha256 => "sha256",
    }
}

/// The header that carries a checksum of this kind.
pub const fn header(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::Crc32 => "x-amz-checksum-crc32",
        ChecksumKind::Crc32c => "x-amz-checksum-crc32c",
        ChecksumKind::Crc64Nvme => "x-amz-checksum-crc64nvme",
        ChecksumKind::Sha1 => "x-amz-checksum-sha1",
        ChecksumKind::Sha256 => "x-amz-checksum-sha256",
    }
}

/// The kind of a name, in any case (`CRC32C`, `crc32c`).
pub fn kind(text: &str) -> Option<ChecksumKind> {
    KINDS.into_iter().find(|&kind| name(kind).eq_ignore_ascii_case(text))
}

/// Whether checksums of parts can be combined into that of the whole.
pub const fn combines(kind: ChecksumKind) -> bool {
    matches!(kind, ChecksumKind::Crc32 | ChecksumKind::Crc32c | ChecksumKind::Crc64Nvme)
}

const fn algorithm(kind: ChecksumKind) -> Option<CrcAlgorithm> {
    match kind {
        ChecksumKind::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumKind::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumKind::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumKind::Sha1 | ChecksumKind::Sha256 => None,
    }
}

fn crc_bytes(kind: ChecksumKind, value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    bytes.get(8 - kind.bytes()..).unwrap_or_default().to_vec()
}

/// Computes one kind of checksum.
pub struct Hasher {
    kind: ChecksumKind,
    state: State,
}

enum State {
    Crc(crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    /// Of no bytes yet.
    pub fn new(kind: ChecksumKind) -> Self {
        let state = match algorithm(kind) {
            Some(algorithm) => State::Crc(crc_fast::Digest::new(algorithm)),
            None if kind == ChecksumKind::Sha1 => State::Sha1(Sha1::new()),
            None => State::Sha256(Sha256::new()),
        };
        Self { kind, state }
    }

    /// The kind.
    pub fn kind(&self) -> ChecksumKind {
        self.kind
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc(digest) => digest.update(bytes),
            State::Sha1(digest) => digest.update(bytes),
            State::Sha256(digest) => digest.update(bytes),
        }
    }

    /// The checksum of all bytes.
    pub fn finish(self) -> Checksum {
        let value = match self.state {
            State::Crc(digest) => crc_bytes(self.kind, digest.finalize()),
            State::Sha1(digest) => digest.finalize().to_vec(),
            State::Sha256(digest) => digest.finalize().to_vec(),
        };
        Checksum { kind: self.kind, value, parts: None }
    }
}

/// Every checksum that is wanted of the bytes of an object or a part. Those that are stored are encoded, and that gives their
/// CRC-64/NVME: no pass is made here for it.
pub struct Hashers {
    wanted: Vec<(ChecksumKind, Option<Hasher>)>,
}

impl Hashers {
    /// Of no bytes yet.
    pub fn new(kinds: impl IntoIterator<Item = ChecksumKind>) -> Self {
        let wanted = |kind| (kind, (kind != ChecksumKind::Crc64Nvme).then(|| Hasher::new(kind)));
        Self { wanted: kinds.into_iter().map(wanted).collect() }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.wanted
            .iter_mut()
            .filter_map(|(_, hasher)| hasher.as_mut())
            .for_each(|hasher| hasher.update(bytes));
    }

    /// The checksums, when the encoder has seen all bytes.
    pub fn finish(self, digested: &Digested) -> Vec<Checksum> {
        let checksum = |(kind, hasher): (ChecksumKind, Option<Hasher>)| match hasher {
            Some(hasher) => hasher.finish(),
            None => Checksum { kind, value: crc_bytes(kind, digested.crc64), parts: None },
        };
        self.wanted.into_iter().map(checksum).collect()
    }
}

/// The ETag of a multipart object: the MD5 of its parts' MD5s, and their number.
pub fn multipart_etag(parts: impl IntoIterator<Item = ETag>) -> ETag {
    let mut md5 = Md5::new();
    let mut count = 0;
    for part in parts {
        md5.update(&part.md5);
        count += 1;
    }
    ETag { md5: md5.finish(), parts: Some(count) }
}

/// The checksum of a multipart object from those of its parts, each with its length; `None` when one is missing.
/// `full_object` says whether it is one of all bytes, which only CRCs allow, or one of the parts' checksums.
pub fn of_parts(
    kind: ChecksumKind,
    full_object: bool,
    parts: &[(u64, Option<&Checksum>)],
) -> Option<Checksum> {
    if full_object {
        return combined(kind, parts);
    }
    let mut hasher = Hasher::new(kind);
    for (_, checksum) in parts {
        hasher.update(&(*checksum)?.value);
    }
    Some(Checksum { parts: Some(u32::try_from(parts.len()).ok()?), ..hasher.finish() })
}

fn combined(kind: ChecksumKind, parts: &[(u64, Option<&Checksum>)]) -> Option<Checksum> {
    let algorithm = algorithm(kind)?;
    let mut whole: Option<u64> = None;
    for &(size, checksum) in parts {
        let part = number(&checksum?.value)?;
        whole = Some(match whole {
            None => part,
            Some(before) => crc_fast::checksum_combine(algorithm, before, part, size),
        });
    }
    Some(Checksum { kind, value: crc_bytes(kind, whole?), parts: None })
}

fn number(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |number, &byte| (number << 8) | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(kind: ChecksumKind, bytes: &[u8]) -> Checksum {
        let mut hasher = Hasher::new(kind);
        hasher.update(bytes);
        hasher.finish()
    }

    #[test]
    fn known_answers() {
        let bytes = b"123456789";
        assert_eq!(hex::encode(of(ChecksumKind::Crc32, bytes).value), "cbf43926");
        assert_eq!(hex::encode(of(ChecksumKind::Crc32c, bytes).value), "e3069283");
        assert_eq!(hex::encode(of(ChecksumKind::Crc64Nvme, bytes).value), "ae8b14860a799888");
        assert_eq!(
            hex::encode(of(ChecksumKind::Sha1, bytes).value),
            "f7c3bc1d808e04732adf679965ccc34ca7ae3441"
        );
        assert_eq!(
            hex::encode(of(ChecksumKind::Sha256, bytes).value),
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
        );
        for kind in KINDS {
            assert_eq!(of(kind, bytes).value.len(), kind.bytes());
            assert_eq!(super::kind(&name(kind).to_uppercase()), Some(kind));
        }
    }

    #[test]
    fn the_multipart_etag_is_the_md5_of_md5s() {
        let of = |bytes: &[u8]| ETag { md5: md5::Md5::digest(bytes).into(), parts: None };
        // Computed with Python's hashlib.
        let etag = multipart_etag([of(b"a"), of(b"b")]);
        assert_eq!(etag.to_string(), "96e024ba2074fe77e8e965ba43a704be-2");
    }

    proptest! {
        #[test]
        fn crcs_of_parts_combine_into_that_of_the_whole(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 1..6)) {
            let whole: Vec<u8> = parts.concat();
            for kind in KINDS.into_iter().filter(|&kind| combines(kind)) {
                let sums: Vec<Checksum> = parts.iter().map(|part| of(kind, part)).collect();
                let pairs: Vec<_> = parts.iter().zip(&sums).map(|(part, sum)| (part.len() as u64, Some(sum))).collect();
                prop_assert_eq!(of_parts(kind, true, &pairs), Some(of(kind, &whole)));
            }
        }

        #[test]
        fn a_composite_is_the_checksum_of_checksums(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 1..6)) {
            for kind in KINDS {
                let sums: Vec<Checksum> = parts.iter().map(|part| of(kind, part)).collect();
                let pairs: Vec<_> = parts.iter().zip(&sums).map(|(part, sum)| (part.len() as u64, Some(sum))).collect();
                let joined: Vec<u8> = sums.iter().flat_map(|sum| sum.value.clone()).collect();
                let composite = of_parts(kind, false, &pairs).unwrap();
                prop_assert_eq!(&composite.value, &of(kind, &joined).value);
                prop_assert_eq!(composite.parts, Some(parts.len() as u32));
            }
        }
    }

    #[test]
    fn a_missing_part_checksum_gives_none() {
        let sum = of(ChecksumKind::Crc32, b"a");
        for full_object in [true, false] {
            assert_eq!(of_parts(ChecksumKind::Crc32, full_object, &[(1, Some(&sum)), (1, None)]), None);
        }
        assert_eq!(of_parts(ChecksumKind::Sha1, true, &[(1, Some(&of(ChecksumKind::Sha1, b"a")))]), None);
    }
}
