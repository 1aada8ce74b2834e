//! Frames on their way in: the responder's engine over a stream, and the answers to what this end has asked.
//!
//! Invariant: a payload byte lands only in memory that was checked before, and that is still granted when it lands.

use super::TcpLink;
use super::frame::{Frame, HEAD_BYTES};
use super::writer::Payload;
use crate::config::MESSAGE_BYTES_MAX;
use crate::connection::Received;
use crate::engine::grants::Landing;
use crate::engine::send_queue::Operation;
use crate::{ConnectionError, OperationError};
use bytes::Bytes;
use std::io;
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::time::timeout;

/// Bytes read ahead: a page with its head, and most messages.
const INPUT_BYTES: usize = 16 << 10;
/// Other tasks get their turn after so many bytes.
const YIELD_BYTES: usize = 2 << 20;
/// What a frame without a payload counts as.
const FRAME_BYTES: usize = 8 << 10;
/// Executed requests are acknowledged at the latest after so many.
const ACK_EVERY: u64 = 16;
/// After the error state, so much is read and thrown away, so that our last frame reaches a peer that is still sending.
const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Why reading ended.
enum End {
    /// The stream ended or broke without a word.
    Gone,
    /// The peer said good-bye.
    Bye,
    /// This end has failed meanwhile.
    Local,
    /// Our operation was refused.
    Refused(OperationError),
    /// The peer's request with this number is refused.
    Refuse(u64, OperationError),
}

pub(super) async fn run(link: &TcpLink) {
    let mut reader = Reader::new(link);
    let end = loop {
        if let Err(end) = reader.step().await {
            break end;
        }
    };
    match end {
        End::Gone => link.fail(ConnectionError::PeerGone, OperationError::RetryExceeded, None),
        End::Bye => link.fail(ConnectionError::PeerClosed, OperationError::Flushed, None),
        End::Local => {}
        End::Refused(error) => link.fail(ConnectionError::Operation(error), error, None),
        End::Refuse(sequence, error) => {
            let last = Frame::Refuse { sequence, code: error.code() };
            link.fail(ConnectionError::Refused(error), OperationError::Flushed, Some(last));
        }
    }
    // Elapsed: the peer keeps the stream open; it is broken instead.
    let _ = timeout(DRAIN_TIME.scaled(), reader.drain()).await;
}

struct Reader<'a> {
    link: &'a TcpLink,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    /// The newest request of the peer that was executed, and the newest that it was told of.
    executed: u64,
    acknowledged: u64,
    since_yield: usize,
}

impl<'a> Reader<'a> {
    fn new(link: &'a TcpLink) -> Self {
        let input = vec![0; INPUT_BYTES].into_boxed_slice();
        Self { link, input, start: 0, end: 0, executed: 0, acknowledged: 0, since_yield: 0 }
    }

    /// Takes one frame.
    async fn step(&mut self) -> Result<(), End> {
        let head = self.head().await?;
        self.fair(FRAME_BYTES).await;
        let violation = End::Refuse(self.executed + 1, OperationError::RemoteOperation);
        match Frame::decode(&head).ok_or(violation)? {
            Frame::Write { sequence, key, address, bytes, immediate } => {
                self.begin(sequence)?;
                self.write(sequence, (key, address, bytes), immediate).await?;
                self.executed(sequence);
            }
            Frame::Send { sequence, bytes } => {
                self.begin(sequence)?;
                self.message(sequence, bytes as usize).await?;
                self.executed(sequence);
            }
            Frame::Read { sequence, key, address, bytes } => {
                self.begin(sequence)?;
                let source = self.link.pair.grants.begin_read(key, address, bytes);
                let source = source.map_err(|error| End::Refuse(sequence, error))?;
                // The answer acknowledges itself and those before.
                (self.executed, self.acknowledged) = (sequence, sequence);
                self.link.outbox.push(Frame::ReadData { sequence, bytes }, Payload::Frozen(source));
                self.link.flush();
            }
            Frame::Ack { sequence } => {
                self.link.outbox.settle();
                self.link.pair.sends.complete_through(sequence).map_err(End::Refused)?;
            }
            Frame::ReadData { sequence, bytes } => self.read_data(sequence, bytes).await?,
            Frame::Refuse { sequence, code } => {
                let before = sequence.checked_sub(1).ok_or(End::Refused(OperationError::RemoteOperation))?;
                self.link.outbox.settle();
                self.link.pair.sends.complete_through(before).map_err(End::Refused)?;
                return Err(End::Refused(OperationError::from_code(code)));
            }
            Frame::Bye => return Err(End::Bye),
        }
        if self.link.outbox.overflowed() {
            return Err(End::Refuse(self.executed + 1, OperationError::RemoteOperation));
        }
        Ok(())
    }

    fn begin(&self, sequence: u64) -> Result<(), End> {
        if sequence != self.executed + 1 {
            return Err(End::Refuse(self.executed + 1, OperationError::RemoteOperation));
        }
        Ok(())
    }

    fn executed(&mut self, sequence: u64) {
        self.executed = sequence;
        if self.executed - self.acknowledged >= ACK_EVERY {
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        if self.executed > self.acknowledged {
            self.acknowledged = self.executed;
            self.link.outbox.push(Frame::Ack { sequence: self.executed }, Payload::None);
            self.link.flush();
        }
    }

    async fn write(
        &mut self,
        sequence: u64,
        (key, address, bytes): (u64, u64, u32),
        immediate: Option<u32>,
    ) -> Result<(), End> {
        let refuse = |error| End::Refuse(sequence, error);
        if immediate.is_some() {
            self.room().await.map_err(refuse)?;
        }
        if bytes > 0 {
            let mut landing = self.link.pair.grants.begin_write(key, address, bytes).map_err(refuse)?;
            self.land(sequence, &mut landing).await?;
        }
        if let Some(value) = immediate {
            self.link.pair.receives.push(Received::Immediate { value, bytes });
        }
        Ok(())
    }

    /// Receives into granted memory, for as long as it is granted.
    async fn land(&mut self, sequence: u64, landing: &mut Landing) -> Result<(), End> {
        let mut filled = self.take_buffered(landing.bytes());
        while filled < landing.bytes().len() {
            if !landing.is_open() {
                return Err(End::Refuse(sequence, OperationError::RemoteAccess));
            }
            let rest = landing.bytes().get_mut(filled..).unwrap_or_default();
            match self.link.stream.try_read(rest) {
                Ok(0) => return Err(End::Gone),
                Ok(bytes) => {
                    filled += bytes;
                    self.fair(bytes).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(Some((sequence, landing))).await?;
                }
                Err(_) => return Err(End::Gone),
            }
        }
        Ok(())
    }

    async fn message(&mut self, sequence: u64, bytes: usize) -> Result<(), End> {
        if bytes > MESSAGE_BYTES_MAX {
            return Err(End::Refuse(sequence, OperationError::MessageTooLong));
        }
        self.room().await.map_err(|error| End::Refuse(sequence, error))?;
        let message = match self.input.get(self.start..self.end).and_then(|ready| ready.get(..bytes)) {
            Some(whole) => {
                let message = Bytes::copy_from_slice(whole);
                self.start += bytes;
                message
            }
            None => {
                let mut message = vec![0; bytes];
                self.exactly(&mut message).await?;
                message.into()
            }
        };
        self.link.pair.receives.push(Received::Message(message));
        Ok(())
    }

    /// Room in the receive queue; what was executed is acknowledged before a wait.
    async fn room(&mut self) -> Result<(), OperationError> {
        if !self.link.pair.receives.has_room() {
            self.acknowledge();
        }
        self.link.pair.receives.wait_for_room(&self.link.pair.tunables).await
    }

    /// The answer to our oldest outstanding operation, which must be a READ of that length.
    async fn read_data(&mut self, sequence: u64, bytes: u32) -> Result<(), End> {
        let violation = || End::Refused(OperationError::RemoteOperation);
        let before = sequence.checked_sub(1).ok_or_else(violation)?;
        self.link.outbox.settle();
        let sends = &self.link.pair.sends;
        sends.complete_through(before).map_err(End::Refused)?;
        let front = {
            let mut state = sends.lock();
            let answered = state.pending.pop_front_if(|front| {
                let Operation::Read { from, .. } = &front.operation else { return false };
                front.sequence == sequence && from.bytes == bytes
            });
            if answered.is_none() && state.failed {
                return Err(End::Local);
            }
            answered
        };
        let mut front = front.ok_or_else(violation)?;
        if let Operation::Read { into, .. } = &mut front.operation {
            let into = into.get_mut(..bytes as usize).ok_or_else(violation)?;
            // If the stream ends here, the operation is dropped with this future, and reads as flushed.
            self.exactly(into).await?;
        }
        front.succeed();
        sends.release(1);
        Ok(())
    }

    async fn head(&mut self) -> Result<[u8; HEAD_BYTES], End> {
        loop {
            let ready = self.input.get(self.start..self.end).unwrap_or_default();
            if let Some(head) = ready.first_chunk::<HEAD_BYTES>() {
                self.start += HEAD_BYTES;
                return Ok(*head);
            }
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let free = self.input.get_mut(self.end..).unwrap_or_default();
            match self.link.stream.try_read(free) {
                Ok(0) => return Err(End::Gone),
                Ok(bytes) => {
                    self.end += bytes;
                    self.fair(bytes).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(None).await?,
                Err(_) => return Err(End::Gone),
            }
        }
    }

    async fn exactly(&mut self, into: &mut [u8]) -> Result<(), End> {
        let mut filled = self.take_buffered(into);
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.link.stream.try_read(rest) {
                Ok(0) => return Err(End::Gone),
                Ok(bytes) => {
                    filled += bytes;
                    self.fair(bytes).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(None).await?,
                Err(_) => return Err(End::Gone),
            }
        }
        Ok(())
    }

    fn take_buffered(&mut self, into: &mut [u8]) -> usize {
        let ready = self.input.get(self.start..self.end).unwrap_or_default();
        let bytes = ready.len().min(into.len());
        if let (Some(into), Some(ready)) = (into.get_mut(..bytes), ready.get(..bytes)) {
            into.copy_from_slice(ready);
        }
        self.start += bytes;
        bytes
    }

    /// Until there may be more to read, this end fails, or the memory that is being written is revoked.
    async fn wait(&mut self, landing: Option<(u64, &Landing)>) -> Result<(), End> {
        self.acknowledge();
        let interrupted = self.link.pair.grants.revoked_in_use.notified();
        tokio::pin!(interrupted);
        interrupted.as_mut().enable();
        if self.link.pair.error().is_some() {
            return Err(End::Local);
        }
        if let Some((sequence, landing)) = landing
            && !landing.is_open()
        {
            return Err(End::Refuse(sequence, OperationError::RemoteAccess));
        }
        tokio::select! {
            readable = self.link.stream.readable() => readable.map_err(|_| End::Gone),
            () = interrupted => Ok(()),
        }
    }

    async fn fair(&mut self, bytes: usize) {
        self.since_yield += bytes;
        if self.since_yield >= YIELD_BYTES {
            self.since_yield = 0;
            tokio::task::yield_now().await;
        }
    }

    async fn drain(&mut self) {
        let mut drained = 0;
        while drained < DRAIN_BYTES_MAX {
            match self.link.stream.try_read(&mut self.input) {
                Ok(0) => return,
                Ok(bytes) => drained += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.link.stream.readable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}
