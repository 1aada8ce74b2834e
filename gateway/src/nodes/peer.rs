//! Keeps one node connected: connects, listens, and connects again, for as long as the map knows the node.

use super::link::{Answered, Link};
use super::path::{Connected, Paths};
use super::{Shared, credits::Credits};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tenfour_placement::{Node, NodeState};
use tenfour_rdma::{Domain, Endpoint, Received};
use tenfour_types::Scaled;
use tenfour_types::shard_service::{FromNode, Hello};
use tenfour_types::{NodeId, Wire};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Pauses between attempts: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(640));
/// How often a connection that was replaced is looked at, and how long it may take to answer what it was asked.
const RETIRE_LOOK: Duration = Duration::from_millis(250);
const RETIRE_WITHIN: Duration = Duration::from_secs(60);

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

    fn endpoints(&self) -> Vec<String> {
        self.node.lock().endpoints.clone()
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

/// What a peer's task works with; taken anew for each connection, so that it ends with the gateway.
struct Surroundings {
    domain: Domain,
    credits: Arc<Credits>,
    hello: Hello,
    better_every: Duration,
}

impl Surroundings {
    fn of(peer: &Peer, shared: &Weak<Shared>) -> Option<Self> {
        let shared = shared.upgrade()?;
        Some(Self {
            domain: shared.domain.clone(),
            credits: shared.credits.clone(),
            hello: Hello { cluster: shared.config.cluster, node: peer.id, stores: true },
            better_every: shared.config.better_every,
        })
    }
}

async fn keep_connected(peer: Arc<Peer>, shared: Weak<Shared>) {
    let mut pause = PAUSES.0;
    let Some(around) = Surroundings::of(&peer, &shared) else { return };
    let mut paths = Paths::new(peer.id, around.better_every);
    drop(around);
    loop {
        let Some(around) = Surroundings::of(&peer, &shared) else { return };
        match paths.connect(&peer.endpoints(), &around.domain, &around.hello).await {
            Ok(connected) => {
                pause = PAUSES.0;
                let mut next = Some(connected);
                while let Some(connected) = next {
                    next = serve(&peer, &around, &shared, &mut paths, connected).await;
                }
            }
            Err(why) => tracing::debug!(node = %peer.id, why, "not connected"),
        }
        drop(around);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// A connection's life. It ends when it breaks, or when a better one is had, which is returned.
async fn serve(
    peer: &Peer,
    around: &Surroundings,
    shared: &Weak<Shared>,
    paths: &mut Paths,
    connected: Connected,
) -> Option<Connected> {
    let (endpoint, since) = (connected.endpoint().clone(), connected.since());
    let link = Arc::new(Link::new(peer.id, connected.connection));
    *peer.link.lock() = Some(link.clone());
    around.credits.open(link.clone(), &connected.slots);
    let mut listening = Box::pin(listen(link.clone(), around.credits.clone(), shared.clone()));
    let why = tokio::select! {
        why = &mut listening => why,
        better = improve(peer, around, paths, &endpoint) => {
            // Requests that are on their way are answered over the old one; new ones go over the new one from now on.
            tokio::spawn(retire(link, listening));
            return Some(better);
        }
    };
    peer.link.lock().take();
    around.credits.close(&link);
    link.fail();
    tracing::info!(node = %peer.id, why, "the connection ended");
    paths.broke(&endpoint, since, &why);
    link.connection().close().await;
    None
}

/// Resolves when there is a better connection than this one.
async fn improve(peer: &Peer, around: &Surroundings, paths: &mut Paths, current: &Endpoint) -> Connected {
    loop {
        sleep(around.better_every).await;
        let advertised = peer.endpoints();
        if Paths::may_improve(current, &advertised, &around.domain)
            && let Some(better) = paths.improve(current, &advertised, &around.domain, &around.hello).await
        {
            return better;
        }
    }
}

/// Lets a connection that was replaced answer what it was asked, for as long as a request may take.
async fn retire(link: Arc<Link>, listening: impl Future<Output = String>) {
    let answered = async {
        // Whoever was granted a credit of it before it was replaced may still be about to use it.
        sleep(RETIRE_LOOK).await;
        while !link.is_idle() {
            sleep(RETIRE_LOOK).await;
        }
    };
    tokio::select! {
        _ = listening => {}
        () = answered => {}
        () = sleep(RETIRE_WITHIN.scaled()) => {}
    }
    link.fail();
    link.connection().close().await;
}

/// Passes on what the node says, until the connection ends or the node breaks the protocol.
async fn listen(link: Arc<Link>, credits: Arc<Credits>, shared: Weak<Shared>) -> String {
    loop {
        let message = match link.connection().recv().await {
            Ok(Received::Message(message)) => message,
            Ok(Received::Immediate { .. }) => return "an immediate, which no node sends".to_owned(),
            Err(error) => return error.to_string(),
        };
        let answered = match FromNode::from_bytes(&message) {
            Ok(FromNode::Stored { slot, result, next }) => {
                let answered = link.stored(slot, result);
                credits.put(&link, slot, next);
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
