//! The head of every message after the login: a sequence number and a MAC.
//!
//! ```text
//!  0 magic "S3R1"   4 message bytes u32   8 sequence u64   16 MAC [32]   48 message
//! ```
//!
//! Little-endian. The MAC is BLAKE3 keyed with the key of the direction, over bytes 0..16 and the message. Sequence numbers begin
//! at 0 in each direction and rise by one; the fabric delivers in order, so that any other number is a replay, a reordering or a loss
//! that somebody made. A message that goes back where it came from meets the other direction's key.
//!
//! In a SEND the message is all that follows the head. In a slot, object bytes may follow; what the MAC covers of them is the digest
//! in the message.

use crate::codec::Fields;
use thiserror::Error;

/// Length of the head.
pub const HEAD_BYTES: usize = 48;
const MAGIC: [u8; 4] = *b"S3R1";
const SIGNED_BYTES: usize = 16;

/// Bytes that are no frame of this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Cut off, too long, or not of this protocol.
    #[error("malformed frame")]
    Malformed,
    /// A replay, a reordering, or something is missing.
    #[error("the frame is number {found}, {expected} was due")]
    Sequence {
        /// Of this frame.
        found: u64,
        /// What was due.
        expected: u64,
    },
    /// Changed on the way, or made by somebody else.
    #[error("the frame's MAC is wrong")]
    Mac,
}

/// A head as it stands there; nothing of it is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Length of the message.
    pub message_bytes: u32,
    /// Its number in its direction.
    pub sequence: u64,
    /// The MAC.
    pub mac: [u8; 32],
}

impl Head {
    /// Reads a head off the beginning of some bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        Self::read(Fields(bytes)).ok_or(FrameError::Malformed)
    }

    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let magic = fields.take::<4>()?;
        let head = Self { message_bytes: fields.u32()?, sequence: fields.u64()?, mac: fields.take()? };
        (magic == MAGIC).then_some(head)
    }

    fn signed(message_bytes: u32, sequence: u64) -> [u8; SIGNED_BYTES] {
        let mut signed = [0; SIGNED_BYTES];
        signed[..4].copy_from_slice(&MAGIC);
        signed[4..8].copy_from_slice(&message_bytes.to_le_bytes());
        signed[8..].copy_from_slice(&sequence.to_le_bytes());
        signed
    }
}

fn mac(key: &[u8; 32], signed: &[u8; SIGNED_BYTES], message: &[u8]) -> blake3::Hash {
    blake3::Hasher::new_keyed(key).update(signed).update(message).finalize()
}

/// Numbers and seals the messages of one direction.
pub struct Sealer {
    key: [u8; 32],
    sequence: u64,
}

impl Sealer {
    /// With the key of the direction; the first message is number 0.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, sequence: 0 }
    }

    /// The head of the next message. It stays the next one until [`Sealer::sent`]: a message that was not sent has no number.
    pub fn head(&self, message: &[u8]) -> Result<[u8; HEAD_BYTES], FrameError> {
        let bytes = u32::try_from(message.len()).map_err(|_| FrameError::Malformed)?;
        let signed = Head::signed(bytes, self.sequence);
        let mut head = [0; HEAD_BYTES];
        head[..SIGNED_BYTES].copy_from_slice(&signed);
        head[SIGNED_BYTES..].copy_from_slice(mac(&self.key, &signed, message).as_bytes());
        Ok(head)
    }

    /// The message that the last head was made for was posted.
    pub fn sent(&mut self) {
        self.sequence += 1;
    }
}

/// Opens the messages of one direction, each once and in order.
pub struct Opener {
    key: [u8; 32],
    sequence: u64,
}

impl Opener {
    /// With the key of the direction.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, sequence: 0 }
    }

    /// The message at the beginning of some bytes, and what follows it. A frame that is refused does not count: but whoever sent
    /// it is not to be listened to any more.
    pub fn open<'a>(&mut self, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), FrameError> {
        let opened = open(&self.key, self.sequence, bytes)?;
        self.sequence += 1;
        Ok(opened)
    }
}

/// The message that a key and a sequence number admit, and what follows it.
pub fn open<'a>(key: &[u8; 32], expected: u64, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), FrameError> {
    let head = Head::decode(bytes)?;
    let rest = bytes.get(HEAD_BYTES..).ok_or(FrameError::Malformed)?;
    let (message, after) = rest.split_at_checked(head.message_bytes as usize).ok_or(FrameError::Malformed)?;
    let expected_mac = mac(key, &Head::signed(head.message_bytes, head.sequence), message);
    if expected_mac != blake3::Hash::from_bytes(head.mac) {
        return Err(FrameError::Mac);
    }
    if head.sequence != expected {
        return Err(FrameError::Sequence { found: head.sequence, expected });
    }
    Ok((message, after))
}
