//! A snapshot on its way: streamed from a frozen table in chunks, received into a file. Memory: a few chunks, whatever its size.
//!
//! openraft asks for `AsyncRead`, `AsyncWrite` and `AsyncSeek`, for a transport of its own that is not used here: snapshots
//! move by [`SnapshotStream::next_chunk`] and [`SnapshotStream::append`], and those three refuse. The stream proves its own
//! integrity (see the table's snapshots), so nothing is added here.

use crate::table::{Table, write_snapshot};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// Bytes of a snapshot in one message.
const CHUNK_BYTES: usize = 512 << 10;
/// Chunks that wait for the network.
const CHUNKS_WAITING: usize = 2;

/// A snapshot that is sent or was received.
pub struct SnapshotStream(Inner);

enum Inner {
    /// To be streamed from here.
    Frozen(Box<dyn Table + Send>),
    /// Being streamed by a thread.
    Streaming(mpsc::Receiver<io::Result<Bytes>>),
    /// Received, or being received.
    File(File),
    /// Ended.
    Empty,
}

impl SnapshotStream {
    pub(crate) fn outgoing(table: Box<dyn Table + Send>) -> Self {
        Self(Inner::Frozen(table))
    }

    /// A new file for what arrives; the caller removes it. Blocks.
    pub(crate) fn incoming(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Self(Inner::File(file)))
    }

    /// Adds received bytes. Blocks.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Inner::File(file) => file.write_all(bytes),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The next bytes to send; `None` at the end. The table is read by a thread of the blocking pool.
    pub(crate) async fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.start();
        match &mut self.0 {
            Inner::Streaming(chunks) => chunks.recv().await.transpose(),
            _ => Ok(None),
        }
    }

    /// All of it, for installing. To be read in a thread that may block.
    pub(crate) fn into_reader(mut self) -> io::Result<Box<dyn Read + Send>> {
        self.start();
        Ok(match self.0 {
            Inner::Streaming(chunks) => Box::new(ChunkReader { chunks, current: Bytes::new() }),
            Inner::File(mut file) => {
                file.rewind()?;
                Box::new(io::BufReader::with_capacity(CHUNK_BYTES, file))
            }
            Inner::Frozen(_) | Inner::Empty => Box::new(io::empty()),
        })
    }

    fn start(&mut self) {
        if let Inner::Frozen(_) = self.0
            && let Inner::Frozen(table) = std::mem::replace(&mut self.0, Inner::Empty)
        {
            let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
            tokio::task::spawn_blocking(move || {
                let mut out = ChunkWriter { sender, buffer: Vec::with_capacity(CHUNK_BYTES) };
                if let Err(error) = write_snapshot(&*table, &mut out) {
                    let _ = out.sender.blocking_send(Err(io::Error::other(error.to_string())));
                }
            });
            self.0 = Inner::Streaming(receiver);
        }
    }
}

struct ChunkWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let taken = self.current.split_to(out.len().min(self.current.len()));
        out[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

impl AsyncRead for SnapshotStream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

impl AsyncWrite for SnapshotStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

impl AsyncSeek for SnapshotStream {
    fn start_seek(self: Pin<&mut Self>, _: io::SeekFrom) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
