//! One connection over which shards are fetched from a node. The node WRITEs into memory that was granted for exactly that.
//!
//! Invariant: nothing is looked at before the grant is sealed; whose answer is overdue is not asked again over this connection.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tenfour_rdma::{Buffer, Connection, Received};
use tenfour_types::shard_service::{FromNode, ShardError, ShardRef, ShardTable, ToNode};
use tenfour_types::{Scaled, Wire};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A fetch is answered within this, or the connection is given up.
const FETCH_DEADLINE: Duration = Duration::from_secs(15);
/// A grant ends by itself after so long.
const GRANT_EXPIRES: Duration = Duration::from_secs(120);

/// Why a fetch came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the connection to the node broke, or cannot be had")]
    Lost,
    #[error("the node: {0}")]
    Refused(#[from] ShardError),
    #[error("what came is not the shard that was meant")]
    Wrong,
    #[error("no memory came in time")]
    Memory,
}

type Answer = Result<ShardTable, ShardError>;

pub(super) struct Peer {
    connection: Connection,
    waiting: Arc<Mutex<Waiting>>,
    listening: JoinHandle<()>,
}

#[derive(Default)]
struct Waiting {
    last: u32,
    /// `None` once the connection has ended.
    answers: Option<HashMap<u32, oneshot::Sender<Answer>>>,
}

impl Peer {
    /// Of a connection whose first message, the slots, was taken.
    pub(super) fn new(connection: Connection) -> Self {
        let waiting = Arc::new(Mutex::new(Waiting { last: 0, answers: Some(HashMap::new()) }));
        let listening = tokio::spawn(listen(connection.clone(), Arc::clone(&waiting)));
        Self { connection, waiting, listening }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.waiting.lock().answers.is_some()
    }

    /// The whole payload of a shard, in this range of a buffer.
    pub(super) async fn fetch(
        &self,
        shard: ShardRef,
        buffer: Buffer,
        range: Range<usize>,
    ) -> Result<(Buffer, ShardTable), FetchError> {
        let bytes = range.len() as u32;
        let grant = self.connection.grant_write(buffer, range, GRANT_EXPIRES.scaled());
        let grant = grant.map_err(|_| FetchError::Lost)?;
        let (answer, answered) = oneshot::channel();
        let request = self.expect(answer).ok_or(FetchError::Lost)?;
        let message = ToNode::Fetch { request, shard, offset: 0, bytes, into: grant.remote() };
        let asked = async {
            let sent = self.connection.post_send(Bytes::from(message.to_bytes())).await;
            drop(sent.map_err(|_| FetchError::Lost)?);
            answered.await.map_err(|_| FetchError::Lost)
        };
        match timeout(FETCH_DEADLINE.scaled(), asked).await {
            Ok(Ok(Ok(table))) => Ok((grant.seal().await.into_buffer(), table)),
            Ok(Ok(Err(error))) => Err(error.into()),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.waiting.lock().answers = None;
                Err(FetchError::Lost)
            }
        }
    }

    fn expect(&self, answer: oneshot::Sender<Answer>) -> Option<u32> {
        let mut waiting = self.waiting.lock();
        waiting.last = waiting.last.wrapping_add(1);
        let request = waiting.last;
        waiting.answers.as_mut()?.insert(request, answer);
        Some(request)
    }

    /// Ends the connection, and what is still asked over it.
    pub(super) async fn close(&self) {
        self.waiting.lock().answers = None;
        self.connection.close().await;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Passes answers on until the connection ends, or the node says what was not asked.
async fn listen(connection: Connection, waiting: Arc<Mutex<Waiting>>) {
    while let Ok(Received::Message(message)) = connection.recv().await {
        let Ok(FromNode::Fetched { request, result }) = FromNode::from_bytes(&message) else { break };
        let answer = waiting.lock().answers.as_mut().and_then(|answers| answers.remove(&request));
        // Whoever asked may have gone.
        answer.map(|answer| answer.send(result));
    }
    waiting.lock().answers = None;
}
