//! Identifiers. Each is its own type, so that a node is never taken for a target; none carries behaviour beyond its codec.

use crate::limits::{DATA_SHARDS, DIGEST_BYTES, KEY_SLOTS, TOTAL_SHARDS};
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

number_id!(
    /// One storage server.
    NodeId(u32), "n"
);
number_id!(
    /// One disk of one node; never used again once it was lost.
    TargetId(u32), "t"
);
number_id!(
    /// A placement group: a row of 14 targets.
    GroupId(u32), "pg"
);
number_id!(
    /// A Raft group of the metadata service; group 0 holds the cluster's own state, the others index objects.
    MetaGroupId(u16), "mg"
);
number_id!(
    /// The version of the cluster map.
    Epoch(u64), "e"
);
number_id!(
    /// A gateway's lease: it numbers its stripes and commands under it.
    LeaseId(u64), "l"
);
number_id!(
    /// One incarnation of a bucket: deleted and created anew, a bucket has another id.
    BucketId(u64), "b"
);
number_id!(
    /// The version of what every request is checked against: buckets and users. Fenced into every metadata group.
    ConfigVersion(u64), "c"
);

/// Identifies a cluster: 16 random bytes, in every superblock and every handshake, so that no disk or peer of another
/// cluster is ever taken for ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}
impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// The position of a shard in its stripe: 0..=9 are data, 10..=13 parity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct ShardIndex(u8);

impl ShardIndex {
    /// The index, or `None` when it is 14 or more.
    pub const fn new(index: usize) -> Option<Self> {
        if index < TOTAL_SHARDS { Some(Self(index as u8)) } else { None }
    }
    /// All 14, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TOTAL_SHARDS as u8).map(Self)
    }
    /// As a position in an array of 14.
    pub const fn get(self) -> usize {
        self.0 as usize
    }
    /// Whether the shard holds object bytes as they are.
    pub const fn is_data(self) -> bool {
        (self.0 as usize) < DATA_SHARDS
    }
}
impl TryFrom<u8> for ShardIndex {
    type Error = &'static str;
    fn try_from(index: u8) -> Result<Self, Self::Error> {
        Self::new(usize::from(index)).ok_or("shard index above 13")
    }
}
impl From<ShardIndex> for u8 {
    fn from(index: ShardIndex) -> Self {
        index.0
    }
}
impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl fmt::Debug for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Names a stripe for ever: the metadata group whose objects it holds, the lease that wrote it, and a counter under that lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StripeId {
    /// The metadata group of the stripe's row.
    pub meta_group: MetaGroupId,
    /// The lease of the gateway that wrote it (48 bits are stored).
    pub lease: LeaseId,
    /// Counts up under the lease.
    pub counter: u64,
}

impl StripeId {
    /// Length of [`StripeId::to_bytes`].
    pub const BYTES: usize = 16;

    /// Big-endian, so that the order of bytes is the order of ids: group (2), lease (6), counter (8).
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let head = (u64::from(self.meta_group.0) << 48) | (self.lease.0 & LEASE_MASK);
        let mut out = [0; Self::BYTES];
        let (group_and_lease, counter) = out.split_at_mut(8);
        group_and_lease.copy_from_slice(&head.to_be_bytes());
        counter.copy_from_slice(&self.counter.to_be_bytes());
        out
    }

    /// The inverse of [`StripeId::to_bytes`].
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let value = u128::from_be_bytes(bytes);
        let head = (value >> 64) as u64;
        Self {
            meta_group: MetaGroupId((head >> 48) as u16),
            lease: LeaseId(head & LEASE_MASK),
            counter: value as u64,
        }
    }
}

const LEASE_MASK: u64 = (1 << 48) - 1;

impl fmt::Display for StripeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.meta_group.0, self.lease.0, self.counter)
    }
}
impl fmt::Debug for StripeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stripe {self}")
    }
}

/// Names a command for ever, so that sent twice it happens once: the lease it was sent under and a counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommandId {
    /// The sender's lease.
    pub lease: LeaseId,
    /// Counts up under the lease, over all metadata groups.
    pub sequence: u64,
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.lease, self.sequence)
    }
}
impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command {self}")
    }
}

/// Names a multipart upload: the command that created it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UploadId(pub CommandId);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}{:016x}", self.0.lease.0, self.0.sequence)
    }
}
impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upload {self}")
    }
}
impl std::str::FromStr for UploadId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const MALFORMED: &str = "not an upload id";
        // One form for each id: no sign, which the parser of numbers takes, and no upper case.
        if text.len() != 28 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(MALFORMED);
        }
        let (lease, sequence) = text.split_at(12);
        let number = |digits| u64::from_str_radix(digits, 16).map_err(|_| MALFORMED);
        Ok(Self(CommandId { lease: LeaseId(number(lease)?), sequence: number(sequence)? }))
    }
}

/// The first 16 bytes of a BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; DIGEST_BYTES]);

impl Digest {
    /// The digest of what was fed to `hasher`.
    pub fn finalize(hasher: &blake3::Hasher) -> Self {
        let mut out = [0; DIGEST_BYTES];
        hasher.finalize_xof().fill(&mut out);
        Self(out)
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// The fixed slot (0..1024) of a key: buckets and keys hash to slots, slots map to metadata groups.
pub fn key_slot(bucket: BucketId, key: &str) -> u16 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bucket.0.to_le_bytes());
    hasher.update(key.as_bytes());
    let Digest([a, b, ..]) = Digest::finalize(&hasher);
    u16::from_le_bytes([a, b]) % KEY_SLOTS
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stripe_ids_survive_and_keep_their_order(a in any::<(u16, u64, u64)>(), b in any::<(u16, u64, u64)>()) {
            let id = |(group, lease, counter): (u16, u64, u64)| StripeId {
                meta_group: MetaGroupId(group), lease: LeaseId(lease & LEASE_MASK), counter,
            };
            let (a, b) = (id(a), id(b));
            prop_assert_eq!(StripeId::from_bytes(a.to_bytes()), a);
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
        }

        #[test]
        fn upload_ids_survive_as_text(lease in 0..=LEASE_MASK, sequence: u64) {
            let id = UploadId(CommandId { lease: LeaseId(lease), sequence });
            prop_assert_eq!(id.to_string().parse::<UploadId>(), Ok(id));
        }

        #[test]
        fn no_text_makes_the_upload_id_parser_panic(text in ".*") {
            let _ = text.parse::<UploadId>();
        }
    }

    #[test]
    fn a_shard_index_is_below_fourteen() {
        assert!(ShardIndex::new(14).is_none());
        assert_eq!(ShardIndex::all().count(), 14);
        assert_eq!(ShardIndex::all().filter(|index| index.is_data()).count(), 10);
    }
}
