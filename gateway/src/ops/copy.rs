//! Copies: an object (or a range of one) read by the GET pipeline and written by the PUT pipeline, stripe by stripe.
//!
//! A copy rewrites the bytes: it may land in another metadata group, whose stripes are its own. What is read was verified
//! against its digests, and is hashed anew on its way, so the copy's ETag and checksums are computed, never taken over.
//!
//! A copy is the one request that holds memory of the one pipeline while it waits for memory of the other. So there are
//! only as many copies at once as can all hold what they need, and the first stripe is gathered, and its memory given
//! back, before the PUT pipeline takes any.

use super::checksum::Hashers;
use super::conditions::{Conditions, Verdict};
use super::requester::Wants;
use super::{Backend, OpError};
use crate::transfer::{
    Destination, Digested, ReadError, Sink, Source, SourceError, Stored, Summary, Wanted, WriteError,
};
use bytes::Bytes;
use std::time::Duration;
use tenfour_types::Scaled;
use tenfour_types::limits::{PUT_BYTES_MAX, STRIPE_DATA_BYTES_MAX};
use tenfour_types::{ChecksumKind, Manifest, ObjectKey};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Copies at once, at most.
const COPIES_MAX: usize = 4;
/// The pipelines' memory must be so large for each of them: a stripe that is read and two that are written, with room.
const COPY_MEMORY_BYTES: usize = 48 << 20;
/// A copy waits so long for its turn.
const COPY_WAIT: Duration = Duration::from_secs(15);

/// What is copied.
#[derive(Clone)]
pub struct Origin {
    /// Who wants it, from which bucket.
    pub wants: Wants,
    /// Its key.
    pub key: ObjectKey,
    /// All of it, or a range.
    pub wanted: Wanted,
    /// What it is bound to.
    pub conditions: Conditions,
}

/// Where to, and which checksums are to be kept of it.
pub struct Target {
    /// An object or a part.
    pub destination: Destination,
    /// Kinds of checksums.
    pub kept: Vec<ChecksumKind>,
}

/// The copies that run.
pub struct Copies {
    free: Semaphore,
    wait: Duration,
}

impl Copies {
    /// As many as pipelines with so much memory can do at once.
    pub fn new(memory_bytes: usize) -> Self {
        let at_once = (memory_bytes / COPY_MEMORY_BYTES).clamp(1, COPIES_MAX);
        Self { free: Semaphore::new(at_once), wait: COPY_WAIT.scaled() }
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, OpError> {
        let turn = timeout(self.wait, self.free.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or(OpError::Write(WriteError::Overloaded))
    }

    /// Copies; `target` decides by the origin's manifest.
    pub async fn run<B, F>(
        &self,
        backend: &B,
        origin: &Origin,
        wants: &Wants,
        target: F,
    ) -> Result<Stored, OpError>
    where
        B: Backend,
        F: FnOnce(&Manifest) -> Result<Target, OpError> + Send,
    {
        wants.bucket_now(backend).await?;
        let _turn = self.turn().await?;
        run(backend, origin, wants, target).await
    }
}

async fn run<B, F>(backend: &B, origin: &Origin, wants: &Wants, target: F) -> Result<Stored, OpError>
where
    B: Backend,
    F: FnOnce(&Manifest) -> Result<Target, OpError> + Send,
{
    let reading = backend.get(&origin.wants, &origin.key, origin.wanted).await?;
    if origin.conditions.judge(&reading.manifest) != Verdict::Holds {
        return Err(OpError::PreconditionFailed);
    }
    let (first, end) = reading.range;
    if end - first > PUT_BYTES_MAX {
        let text = format!(
            "The specified copy source is larger than the maximum allowable size for a copy source: {PUT_BYTES_MAX}"
        );
        return Err(OpError::Invalid(text));
    }
    let target = target(&reading.manifest)?;
    let mut source = Relay::new(reading.body, end - first, target.kept);
    source.gather(STRIPE_DATA_BYTES_MAX).await?;
    match backend.put(wants, target.destination, &mut source).await {
        Ok(mut stored) => {
            stored.transports.extend(reading.transports);
            Ok(stored)
        }
        Err(WriteError::Source(error)) => {
            Err(source.failure.map_or(WriteError::Source(error).into(), OpError::Read))
        }
        Err(error) => Err(error.into()),
    }
}

/// A sink as a source.
struct Relay<S> {
    from: S,
    rest: Bytes,
    size: u64,
    passed: u64,
    hashers: Option<Hashers>,
    failure: Option<ReadError>,
}

impl<S: Sink> Relay<S> {
    fn new(from: S, size: u64, kept: Vec<ChecksumKind>) -> Self {
        Self { from, rest: Bytes::new(), size, passed: 0, hashers: Some(Hashers::new(kept)), failure: None }
    }

    /// Takes the first bytes, so many or all, into memory that is not the pipelines'.
    async fn gather(&mut self, most: usize) -> Result<(), ReadError> {
        let most = usize::try_from(self.size).unwrap_or(usize::MAX).min(most);
        let mut first = Vec::with_capacity(most);
        while first.len() < most {
            let Some(bytes) = self.from.next().await else { break };
            first.extend_from_slice(&bytes?);
        }
        self.rest = first.into();
        Ok(())
    }
}

impl<S: Sink> Source for Relay<S> {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&mut self, into: &mut [u8]) -> Result<usize, SourceError> {
        while self.rest.is_empty() {
            match self.from.next().await {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => {
                    self.failure = Some(error);
                    return Err(SourceError::Truncated);
                }
                None if self.passed == self.size => return Ok(0),
                None => return Err(SourceError::Truncated),
            }
        }
        let taken = self.rest.split_to(self.rest.len().min(into.len()));
        let (filled, _) = into.split_at_mut(taken.len());
        filled.copy_from_slice(&taken);
        if let Some(hashers) = &mut self.hashers {
            hashers.update(filled);
        }
        self.passed += filled.len() as u64;
        Ok(filled.len())
    }

    async fn finish(&mut self, digested: Digested) -> Result<Summary, SourceError> {
        if self.passed != self.size {
            return Err(SourceError::Truncated);
        }
        let hashers = self.hashers.take().ok_or_else(|| SourceError::Malformed("finished twice".into()))?;
        Ok(Summary { etag: digested.etag, checksums: hashers.finish(&digested) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pieces(Vec<Result<&'static str, ReadError>>);

    impl Sink for Pieces {
        async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
            (!self.0.is_empty()).then(|| self.0.remove(0).map(|text| Bytes::from_static(text.as_bytes())))
        }
    }

    async fn drain(relay: &mut Relay<Pieces>) -> Result<Vec<u8>, SourceError> {
        let (mut all, mut buffer) = (Vec::new(), [0; 3]);
        loop {
            match relay.read(&mut buffer).await? {
                0 => {
                    let etag = tenfour_types::ETag { md5: [0; 16], parts: None };
                    return relay
                        .finish(Digested { etag, md5: None, crc64: tenfour_erasure::crc64(&all) })
                        .await
                        .map(|_| all);
                }
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    #[tokio::test]
    async fn bytes_are_handed_on_in_order() {
        let mut relay = Relay::new(Pieces(vec![Ok("hello "), Ok(""), Ok("world")]), 11, Vec::new());
        assert_eq!(drain(&mut relay).await.unwrap(), b"hello world");
    }

    #[tokio::test]
    async fn what_was_gathered_first_comes_first() {
        for most in [0, 1, 8, 100] {
            let mut relay = Relay::new(Pieces(vec![Ok("hello "), Ok("wo"), Ok("rld")]), 11, Vec::new());
            relay.gather(most).await.unwrap();
            assert!(relay.rest.len() >= most.min(11));
            assert_eq!(drain(&mut relay).await.unwrap(), b"hello world");
        }
        let mut relay = Relay::new(Pieces(vec![Err(ReadError::Overloaded)]), 11, Vec::new());
        assert!(matches!(relay.gather(9).await, Err(ReadError::Overloaded)));
    }

    #[tokio::test]
    async fn copies_take_turns_and_none_waits_for_ever() {
        let copies = Copies { wait: Duration::from_millis(50), ..Copies::new(COPY_MEMORY_BYTES) };
        let turn = copies.turn().await.unwrap();
        assert!(matches!(copies.turn().await, Err(OpError::Write(WriteError::Overloaded))));
        drop(turn);
        assert!(copies.turn().await.is_ok());
        assert_eq!(Copies::new(usize::MAX).free.available_permits(), COPIES_MAX);
        assert_eq!(Copies::new(0).free.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_read_that_fails_or_ends_early_fails_the_copy_and_says_why() {
        let mut relay =
            Relay::new(Pieces(vec![Ok("hello"), Err(ReadError::Unavailable("x".into()))]), 11, Vec::new());
        assert!(drain(&mut relay).await.is_err());
        assert!(matches!(relay.failure, Some(ReadError::Unavailable(_))));
        let mut relay = Relay::new(Pieces(vec![Ok("hello")]), 11, Vec::new());
        assert_eq!(drain(&mut relay).await, Err(SourceError::Truncated));
    }
}
