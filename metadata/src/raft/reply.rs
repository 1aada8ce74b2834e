//! What becomes of a request, and how it gets back to who asked: into a connection's outbox, or to a caller in this process.
//!
//! It sends nothing by itself: whoever put answers into connections has them sent, once for many. Every request that is taken gets
//! exactly one answer while its connection lives.

use crate::api::{ClusterReply, IndexReply};
use crate::net::{Frame, Kind, Outbox};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Why a request was not answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// Nothing happened: this replica does not lead the group. Who does, if that is known, and where.
    NotLeader(Option<(u64, String)>),
    /// It may have happened, or may still.
    Undecided,
    /// Nothing happened, and asking again does not help.
    Refused(String),
    /// Nothing happened: too much is waiting.
    Busy,
}

impl Failure {
    /// To a read whose answer no message holds.
    pub(crate) fn too_large() -> Self {
        Self::Refused("the answer is too large for a message".to_owned())
    }

    /// The frame that says so.
    pub(crate) fn write(&self, out: &mut Vec<u8>, id: u64, group: u16) -> std::io::Result<()> {
        match self {
            Self::NotLeader(leader) => Frame::write(out, id, Kind::NotLeader, group, leader),
            Self::Undecided => Frame::write(out, id, Kind::Undecided, group, &()),
            Self::Refused(why) => Frame::write(out, id, Kind::Refused, group, why),
            Self::Busy => Frame::write(out, id, Kind::Busy, group, &()),
        }
    }
}

/// What became of a command.
pub(crate) type Outcome = Result<CommandReply, Failure>;

/// The reply to a command.
pub(crate) enum CommandReply {
    Index(IndexReply),
    /// With the number of the fence to wait for.
    Cluster(ClusterReply, u64),
}

/// Where a command's outcome goes.
pub(crate) enum ReplyTo {
    Connection { outbox: Arc<Outbox>, id: u64 },
    Here(oneshot::Sender<Outcome>),
}

/// Where a read's answer goes.
pub(crate) struct ReadReply {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) id: u64,
}

/// Puts an answer into a connection; `too_large` where no message holds it, so that the asker does not wait for nothing.
pub(crate) fn put_done<T: Serialize>(outbox: &Outbox, id: u64, group: u16, value: &T, too_large: &Failure) {
    if !outbox.put(|out| Frame::write(out, id, Kind::Done, group, value)) {
        outbox.put(|out| too_large.write(out, id, group));
    }
}

pub(super) fn fail(group: u16, senders: Vec<ReplyTo>, failure: &Failure, touched: &mut Vec<Arc<Outbox>>) {
    for sender in senders {
        answer(group, sender, Err(failure.clone()), touched);
    }
}

pub(super) fn answer_soon(group: u16, reply: ReplyTo, outcome: Outcome) {
    let mut touched = Vec::new();
    answer(group, reply, outcome, &mut touched);
    for outbox in touched {
        outbox.send_soon();
    }
}

/// Hands an outcome over. The connection it was put into is added to `touched`: the caller has it sent.
pub(super) fn answer(group: u16, reply: ReplyTo, outcome: Outcome, touched: &mut Vec<Arc<Outbox>>) {
    match reply {
        ReplyTo::Here(sender) => {
            let _ = sender.send(outcome);
        }
        ReplyTo::Connection { outbox, id } => {
            match &outcome {
                Ok(CommandReply::Index(reply)) => put_done(&outbox, id, group, reply, &Failure::Undecided),
                Ok(CommandReply::Cluster(reply, _)) => {
                    put_done(&outbox, id, group, reply, &Failure::Undecided);
                }
                Err(failure) => {
                    outbox.put(|out| failure.write(out, id, group));
                }
            }
            touch(touched, outbox);
        }
    }
}

pub(super) fn touch(touched: &mut Vec<Arc<Outbox>>, outbox: Arc<Outbox>) {
    if !touched.iter().any(|known| Arc::ptr_eq(known, &outbox)) {
        touched.push(outbox);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::FrameReader;
    use tenfour_types::limits::MESSAGE_BYTES_MAX;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn an_answer_that_no_message_holds_is_refused_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asker = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let outbox = Outbox::new(listener.accept().await.unwrap().0.into_split().1);
        put_done(&outbox, 1, 0, &vec![7u8; MESSAGE_BYTES_MAX], &Failure::too_large());
        put_done(&outbox, 2, 0, &7u8, &Failure::too_large());
        outbox.send_now();
        let mut frames = FrameReader::new(asker.into_split().0);
        let mut next = async || frames.next().await.unwrap().map(|frame| (frame.id, frame.kind)).unwrap();
        assert_eq!(next().await, (1, Kind::Refused));
        assert_eq!(next().await, (2, Kind::Done));
    }
}
