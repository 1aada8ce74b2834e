//! The bytes of a PUT or a part that come by RDMA: by READs from the client's memory, or out of memory that the client has written and
//! can no longer reach.
//!
//! Invariant: `finish` succeeds only when exactly the announced bytes came, and every digest and checksum that the client gave of them is
//! right.

use super::super::body::{Piece, copy_piece};
use super::super::memory::Permit;
use super::TokenRefusal;
use super::sessions::Lent;
use crate::ops::checksum::{Hashers, name};
use crate::ops::refusal::Refusal;
use crate::transfer::{Digested, Source, SourceError, Summary, WriteError};
use std::collections::VecDeque;
use tenfour_rdma::{Buffer, ForeignCompletion, Place};
use tenfour_types::native::{CHUNK_BYTES, CHUNKS_OPEN_MAX};
use tenfour_types::{Checksum, ChecksumKind};

/// What is to be found of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checks {
    /// Their MD5, when the client gave it.
    pub md5: Option<[u8; 16]>,
    /// Their checksum, when the client gave one.
    pub checksum: Option<Checksum>,
    /// What is to be known of them in the end, besides.
    pub kept: Vec<ChecksumKind>,
}

/// Bytes that come by RDMA.
pub struct TokenSource {
    size: u64,
    passed: u64,
    way: Way,
    checks: Checks,
    hashers: Option<Hashers>,
    failure: Option<TokenRefusal>,
}

enum Way {
    Pull(Pull),
    Staged(Option<Piece>),
}

/// READs of a client's memory, a few at a time.
pub(super) struct Pull {
    lent: Lent,
    place: Place,
    left: u64,
    asked: u64,
    reads: VecDeque<(ForeignCompletion<Buffer>, usize, Permit)>,
    current: Option<Piece>,
}

impl Pull {
    pub(super) fn new(lent: Lent, place: Place, bytes: u64) -> Self {
        Self { lent, place, left: bytes, asked: 0, reads: VecDeque::new(), current: None }
    }

    /// Begins as many READs as there is memory for; waits for some only when none is on its way.
    async fn begin(&mut self) -> Result<(), TokenRefusal> {
        while self.reads.len() < CHUNKS_OPEN_MAX && self.left > 0 {
            let bytes = usize::try_from(self.left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let lender = self.lent.lender();
            let (buffer, permit) = match lender.try_lease(bytes) {
                Some(lent) => lent,
                None if !self.reads.is_empty() => return Ok(()),
                None => {
                    let leased = lender.lease(bytes).await;
                    leased.map_err(|_| TokenRefusal::Exhausted("no registered memory"))?
                }
            };
            let from = self.place.after(self.asked);
            let from = from.ok_or_else(|| TokenRefusal::Failed("beyond the address space".to_owned()))?;
            let read = self.lent.pair().post_read(buffer, bytes, from).await;
            let read = read.map_err(|error| TokenRefusal::Failed(error.to_string()))?;
            self.reads.push_back((read, bytes, permit));
            self.asked += bytes as u64;
            self.left -= bytes as u64;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Piece>, TokenRefusal> {
        self.begin().await?;
        let Some((read, bytes, permit)) = self.reads.pop_front() else { return Ok(None) };
        let buffer = read.done().await.map_err(|error| TokenRefusal::Failed(error.to_string()))?;
        Ok(Some(Piece { buffer, permit, rest: 0..bytes }))
    }
}

impl TokenSource {
    pub(super) fn pull(pull: Pull, size: u64, checks: Checks) -> Self {
        Self::new(Way::Pull(pull), size, checks)
    }

    /// Memory that the client can no longer reach.
    pub(super) fn staged(buffer: Buffer, permit: Permit, size: u64, checks: Checks) -> Self {
        let rest = 0..buffer.len();
        Self::new(Way::Staged(Some(Piece { buffer, permit, rest })), size, checks)
    }

    fn new(way: Way, size: u64, checks: Checks) -> Self {
        let mut kinds = checks.kept.clone();
        kinds.extend(checks.checksum.as_ref().map(|given| given.kind));
        kinds.sort_unstable();
        kinds.dedup();
        Self { size, passed: 0, way, checks, hashers: Some(Hashers::new(kinds)), failure: None }
    }

    /// What to say of a write that failed: a transfer that broke off is not the fault of who stores.
    pub fn refusal(&mut self, error: WriteError) -> Refusal {
        match self.failure.take() {
            Some(failure) => failure.into(),
            None => error.into(),
        }
    }

    /// Whether the transfer broke off.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }
}

impl Source for TokenSource {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&mut self, into: &mut [u8]) -> Result<usize, SourceError> {
        if self.passed == self.size || into.is_empty() {
            return Ok(0);
        }
        let current = match &mut self.way {
            Way::Staged(piece) => piece,
            Way::Pull(pull) => {
                if pull.current.is_none() {
                    match pull.next().await {
                        Ok(piece) => pull.current = piece,
                        Err(failure) => {
                            self.failure = Some(failure);
                            return Err(SourceError::Truncated);
                        }
                    }
                }
                &mut pull.current
            }
        };
        let bytes = copy_piece(current, into);
        let arrived = into.get(..bytes).unwrap_or_default();
        if arrived.is_empty() {
            return Err(SourceError::Truncated);
        }
        self.passed += arrived.len() as u64;
        if let Some(hashers) = &mut self.hashers {
            hashers.update(arrived);
        }
        Ok(arrived.len())
    }

    fn wants_md5(&self) -> bool {
        self.checks.md5.is_some()
    }

    async fn finish(&mut self, digested: Digested) -> Result<Summary, SourceError> {
        let hashers = self.hashers.take().ok_or_else(|| SourceError::Malformed("finished twice".into()))?;
        if self.passed != self.size {
            return Err(SourceError::Truncated);
        }
        let checksums = hashers.finish(&digested);
        if self.checks.md5.is_some() && self.checks.md5 != digested.md5 {
            return Err(SourceError::Md5Mismatch);
        }
        match &self.checks.checksum {
            Some(given) if !checksums.contains(given) => Err(SourceError::ChecksumMismatch(name(given.kind))),
            _ => Ok(Summary { etag: digested.etag, checksums }),
        }
    }
}
