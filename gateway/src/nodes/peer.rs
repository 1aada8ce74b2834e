//! Keeps one node connected: connects, listens, and connects again, for as long as the map knows the node.

use super::link::{Answered, Link};
use super::{Shared, credits::Credits};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tenfour_placement::{Node, NodeState};
use tenfour_rdma::{ConnectOptions, Connection, Domain, Endpoint, Received};
use tenfour_types::shard_service::{FromNode, Hello};
use tenfour_types::{NodeId, Wire};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Pauses between attempts: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(640));
/// A connection stands after so long, with its slots, or is given up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

pub(super) struct Peer {
    id: NodeId,
    node: Mutex<Node>,
    link: Mutex<Option<Arc<Link>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Peer {
    pub(super) fn start(id: NodeId, node: &Node, shared: &Arc<Shared>) -> Arc<Self> {
        let peer = Arc::new(Self {
            id,
            node: Mutex::new(node.clone()),
            link: Mutex::new(None),
            task: Mutex::new(None),
        });
        let task = tokio::spawn(keep_connected(peer.clone(), Arc::downgrade(shared)));
        *peer.task.lock() = Some(task);
        peer
    }

    /// The connection, if there is one.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.lock().clone()
    }

    /// Whether the map calls the node up.
    pub(super) fn is_expected(&self) -> bool {
        self.node.lock().state == NodeState::Up
    }

    /// What the map says of it now.
    pub(super) fn update(&self, node: &Node) {
        let mut known = self.node.lock();
        if *known != *node {
            known.clone_from(node);
        }
    }

    /// Nobody needs it any more. What is left of it is its connection.
    pub(super) fn abandon(&self, credits: &Credits) -> Option<Arc<Link>> {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
        let link = self.link.lock().take()?;
        credits.close(&link);
        link.fail();
        Some(link)
    }
}

async fn keep_connected(peer: Arc<Peer>, shared: Weak<Shared>) {
    let mut pause = PAUSES.0;
    loop {
        let Some((domain, hello, credits)) = shared.upgrade().map(|shared| {
            let hello = Hello { cluster: shared.config.cluster, node: peer.id };
            (shared.domain.clone(), hello, shared.credits.clone())
        }) else {
            return;
        };
        match connect(&peer, &domain, &hello).await {
            Ok((connection, slots)) => {
                pause = PAUSES.0;
                let link = Arc::new(Link::new(peer.id, connection));
                *peer.link.lock() = Some(link.clone());
                credits.open(link.clone(), &slots);
                tracing::debug!(node = %peer.id, slots = slots.len(), "connected");
                let why = listen(&link, &credits, &shared).await;
                peer.link.lock().take();
                credits.close(&link);
                link.fail();
                tracing::info!(node = %peer.id, why, "the connection ended");
                link.connection().close().await;
            }
            Err(why) => tracing::debug!(node = %peer.id, why, "not connected"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// The first endpoint of our provider at which the node itself answers, and the slots it grants.
async fn connect(
    peer: &Peer,
    domain: &Domain,
    hello: &Hello,
) -> Result<(Connection, Vec<tenfour_rdma::Remote>), String> {
    let endpoints: Vec<Endpoint> =
        peer.node.lock().endpoints.iter().filter_map(|text| text.parse().ok()).collect();
    let mut why = "no endpoint of this provider".to_owned();
    for endpoint in endpoints.iter().filter(|endpoint| domain.carries(endpoint.provider())) {
        let options = ConnectOptions { private_data: hello.to_bytes(), deadline: CONNECT_DEADLINE };
        match domain.connect(endpoint, options).await {
            Ok(connection) => match timeout(CONNECT_DEADLINE, connection.recv()).await {
                Ok(Ok(Received::Message(message))) => match FromNode::from_bytes(&message) {
                    Ok(FromNode::Slots { slots, .. }) => return Ok((connection, slots)),
                    _ => why = format!("{endpoint}: the first message is not its slots"),
                },
                _ => why = format!("{endpoint}: its slots did not come"),
            },
            Err(error) => why = format!("{endpoint}: {error}"),
        }
    }
    Err(why)
}

/// Passes on what the node says, until the connection ends or the node breaks the protocol.
async fn listen(link: &Arc<Link>, credits: &Arc<Credits>, shared: &Weak<Shared>) -> String {
    loop {
        let message = match link.connection().recv().await {
            Ok(Received::Message(message)) => message,
            Ok(Received::Immediate { .. }) => return "an immediate, which no node sends".to_owned(),
            Err(error) => return error.to_string(),
        };
        let answered = match FromNode::from_bytes(&message) {
            Ok(FromNode::Stored { slot, result, next }) => {
                let answered = link.stored(slot, result);
                credits.put(link, slot, next);
                answered
            }
            Ok(
                message @ (FromNode::Fetched { request, .. }
                | FromNode::Verified { request, .. }
                | FromNode::Status { request, .. }),
            ) => link.answered(request, message),
            Ok(FromNode::Slots { .. }) => return "slots a second time".to_owned(),
            Err(error) => return error.to_string(),
        };
        let Some(shared) = shared.upgrade() else { return "the gateway stops".to_owned() };
        match answered {
            Answered::Store(took) => shared.config.stores.record(took),
            Answered::Fetch(took) => shared.config.fetches.record(took),
            Answered::Other => {}
        }
    }
}
