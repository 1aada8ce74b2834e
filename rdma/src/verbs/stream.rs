//! The messages of a fresh connection as a stream of bytes, for the handshake and the set-up and nothing else.

use super::link::VerbsLink;
use crate::ConnectionError;
use crate::config::MESSAGE_BYTES_MAX;
use crate::connection::Received;
use crate::engine::send_queue::{Done, Operation};
use bytes::{Buf, Bytes};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

type Receiving = Pin<Box<dyn Future<Output = Result<Received, ConnectionError>> + Send>>;

pub(super) struct MessageStream {
    link: Arc<VerbsLink>,
    /// What of the last message was not read yet.
    rest: Bytes,
    receiving: Option<Receiving>,
}

impl MessageStream {
    pub(super) fn new(link: Arc<VerbsLink>) -> Self {
        Self { link, rest: Bytes::new(), receiving: None }
    }
}

impl AsyncRead for MessageStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            let link = self.link.clone();
            let receiving = self
                .receiving
                .get_or_insert_with(|| Box::pin(async move { link.pair.receives.receive().await }));
            let received = ready!(receiving.as_mut().poll(context));
            self.receiving = None;
            match received {
                Ok(Received::Message(message)) => self.rest = message,
                Ok(Received::Immediate { .. }) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                // The end of the stream.
                Err(_) => return Poll::Ready(Ok(())),
            }
        }
        let bytes = self.rest.len().min(into.remaining());
        into.put_slice(self.rest.get(..bytes).unwrap_or_default());
        self.rest.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MessageStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = bytes.get(..MESSAGE_BYTES_MAX).unwrap_or(bytes);
        let broken = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        // A set-up is a handful of messages: it never fills the send queue.
        if !self.link.pair.sends.try_reserve(1).map_err(broken)? {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        let (done, _) = oneshot::channel();
        let message = Bytes::copy_from_slice(bytes);
        self.link.post([(Operation::Send { message }, Done::Unit(done))].into_iter()).map_err(broken)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
