//! Messages of one session on their way out: numbered, sealed and posted in one order.
//!
//! Invariant: a number is used exactly when its message was posted. Posting waits for a place first and then happens in one step, so
//! that a future that is dropped has either posted or used no number.

use bytes::{BufMut as _, Bytes, BytesMut};
use tenfour_rdma::{Completion, Connection, Frozen, OperationError, Remote};
use tenfour_types::Wire as _;
use tenfour_types::native::{BODY_BYTES_MAX, HEAD_BYTES, Sealer, ToClient};
use tokio::sync::Mutex;

/// The way to a client.
pub(super) struct Outgoing {
    pub(super) connection: Connection,
    sealer: Mutex<Sealer>,
}

impl Outgoing {
    pub(super) fn new(connection: Connection, key: [u8; 32]) -> Self {
        Self { connection, sealer: Mutex::new(Sealer::new(key)) }
    }

    /// Posts a message. Its completion is not waited for: what becomes of it shows in the connection.
    pub(super) async fn send(&self, message: &ToClient) -> Result<(), OperationError> {
        let mut sealer = self.sealer.lock().await;
        let frame = frame(&sealer, message)?;
        self.connection.post_send(frame).await?;
        sealer.sent();
        Ok(())
    }

    /// Writes into a client's memory and then says so, in one step.
    pub(super) async fn write_then_send(
        &self,
        source: Frozen,
        to: Remote,
        message: &ToClient,
    ) -> Result<Completion<()>, OperationError> {
        let mut sealer = self.sealer.lock().await;
        let frame = frame(&sealer, message)?;
        let placed = self.connection.post_write_then_send(source, to, frame).await?;
        sealer.sent();
        Ok(placed)
    }
}

fn frame(sealer: &Sealer, message: &ToClient) -> Result<Bytes, OperationError> {
    let message = message.to_bytes();
    if message.len() > BODY_BYTES_MAX {
        return Err(OperationError::MessageTooLong);
    }
    let head = sealer.head(&message).map_err(|_| OperationError::MessageTooLong)?;
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + message.len());
    frame.put_slice(&head);
    frame.put_slice(&message);
    Ok(frame.freeze())
}
