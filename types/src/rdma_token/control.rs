//! The words of the control requests: how a connection or a transfer is agreed on, both ends.
//!
//! Each is read from, and written as, headers of a request or an answer without a body.
//!
//! | request | asks | is answered with |
//! |---|---|---|
//! | `/.s3rdma-rc/connect` | [`Connect`] | [`Connected`] |
//! | `/.hipobj-rc/prepare` | [`Prepare`] | [`Connected`], with memory for a PUT |
//! | `/.hipobj-rc/ready` | [`Ready`] | cookie, bytes, ETag |

use super::headers::{
    COOKIE, MR_ADDR, MR_RKEY, OFFSET, OP, PROTOCOL, PSN, QPN, REPLY, SESSION, SIZE, TARGET, TOKEN,
};
use super::{HIPOBJ_RC_V2, Psn, QueuePairToken, SessionId, Token, TokenError, Transport, hexadecimal};
use thiserror::Error;

/// Longest transfer of `hipobj-rc-v2`, bytes.
pub const HIPOBJ_BYTES_MAX: u64 = (1 << 31) - 1;

/// Headers to send.
pub type Words = Vec<(&'static str, String)>;

/// Why the words of a control request, or of its answer, mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlError {
    /// It speaks another protocol.
    #[error("x-amz-rdma-protocol is not hipobj-rc-v2")]
    Protocol,
    /// A header is missing.
    #[error("the header {0} is missing")]
    Missing(&'static str),
    /// A header says something else than it has to.
    #[error("the header {0} is not {1}")]
    Malformed(&'static str, &'static str),
    /// The descriptor is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A queue pair of another transport.
    #[error("the queue pair is of DC transport: only reliable connections (RC) are made here")]
    NotReliable,
}

/// Looks up a header.
pub trait Lookup {
    /// Its value; `None` also when that is no text.
    fn header(&self, name: &str) -> Option<&str>;

    /// Its value, or that it is missing.
    fn needed(&self, name: &'static str) -> Result<&str, ControlError> {
        self.header(name).ok_or(ControlError::Missing(name))
    }
}

impl Lookup for [(&str, String)] {
    fn header(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

/// A client's queue pair, to be connected for many transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect {
    /// The queue pair.
    pub pair: QueuePairToken,
    /// Where its sequence begins.
    pub psn: Psn,
}

impl Connect {
    /// Reads it.
    pub fn read(headers: &(impl Lookup + ?Sized)) -> Result<Self, ControlError> {
        Ok(Self { pair: reliable_pair(headers)?, psn: headers.needed(PSN)?.parse()? })
    }

    /// Writes it.
    pub fn words(&self) -> Words {
        vec![(TOKEN, self.pair.to_string()), (PSN, self.psn.to_string())]
    }
}

/// The gateway's end of what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// What it is called from now on.
    pub session: SessionId,
    /// The gateway's queue pair; of a PUT by `hipobj-rc-v2`, with the memory to write to.
    pub pair: QueuePairToken,
    /// Where its sequence begins.
    pub psn: Psn,
}

impl Connected {
    /// Reads it.
    pub fn read(headers: &(impl Lookup + ?Sized)) -> Result<Self, ControlError> {
        let reply = headers.needed(REPLY)?.strip_prefix("200:");
        let pair = reply.ok_or(ControlError::Malformed(REPLY, "200: and a queue pair"))?.parse()?;
        let (session, psn) = (headers.needed(SESSION)?.parse()?, headers.needed(PSN)?.parse()?);
        Ok(Self { session, pair, psn })
    }

    /// Writes it.
    pub fn words(&self) -> Words {
        vec![
            (SESSION, self.session.to_string()),
            (REPLY, format!("200:{}", self.pair)),
            (PSN, self.psn.to_string()),
        ]
    }

    /// Writes it as the answer to [`Prepare`].
    pub fn prepared_words(&self) -> Words {
        let mut words = self.words();
        words.push((PROTOCOL, HIPOBJ_RC_V2.to_owned()));
        words.push((QPN, format!("{:x}", self.pair.number)));
        if self.pair.bytes > 0 {
            words.push((MR_ADDR, format!("{:x}", self.pair.address)));
            words.push((MR_RKEY, format!("{:x}", self.pair.key)));
        }
        words
    }
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// From the store.
    Get,
    /// To the store.
    Put,
}

/// One transfer, as it is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// The client's queue pair.
    pub pair: QueuePairToken,
    /// Where its sequence begins.
    pub psn: Psn,
    /// What the immediate data that ends the transfer will be.
    pub cookie: u32,
    /// Which way.
    pub op: Op,
    /// `/bucket/key`, percent-encoded, with a query for a part.
    pub target: String,
    /// How many bytes: not zero, and no more than the protocol allows.
    pub bytes: u64,
    /// Where in the object they begin.
    pub offset: u64,
}

impl Prepare {
    /// Reads it.
    pub fn read(headers: &(impl Lookup + ?Sized)) -> Result<Self, ControlError> {
        speaks_hipobj(headers)?;
        let op = match headers.needed(OP)? {
            "GET" => Op::Get,
            "PUT" => Op::Put,
            _ => return Err(ControlError::Malformed(OP, "GET or PUT")),
        };
        let target = headers.needed(TARGET)?;
        if !target.starts_with('/') {
            return Err(ControlError::Malformed(TARGET, "/BUCKET/KEY"));
        }
        let bytes = decimal(headers.needed(SIZE)?).filter(|bytes| (1..=HIPOBJ_BYTES_MAX).contains(bytes));
        let bytes = bytes.ok_or(ControlError::Malformed(SIZE, "a number from 1 to 2147483647"))?;
        let offset = headers.header(OFFSET).map_or(Some(0), decimal);
        let offset = offset.filter(|offset| offset.checked_add(bytes).is_some());
        Ok(Self {
            pair: reliable_pair(headers)?,
            psn: headers.needed(PSN)?.parse()?,
            cookie: cookie(headers)?,
            op,
            target: target.to_owned(),
            bytes,
            offset: offset.ok_or(ControlError::Malformed(OFFSET, "a place in an object"))?,
        })
    }

    /// Writes it.
    pub fn words(&self) -> Words {
        let op = if self.op == Op::Get { "GET" } else { "PUT" };
        vec![
            (PROTOCOL, HIPOBJ_RC_V2.to_owned()),
            (TOKEN, self.pair.to_string()),
            (PSN, self.psn.to_string()),
            (COOKIE, format!("{:08x}", self.cookie)),
            (OP, op.to_owned()),
            (TARGET, self.target.clone()),
            (SIZE, self.bytes.to_string()),
            (OFFSET, self.offset.to_string()),
        ]
    }
}

/// The client's end of a transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Which transfer.
    pub session: SessionId,
    /// As announced.
    pub cookie: u32,
    /// The client's queue pair, if it was not named before.
    pub pair: Option<u32>,
    /// Where the client's memory begins; of a GET only.
    pub address: u64,
    /// Its key.
    pub key: u32,
}

impl Ready {
    /// Reads it.
    pub fn read(headers: &(impl Lookup + ?Sized)) -> Result<Self, ControlError> {
        speaks_hipobj(headers)?;
        let number = |name, digits: usize, what| match headers.header(name) {
            None => Ok(None),
            Some(text) => hexadecimal(text, 1..=digits).map(Some).ok_or(ControlError::Malformed(name, what)),
        };
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Self {
            session: headers.needed(SESSION)?.parse()?,
            cookie: cookie(headers)?,
            pair: number(QPN, 8, "1 to 8 hexadecimal digits")?.map(narrow).filter(|pair| *pair != 0),
            address: number(MR_ADDR, 16, "1 to 16 hexadecimal digits")?.unwrap_or(0),
            key: narrow(number(MR_RKEY, 8, "1 to 8 hexadecimal digits")?.unwrap_or(0)),
        })
    }

    /// Writes it.
    pub fn words(&self) -> Words {
        let mut words = vec![
            (PROTOCOL, HIPOBJ_RC_V2.to_owned()),
            (SESSION, self.session.to_string()),
            (COOKIE, format!("{:08x}", self.cookie)),
            (MR_ADDR, format!("{:x}", self.address)),
            (MR_RKEY, format!("{:x}", self.key)),
        ];
        words.extend(self.pair.map(|pair| (QPN, format!("{pair:x}"))));
        words
    }
}

/// Which session is to end.
pub fn session(headers: &(impl Lookup + ?Sized)) -> Result<SessionId, ControlError> {
    Ok(headers.needed(SESSION)?.parse()?)
}

/// Whether the client means this protocol.
pub fn speaks_hipobj(headers: &(impl Lookup + ?Sized)) -> Result<(), ControlError> {
    if headers.header(PROTOCOL) == Some(HIPOBJ_RC_V2) { Ok(()) } else { Err(ControlError::Protocol) }
}

fn reliable_pair(headers: &(impl Lookup + ?Sized)) -> Result<QueuePairToken, ControlError> {
    match headers.needed(TOKEN)?.parse::<Token>()? {
        Token::QueuePair(pair, _) if pair.transport == Transport::Rc || pair.is_blank() => Ok(pair),
        Token::QueuePair(..) | Token::Dc(_) => Err(ControlError::NotReliable),
        Token::Rc(_) => Err(ControlError::Malformed(TOKEN, "a queue pair of 88 hexadecimal digits")),
    }
}

fn cookie(headers: &(impl Lookup + ?Sized)) -> Result<u32, ControlError> {
    let number = hexadecimal(headers.needed(COOKIE)?, 8..=8).and_then(|number| u32::try_from(number).ok());
    number.ok_or(ControlError::Malformed(COOKIE, "8 hexadecimal digits"))
}

fn decimal(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}
