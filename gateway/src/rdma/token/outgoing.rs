//! The bytes of a GET on their way into a client's memory: copied once into registered memory, and written in order.
//!
//! Nothing is told of success before the device has said that the last byte is placed.

use super::super::memory::{Lender, Permit};
use super::TokenRefusal;
use crate::ops::refusal::Refusal;
use crate::transfer::{ReadError, Sink};
use std::collections::VecDeque;
use tenfour_rdma::{Buffer, ForeignCompletion, ForeignPair, OperationError, Place};
use tenfour_types::native::{CHUNK_BYTES, CHUNKS_OPEN_MAX};
use thiserror::Error;

/// Why an object is not in a client's memory, as a whole.
#[derive(Debug, Error)]
pub enum DeliverError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It could not be written there.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
}

impl From<DeliverError> for Refusal {
    fn from(error: DeliverError) -> Self {
        match error {
            DeliverError::Read(error) => error.into(),
            DeliverError::Token(refusal) => refusal.into(),
        }
    }
}

/// Writes all that `sink` yields, which is so many bytes; with the last of them goes `immediate`, if there is one.
pub(super) async fn deliver<S: Sink>(
    sink: &mut S,
    bytes: u64,
    (pair, to): (&ForeignPair, Place),
    lender: &Lender,
    immediate: Option<u32>,
) -> Result<(), DeliverError> {
    if bytes == 0 {
        return Ok(());
    }
    let mut writer =
        Writer { pair, to, lender, bytes, taken: 0, chunk: None, posted: VecDeque::new(), immediate };
    while let Some(piece) = sink.next().await {
        writer.take(&piece?).await?;
    }
    writer.finish().await
}

struct Writer<'a> {
    pair: &'a ForeignPair,
    to: Place,
    lender: &'a Lender,
    bytes: u64,
    /// Bytes that are in chunks, the current one included.
    taken: u64,
    chunk: Option<Chunk>,
    /// Oldest first.
    posted: VecDeque<(ForeignCompletion<()>, Permit)>,
    immediate: Option<u32>,
}

struct Chunk {
    buffer: Buffer,
    permit: Permit,
    filled: usize,
    offset: u64,
}

impl Writer<'_> {
    async fn take(&mut self, mut piece: &[u8]) -> Result<(), DeliverError> {
        while !piece.is_empty() {
            let mut chunk = match self.chunk.take() {
                Some(chunk) => chunk,
                None if self.taken == self.bytes => {
                    let text = "the object has more bytes than it should".to_owned();
                    return Err(ReadError::Unavailable(text).into());
                }
                None => self.next().await?,
            };
            let space = chunk.buffer.get_mut(chunk.filled..).unwrap_or_default();
            let (now, rest) = piece.split_at(piece.len().min(space.len()));
            if let Some(space) = space.get_mut(..now.len()) {
                space.copy_from_slice(now);
            }
            chunk.filled += now.len();
            self.taken += now.len() as u64;
            piece = rest;
            if chunk.filled < chunk.buffer.len() {
                self.chunk = Some(chunk);
            } else {
                self.post(chunk).await?;
            }
        }
        Ok(())
    }

    /// Memory for the next bytes. Waits for other clients only when none of its own is on its way back.
    async fn next(&mut self) -> Result<Chunk, TokenRefusal> {
        let bytes = usize::try_from(self.bytes - self.taken).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let offset = self.taken;
        loop {
            if self.posted.len() < CHUNKS_OPEN_MAX
                && let Some((buffer, permit)) = self.lender.try_lease(bytes)
            {
                return Ok(Chunk { buffer, permit, filled: 0, offset });
            }
            let Some((posted, permit)) = self.posted.pop_front() else {
                let leased = self.lender.lease(bytes).await;
                let (buffer, permit) = leased.map_err(|_| TokenRefusal::Exhausted("no registered memory"))?;
                return Ok(Chunk { buffer, permit, filled: 0, offset });
            };
            posted.done().await.map_err(failed)?;
            drop(permit);
        }
    }

    async fn post(&mut self, chunk: Chunk) -> Result<(), TokenRefusal> {
        let to = self.to.after(chunk.offset).ok_or_else(|| failed(OperationError::LocalProtection))?;
        let immediate = self.immediate.filter(|_| self.taken == self.bytes);
        let posted = self.pair.post_write(chunk.buffer.freeze(), to, immediate).await;
        self.posted.push_back((posted.map_err(failed)?, chunk.permit));
        Ok(())
    }

    async fn finish(mut self) -> Result<(), DeliverError> {
        if self.taken != self.bytes {
            let text = "the object has fewer bytes than it should".to_owned();
            return Err(ReadError::Unavailable(text).into());
        }
        while let Some((posted, permit)) = self.posted.pop_front() {
            posted.done().await.map_err(failed)?;
            drop(permit);
        }
        Ok(())
    }
}

fn failed(error: OperationError) -> TokenRefusal {
    TokenRefusal::Failed(error.to_string())
}
