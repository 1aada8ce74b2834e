//! What the two ends say to each other in SENDs and in the private data of connection management. Pure: bytes in, words out.
//!
//! ```text
//! head of a SEND, 8 bytes   0 kind   1 flags (bit 0: last fragment)   2..4 credits given back   4..8 code (bye)   then payload
//! greeting, 12 bytes        0..4 "10-4"   4 version   5 own length   6..8 receives   8..12 zero
//! ```
//!
//! Numbers are little-endian. A message longer than a slot travels in fragments, back to back on its queue pair. A credit stands
//! for one receive that a message's fragment or an immediate may consume; the other kinds consume receives that are kept apart
//! for them.

use crate::OperationError;

/// Bytes of a head.
pub(super) const HEAD_BYTES: usize = 8;
/// Payload of one fragment, bytes.
pub(super) const FRAGMENT_BYTES: usize = 4096;
/// Memory of one receive or staged send, bytes.
pub(super) const SLOT_BYTES: usize = HEAD_BYTES + FRAGMENT_BYTES;
/// Bytes of a greeting.
pub(super) const GREETING_BYTES: usize = 12;

const MAGIC: [u8; 4] = *b"10-4";
const VERSION: u8 = 1;
/// A code with this bit speaks of the hearer's operation, without it of the speaker's own.
const YOURS: u32 = 0x100;

/// The head of a SEND.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Receives that the speaker has made ready again since it last said so.
    pub(super) credits: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A part of a message follows.
    Fragment { last: bool },
    /// Nothing but credits.
    Credits,
    /// The last SEND.
    Bye(Bye),
}

/// Why an end hangs up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bye {
    /// In order.
    Closed,
    /// The speaker's own operation failed without the device knowing.
    Mine(OperationError),
    /// The speaker refuses what the hearer did.
    Yours(OperationError),
}

impl Head {
    pub(super) fn encode(self) -> [u8; HEAD_BYTES] {
        let (kind, flags, code) = match self.kind {
            Kind::Fragment { last } => (1, u8::from(last), 0),
            Kind::Credits => (2, 0, 0),
            Kind::Bye(Bye::Closed) => (3, 0, 0),
            Kind::Bye(Bye::Mine(error)) => (3, 0, error.code()),
            Kind::Bye(Bye::Yours(error)) => (3, 0, YOURS | error.code()),
        };
        let mut bytes = [0; HEAD_BYTES];
        bytes[..2].copy_from_slice(&[kind, flags]);
        bytes[2..4].copy_from_slice(&self.credits.to_le_bytes());
        bytes[4..].copy_from_slice(&code.to_le_bytes());
        bytes
    }

    /// The head and what follows it; `None` for anything that `encode` does not make.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, payload) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [kind, flags, low, high, ..] = *head;
        let code = u32::from_le_bytes(*head.last_chunk()?);
        let kind = match (kind, code) {
            (1, _) => Kind::Fragment { last: flags == 1 },
            (2, _) => Kind::Credits,
            (3, 0) => Kind::Bye(Bye::Closed),
            (3, code) if code & YOURS == 0 => Kind::Bye(Bye::Mine(OperationError::from_code(code))),
            (3, code) => Kind::Bye(Bye::Yours(OperationError::from_code(code & !YOURS))),
            _ => return None,
        };
        let decoded = Self { kind, credits: u16::from_le_bytes([low, high]) };
        let is_whole = matches!(kind, Kind::Fragment { .. }) || payload.is_empty();
        (decoded.encode() == *head && is_whole).then_some((decoded, payload))
    }
}

/// What each end tells the other with the request for a connection and with its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Greeting {
    /// Receives that may be consumed before the first credits come back.
    pub(super) receives: u16,
}

impl Greeting {
    pub(super) fn encode(self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&[VERSION, GREETING_BYTES as u8]);
        bytes[6..8].copy_from_slice(&self.receives.to_le_bytes());
        bytes
    }

    /// Connection management pads private data with zeroes; a greeting carries its own length. `None` for another version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let greeting = bytes.first_chunk::<GREETING_BYTES>()?;
        let receives = u16::from_le_bytes(*greeting.get(6..)?.first_chunk()?);
        let decoded = Self { receives };
        (decoded.encode() == *greeting && receives > 0).then_some(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn errors() -> impl Strategy<Value = OperationError> {
        prop_oneof![
            Just(OperationError::RemoteAccess),
            Just(OperationError::ReceiverNotReady),
            Just(OperationError::RemoteOperation),
            Just(OperationError::MessageTooLong),
        ]
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![
            any::<bool>().prop_map(|last| Kind::Fragment { last }),
            Just(Kind::Credits),
            Just(Kind::Bye(Bye::Closed)),
            errors().prop_map(|error| Kind::Bye(Bye::Mine(error))),
            errors().prop_map(|error| Kind::Bye(Bye::Yours(error))),
        ]
    }

    proptest! {
        #[test]
        fn a_head_survives_its_bytes(kind in kinds(), credits in any::<u16>()) {
            let head = Head { kind, credits };
            let bytes = head.encode();
            prop_assert_eq!(Head::decode(&bytes), Some((head, &[][..])));
        }

        #[test]
        fn any_bytes_are_a_head_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..24), kind in 0u8..5) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Some((head, payload)) = Head::decode(&bytes) {
                prop_assert_eq!([&head.encode()[..], payload].concat(), bytes);
            }
        }

        #[test]
        fn a_greeting_survives_padding_and_strangers_do_not(receives in 1u16.., padding in 0usize..196) {
            let mut bytes = Greeting { receives }.encode().to_vec();
            bytes.resize(bytes.len() + padding, 0);
            prop_assert_eq!(Greeting::decode(&bytes), Some(Greeting { receives }));
            bytes[4] = 2;
            prop_assert_eq!(Greeting::decode(&bytes), None);
            prop_assert_eq!(Greeting::decode(&bytes[..GREETING_BYTES - 1]), None);
        }
    }
}
