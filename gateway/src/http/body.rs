//! The bodies of requests that are not an object's bytes (XML, forms): bounded, paced, and held against what the request
//! says of them, while the library reads them.
//!
//! The library knows one failure of a body, an internal error; so what really was wrong is left in a shared slot, from which
//! the answer is made.

use super::expect::Expected;
use super::pace::Pace;
use super::payload::Drained;
use crate::ops::checksum::{Hashers, name};
use crate::transfer::SourceError;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use hyper::body::{Body, Frame};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

/// What was wrong with a body.
pub type Failure = Arc<OnceLock<SourceError>>;

/// A checked body.
pub struct CheckedBody {
    frames: BoxStream<'static, Result<Bytes, SourceError>>,
    failure: Failure,
    drained: Drained,
}

impl CheckedBody {
    /// Over a body of at most `most` bytes. `is_framed` says that the bytes are aws-chunked: they are not what digests are of.
    pub fn new<B>(
        body: B,
        most: u64,
        expected: Expected,
        is_framed: bool,
        drained: Drained,
    ) -> (Self, Failure)
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
    {
        let hashers = (!is_framed).then(|| Hashers::new(expected.kind()));
        let state = State { body, left: most, expected, hashers, pace: Pace::default(), done: false };
        let frames = futures::stream::unfold(state, State::next).boxed();
        let failure = Failure::default();
        (Self { frames, failure: failure.clone(), drained }, failure)
    }
}

struct State<B> {
    body: B,
    left: u64,
    expected: Expected,
    hashers: Option<Hashers>,
    pace: Pace,
    done: bool,
}

impl<B> State<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    fn next(mut self) -> BoxFuture<'static, Option<(Result<Bytes, SourceError>, Self)>> {
        Box::pin(async move {
            if self.done {
                return None;
            }
            match self.frame().await {
                Ok(Some(bytes)) => Some((Ok(bytes), self)),
                Ok(None) => {
                    self.done = true;
                    self.verify().err().map(|error| (Err(error), self))
                }
                Err(error) => {
                    self.done = true;
                    Some((Err(error), self))
                }
            }
        })
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            let body = &mut self.body;
            let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
            let frame = match self.pace.wait(frame).await.ok_or(SourceError::TimedOut)? {
                None => return Ok(None),
                Some(Err(_)) => return Err(SourceError::Truncated),
                Some(Ok(frame)) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            self.pace.received(data.len());
            let left = self.left.checked_sub(data.len() as u64);
            self.left = left.ok_or_else(|| SourceError::Malformed("the request body is too long".into()))?;
            if let Some(hashers) = &mut self.hashers {
                hashers.update(&data);
            }
            return Ok(Some(data));
        }
    }

    fn verify(&mut self) -> Result<(), SourceError> {
        let Some(hashers) = self.hashers.take() else { return Ok(()) };
        let (etag, checksums) = hashers.finish();
        if self.expected.md5.is_some_and(|md5| md5 != etag.md5) {
            return Err(SourceError::Md5Mismatch);
        }
        match &self.expected.checksum {
            Some(given) if !checksums.contains(given) => Err(SourceError::ChecksumMismatch(name(given.kind))),
            _ => Ok(()),
        }
    }
}

impl Body for CheckedBody {
    type Data = Bytes;
    type Error = SourceError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SourceError>>> {
        let next = std::task::ready!(self.frames.poll_next_unpin(context));
        match &next {
            Some(Err(error)) => drop(self.failure.set(error.clone())),
            None => self.drained.store(true, Ordering::Relaxed),
            Some(Ok(_)) => {}
        }
        Poll::Ready(next.map(|frame| frame.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full};
    use hyper::HeaderMap;

    async fn read(
        text: &'static str,
        most: u64,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Bytes, SourceError> {
        let map: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let full = Full::new(Bytes::from_static(text.as_bytes()));
        let (body, failure) =
            CheckedBody::new(full, most, Expected::of(&map).unwrap(), false, Drained::default());
        let read = body.collect().await.map(|body| body.to_bytes());
        assert_eq!(read.as_ref().err(), failure.get());
        read
    }

    #[tokio::test]
    async fn digests_and_length_are_verified() {
        assert_eq!(
            read("hello world", 11, &[("x-amz-checksum-crc32", "DUoRhQ==")]).await.unwrap(),
            "hello world"
        );
        let wrong = read("hello", 11, &[("x-amz-checksum-crc32", "DUoRhQ==")]).await;
        assert_eq!(wrong, Err(SourceError::ChecksumMismatch("crc32")));
        let wrong = read("hello", 11, &[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")]).await;
        assert_eq!(wrong, Err(SourceError::Md5Mismatch));
        assert!(matches!(read("hello world", 10, &[]).await, Err(SourceError::Malformed(_))));
    }
}
