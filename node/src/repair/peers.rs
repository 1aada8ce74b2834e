//! The nodes that shards are fetched from: a connection to each that is needed, made when it is, for as long as a round lasts.

use super::peer::Peer;
use crate::config::NodeConfig;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tenfour_placement::ClusterMap;
use tenfour_rdma::{Advertised, ConnectOptions, Domain, Endpoint, Received};
use tenfour_types::shard_service::{FromNode, Hello};
use tenfour_types::{NodeId, Scaled, Wire};
use tokio::time::timeout;

/// A connection stands, with its first message, after so long.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

pub(super) struct Peers {
    domain: Domain,
    hello: Hello,
    /// A node that could not be connected to stays so: the next round tries again.
    links: tokio::sync::Mutex<HashMap<NodeId, Link>>,
}

type Link = Arc<tokio::sync::OnceCell<Option<Peer>>>;

impl Peers {
    pub(super) fn new(config: &NodeConfig, domain: Domain) -> Self {
        let hello = Hello { cluster: config.cluster, node: config.node, stores: false };
        Self { domain, hello, links: tokio::sync::Mutex::default() }
    }

    /// What the node that needs it may use, while it lasts.
    pub(super) async fn get(&self, node: NodeId, map: &ClusterMap) -> Option<Link> {
        let link = Arc::clone(self.links.lock().await.entry(node).or_default());
        link.get_or_init(|| self.connect(node, map)).await.as_ref().filter(|peer| peer.is_alive())?;
        Some(link)
    }

    async fn connect(&self, node: NodeId, map: &ClusterMap) -> Option<Peer> {
        let hello = Hello { node, ..self.hello.clone() };
        let advertised = &map.nodes.get(&node)?.endpoints;
        for each in advertised.iter().filter_map(|text| text.parse::<Advertised>().ok()) {
            if !each.is_reachable_from_here() || !self.domain.carries(each.endpoint.provider()) {
                continue;
            }
            match self.open(&each.endpoint, &hello).await {
                Ok(peer) => return Some(peer),
                Err(why) => {
                    tracing::info!(%node, endpoint = %each.endpoint, why, "repair cannot connect");
                }
            }
        }
        None
    }

    async fn open(&self, endpoint: &Endpoint, hello: &Hello) -> Result<Peer, String> {
        let options = ConnectOptions { private_data: hello.to_bytes(), deadline: CONNECT_DEADLINE };
        let connection = self.domain.connect(endpoint, options).await.map_err(|error| error.to_string())?;
        if connection.peer_private_data() != hello.to_bytes() {
            return Err("another node or cluster answers".to_owned());
        }
        match timeout(CONNECT_DEADLINE.scaled(), connection.recv()).await {
            Ok(Ok(Received::Message(message)))
                if matches!(FromNode::from_bytes(&message), Ok(FromNode::Slots { .. })) =>
            {
                Ok(Peer::new(connection))
            }
            _ => Err("its first message is not what it should be".to_owned()),
        }
    }

    /// Ends all connections.
    pub(super) async fn close(&self) {
        for (_, link) in self.links.lock().await.drain() {
            if let Some(Some(peer)) = link.get() {
                peer.close().await;
            }
        }
    }
}
