//! The three descriptors, field by field.
//!
//! ```text
//! cuObject   ADDRESS(16):SIZE(8):RKEY(8):LID(4):DCTN(6):HAS_GID(1):GID(32)                    81 characters
//!            the same, then :ADDRESS(16):SIZE(16)                                             115; either may end with one ';'
//! elbencho   rc:CONNECTION(32):ADDRESS(1..16):SIZE(1..16):RKEY(1..8)
//! hipObject  transport u8, queue pair u32, GID [16], rkey u32, address u64, length u64, port u8, LID u16,
//!            little-endian, as 88 digits; a client may append :ADDRESS:SIZE
//! ```

use super::{Hexadecimal, SessionId, TokenError, bytes_of, hexadecimal};
use std::fmt;
use std::str::FromStr;

/// Memory of a client, and the dynamically connected target that leads to it. Only devices of one vendor have such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DcDescriptor {
    /// Where the memory begins.
    pub address: u64,
    /// Its length, bytes.
    pub bytes: u32,
    /// Its key.
    pub key: u32,
    /// The port's local identifier.
    pub lid: u16,
    /// The target's number: 24 bits.
    pub target: u32,
    /// The port's GID, when it is said to have one.
    pub gid: Option<[u8; 16]>,
    /// Address and length of the buffer as older clients append them.
    pub appended: Option<(u64, u64)>,
}

impl FromStr for DcDescriptor {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.strip_suffix(';').unwrap_or(text);
        let mut fields = text.split(':');
        let mut number = |name, digits: usize, what| {
            fields
                .next()
                .and_then(|field| hexadecimal(field, digits..=digits))
                .ok_or(TokenError::Field(name, what))
        };
        let address = number("address", 16, "16 hexadecimal digits")?;
        let bytes = number("size", 8, "8 hexadecimal digits")?;
        let key = number("rkey", 8, "8 hexadecimal digits")?;
        let lid = number("LID", 4, "4 hexadecimal digits")?;
        let target = number("DC target", 6, "6 hexadecimal digits")?;
        let has_gid = match number("GID flag", 1, "0 or 1")? {
            0 => false,
            1 => true,
            _ => return Err(TokenError::Field("GID flag", "0 or 1")),
        };
        let gid =
            fields.next().and_then(bytes_of).ok_or(TokenError::Field("GID", "32 hexadecimal digits"))?;
        let appended = match (fields.next(), fields.next(), fields.next()) {
            (None, ..) => None,
            (Some(address), Some(bytes), None) => {
                let number = |text| hexadecimal(text, 16..=16);
                let pair = number(address).zip(number(bytes));
                Some(pair.ok_or(TokenError::Field("appended buffer", "twice 16 hexadecimal digits"))?)
            }
            _ => return Err(TokenError::Field("appended buffer", "twice 16 hexadecimal digits")),
        };
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let (bytes, key, target) = (narrow(bytes), narrow(key), narrow(target));
        let lid = u16::try_from(lid).unwrap_or(u16::MAX);
        Ok(Self { address, bytes, key, lid, target, gid: has_gid.then_some(gid), appended })
    }
}

impl fmt::Display for DcDescriptor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, bytes, key, lid, target, gid, appended } = self;
        let has_gid = u8::from(gid.is_some());
        write!(out, "{address:016x}:{bytes:08x}:{key:08x}:{lid:04x}:{target:06x}:{has_gid}:")?;
        Hexadecimal(&gid.unwrap_or_default()).fmt(out)?;
        appended.map_or(Ok(()), |(address, bytes)| write!(out, ":{address:016x}:{bytes:016x}"))
    }
}

/// Memory of a client that is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RcToken {
    /// The connection.
    pub session: SessionId,
    /// Where the memory begins.
    pub address: u64,
    /// Its length, bytes: of a PUT, all that is stored. Not zero.
    pub bytes: u64,
    /// Its key.
    pub key: u32,
}

/// After the prefix `rc:`.
impl FromStr for RcToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.strip_prefix("rc:").unwrap_or(text);
        let mut fields = text.split(':');
        let session = fields.next().unwrap_or_default().parse()?;
        let mut number = |name, digits: usize, what| {
            fields
                .next()
                .and_then(|field| hexadecimal(field, 1..=digits))
                .ok_or(TokenError::Field(name, what))
        };
        let address = number("address", 16, "1 to 16 hexadecimal digits")?;
        let bytes = number("size", 16, "1 to 16 hexadecimal digits")?;
        let key = number("rkey", 8, "1 to 8 hexadecimal digits")?;
        if fields.next().is_some() {
            return Err(TokenError::Form { characters: text.len() + 3, fields: text.split(':').count() + 1 });
        }
        if bytes == 0 || address.checked_add(bytes - 1).is_none() {
            return Err(TokenError::Range);
        }
        Ok(Self { session, address, bytes, key: u32::try_from(key).unwrap_or(u32::MAX) })
    }
}

impl fmt::Display for RcToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session, address, bytes, key } = self;
        write!(out, "rc:{session}:{address:016x}:{bytes:08x}:{key:08x}")
    }
}

/// How a queue pair is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Dynamically.
    Dc,
    /// Reliably, to one other.
    Rc,
}

/// A queue pair, and memory that it leads to where there is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePairToken {
    /// How it is connected.
    pub transport: Transport,
    /// Its number.
    pub number: u32,
    /// The GID that it is reached at.
    pub gid: [u8; 16],
    /// The key of the memory.
    pub key: u32,
    /// Where the memory begins.
    pub address: u64,
    /// Its length, bytes.
    pub bytes: u64,
    /// The device's port.
    pub port: u8,
    /// The port's local identifier, where it has one.
    pub lid: u16,
}

impl QueuePairToken {
    /// Its length as text.
    pub const DIGITS: usize = 88;

    /// A queue pair that is connected reliably, without memory.
    pub fn of(number: u32, gid: [u8; 16], port: u8, lid: u16) -> Self {
        Self { transport: Transport::Rc, number, gid, key: 0, address: 0, bytes: 0, port, lid }
    }

    /// Whether it says nothing: some clients mean the server's own device by that.
    pub fn is_blank(&self) -> bool {
        self.gid == [0; 16]
    }

    fn encode(&self) -> [u8; 44] {
        let mut bytes = [0; 44];
        let transport = [u8::from(self.transport == Transport::Rc)];
        let parts: [&[u8]; 8] = [
            &transport,
            &self.number.to_le_bytes(),
            &self.gid,
            &self.key.to_le_bytes(),
            &self.address.to_le_bytes(),
            &self.bytes.to_le_bytes(),
            &[self.port],
            &self.lid.to_le_bytes(),
        ];
        let all = parts.into_iter().flatten();
        bytes.iter_mut().zip(all).for_each(|(byte, given)| *byte = *given);
        bytes
    }

    fn decode(bytes: &[u8; 44]) -> Option<Self> {
        let (&[transport], rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (gid, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (address, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (&[port], rest) = rest.split_first_chunk()?;
        let transport = match transport {
            0 => Transport::Dc,
            1 => Transport::Rc,
            _ => return None,
        };
        Some(Self {
            transport,
            number: u32::from_le_bytes(*number),
            gid: *gid,
            key: u32::from_le_bytes(*key),
            address: u64::from_le_bytes(*address),
            bytes: u64::from_le_bytes(*length),
            port,
            lid: u16::from_le_bytes(rest.try_into().ok()?),
        })
    }
}

impl FromStr for QueuePairToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let bytes = bytes_of(text).ok_or(TokenError::Field("queue pair", "88 hexadecimal digits"))?;
        Self::decode(&bytes).ok_or(TokenError::Field("transport", "0 (DC) or 1 (RC)"))
    }
}

impl fmt::Display for QueuePairToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hexadecimal(&self.encode()).fmt(out)
    }
}
