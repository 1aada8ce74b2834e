//! Copies: an object (or a range of one) read by the GET pipeline and written by the PUT pipeline, stripe by stripe.
//!
//! A copy rewrites the bytes: it may land in another metadata group, whose stripes are its own. What is read was verified
//! against its digests, and is hashed anew on its way, so the copy's ETag and checksums are computed, never taken over.

use super::checksum::Hashers;
use super::conditions::{Conditions, Verdict};
use super::requester::Wants;
use super::{Backend, OpError};
use crate::transfer::{
    Destination, ReadError, Sink, Source, SourceError, Stored, Summary, Wanted, WriteError,
};
use bytes::Bytes;
use tenfour_types::limits::PUT_BYTES_MAX;
use tenfour_types::{ChecksumKind, Manifest, ObjectKey};

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

/// Copies; `target` decides by the origin's manifest.
pub async fn run<B, F>(backend: &B, origin: &Origin, wants: &Wants, target: F) -> Result<Stored, OpError>
where
    B: Backend,
    F: FnOnce(&Manifest) -> Result<Target, OpError> + Send,
{
    wants.bucket_now(backend).await?;
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
    match backend.put(wants, target.destination, &mut source).await {
        Ok(stored) => Ok(stored),
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

    async fn finish(&mut self) -> Result<Summary, SourceError> {
        if self.passed != self.size {
            return Err(SourceError::Truncated);
        }
        let hashers = self.hashers.take().ok_or_else(|| SourceError::Malformed("finished twice".into()))?;
        let (etag, checksums) = hashers.finish();
        Ok(Summary { etag, checksums })
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
                0 => return relay.finish().await.map(|_| all),
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
    async fn a_read_that_fails_or_ends_early_fails_the_copy_and_says_why() {
        let mut relay =
            Relay::new(Pieces(vec![Ok("hello"), Err(ReadError::Unavailable("x".into()))]), 11, Vec::new());
        assert!(drain(&mut relay).await.is_err());
        assert!(matches!(relay.failure, Some(ReadError::Unavailable(_))));
        let mut relay = Relay::new(Pieces(vec![Ok("hello")]), 11, Vec::new());
        assert_eq!(drain(&mut relay).await, Err(SourceError::Truncated));
    }
}
