//! Listening, and who gets in: a peer that proved the cluster key, names this cluster and this node, and for whom there is memory.

use super::Inner;
use super::session::Session;
use crate::StartError;
use crate::config::{NodeConfig, REPAIR_BYTES_DEFAULT};
use crate::target::fetch_buffer_bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tenfour_rdma::{
    AcceptError, Domain, DomainConfig, Endpoint, Incoming, ListenAt, Listener, MESSAGE_BYTES_MAX,
};

use tenfour_types::limits::SHARD_BYTES_MAX;
use tenfour_types::record::RECORD_BYTES_MAX;
use tenfour_types::shard_service::{FromNode, Hello};
use tenfour_types::{Epoch, Remote, Wire};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Connections of one endpoint at once.
const CONNECTIONS_MAX: usize = 512;
/// The least registered memory: a slot, and a fetch of the largest shard.
pub const STAGING_BYTES_MIN: usize = 4 * (RECORD_BYTES_MAX + fetch_buffer_bytes(SHARD_BYTES_MAX));

/// Refuses what cannot work.
pub(crate) fn check(config: &NodeConfig) -> Result<(), StartError> {
    let mut ids: Vec<_> = config.targets.iter().map(|target| target.id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() != config.targets.len() {
        return Err(StartError::Config("a target id is named twice"));
    }
    if config.fabric.is_empty() {
        return Err(StartError::Config("no fabric endpoint is configured"));
    }
    if config.staging_bytes < STAGING_BYTES_MIN {
        return Err(StartError::Config("the staging memory is too small: 16 MiB or more"));
    }
    if config.slots_per_peer == 0 {
        return Err(StartError::Config("a peer needs at least one staging slot"));
    }
    if slots_message_bytes(config.slots_per_peer) > MESSAGE_BYTES_MAX {
        return Err(StartError::Config(
            "too many slots for each peer: their grants are told in one message of 16 KiB",
        ));
    }
    if config.repair.memory_bytes < REPAIR_BYTES_DEFAULT {
        return Err(StartError::Config("the memory for repair is too small: 32 MiB or more"));
    }
    if (config.segment_bytes as usize) < 4 * RECORD_BYTES_MAX {
        return Err(StartError::Config("a segment is at least 8 MiB long"));
    }
    Ok(())
}

/// Length of the first message to a peer that is granted so many slots, at most.
fn slots_message_bytes(slots: u16) -> usize {
    let widest = Remote { address: u64::MAX, bytes: u32::MAX, key: u64::MAX };
    FromNode::Slots { slots: vec![widest; usize::from(slots)], epoch: Epoch(u64::MAX) }.to_bytes().len()
}

/// The registered memory, and how much of it staging slots may still take.
#[derive(Clone)]
pub(super) struct Staging {
    pub(super) domain: Domain,
    left_bytes: Arc<AtomicUsize>,
}

impl Staging {
    fn new(domain: Domain) -> Self {
        let left_bytes = Arc::new(AtomicUsize::new(domain.pool().capacity_bytes() / 4 * 3));
        Self { domain, left_bytes }
    }

    /// Reserves memory for at most `most` slots; for none only who wants none.
    fn reserve(&self, most: u16) -> Option<Reserved> {
        let mut slots = 0;
        let taken = self.left_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
            slots = most.min(u16::try_from(left / RECORD_BYTES_MAX).unwrap_or(u16::MAX));
            Some(left - usize::from(slots) * RECORD_BYTES_MAX)
        });
        taken.ok().filter(|_| slots > 0 || most == 0).map(|_| Reserved { staging: self.clone(), slots })
    }
}

/// A peer's share of the staging memory; given back when dropped.
pub(super) struct Reserved {
    pub(super) staging: Staging,
    pub(super) slots: u16,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.staging.left_bytes.fetch_add(usize::from(self.slots) * RECORD_BYTES_MAX, Ordering::AcqRel);
    }
}

/// The listeners and everything that came of them.
pub(crate) struct Listening {
    pub(crate) endpoints: Vec<Endpoint>,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Listening {
    pub(crate) async fn start(config: &NodeConfig, inner: &Arc<Inner>) -> Result<Self, StartError> {
        let name = format!("node-{}", config.node.0);
        let key = config.cluster_key.clone();
        let mut settings = DomainConfig::carrying(config.providers(), &name, key, config.staging_bytes);
        settings.tunables = config.tunables.clone();
        let staging = Staging::new(Domain::open_without(settings, &config.optional_providers())?);
        let (stop, stopped) = watch::channel(false);
        let mut listening = Self { endpoints: Vec::new(), tasks: Vec::new(), stop };
        for ListenAt { endpoint, required } in &config.fabric {
            let listener = match staging.domain.listen(endpoint).await {
                Ok(listener) => listener,
                Err(error) if !required => {
                    tracing::info!(%endpoint, %error, "not listened at");
                    continue;
                }
                Err(source) => return Err(StartError::Listen { endpoint: endpoint.clone(), source }),
            };
            listening.endpoints.push(listener.local_endpoint());
            let accepting = accept_all(Arc::clone(inner), staging.clone(), listener, stopped.clone());
            listening.tasks.push(tokio::spawn(accepting));
        }
        if listening.endpoints.is_empty() {
            return Err(StartError::Config("none of the fabric's endpoints can be listened at"));
        }
        Ok(listening)
    }

    /// Ends the listeners and their connections.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            if task.await.is_err() {
                tracing::error!("a listener panicked");
            }
        }
    }
}

async fn accept_all(
    inner: Arc<Inner>,
    staging: Staging,
    mut listener: Listener,
    mut stopped: watch::Receiver<bool>,
) {
    let mut sessions = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = listener.accept() => incoming,
            ended = sessions.join_next(), if !sessions.is_empty() => {
                if let Some(Err(error)) = ended {
                    tracing::error!(%error, "a session panicked");
                }
                continue;
            }
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match incoming {
            Ok(incoming) if sessions.len() < CONNECTIONS_MAX => {
                sessions.spawn(serve(Arc::clone(&inner), staging.clone(), incoming, stopped.clone()));
            }
            Ok(incoming) => {
                tracing::warn!("too many connections: one is refused");
                sessions.spawn(incoming.reject());
            }
            Err(AcceptError::Ended) => {
                tracing::error!(endpoint = %listener.local_endpoint(), "the listener ended");
                break;
            }
        }
    }
    drop(listener);
    while sessions.join_next().await.is_some() {}
}

/// Lets a peer in, or not, and serves it to its end.
async fn serve(inner: Arc<Inner>, staging: Staging, incoming: Incoming, stopped: watch::Receiver<bool>) {
    let hello = match Hello::from_bytes(incoming.private_data()) {
        Ok(hello) if (hello.cluster, hello.node) == (inner.cluster, inner.node) => hello,
        Ok(hello) => {
            let ours = (inner.cluster, inner.node);
            tracing::warn!(?hello, ?ours, "a peer wants another node or cluster: refused");
            return incoming.reject().await;
        }
        Err(error) => {
            tracing::warn!(%error, "a peer's hello is malformed: refused");
            return incoming.reject().await;
        }
    };
    let Some(reserved) = staging.reserve(if hello.stores { inner.slots_per_peer } else { 0 }) else {
        tracing::warn!("no staging memory is left for another peer: refused");
        return incoming.reject().await;
    };
    match incoming.accept(hello.to_bytes()).await {
        Ok(connection) => Session::new(inner, connection, reserved).run(stopped).await,
        Err(error) => tracing::debug!(%error, "a connection was not established"),
    }
}
