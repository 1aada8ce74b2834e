//! What peers ask: entries and heartbeats, votes, snapshots.

use crate::net::Kind;
use crate::raft::{SnapshotBegin, SnapshotStream};
use crate::server::connection::Asked;
use openraft::Snapshot;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use std::io;
use tokio::sync::Mutex;

/// A snapshot that is arriving.
struct Arriving {
    session: u64,
    begin: SnapshotBegin,
    stream: SnapshotStream,
}

/// For each group the one snapshot that may be arriving; a new one replaces it, and what comes late for an old one leaves it alone.
pub(super) struct Receiving(Vec<Mutex<Option<Arriving>>>);

impl Receiving {
    pub(super) fn new(groups: usize) -> Self {
        Self((0..groups).map(|_| Mutex::new(None)).collect())
    }
}

pub(super) async fn serve(asked: &Asked) {
    let Some(group) = asked.core.group(asked.frame.group) else { return };
    match asked.frame.kind {
        Kind::Append => match asked.frame.decode::<AppendEntriesRequest<_>>() {
            Some(request) => match group.raft.append_entries(request).await {
                Ok(response) => asked.done(&response),
                Err(error) => asked.refuse(error.to_string()),
            },
            None => asked.refuse("the entries are not readable"),
        },
        Kind::Vote => match asked.frame.decode::<VoteRequest<u64>>() {
            Some(request) => match group.raft.vote(request).await {
                Ok(response) => asked.done(&response),
                Err(error) => asked.refuse(error.to_string()),
            },
            None => asked.refuse("the vote request is not readable"),
        },
        _ => match snapshot(asked).await {
            Ok(()) => {}
            Err(error) => asked.refuse(error.to_string()),
        },
    }
}

async fn snapshot(asked: &Asked) -> io::Result<()> {
    let unknown = || io::Error::other("no such snapshot is arriving");
    let number = usize::from(asked.frame.group);
    let (Some(group), Some(slot)) = (asked.core.groups.get(number), asked.core.receiving.0.get(number))
    else {
        return Err(unknown());
    };
    let mut slot = slot.lock().await;
    match asked.frame.kind {
        Kind::SnapshotBegin => {
            let begin: SnapshotBegin = asked.frame.decode().ok_or_else(unknown)?;
            let ours = group.raft.metrics().borrow().vote;
            if begin.vote < ours {
                return Err(io::Error::other("its sender does not lead any more"));
            }
            let machine = group.machine.clone();
            let stream =
                tokio::task::spawn_blocking(move || machine.receive()).await.map_err(io::Error::other)??;
            let session = rand::random();
            *slot = Some(Arriving { session, begin, stream });
            asked.done(&session);
        }
        Kind::SnapshotChunk => {
            let body = asked.frame.body.clone();
            let (session, _) = body.split_first_chunk::<8>().ok_or_else(unknown)?;
            let session = u64::from_le_bytes(*session);
            let mut arriving = slot.take_if(|arriving| arriving.session == session).ok_or_else(unknown)?;
            let appended = tokio::task::spawn_blocking(move || {
                arriving.stream.append(&body[8..])?;
                io::Result::Ok(arriving)
            });
            *slot = Some(appended.await.map_err(io::Error::other)??);
            asked.done(&());
        }
        _ => {
            let session: u64 = asked.frame.decode().ok_or_else(unknown)?;
            let arrived = slot.take_if(|arriving| arriving.session == session).ok_or_else(unknown)?;
            let snapshot = Snapshot { meta: arrived.begin.meta, snapshot: Box::new(arrived.stream) };
            let installed = group.raft.install_full_snapshot(arrived.begin.vote, snapshot).await;
            asked.done(&installed.map_err(io::Error::other)?.vote);
        }
    }
    Ok(())
}
