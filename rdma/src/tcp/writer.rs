//! Frames on their way out. Whoever queues a frame writes it too, as long as the socket takes it; only what it does not
//! take is left to the writer's task, so that the common case costs no switch between tasks.
//!
//! Invariant: frames leave in the order of `push`, whole, or the stream ends.

use super::TcpLink;
use super::frame::{Frame, HEAD_BYTES};
use crate::memory::Frozen;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Frames that may wait. Our own requests are bounded by the send queue; this bounds what a peer makes us answer.
const FRAMES_MAX: usize = 1024;
/// Slices of one `writev(2)`.
const SLICES_MAX: usize = 64;
/// The last frame gets so long to leave.
const LINGER: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    work: Notify,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Outgoing>,
    /// Bytes of the first frame that have left.
    written: usize,
    /// The socket is full: the task goes on when it is not.
    blocked: bool,
    /// The last frame is queued, or nothing can be written any more.
    finished: bool,
    overflowed: bool,
}

struct Outgoing {
    head: [u8; HEAD_BYTES],
    frame: Frame,
    payload: Payload,
}

/// What follows a head; shares the memory that it sends.
pub(super) enum Payload {
    None,
    Frozen(Frozen),
    Bytes(Bytes),
}

impl Payload {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Frozen(frozen) => frozen,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Outbox {
    pub(super) fn push(&self, frame: Frame, payload: Payload) {
        let mut state = self.state.lock();
        if state.finished {
            return;
        }
        if state.frames.len() >= FRAMES_MAX {
            state.overflowed = true;
            return;
        }
        // An acknowledgement covers those before it.
        let unsent = state.frames.len() > 1 || state.written == 0;
        if let Frame::Ack { .. } = frame
            && unsent
            && let Some(last) = state.frames.back_mut()
            && let Frame::Ack { .. } = last.frame
        {
            (last.head, last.frame) = (frame.encode(), frame);
            return;
        }
        state.frames.push_back(Outgoing { head: frame.encode(), frame, payload });
    }

    /// Drops what was not begun and queues the last frame.
    pub(super) fn finish(&self, last: Frame) {
        let mut state = self.state.lock();
        if state.finished {
            return;
        }
        let begun = usize::from(state.written > 0);
        state.frames.truncate(begun);
        state.frames.push_back(Outgoing { head: last.encode(), frame: last, payload: Payload::None });
        state.finished = true;
    }

    /// Waits for a write in progress on another thread, so that what it has sent is let go of. The peer can answer before
    /// `writev(2)` has returned here.
    pub(super) fn settle(&self) {
        drop(self.state.lock());
    }

    /// Whether a peer has made us queue more than we may.
    pub(super) fn overflowed(&self) -> bool {
        self.state.lock().overflowed
    }

    fn is_finished(&self) -> bool {
        self.state.lock().finished
    }

    pub(super) fn wake(&self) {
        self.work.notify_one();
    }

    /// Writes what the socket takes now. A broken stream is the reader's to report.
    pub(super) fn flush(&self, stream: &TcpStream) {
        let mut state = self.state.lock();
        if !state.blocked && state.write(stream) == Progress::Blocked {
            state.blocked = true;
            self.work.notify_one();
        }
    }
}

impl Outbox {
    /// For the task: writes on, and hands writing back to those who queue when all is out.
    fn resume(&self, stream: &TcpStream) -> bool {
        let mut state = self.state.lock();
        state.blocked = state.write(stream) == Progress::Blocked;
        !state.blocked
    }
}

#[derive(PartialEq, Eq)]
enum Progress {
    Done,
    Blocked,
}

impl State {
    fn write(&mut self, stream: &TcpStream) -> Progress {
        while !self.frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let parts = self.frames.iter().flat_map(|frame| [&frame.head[..], frame.payload.as_slice()]);
            let mut skip = self.written;
            let mut used = 0;
            for part in parts {
                let Some(slot) = slices.get_mut(used) else { break };
                let skipped = skip.min(part.len());
                skip -= skipped;
                if let Some(rest) = part.get(skipped..).filter(|rest| !rest.is_empty()) {
                    *slot = IoSlice::new(rest);
                    used += 1;
                }
            }
            match stream.try_write_vectored(slices.get(..used).unwrap_or_default()) {
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Blocked,
                Err(_) => {
                    self.frames.clear();
                    self.finished = true;
                }
            }
        }
        Progress::Done
    }

    fn advance(&mut self, written: usize) {
        self.written += written;
        while let Some(front) = self.frames.front() {
            let bytes = HEAD_BYTES + front.payload.as_slice().len();
            if self.written < bytes {
                break;
            }
            self.written -= bytes;
            self.frames.pop_front();
        }
    }
}

/// Goes on when the socket was full; ends the stream when the connection has failed and the last frame is out.
pub(super) async fn run(link: &TcpLink) {
    let outbox = &link.outbox;
    // The connection's error state is entered a moment before its last frame is queued: only that counts here.
    while !outbox.is_finished() {
        outbox.work.notified().await;
        while !outbox.is_finished() && !outbox.resume(&link.stream) {
            tokio::select! {
                writable = link.stream.writable() => if writable.is_err() { break },
                () = outbox.work.notified() => {}
            }
        }
    }
    // Elapsed: the peer does not read; the stream breaks instead of ending.
    let _ = timeout(LINGER.scaled(), drain(link)).await;
    outbox.state.lock().frames.clear();
    // Fails only when the stream is broken already.
    let _ = rustix::net::shutdown(&link.stream, rustix::net::Shutdown::Write);
}

async fn drain(link: &TcpLink) {
    while link.outbox.state.lock().write(&link.stream) == Progress::Blocked {
        if link.stream.writable().await.is_err() {
            return;
        }
    }
}
