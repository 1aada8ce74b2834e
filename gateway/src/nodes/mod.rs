//! The storage nodes as this gateway sees them: one connection each, kept up in the background, its staging credits, and who is
//! absent, late or full right now.
//!
//! What the map says and what is seen here are different things: a node that the map calls up is still absent for this gateway
//! while there is no connection. Nothing here decides where a shard belongs.

mod credits;
mod inbox;
mod link;
mod path;
mod peer;

pub(crate) use credits::Credit;
pub(crate) use inbox::Inbox;
pub(crate) use link::{Failure, FetchAnswer, Link, StoreAnswer, Stored};

use crate::latency::Latency;
use credits::Credits;
use parking_lot::{Mutex, RwLock};
use peer::Peer;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_metadata::Metadata;
use tenfour_placement::ClusterMap;
use tenfour_rdma::Domain;
use tenfour_types::Scaled;
use tenfour_types::limits::PARITY_SHARDS;
use tenfour_types::{ClusterId, Epoch, NodeId, TargetId};
use tokio::task::JoinHandle;

/// How often the map is looked at for nodes that came or went, and silent nodes are asked how they are.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A connection stands after so long, with its slots, or is given up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// A target that refused a shard (full, out of service) is not tried first again for so long.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// Targets remembered as refusing.
const REFUSED_MAX: usize = 4096;

pub(crate) struct NodesConfig {
    pub(crate) cluster: ClusterId,
    pub(crate) down_after: Duration,
    /// How often a node that is reached by less than its best endpoint is tried at the better ones.
    pub(crate) better_every: Duration,
    pub(crate) stores: Latency,
    pub(crate) fetches: Latency,
}

/// Which nodes answer, at one moment.
pub(crate) struct View {
    /// Connected, nothing is overdue; in order of their ids.
    ready: Vec<NodeId>,
    /// Connected, but nothing was heard for longer than a hedge takes.
    late: Vec<NodeId>,
}

impl View {
    /// Whether a node is worth asking first. When more nodes are late than a stripe can lose, it is not they who are slow.
    pub(crate) fn is_ready(&self, node: NodeId) -> bool {
        self.ready.binary_search(&node).is_ok() || (self.late.len() > PARITY_SHARDS && self.is_late(node))
    }

    /// Whether it may answer, after a while.
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.ready.binary_search(&node).is_ok() || self.is_late(node)
    }

    fn is_late(&self, node: NodeId) -> bool {
        self.late.binary_search(&node).is_ok()
    }
}

/// The registry. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Nodes {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    config: NodesConfig,
    domain: Domain,
    credits: Arc<Credits>,
    peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
    refused: Mutex<HashMap<TargetId, Instant>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Nodes {
    pub(crate) fn start(config: NodesConfig, domain: Domain, metadata: Metadata) -> Self {
        let shared = Arc::new(Shared {
            config,
            domain,
            credits: Arc::new(Credits::default()),
            peers: RwLock::default(),
            refused: Mutex::default(),
            tasks: Mutex::default(),
        });
        let nodes = Self { shared };
        nodes.follow(&metadata.map());
        let task = tokio::spawn(look_after(nodes.clone(), metadata));
        nodes.shared.tasks.lock().push(task);
        nodes
    }

    /// Waits until every node that the map calls up is connected, but not for ever.
    pub(crate) async fn first_connections(&self, most: Duration) {
        let deadline = Instant::now() + most;
        while self.ready_count() < self.shared.peers.read().values().filter(|peer| peer.is_expected()).count()
            && Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn ready_count(&self) -> usize {
        let links: Vec<_> = self.shared.peers.read().values().filter_map(|peer| peer.link()).collect();
        links.iter().filter(|link| !link.is_silent_for(self.shared.config.down_after)).count()
    }

    /// The connection to a node, if there is one.
    pub(crate) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        self.shared.peers.read().get(&node)?.link()
    }

    /// Who may be written to now. A node that owes an answer and was silent for longer than two hedge delays is late.
    pub(crate) fn view(&self) -> View {
        let late_after = 2 * self.store_hedge_delay().max(self.fetch_hedge_delay());
        self.view_of(late_after, |(stores, others)| stores.max(others))
    }

    /// The same in the middle of a fan-out, when those that are well have answered: half a delay of silence tells.
    pub(crate) fn view_while_writing(&self) -> View {
        self.view_of(self.store_hedge_delay() / 2, |(stores, others)| stores.max(others))
    }

    /// Who may be read from now.
    pub(crate) fn view_for_reading(&self) -> View {
        self.view_of(2 * self.fetch_hedge_delay(), |(_, others)| others)
    }

    /// A node that is taken for down is late in any case, until it answers.
    fn view_of(&self, late_after: Duration, silence: impl Fn((Duration, Duration)) -> Duration) -> View {
        let late_after = late_after.min(self.shared.config.down_after);
        let (mut ready, mut late) = (Vec::new(), Vec::new());
        for (node, peer) in self.shared.peers.read().iter() {
            match peer.link() {
                Some(link) if silence(link.silence()) < late_after => ready.push(*node),
                Some(_) => late.push(*node),
                None => {}
            }
        }
        ready.sort_unstable();
        late.sort_unstable();
        View { ready, late }
    }

    pub(crate) fn credits(&self) -> &Arc<Credits> {
        &self.shared.credits
    }

    /// After so long a store is overdue.
    pub(crate) fn store_hedge_delay(&self) -> Duration {
        self.shared.config.stores.hedge_delay()
    }

    /// After so long a fetch is overdue.
    pub(crate) fn fetch_hedge_delay(&self) -> Duration {
        self.shared.config.fetches.hedge_delay()
    }

    /// The target refused a shard: others are tried first for a while.
    pub(crate) fn refuses(&self, target: TargetId) {
        let mut refused = self.shared.refused.lock();
        refused.retain(|_, since| since.elapsed() < REFUSED_FOR.scaled());
        if refused.len() < REFUSED_MAX {
            refused.insert(target, Instant::now());
        }
    }

    /// Whether a target refused a shard a moment ago.
    pub(crate) fn is_refusing(&self, target: TargetId) -> bool {
        let refused = self.shared.refused.lock();
        !refused.is_empty()
            && refused.get(&target).is_some_and(|since| since.elapsed() < REFUSED_FOR.scaled())
    }

    /// Ends all connections.
    pub(crate) async fn stop(&self) {
        for task in std::mem::take(&mut *self.shared.tasks.lock()) {
            task.abort();
        }
        let peers: Vec<_> = self.shared.peers.write().drain().map(|(_, peer)| peer).collect();
        for peer in peers {
            if let Some(link) = peer.abandon(&self.shared.credits) {
                link.connection().close().await;
            }
        }
    }

    /// Begins connections to nodes that came, ends those to nodes that went.
    fn follow(&self, map: &ClusterMap) {
        let mut peers = self.shared.peers.write();
        for (id, node) in &map.nodes {
            match peers.get(id) {
                Some(peer) => peer.update(node),
                None => {
                    peers.insert(*id, Peer::start(*id, node, &self.shared));
                }
            }
        }
        peers.retain(|id, peer| {
            let stays = map.nodes.contains_key(id);
            if !stays {
                peer.abandon(&self.shared.credits);
            }
            stays
        });
    }
}

/// Follows the map, and asks nodes that are silent for long how they are: the answer makes them ready again.
async fn look_after(nodes: Nodes, metadata: Metadata) {
    let mut known: Option<Epoch> = None;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let map = metadata.map();
        if known != Some(map.epoch) {
            known = Some(map.epoch);
            nodes.follow(&map);
        }
        let links: Vec<_> = nodes.shared.peers.read().values().filter_map(|peer| peer.link()).collect();
        for link in links {
            if link.is_silent_for(nodes.shared.config.down_after) {
                link.probe();
            }
        }
    }
}
