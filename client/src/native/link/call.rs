//! One request of a link, as its caller has it: sent, followed by chunks, answered.
//!
//! Invariant: a request that was not sent leaves nothing behind: neither in the link's table nor of what was granted for it.

use super::{Event, Held, Link, Reply, TakenSlot};
use crate::native::error::{Error, Failure};
use std::sync::Arc;
use std::time::Duration;
use tenfour_rdma::{Buffer, Frozen, OperationError, Remote};
use tenfour_types::Scaled;
use tenfour_types::native::{Request, ToGateway};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// One request of a link, on the side of the caller. Dropping it gives up the answer, not the request.
pub(in crate::native) struct Call {
    pub(super) link: Arc<Link>,
    pub(in crate::native) id: u32,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    pub(super) sent: bool,
}

impl Call {
    /// Sends the request.
    pub(in crate::native) async fn send(&mut self, request: Request) -> Result<(), Failure> {
        let message = ToGateway::Request { id: self.id, request };
        self.link.send(&message).await.map_err(|error| self.not_sent(error))?;
        self.sent = true;
        Ok(())
    }

    /// Sends the request in a slot, with the object's bytes.
    pub(in crate::native) async fn send_in_slot(
        &mut self,
        into: Buffer,
        slot: TakenSlot<'_>,
        message: &[u8],
        content: &[u8],
    ) -> Result<(), Failure> {
        let written = self.link.write_slot(into, slot, message, content).await;
        written.map_err(|error| self.not_sent(error))?;
        self.sent = true;
        Ok(())
    }

    /// What was granted for a request that was not sent: nobody will use it.
    pub(in crate::native) async fn take_back(mut self) -> Held {
        let pending = self.link.core.state().pending.remove(&self.id);
        match pending {
            Some(pending) => pending.held,
            // The receiving side hands over what it found in the table.
            None => loop {
                match self.events.recv().await {
                    Some(Event::Reply(reply)) => break reply.held,
                    Some(Event::Broken(held)) => break held,
                    Some(Event::WriteHere(..) | Event::Entries(_)) => {}
                    None => break Held::default(),
                }
            },
        }
    }

    /// Sends what follows the request.
    pub(in crate::native) async fn follow(&self, message: &ToGateway) -> Result<(), OperationError> {
        self.link.send(message).await
    }

    /// Writes a chunk and says so.
    pub(in crate::native) async fn write(
        &self,
        source: Frozen,
        to: Remote,
        chunk: u32,
    ) -> Result<(), OperationError> {
        self.link.write_then_send(source, to, &ToGateway::Written { id: self.id, chunk }).await
    }

    /// What the gateway says next. An answer that does not come in time ends the connection: nothing else is known to work.
    pub(in crate::native) async fn next(&mut self, deadline: Duration) -> Event {
        match timeout(deadline.scaled(), self.events.recv()).await {
            Ok(Some(event)) => event,
            Ok(None) => Event::Broken(Held::default()),
            Err(_) => {
                self.link.core.connection.close().await;
                self.events.recv().await.unwrap_or(Event::Broken(Held::default()))
            }
        }
    }

    /// The next thing said, which must be the answer.
    pub(in crate::native) async fn reply(&mut self, deadline: Duration) -> Result<Reply, Held> {
        loop {
            match self.next(deadline).await {
                Event::Reply(reply) => return Ok(*reply),
                Event::Broken(held) => return Err(held),
                // Not what was asked for; the answer will come all the same.
                Event::WriteHere(..) | Event::Entries(_) => {}
            }
        }
    }

    fn not_sent(&self, error: OperationError) -> Failure {
        match error {
            OperationError::MessageTooLong => {
                Failure::before(Error::Buffer("the request's names and headers are longer than a message"))
            }
            OperationError::LocalProtection => {
                Failure::before(Error::Buffer("the buffer is of another client's memory"))
            }
            _ => Failure::broken(false),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.sent {
            let gone = self.link.core.state().pending.remove(&self.id);
            // A device takes its time to let go: not under the lock.
            drop(gone);
        }
    }
}
