//! The bodies of requests that are not an object's bytes (XML, forms): bounded, paced, and held against what the request
//! says of them, while the library reads them.
//!
//! The library knows one failure of a body, an internal error; so what really was wrong is left in a shared slot, from which
//! the answer is made. The slot holds the body's memory, too: until the request was answered.

use super::expect::Expected;
use super::payload::Drained;
use super::room::Room;
use crate::ops::checksum::{Hasher, name};
use crate::ops::pace::Pace;
use crate::transfer::SourceError;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use hyper::body::{Body, Frame};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tenfour_erasure::Md5;
use tenfour_types::Scaled;
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

/// Longest time from the first to the last byte of a body, however fast its bytes come between.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// What was wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BodyError {
    /// It is not what it should be.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// No memory for it became free in time.
    #[error("too many bodies are held in memory")]
    NoRoom,
}

/// What the library cannot tell of a body, and the memory that it takes.
#[derive(Default)]
pub struct Slot {
    error: OnceLock<BodyError>,
    memory: OnceLock<OwnedSemaphorePermit>,
}

impl Slot {
    /// What was wrong with it.
    pub fn error(&self) -> Option<&BodyError> {
        self.error.get()
    }
}

/// A checked body.
pub struct CheckedBody {
    frames: BoxStream<'static, Result<Bytes, BodyError>>,
    slot: Arc<Slot>,
    drained: Drained,
}

/// How much memory a body may take, and of what.
pub struct Limits<'a> {
    /// It may be so long, bytes.
    pub most: u64,
    /// Its memory is of this.
    pub room: &'a Room,
}

impl CheckedBody {
    /// Over a body. `is_framed` says that the bytes are aws-chunked: they are not what digests are of.
    pub fn new<B>(
        body: B,
        limits: &Limits<'_>,
        expected: Expected,
        is_framed: bool,
        drained: Drained,
    ) -> (Self, Arc<Slot>)
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
    {
        let digests =
            (!is_framed).then(|| Digests { checksum: expected.kind().map(Hasher::new), md5: Md5::new() });
        let slot = Arc::<Slot>::default();
        let memory_bytes = body.size_hint().exact().unwrap_or(limits.most).min(limits.most);
        let state = State {
            body,
            left: limits.most,
            wanted: Some((limits.room.clone(), memory_bytes)),
            until: Instant::now() + BODY_WITHIN.scaled(),
            slot: slot.clone(),
            expected,
            digests,
            pace: Pace::default(),
            done: false,
        };
        let frames = futures::stream::unfold(state, State::next).boxed();
        (Self { frames, slot: slot.clone(), drained }, slot)
    }
}

struct State<B> {
    body: B,
    left: u64,
    /// Memory that is not taken yet.
    wanted: Option<(Room, u64)>,
    until: Instant,
    slot: Arc<Slot>,
    expected: Expected,
    digests: Option<Digests>,
    pace: Pace,
    done: bool,
}

/// What a body is held against.
struct Digests {
    checksum: Option<Hasher>,
    md5: Md5,
}

impl<B> State<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    fn next(mut self) -> BoxFuture<'static, Option<(Result<Bytes, BodyError>, Self)>> {
        Box::pin(async move {
            if self.done {
                return None;
            }
            match self.frame().await {
                Ok(Some(bytes)) => Some((Ok(bytes), self)),
                Ok(None) => {
                    self.done = true;
                    self.verify().err().map(|error| (Err(error.into()), self))
                }
                Err(error) => {
                    self.done = true;
                    Some((Err(error), self))
                }
            }
        })
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some((room, bytes)) = self.wanted.take() {
            let memory = room.take(bytes).await.ok_or(BodyError::NoRoom)?;
            let _ = self.slot.memory.set(memory);
            self.until = Instant::now() + BODY_WITHIN.scaled();
        }
        loop {
            let body = &mut self.body;
            let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
            let frame = timeout_at(self.until, self.pace.wait(frame)).await.ok().flatten();
            let frame = match frame.ok_or(SourceError::TimedOut)? {
                None => return Ok(None),
                Some(Err(_)) => return Err(SourceError::Truncated.into()),
                Some(Ok(frame)) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            self.pace.received(data.len());
            let left = self.left.checked_sub(data.len() as u64);
            self.left = left.ok_or_else(|| SourceError::Malformed("the request body is too long".into()))?;
            if let Some(Digests { checksum, md5 }) = &mut self.digests {
                checksum.iter_mut().for_each(|hasher| hasher.update(&data));
                if self.expected.md5.is_some() {
                    md5.update(&data);
                }
            }
            return Ok(Some(data));
        }
    }

    fn verify(&mut self) -> Result<(), SourceError> {
        let Some(Digests { checksum, md5 }) = self.digests.take() else { return Ok(()) };
        if self.expected.md5.is_some_and(|given| given != md5.finish()) {
            return Err(SourceError::Md5Mismatch);
        }
        match &self.expected.checksum {
            Some(given) if checksum.map(Hasher::finish).as_ref() != Some(given) => {
                Err(SourceError::ChecksumMismatch(name(given.kind)))
            }
            _ => Ok(()),
        }
    }
}

impl Body for CheckedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = std::task::ready!(self.frames.poll_next_unpin(context));
        match &next {
            Some(Err(error)) => drop(self.slot.error.set(error.clone())),
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
    ) -> Result<Bytes, BodyError> {
        let map: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let full = Full::new(Bytes::from_static(text.as_bytes()));
        let limits = Limits { most, room: &Room::new(1 << 20) };
        let (body, slot) =
            CheckedBody::new(full, &limits, Expected::of(&map).unwrap(), false, Drained::default());
        let read = body.collect().await.map(http_body_util::Collected::to_bytes);
        assert_eq!(read.as_ref().err(), slot.error());
        read
    }

    #[tokio::test]
    async fn its_memory_is_held_until_the_slot_is_gone() {
        let room = Room::new(2 << 10);
        let open = || {
            let full = Full::new(Bytes::from_static(b"hello"));
            let limits = Limits { most: 2 << 10, room: &room };
            CheckedBody::new(full, &limits, Expected::default(), false, Drained::default())
        };
        let (body, slot) = open();
        let (other, other_slot) = open();
        body.collect().await.unwrap();
        other.collect().await.unwrap();
        assert_eq!(room.free_bytes(), 0);
        drop((slot, other_slot));
        assert_eq!(room.free_bytes(), 2 << 10);
    }

    #[tokio::test]
    async fn digests_and_length_are_verified() {
        assert_eq!(
            read("hello world", 11, &[("x-amz-checksum-crc32", "DUoRhQ==")]).await.unwrap(),
            "hello world"
        );
        let wrong = read("hello", 11, &[("x-amz-checksum-crc32", "DUoRhQ==")]).await;
        assert_eq!(wrong, Err(SourceError::ChecksumMismatch("crc32").into()));
        let wrong = read("hello", 11, &[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")]).await;
        assert_eq!(wrong, Err(SourceError::Md5Mismatch.into()));
        assert!(matches!(
            read("hello world", 10, &[]).await,
            Err(BodyError::Source(SourceError::Malformed(_)))
        ));
    }
}
