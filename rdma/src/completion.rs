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
/// On `shm`, only a completion that is awaited costs a wake-up. Who learns of the outcome from the peer's next message anyway
/// may hold it until then, or drop it at once: the operation's memory is let go when the next event of the connection is
/// handled, when someone waits for memory of the pool, or after a second at the latest.
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

impl<T> fmt::Debug for Completion<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Completion")
    }
}
