//! A client's socket, watched: a peer that does not take what is written to it is given up, so that a dead or crawling
//! reader cannot hold the memory of its answer for ever.
//!
//! Only time during which a write waited for the peer counts.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// A write may wait for so long before the rate is looked at.
const WINDOW: Duration = Duration::from_secs(20);
/// Bytes that must have been taken in a window. It is as long as it is since the kernel tells of what was taken in large
/// steps, each a part of its send buffer.
const WINDOW_BYTES_MIN: usize = 640 << 10;

/// The socket.
pub struct Socket {
    stream: TcpStream,
    window: Duration,
    timer: Pin<Box<Sleep>>,
    blocked_since: Option<Instant>,
    blocked: Duration,
    taken: usize,
}

impl Socket {
    /// Watches a connection.
    pub fn new(stream: TcpStream) -> Self {
        Self::with_window(stream, WINDOW.scaled())
    }

    fn with_window(stream: TcpStream, window: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(window));
        Self { stream, window, timer, blocked_since: None, blocked: Duration::ZERO, taken: 0 }
    }

    /// The connection.
    pub fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn wrote(&mut self, bytes: usize) {
        if let Some(since) = self.blocked_since.take() {
            self.blocked += since.elapsed();
        }
        self.taken += bytes;
        if self.taken >= WINDOW_BYTES_MIN {
            (self.taken, self.blocked) = (0, Duration::ZERO);
        }
    }

    /// Called when a write has to wait: an error when it has waited for too long.
    fn waits(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let now = Instant::now();
        let since = *self.blocked_since.get_or_insert(now);
        let waited = self.blocked + now.duration_since(since);
        if waited >= self.window {
            let text = "the client does not take its answer";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        self.timer.as_mut().reset(now + (self.window - waited));
        ready!(self.timer.as_mut().poll(context));
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn written(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Pending => self.waits(context),
            Poll::Ready(result) => {
                self.wrote(result.as_ref().copied().unwrap_or(0));
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (Socket::with_window(stream, Duration::from_millis(300)), client)
    }

    #[tokio::test]
    async fn a_reader_that_stops_is_given_up_and_one_that_reads_is_not() {
        let (mut socket, mut client) = pair().await;
        let block = vec![7; 1 << 20];
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 20];
            let mut all = 0;
            while all < 32 << 20 {
                all += client.read(&mut buffer).await.unwrap();
            }
            client
        });
        for _ in 0..32 {
            socket.write_all(&block).await.unwrap();
        }
        let client = reader.await.unwrap();
        // Now nobody reads.
        let error = loop {
            if let Err(error) = socket.write_all(&block).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
