//! The sending side of a connection: many producers, few system calls.
//!
//! Frames are encoded straight into one buffer under a short lock. A producer either leaves the writing to the connection's
//! own task, which first lets everyone who is about to produce do so, or, having a batch complete, writes without waiting.
//! Invariant: bytes leave in the order in which they were put in, and by one writer at a time.

use parking_lot::Mutex;
use std::io;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

/// A connection whose peer leaves so much unread is not read from until it has caught up, bytes.
const QUEUED_BYTES_HIGH: usize = 8 << 20;

pub(crate) struct Outbox {
    half: OwnedWriteHalf,
    state: Mutex<State>,
    /// There is something to write, or the connection ended.
    work: Notify,
    /// Something was written.
    drained: Notify,
}

#[derive(Default)]
struct State {
    queued: Vec<u8>,
    /// Somebody is writing, outside the lock.
    writing: bool,
    closed: bool,
}

impl Outbox {
    pub(crate) fn new(half: OwnedWriteHalf) -> Self {
        Self { half, state: Mutex::default(), work: Notify::new(), drained: Notify::new() }
    }

    /// Appends what `encode` writes; false when the connection is over or it could not be encoded. Nothing is sent yet.
    pub(crate) fn put(&self, encode: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> bool {
        let mut state = self.state.lock();
        !state.closed && encode(&mut state.queued).is_ok()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Has the connection's task send what was put, together with what others put meanwhile.
    pub(crate) fn send_soon(&self) {
        self.work.notify_one();
    }

    /// Sends what was put at once, as far as the socket takes it; the connection's task sends the rest. Never blocks.
    pub(crate) fn send_now(&self) {
        let Some(bytes) = self.begin() else { return };
        let mut sent = 0;
        while sent < bytes.len() {
            match self.half.try_write(&bytes[sent..]) {
                Ok(0) => break,
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let all = sent == bytes.len();
        self.end(bytes, sent);
        if !all {
            self.work.notify_one();
        }
    }

    /// Waits until little enough is unsent, or the connection is over.
    pub(crate) async fn ready(&self) {
        loop {
            let drained = self.drained.notified();
            {
                let state = self.state.lock();
                if state.closed || state.queued.len() <= QUEUED_BYTES_HIGH {
                    return;
                }
            }
            drained.await;
        }
    }

    /// Ends the connection for producers and writer; what is queued is dropped.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.queued = Vec::new();
        drop(state);
        self.work.notify_one();
        self.drained.notify_waiters();
    }

    /// The connection's writing task: runs until it is closed or the socket fails.
    pub(crate) async fn run(&self) {
        loop {
            self.work.notified().await;
            // Others that are about to put something do so first.
            tokio::task::yield_now().await;
            while let Some(bytes) = self.begin() {
                match self.write_some(&bytes).await {
                    Ok(sent) => self.end(bytes, sent),
                    Err(_) => return self.close(),
                }
            }
            if self.state.lock().closed {
                return;
            }
        }
    }

    async fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.half.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.half.writable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn begin(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        if state.writing || state.closed || state.queued.is_empty() {
            return None;
        }
        state.writing = true;
        Some(std::mem::take(&mut state.queued))
    }

    /// Gives back what was not sent, before what was put meanwhile.
    fn end(&self, mut bytes: Vec<u8>, sent: usize) {
        let mut state = self.state.lock();
        state.writing = false;
        if !state.closed {
            if sent < bytes.len() {
                bytes.drain(..sent);
                bytes.append(&mut state.queued);
                state.queued = bytes;
            } else if !state.queued.is_empty() {
                self.work.notify_one();
            } else if bytes.capacity() <= QUEUED_BYTES_HIGH / 8 {
                bytes.clear();
                state.queued = bytes;
            }
        }
        drop(state);
        self.drained.notify_waiters();
    }
}
