//! openraft's network over the metadata service's TCP: one connection to each peer process, shared by all groups.
//!
//! A peer is taken for a member only in the very life of its store that the membership names. Addresses come from the
//! process's own configuration where it names the peer, else from the membership, so that a replica can move.

use crate::net::{Expect, Frame, Identity, Kind, Link, LinkError};
use crate::raft::{Replica, SnapshotMeta, SnapshotStream, TypeConfig, Vote};
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, Snapshot, StorageIOError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tenfour_types::Scaled;
use thiserror::Error;

/// An unreachable peer is tried again after this.
const BACKOFF: Duration = Duration::from_millis(150);
/// A chunk of a snapshot is taken within this.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// A complete snapshot is installed within this.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);

/// The connections to the other replicas.
pub(crate) struct Links {
    identity: Identity,
    configured: BTreeMap<u64, SocketAddr>,
    known: Mutex<BTreeMap<u64, (Replica, Arc<Link>)>>,
}

impl Links {
    pub(crate) fn new(identity: Identity, configured: BTreeMap<u64, SocketAddr>) -> Self {
        Self { identity, configured, known: Mutex::default() }
    }

    /// The connection to a member; an error text when its address is none.
    pub(crate) fn link(&self, id: u64, replica: &Replica) -> Result<Arc<Link>, String> {
        let mut known = self.known.lock();
        if let Some((found, link)) = known.get(&id)
            && found == replica
        {
            return Ok(Arc::clone(link));
        }
        let address = match self.configured.get(&id) {
            Some(address) => *address,
            None => replica.address.parse().map_err(|_| format!("{:?} is no address", replica.address))?,
        };
        let expect = Expect::Replica { id, incarnation: replica.incarnation };
        let link = Arc::new(Link::new(address, self.identity.clone(), expect));
        known.insert(id, (replica.clone(), Arc::clone(&link)));
        Ok(link)
    }

    /// Ends all connections.
    pub(crate) fn close(&self) {
        self.known.lock().clear();
    }
}

/// Makes openraft's clients for one group.
pub(crate) struct NetworkFactory {
    pub(crate) group: u16,
    pub(crate) links: Arc<Links>,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Replica) -> Client {
        Client { group: self.group, link: self.links.link(target, node) }
    }
}

/// Talks to one peer about one group.
pub(crate) struct Client {
    group: u16,
    link: Result<Arc<Link>, String>,
}

/// What a snapshot's sender says first.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotBegin {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
}

#[derive(Debug, Error)]
enum CallError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{0}")]
    Address(String),
    #[error("the peer refused: {0}")]
    Refused(String),
    #[error("the peer's answer is not readable")]
    Malformed,
}

impl Client {
    async fn call<A: serde::de::DeserializeOwned>(
        &self,
        wait: Duration,
        kind: Kind,
        fill: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> Result<A, CallError> {
        let link = self.link.as_ref().map_err(|text| CallError::Address(text.clone()))?;
        let answer = link.pipe().await?.ask_within(wait, kind, self.group, fill).await?;
        match answer.kind {
            Kind::Done => answer.decode().ok_or(CallError::Malformed),
            _ => Err(CallError::Refused(refusal(&answer))),
        }
    }
}

fn refusal(answer: &Frame) -> String {
    answer.decode().unwrap_or_else(|| format!("{:?}", answer.kind))
}

fn fill<T: Serialize>(value: &T) -> impl FnOnce(&mut Vec<u8>) -> io::Result<()> {
    move |out| postcard::to_io(value, out).map(drop).map_err(|_| io::ErrorKind::InvalidInput.into())
}

type RpcError = RPCError<u64, Replica, RaftError<u64>>;

fn rpc_error(error: CallError) -> RpcError {
    match &error {
        CallError::Link(LinkError::Broken) => RPCError::Network(NetworkError::new(&error)),
        _ => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

impl RaftNetwork<TypeConfig> for Client {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        self.call(option.hard_ttl(), Kind::Append, fill(&rpc)).await.map_err(rpc_error)
    }

    async fn install_snapshot(
        &mut self,
        _: openraft::raft::InstallSnapshotRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<
        openraft::raft::InstallSnapshotResponse<u64>,
        RPCError<u64, Replica, RaftError<u64, openraft::error::InstallSnapshotError>>,
    > {
        let error = CallError::Refused("snapshots are streamed, not sent by openraft's chunks".to_owned());
        Err(RPCError::Unreachable(Unreachable::new(&error)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        self.call(option.hard_ttl(), Kind::Vote, fill(&rpc)).await.map_err(rpc_error)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.stream(vote, snapshot.meta, *snapshot.snapshot) => sent,
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF.scaled()))
    }
}

impl Client {
    async fn stream(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        mut snapshot: SnapshotStream,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let unreachable = |error: CallError| StreamingError::Unreachable(Unreachable::new(&error));
        let begin = SnapshotBegin { vote, meta };
        let session: u64 = self
            .call(CHUNK_TIMEOUT.scaled(), Kind::SnapshotBegin, fill(&begin))
            .await
            .map_err(unreachable)?;
        while let Some(chunk) = snapshot.next_chunk().await.map_err(not_read)? {
            let with_session = |out: &mut Vec<u8>| {
                out.extend_from_slice(&session.to_le_bytes());
                out.extend_from_slice(&chunk);
                Ok(())
            };
            let () = self
                .call(CHUNK_TIMEOUT.scaled(), Kind::SnapshotChunk, with_session)
                .await
                .map_err(unreachable)?;
        }
        let vote: Vote = self
            .call(INSTALL_TIMEOUT.scaled(), Kind::SnapshotEnd, fill(&session))
            .await
            .map_err(unreachable)?;
        Ok(SnapshotResponse::new(vote))
    }
}

fn not_read(error: io::Error) -> StreamingError<TypeConfig, Fatal<u64>> {
    let error: StorageIOError<u64> = StorageIOError::read_snapshot(None, AnyError::new(&error));
    StreamingError::StorageError(error.into())
}
