//! The head of a frame: 40 bytes, little-endian, before the payload if there is one.
//!
//! ```text
//! 0 kind   1 flags (bit 0: immediate is there)   2..4 zero   4..8 payload or range length   8..16 sequence
//! 16..24 key   24..32 address   32..36 immediate data or error code   36..40 zero
//! ```
//!
//! Requests are numbered from 1 in each direction; answers carry the number of the request.

/// Bytes of a head.
pub(crate) const HEAD_BYTES: usize = 40;

/// A decoded head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Frame {
    /// Request: `bytes` of payload follow, for the granted range.
    Write { sequence: u64, key: u64, address: u64, bytes: u32, immediate: Option<u32> },
    /// Request: answer with the bytes of the granted range.
    Read { sequence: u64, key: u64, address: u64, bytes: u32 },
    /// Request: a message of `bytes` follows.
    Send { sequence: u64, bytes: u32 },
    /// Answer: every request up to this one was executed.
    Ack { sequence: u64 },
    /// Answer to a READ: its bytes follow. Every request before it was executed.
    ReadData { sequence: u64, bytes: u32 },
    /// Answer: every request before this one was executed, this one failed. The last frame.
    Refuse { sequence: u64, code: u32 },
    /// The end, in order. The last frame.
    Bye,
}

impl Frame {
    pub(crate) fn encode(self) -> [u8; HEAD_BYTES] {
        let (kind, flags, bytes, sequence, key, address, word) = match self {
            Self::Write { sequence, key, address, bytes, immediate } => {
                (1, u8::from(immediate.is_some()), bytes, sequence, key, address, immediate.unwrap_or(0))
            }
            Self::Read { sequence, key, address, bytes } => (2, 0, bytes, sequence, key, address, 0),
            Self::Send { sequence, bytes } => (3, 0, bytes, sequence, 0, 0, 0),
            Self::Ack { sequence } => (4, 0, 0, sequence, 0, 0, 0),
            Self::ReadData { sequence, bytes } => (5, 0, bytes, sequence, 0, 0, 0),
            Self::Refuse { sequence, code } => (6, 0, 0, sequence, 0, 0, code),
            Self::Bye => (7, 0, 0, 0, 0, 0, 0),
        };
        let mut head = [0; HEAD_BYTES];
        head[0] = kind;
        head[1] = flags;
        head[4..8].copy_from_slice(&bytes.to_le_bytes());
        head[8..16].copy_from_slice(&sequence.to_le_bytes());
        head[16..24].copy_from_slice(&key.to_le_bytes());
        head[24..32].copy_from_slice(&address.to_le_bytes());
        head[32..36].copy_from_slice(&word.to_le_bytes());
        head
    }

    /// `None` for anything that `encode` does not make.
    pub(crate) fn decode(head: &[u8; HEAD_BYTES]) -> Option<Self> {
        let [kind, flags, ..] = *head;
        let bytes = u32::from_le_bytes(*head.get(4..)?.first_chunk()?);
        let sequence = u64::from_le_bytes(*head.get(8..)?.first_chunk()?);
        let key = u64::from_le_bytes(*head.get(16..)?.first_chunk()?);
        let address = u64::from_le_bytes(*head.get(24..)?.first_chunk()?);
        let word = u32::from_le_bytes(*head.get(32..)?.first_chunk()?);
        let frame = match kind {
            1 => Self::Write { sequence, key, address, bytes, immediate: (flags == 1).then_some(word) },
            2 => Self::Read { sequence, key, address, bytes },
            3 => Self::Send { sequence, bytes },
            4 => Self::Ack { sequence },
            5 => Self::ReadData { sequence, bytes },
            6 => Self::Refuse { sequence, code: word },
            7 => Self::Bye,
            _ => return None,
        };
        // One form for each frame: fields that a kind does not have are zero, flags are known.
        (frame.encode() == *head).then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{is_documented, vector};
    use proptest::prelude::*;

    #[test]
    fn heads_are_the_documented_ones() {
        let bytes = |name| vector(name).len() as u32 / 2;
        let login = Frame::Send { sequence: 1, bytes: bytes("Login") };
        let (key, address) = (0x0123_4567_89ab_cdef, (1 << 32) + 65_536);
        let put =
            Frame::Write { sequence: 2, key, address, bytes: bytes("bytes of the slot"), immediate: Some(1) };
        is_documented(&[("head before Login", &login.encode()), ("head before the slot", &put.encode())]);
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let (sequence, word) = (any::<u64>, any::<u32>);
        prop_oneof![
            (sequence(), sequence(), sequence(), word(), any::<Option<u32>>()).prop_map(
                |(sequence, key, address, bytes, immediate)| Frame::Write {
                    sequence,
                    key,
                    address,
                    bytes,
                    immediate
                }
            ),
            (sequence(), sequence(), sequence(), word())
                .prop_map(|(sequence, key, address, bytes)| Frame::Read { sequence, key, address, bytes }),
            (sequence(), word()).prop_map(|(sequence, bytes)| Frame::Send { sequence, bytes }),
            sequence().prop_map(|sequence| Frame::Ack { sequence }),
            (sequence(), word()).prop_map(|(sequence, bytes)| Frame::ReadData { sequence, bytes }),
            (sequence(), word()).prop_map(|(sequence, code)| Frame::Refuse { sequence, code }),
            Just(Frame::Bye),
        ]
    }

    proptest! {
        #[test]
        fn a_frame_survives_its_bytes(frame in frames()) {
            prop_assert_eq!(Frame::decode(&frame.encode()), Some(frame));
        }

        #[test]
        fn any_bytes_are_a_frame_or_refused(kind in 0u8..9, flags in 0u8..3, rest in prop::array::uniform32(any::<u8>())) {
            let mut head = [0; HEAD_BYTES];
            head[0] = kind;
            head[1] = flags;
            head[4..36].copy_from_slice(&rest);
            if let Some(frame) = Frame::decode(&head) {
                prop_assert_eq!(frame.encode(), head);
            }
        }
    }
}
