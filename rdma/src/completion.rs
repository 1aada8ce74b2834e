//! The future of one posted operation. Dropping it stops the wait, never the operation.

use crate::OperationError;
use crate::connection::Handle;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// Resolves when the peer has executed the operation: a WRITE is placed in its memory, a READ's bytes are here, a message
/// was taken into its receive queue. Says nothing of durability.
///
/// A completion that is held but not awaited costs no wake-up on `shm`; who learns of the outcome from the peer's next
/// message anyway holds it until then. One that is dropped before it resolved is like one that was awaited and forgotten.
pub struct Completion<T> {
    receiver: oneshot::Receiver<Result<T, OperationError>>,
    /// Whom to tell that someone waits; taken when it was told or is no longer needed.
    interest: Option<Interest>,
}

pub(crate) struct Interest {
    pub(crate) connection: Arc<Handle>,
    pub(crate) sequence: u64,
}

impl<T> Completion<T> {
    pub(crate) fn new(
        receiver: oneshot::Receiver<Result<T, OperationError>>,
        interest: Option<Interest>,
    ) -> Self {
        Self { receiver, interest }
    }
}

impl<T> Future for Completion<T> {
    type Output = Result<T, OperationError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut polled = Pin::new(&mut self.receiver).poll(context);
        if polled.is_pending()
            && let Some(interest) = self.interest.take()
        {
            interest.connection.link.want(interest.sequence);
            polled = Pin::new(&mut self.receiver).poll(context);
        }
        polled.map(|received| {
            self.interest = None;
            received.unwrap_or(Err(OperationError::Flushed))
        })
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        if let Some(interest) = self.interest.take()
            && self.receiver.is_empty()
        {
            interest.connection.link.want(interest.sequence);
        }
    }
}

impl<T> fmt::Debug for Completion<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Completion")
    }
}
