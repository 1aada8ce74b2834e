//! The bytes of a PUT or a part on their way in: from a slot, from chunks that the client writes (push), or by READs from its
//! memory (pull).
//!
//! Every way ends in memory of ours that the client cannot change any more: a grant is sealed before its bytes are looked at, and a
//! READ copies. From there they are copied once into the pipeline's buffer, and hashed in it.
//!
//! Invariant: `finish` succeeds only when exactly the announced bytes came, their BLAKE3 is that of the authenticated message, and
//! every digest and checksum that the client gave is right.

use super::following::Following;
use super::memory::{Lender, Permit};
use super::objects::GRANT_EXPIRES;
use super::session::{Asked, Context};
use crate::ops::Backend;
use crate::ops::checksum::{Hashers, name};
use crate::ops::pace::Pace;
use crate::ops::refusal::Refusal;
use crate::transfer::{Digested, Source, SourceError, Summary, WriteError};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;
use tenfour_rdma::{Buffer, Completion, Grant, Open, Remote};
use tenfour_types::limits::PUT_BYTES_MAX;
use tenfour_types::native::{CHUNK_BYTES, CHUNKS_OPEN_MAX, Content, How, PULL_RANGES_MAX, ToClient};
use tenfour_types::{Checksum, ChecksumKind, Scaled};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Waiting that a client is granted before its rate is looked at.
const PACE_WINDOW: Duration = Duration::from_secs(10);
/// When a PUT was refused, a client has so long to finish writing to what it was granted, so that its connection survives.
const SETTLE: Duration = Duration::from_secs(2);

/// What the client says of its bytes.
pub(super) struct Expected {
    digest: [u8; 32],
    md5: Option<[u8; 16]>,
    checksum: Option<Checksum>,
    kind: ChecksumKind,
}

impl Expected {
    /// Of a request; `kind` is kept when the client gives no checksum.
    pub(super) fn of(content: &Content, kind: ChecksumKind) -> Result<Self, Refusal> {
        let checksum = content.checksum.clone();
        if let Some(given) = &checksum
            && (given.value.len() != given.kind.bytes() || given.parts.is_some())
        {
            let text = format!("Value for x-amz-checksum-{} header is invalid.", name(given.kind));
            return Err(Refusal::new("InvalidRequest", text));
        }
        let kind = checksum.as_ref().map_or(kind, |given| given.kind);
        Ok(Self { digest: content.digest, md5: content.md5, checksum, kind })
    }
}

/// The bytes of one PUT.
pub(super) struct Body<'a, B> {
    context: &'a Context<B>,
    size: u64,
    passed: u64,
    way: Way<'a>,
    pace: Pace,
    hashers: Option<Hashers>,
    digest: blake3::Hasher,
    expected: Expected,
}

enum Way<'a> {
    /// In the slot; the range is what is left.
    Here(&'a Buffer, Range<usize>),
    Push(Push<'a>),
    Pull(Pull),
}

struct Push<'a> {
    id: u32,
    following: &'a mut mpsc::Receiver<Following>,
    /// Granted and not said to be written, oldest first.
    open: VecDeque<(u32, Grant<Open>, Permit)>,
    next_chunk: u32,
    granted: u64,
    current: Option<Piece>,
}

struct Pull {
    ranges: VecDeque<Remote>,
    reads: VecDeque<(Completion<Buffer>, usize, Permit)>,
    current: Option<Piece>,
}

/// Bytes that are ours.
pub(super) struct Piece {
    pub(super) buffer: Buffer,
    pub(super) permit: Permit,
    pub(super) rest: Range<usize>,
}

impl<'a, B: Backend> Body<'a, B> {
    /// Opens it. Nothing is granted or read before the first byte is asked for.
    pub(super) fn open(
        context: &'a Context<B>,
        content: Content,
        expected: Expected,
        asked: &'a mut Asked,
    ) -> Result<Self, Refusal> {
        let size = content.size;
        if size > PUT_BYTES_MAX {
            return Err(WriteError::TooLarge.into());
        }
        let way = match content.how {
            How::Here => {
                let arrived = asked.arrived.as_ref().filter(|arrived| arrived.content.len() as u64 == size);
                let arrived = arrived.ok_or(SourceError::Truncated)?;
                Way::Here(&arrived.buffer, arrived.content.clone())
            }
            How::Push => {
                let following = asked.following.as_mut().ok_or(SourceError::Truncated)?;
                let open = VecDeque::new();
                Way::Push(Push { id: asked.id, following, open, next_chunk: 0, granted: 0, current: None })
            }
            How::Pull(ranges) => {
                let offered: u64 = ranges.iter().map(|range| u64::from(range.bytes)).sum();
                if ranges.len() > PULL_RANGES_MAX || offered != size {
                    return Err(SourceError::Truncated.into());
                }
                let ranges = ranges.into_iter().filter(|range| range.bytes > 0).collect();
                Way::Pull(Pull { ranges, reads: VecDeque::new(), current: None })
            }
        };
        Ok(Self {
            context,
            size,
            passed: 0,
            way,
            pace: Pace::new(context.shared.silence_max.scaled(), PACE_WINDOW.scaled()),
            hashers: Some(Hashers::new([expected.kind])),
            digest: blake3::Hasher::new(),
            expected,
        })
    }

    /// After a refusal: waits a moment until the client has written what it may write, since revoking a grant under a WRITE would
    /// cost it the connection and all its other requests.
    pub(super) async fn settle(&mut self) {
        let Way::Push(push) = &mut self.way else { return };
        let settling = async {
            while !push.open.is_empty() {
                match push.following.recv().await {
                    Some(Following::Written(_)) => drop(push.open.pop_front()),
                    Some(_) => {}
                    None => return,
                }
            }
        };
        if timeout(SETTLE.scaled(), settling).await.is_err() {
            tracing::debug!("a client did not finish writing to what it was granted");
        }
    }
}

impl Push<'_> {
    /// Grants as much as there is memory for; waits for some only when the client has none.
    async fn grant<B: Backend>(&mut self, context: &Context<B>, size: u64) -> Result<(), SourceError> {
        while self.open.len() < CHUNKS_OPEN_MAX && self.granted < size {
            let bytes = usize::try_from(size - self.granted).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let Some((mut buffer, permit)) = lend(&context.lender, bytes, self.open.is_empty()).await? else {
                return Ok(());
            };
            // A client that says to have written and has not must not learn, by guessing at digests, what was here before.
            buffer.fill(0);
            let gone = |_| SourceError::Truncated;
            let grant = context.outgoing.connection.grant_write(buffer, 0..bytes, GRANT_EXPIRES.scaled());
            let grant = grant.map_err(|_| SourceError::Truncated)?;
            let (id, chunk, remote) = (self.id, self.next_chunk, grant.remote());
            self.open.push_back((chunk, grant, permit));
            self.next_chunk += 1;
            self.granted += bytes as u64;
            context.outgoing.send(&ToClient::WriteHere { id, chunk, remote }).await.map_err(gone)?;
        }
        Ok(())
    }

    async fn next<B: Backend>(
        &mut self,
        context: &Context<B>,
        size: u64,
        pace: &mut Pace,
    ) -> Result<Piece, SourceError> {
        self.grant(context, size).await?;
        let written = pace.wait(self.following.recv()).await.ok_or(SourceError::TimedOut)?;
        let Some(Following::Written(chunk)) = written else { return Err(SourceError::Truncated) };
        let first = self.open.pop_front().filter(|(number, ..)| *number == chunk);
        let Some((_, grant, permit)) = first else {
            return Err(SourceError::Malformed("chunks are to be written in their order".to_owned()));
        };
        let sealed = grant.seal().await;
        let rest = 0..sealed.len();
        Ok(Piece { buffer: sealed.into_buffer(), permit, rest })
    }
}

impl Pull {
    /// Begins as many READs as there is memory for; waits for some only when none is on its way.
    async fn begin<B: Backend>(&mut self, context: &Context<B>) -> Result<(), SourceError> {
        while self.reads.len() < CHUNKS_OPEN_MAX
            && let Some(range) = self.ranges.front_mut()
        {
            let bytes = (range.bytes as usize).min(CHUNK_BYTES);
            let Some((buffer, permit)) = lend(&context.lender, bytes, self.reads.is_empty()).await? else {
                return Ok(());
            };
            let now = bytes as u32;
            let from = range.sub(0, now).ok_or(SourceError::Truncated)?;
            match range.sub(now, range.bytes - now).filter(|rest| rest.bytes > 0) {
                Some(rest) => *range = rest,
                None => drop(self.ranges.pop_front()),
            }
            let read = context.outgoing.connection.post_read(buffer, from).await;
            self.reads.push_back((read.map_err(|_| SourceError::Truncated)?, bytes, permit));
        }
        Ok(())
    }

    async fn next<B: Backend>(
        &mut self,
        context: &Context<B>,
        pace: &mut Pace,
    ) -> Result<Piece, SourceError> {
        self.begin(context).await?;
        let (read, bytes, permit) = self.reads.pop_front().ok_or(SourceError::Truncated)?;
        let buffer = pace.wait(read).await.ok_or(SourceError::TimedOut)?;
        let buffer = buffer.map_err(|_| SourceError::Truncated)?;
        Ok(Piece { buffer, permit, rest: 0..bytes })
    }
}

async fn lend(lender: &Lender, bytes: usize, wait: bool) -> Result<Option<(Buffer, Permit)>, SourceError> {
    match lender.try_lease(bytes) {
        None if wait => lender.lease(bytes).await.map(Some).map_err(|_| SourceError::NoRoom),
        lent => Ok(lent),
    }
}

/// Copies what fits of what is left; says how much.
fn copy(from: &[u8], rest: &mut Range<usize>, into: &mut [u8]) -> usize {
    let bytes = rest.len().min(into.len());
    let source = from.get(rest.start..rest.start + bytes).unwrap_or_default();
    if let Some(into) = into.get_mut(..source.len()) {
        into.copy_from_slice(source);
    }
    rest.start += source.len();
    source.len()
}

/// The same of a piece, which is let go with its last byte.
pub(super) fn copy_piece(current: &mut Option<Piece>, into: &mut [u8]) -> usize {
    let Some(piece) = current else { return 0 };
    let bytes = copy(&piece.buffer, &mut piece.rest, into);
    if piece.rest.is_empty()
        && let Some(Piece { buffer, permit, .. }) = current.take()
    {
        drop((buffer, permit));
    }
    bytes
}

impl<B: Backend> Source for Body<'_, B> {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&mut self, into: &mut [u8]) -> Result<usize, SourceError> {
        if self.passed == self.size || into.is_empty() {
            return Ok(0);
        }
        let bytes = match &mut self.way {
            Way::Here(buffer, rest) => copy(buffer, rest, into),
            Way::Push(push) => {
                if push.current.is_none() {
                    push.current = Some(push.next(self.context, self.size, &mut self.pace).await?);
                }
                copy_piece(&mut push.current, into)
            }
            Way::Pull(pull) => {
                if pull.current.is_none() {
                    pull.current = Some(pull.next(self.context, &mut self.pace).await?);
                }
                copy_piece(&mut pull.current, into)
            }
        };
        let arrived = into.get(..bytes).unwrap_or_default();
        self.pace.received(arrived.len());
        self.passed += arrived.len() as u64;
        self.digest.update(arrived);
        if let Some(hashers) = &mut self.hashers {
            hashers.update(arrived);
        }
        Ok(arrived.len())
    }

    fn wants_md5(&self) -> bool {
        self.expected.md5.is_some()
    }

    async fn finish(&mut self, digested: Digested) -> Result<Summary, SourceError> {
        let hashers = self.hashers.take().ok_or_else(|| SourceError::Malformed("finished twice".into()))?;
        if self.passed != self.size {
            return Err(SourceError::Truncated);
        }
        if self.digest.finalize() != blake3::Hash::from_bytes(self.expected.digest) {
            return Err(SourceError::SignatureMismatch);
        }
        let checksums = hashers.finish(&digested);
        if self.expected.md5.is_some() && self.expected.md5 != digested.md5 {
            return Err(SourceError::Md5Mismatch);
        }
        match &self.expected.checksum {
            Some(given) if !checksums.contains(given) => Err(SourceError::ChecksumMismatch(name(given.kind))),
            _ => Ok(Summary { etag: digested.etag, checksums }),
        }
    }
}
