//! The bytes of a PUT or a part as a [`Source`]: takes the framing off, copies each byte once into the pipeline's buffer,
//! computes there what checksums are wanted, and at the end holds it against everything that the client said of it.
//!
//! Invariant: `finish` succeeds only when exactly the announced bytes came, every signature, digest and checksum that the
//! request names was right, and the body ended where it should.

use super::chunk_signer::ChunkSigner;
use super::chunked::{Decoder, FramingError, Step};
use super::expect::{Expected, verify_trailer};
use super::guard::{Framing, Payload};
use super::proof::HeaderV4;
use crate::ops::checksum::{Hashers, name};
use crate::ops::pace::Pace;
use crate::transfer::{Digested, Source, SourceError, Summary};
use bytes::Bytes;
use hyper::body::{Body, Incoming};
use sha2::{Digest as _, Sha256};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tenfour_types::{Checksum, ChecksumKind};

/// Whether a request's body was read to its end: when not, the connection cannot be used again.
pub type Drained = Arc<AtomicBool>;

/// A request's body, on its way past the library to whoever stores it.
#[derive(Clone)]
pub struct Parcel {
    body: Arc<Mutex<Option<Incoming>>>,
    payload: Payload,
    header: Option<HeaderV4>,
    drained: Drained,
}

impl Parcel {
    /// Wraps a body that was admitted.
    pub fn new(body: Incoming, payload: Payload, header: Option<HeaderV4>, drained: Drained) -> Self {
        Self { body: Arc::new(Mutex::new(Some(body))), payload, header, drained }
    }

    /// The body, once.
    pub fn take(&self) -> Option<Incoming> {
        self.body.lock().ok()?.take()
    }

    /// What the request says of it.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Whether chunks carry signatures.
    pub fn has_signed_chunks(&self) -> bool {
        matches!(self.payload.framing, Framing::SignedChunks { .. })
    }

    /// Opens it: `kept` are the kinds of checksums that must be known in the end, besides the one that the client gives.
    pub fn open(
        &self,
        expected: Expected,
        secret_key: &str,
        amz_date: &str,
        kept: &[ChecksumKind],
    ) -> Option<BodySource<Incoming>> {
        let framing = match &self.payload.framing {
            Framing::Plain => None,
            Framing::UnsignedChunks => Some(Decoder::new(None, false)),
            Framing::SignedChunks { trailers } => {
                let header = self.header.as_ref()?;
                let signer = ChunkSigner::new(secret_key, amz_date, &header.scope, &header.signature);
                Some(Decoder::new(Some(signer), *trailers))
            }
        };
        let (size, sha256) = (self.payload.size, self.payload.sha256);
        let mut source = BodySource::new(self.take()?, size, sha256, framing, expected, kept);
        source.drained = self.drained.clone();
        Some(source)
    }
}

/// A body as a source.
pub struct BodySource<B> {
    body: B,
    size: u64,
    passed: u64,
    frame: Bytes,
    framing: Option<Decoder>,
    ended: bool,
    drained: Drained,
    pace: Pace,
    expected: Expected,
    hashers: Option<Hashers>,
    sha256: Option<(Sha256, [u8; 32])>,
}

impl<B> BodySource<B>
where
    B: Body<Data = Bytes> + Unpin + Send,
{
    /// Over any body of `size` bytes after its framing.
    pub fn new(
        body: B,
        size: u64,
        sha256: Option<[u8; 32]>,
        framing: Option<Decoder>,
        expected: Expected,
        kept: &[ChecksumKind],
    ) -> Self {
        let mut kinds: Vec<ChecksumKind> = kept.to_vec();
        kinds.extend(expected.kind());
        kinds.sort_unstable();
        kinds.dedup();
        Self {
            body,
            size,
            passed: 0,
            frame: Bytes::new(),
            framing,
            ended: false,
            drained: Drained::default(),
            pace: Pace::default(),
            expected,
            hashers: Some(Hashers::new(kinds)),
            sha256: sha256.map(|expected| (Sha256::new(), expected)),
        }
    }

    /// How many data bytes are at the front of `frame`: 0 at the end of the body only.
    async fn data(&mut self) -> Result<usize, SourceError> {
        loop {
            let ready = match &mut self.framing {
                None => self.frame.len(),
                Some(decoder) => match decoder.step(&mut self.frame).map_err(framing_error)? {
                    Step::Data(ready) => ready,
                    Step::More => 0,
                    Step::End => return Ok(0),
                },
            };
            if ready > 0 || self.ended {
                return Ok(ready);
            }
            self.next_frame().await?;
        }
    }

    async fn next_frame(&mut self) -> Result<(), SourceError> {
        let body = &mut self.body;
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        match self.pace.wait(frame).await.ok_or(SourceError::TimedOut)? {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.pace.received(data.len());
                    self.frame = data;
                }
                Ok(())
            }
            Some(Err(_)) => Err(SourceError::Truncated),
            None => {
                self.ended = true;
                self.drained.store(true, Ordering::Relaxed);
                self.framing.as_mut().map_or(Ok(()), Decoder::end).map_err(framing_error)
            }
        }
    }

    fn verify_hashes(&mut self, digested: Digested) -> Result<Summary, SourceError> {
        let hashers = self.hashers.take().ok_or_else(|| SourceError::Malformed("finished twice".into()))?;
        let checksums = hashers.finish(&digested);
        if self.expected.md5.is_some() && self.expected.md5 != digested.md5 {
            return Err(SourceError::Md5Mismatch);
        }
        if let Some((sha256, expected)) = self.sha256.take()
            && <[u8; 32]>::from(sha256.finalize()) != expected
        {
            return Err(SourceError::SignatureMismatch);
        }
        if let Some(given) = &self.expected.checksum {
            compare(given, &checksums)?;
        }
        if let Some(kind) = self.expected.trailer {
            let trailers = self.framing.as_ref().map(Decoder::trailers).unwrap_or_default();
            compare(&verify_trailer(kind, trailers)?, &checksums)?;
        }
        Ok(Summary { etag: digested.etag, checksums })
    }
}

fn compare(given: &Checksum, computed: &[Checksum]) -> Result<(), SourceError> {
    if computed.iter().any(|computed| computed == given) {
        return Ok(());
    }
    Err(SourceError::ChecksumMismatch(name(given.kind)))
}

fn framing_error(error: FramingError) -> SourceError {
    match error {
        FramingError::Signature => SourceError::SignatureMismatch,
        FramingError::Truncated => SourceError::Truncated,
        FramingError::Malformed(_) => SourceError::Malformed(error.to_string()),
    }
}

impl<B> Source for BodySource<B>
where
    B: Body<Data = Bytes> + Unpin + Send,
{
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&mut self, into: &mut [u8]) -> Result<usize, SourceError> {
        let left = self.size - self.passed;
        if left == 0 {
            return Ok(0);
        }
        let ready = self.data().await?;
        if ready == 0 {
            return Err(SourceError::Truncated);
        }
        if ready as u64 > left {
            return Err(SourceError::TooLong);
        }
        let taken = self.frame.split_to(ready.min(into.len()));
        let (filled, _) = into.split_at_mut(taken.len());
        filled.copy_from_slice(&taken);
        if let Some(decoder) = &mut self.framing {
            decoder.taken(filled).map_err(framing_error)?;
        }
        if let Some(hashers) = &mut self.hashers {
            hashers.update(filled);
        }
        if let Some((sha256, _)) = &mut self.sha256 {
            sha256.update(&*filled);
        }
        self.passed += filled.len() as u64;
        Ok(filled.len())
    }

    fn wants_md5(&self) -> bool {
        self.expected.md5.is_some()
    }

    async fn finish(&mut self, digested: Digested) -> Result<Summary, SourceError> {
        if self.passed != self.size {
            return Err(SourceError::Truncated);
        }
        if self.data().await? > 0 {
            return Err(SourceError::TooLong);
        }
        self.verify_hashes(digested)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checksum::header;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http_body_util::StreamBody;
    use hyper::HeaderMap;
    use hyper::body::Frame;
    use std::time::Duration;
    use tenfour_types::ETag;

    const ETAG: ETag = ETag { md5: [7; 16], parts: Some(1) };

    type Part = Result<Frame<Bytes>, std::io::Error>;

    fn body(parts: &[&str]) -> StreamBody<futures::stream::Iter<std::vec::IntoIter<Part>>> {
        let frames = parts
            .iter()
            .map(|part| Ok(Frame::data(Bytes::copy_from_slice(part.as_bytes()))))
            .collect::<Vec<_>>();
        StreamBody::new(futures::stream::iter(frames))
    }

    async fn drain<B: Body<Data = Bytes> + Unpin + Send>(
        mut source: BodySource<B>,
    ) -> Result<(Vec<u8>, Summary), SourceError> {
        let (mut all, mut buffer) = (Vec::new(), [0; 4]);
        loop {
            match source.read(&mut buffer).await? {
                0 => break,
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
        let md5 = Some(md5::Md5::digest(&all).into());
        let summary =
            source.finish(Digested { etag: ETAG, md5, crc64: tenfour_erasure::crc64(&all) }).await?;
        Ok((all, summary))
    }

    fn expected(headers: &[(&'static str, &str)]) -> Expected {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Expected::of(&map).unwrap()
    }

    #[tokio::test]
    async fn plain_bytes_pass_and_are_hashed() {
        let md5 = STANDARD.encode(hex::decode("5eb63bbbe01eeed093cb22bb8f5acdc3").unwrap());
        let given = expected(&[("content-md5", &md5), ("x-amz-checksum-crc32", "DUoRhQ==")]);
        let source = BodySource::new(
            body(&["hello", " wor", "ld"]),
            11,
            None,
            None,
            given,
            &[ChecksumKind::Crc64Nvme],
        );
        let (bytes, summary) = drain(source).await.unwrap();
        assert_eq!(bytes, b"hello world");
        assert_eq!(summary.etag, ETAG);
        assert_eq!(summary.checksums.len(), 2);
    }

    #[tokio::test]
    async fn every_lie_is_noticed() {
        let run = |parts: &[&str], size, sha256, headers: &[(&'static str, &str)]| {
            drain(BodySource::new(body(parts), size, sha256, None, expected(headers), &[]))
        };
        assert_eq!(run(&["hell"], 5, None, &[]).await.unwrap_err(), SourceError::Truncated);
        assert_eq!(run(&["hello", "!"], 5, None, &[]).await.unwrap_err(), SourceError::TooLong);
        assert_eq!(run(&["hello!"], 5, None, &[]).await.unwrap_err(), SourceError::TooLong);
        assert_eq!(run(&["hello"], 5, Some([0; 32]), &[]).await.unwrap_err(), SourceError::SignatureMismatch);
        let md5 = STANDARD.encode([0; 16]);
        assert_eq!(
            run(&["hello"], 5, None, &[("content-md5", &md5)]).await.unwrap_err(),
            SourceError::Md5Mismatch
        );
        for (kind, bytes) in [("crc32", 4), ("crc32c", 4), ("crc64nvme", 8), ("sha1", 20), ("sha256", 32)] {
            let value = STANDARD.encode(vec![0; bytes]);
            let name = header(crate::ops::checksum::kind(kind).unwrap());
            assert_eq!(
                run(&["hello"], 5, None, &[(name, &value)]).await.unwrap_err(),
                SourceError::ChecksumMismatch(kind)
            );
        }
    }

    #[tokio::test]
    async fn a_trailing_checksum_is_verified() {
        let run = |trailer: &str, announced: &str| {
            let text = format!("5\r\nhello\r\n6\r\n world\r\n0\r\n{trailer}\r\n\r\n");
            let given = expected(&[("x-amz-trailer", announced)]);
            drain(BodySource::new(body(&[&text]), 11, None, Some(Decoder::new(None, false)), given, &[]))
        };
        let crc32 = "x-amz-checksum-crc32";
        let (bytes, summary) = run("x-amz-checksum-crc32:DUoRhQ==", crc32).await.unwrap();
        assert_eq!((bytes.as_slice(), summary.checksums.len()), (b"hello world".as_slice(), 1));
        assert_eq!(
            run("x-amz-checksum-crc32:AAAAAA==", crc32).await.unwrap_err(),
            SourceError::ChecksumMismatch("crc32")
        );
        assert!(matches!(run("", crc32).await.unwrap_err(), SourceError::Malformed(_)));
        assert!(matches!(
            run("x-amz-checksum-crc32:AAA", crc32).await.unwrap_err(),
            SourceError::Malformed(_)
        ));
    }

    #[tokio::test]
    async fn chunks_that_hold_more_or_less_than_announced_are_refused() {
        let run = |text: &str, size| {
            drain(BodySource::new(
                body(&[text]),
                size,
                None,
                Some(Decoder::new(None, false)),
                expected(&[]),
                &[],
            ))
        };
        assert_eq!(run("5\r\nhello\r\n0\r\n\r\n", 6).await.unwrap_err(), SourceError::Truncated);
        assert_eq!(run("5\r\nhello\r\n0\r\n\r\n", 4).await.unwrap_err(), SourceError::TooLong);
        assert_eq!(run("5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", 5).await.unwrap_err(), SourceError::TooLong);
        assert_eq!(run("5\r\nhel", 5).await.unwrap_err(), SourceError::Truncated);
        assert_eq!(run("5\r\nhello\r\n", 5).await.unwrap_err(), SourceError::Truncated);
        assert!(run("0\r\n\r\n", 0).await.is_ok());
    }

    #[tokio::test]
    async fn a_client_that_stops_sending_is_given_up() {
        let endless = StreamBody::new(futures::stream::pending::<Part>());
        let mut source = BodySource::new(Box::pin(endless), 5, None, None, expected(&[]), &[]);
        source.pace = Pace::new(Duration::from_millis(5), Duration::ZERO);
        assert_eq!(drain(source).await.unwrap_err(), SourceError::TimedOut);
    }
}
