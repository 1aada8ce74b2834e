//! A descriptor in the ring: 40 bytes, little-endian; a SEND's message follows, padded to 8.
//!
//! ```text
//! 0 kind   1 flags (bit 0: immediate is there)   2..4 zero   4..8 bytes   8..16 key
//! 16..24 address (the responder's)   24..32 offset (in the initiator's pool)   32..36 immediate   36..40 zero
//! ```

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR_BYTES: usize = 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Descriptor {
    Write { key: u64, address: u64, bytes: u32, offset: u64, immediate: Option<u32> },
    Read { key: u64, address: u64, bytes: u32 },
    Send { bytes: u32 },
}

impl Descriptor {
    /// What it takes in the ring, with its message.
    pub(crate) fn ring_bytes(self) -> u64 {
        let message = match self {
            Self::Send { bytes } => u64::from(bytes),
            Self::Write { .. } | Self::Read { .. } => 0,
        };
        DESCRIPTOR_BYTES as u64 + message.next_multiple_of(8)
    }

    pub(crate) fn encode(self) -> [u8; DESCRIPTOR_BYTES] {
        let (kind, flags, bytes, key, address, offset, word) = match self {
            Self::Write { key, address, bytes, offset, immediate } => {
                (1, u8::from(immediate.is_some()), bytes, key, address, offset, immediate.unwrap_or(0))
            }
            Self::Read { key, address, bytes } => (2, 0, bytes, key, address, 0, 0),
            Self::Send { bytes } => (3, 0, bytes, 0, 0, 0, 0),
        };
        let mut encoded = [0; DESCRIPTOR_BYTES];
        encoded[0] = kind;
        encoded[1] = flags;
        encoded[4..8].copy_from_slice(&u32::to_le_bytes(bytes));
        encoded[8..16].copy_from_slice(&u64::to_le_bytes(key));
        encoded[16..24].copy_from_slice(&u64::to_le_bytes(address));
        encoded[24..32].copy_from_slice(&u64::to_le_bytes(offset));
        encoded[32..36].copy_from_slice(&u32::to_le_bytes(word));
        encoded
    }

    /// `None` for anything that `encode` does not make.
    pub(crate) fn decode(encoded: &[u8; DESCRIPTOR_BYTES]) -> Option<Self> {
        let [kind, flags, ..] = *encoded;
        let bytes = u32::from_le_bytes(*encoded.get(4..)?.first_chunk()?);
        let key = u64::from_le_bytes(*encoded.get(8..)?.first_chunk()?);
        let address = u64::from_le_bytes(*encoded.get(16..)?.first_chunk()?);
        let offset = u64::from_le_bytes(*encoded.get(24..)?.first_chunk()?);
        let word = u32::from_le_bytes(*encoded.get(32..)?.first_chunk()?);
        let descriptor = match kind {
            1 => Self::Write { key, address, bytes, offset, immediate: (flags == 1).then_some(word) },
            2 => Self::Read { key, address, bytes },
            3 => Self::Send { bytes },
            _ => return None,
        };
        (descriptor.encode() == *encoded).then_some(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_descriptor_or_refused(kind in 0u8..5, flags in 0u8..3, rest in prop::array::uniform32(any::<u8>())) {
            let mut encoded = [0; DESCRIPTOR_BYTES];
            encoded[0] = kind;
            encoded[1] = flags;
            encoded[4..36].copy_from_slice(&rest);
            if let Some(descriptor) = Descriptor::decode(&encoded) {
                prop_assert_eq!(descriptor.encode(), encoded);
                prop_assert!(descriptor.ring_bytes() >= DESCRIPTOR_BYTES as u64);
            }
        }

        #[test]
        fn a_descriptor_survives_its_bytes(key in any::<u64>(), address in any::<u64>(), offset in any::<u64>(), bytes in any::<u32>(), immediate in any::<Option<u32>>()) {
            for descriptor in [
                Descriptor::Write { key, address, bytes, offset, immediate },
                Descriptor::Read { key, address, bytes },
                Descriptor::Send { bytes },
            ] {
                prop_assert_eq!(Descriptor::decode(&descriptor.encode()), Some(descriptor));
            }
        }
    }
}
