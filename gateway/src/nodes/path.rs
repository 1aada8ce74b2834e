//! Which of a node's endpoints this gateway uses: the first, in the node's order of preference, that a connection can be had to.
//!
//! One that failed comes last for a while, so that a network card that is gone costs its deadline once and not at every
//! reconnection; after that while it is tried again, and comes back. What is used, and why nothing better is, is logged once for each
//! change. That the right node answers is proved by the handshake and by its hello, never by the address.

use super::CONNECT_DEADLINE;
use std::time::{Duration, Instant};
use tenfour_rdma::{Advertised, ConnectOptions, Connection, Domain, Endpoint, Provider, Received, Remote};
use tenfour_types::shard_service::{FromNode, Hello};
use tenfour_types::{NodeId, Scaled, Wire};
use tokio::time::timeout;

/// A connection that breaks sooner than this says nothing good of its endpoint.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// Endpoints of one node that are remembered as failing.
const AVOIDED_MAX: usize = 16;

/// A node that answers.
pub(super) struct Connected {
    pub(super) connection: Connection,
    pub(super) slots: Vec<Remote>,
    endpoint: Endpoint,
    since: Instant,
}

/// What is known of the ways to one node.
pub(super) struct Paths {
    node: NodeId,
    avoid_for: Duration,
    /// Endpoints that failed, with the reason.
    avoided: Vec<(Endpoint, Instant, String)>,
    /// What was logged last.
    told: Option<Provider>,
}

impl Paths {
    pub(super) fn new(node: NodeId, avoid_for: Duration) -> Self {
        Self { node, avoid_for, avoided: Vec::new(), told: None }
    }

    /// A connection to the node by the best way there is now.
    pub(super) async fn connect(
        &mut self,
        advertised: &[String],
        domain: &Domain,
        hello: &Hello,
    ) -> Result<Connected, String> {
        let usable = usable(advertised, domain);
        self.avoided.retain(|(endpoint, ..)| usable.contains(endpoint));
        let (last, first): (Vec<_>, Vec<_>) = usable.iter().partition(|endpoint| self.is_avoided(endpoint));
        let mut why = format!("none of its endpoints ({}) can be used from here", advertised.join(", "));
        for endpoint in first.into_iter().chain(last) {
            match connect(endpoint, domain, hello).await {
                Ok(connected) => {
                    self.tell(&connected.endpoint, &usable);
                    return Ok(connected);
                }
                Err(reason) => {
                    why = format!("{endpoint}: {reason}");
                    self.avoid(endpoint, reason);
                }
            }
        }
        Err(why)
    }

    /// A better connection than this one, if there may be one and it can be had.
    pub(super) async fn improve(
        &mut self,
        current: &Endpoint,
        advertised: &[String],
        domain: &Domain,
        hello: &Hello,
    ) -> Option<Connected> {
        let usable = usable(advertised, domain);
        for endpoint in usable.iter().take_while(|endpoint| *endpoint != current) {
            match connect(endpoint, domain, hello).await {
                Ok(connected) => {
                    self.avoided.retain(|(avoided, ..)| avoided != endpoint);
                    self.tell(endpoint, &usable);
                    return Some(connected);
                }
                Err(reason) => self.avoid(endpoint, reason),
            }
        }
        None
    }

    /// Whether there is a better way than this one that might be tried.
    pub(super) fn may_improve(current: &Endpoint, advertised: &[String], domain: &Domain) -> bool {
        usable(advertised, domain).first().is_some_and(|best| best != current)
    }

    /// A connection broke.
    pub(super) fn broke(&mut self, endpoint: &Endpoint, since: Instant, why: &str) {
        if since.elapsed() < SHORT_LIFE.scaled() {
            self.avoid(endpoint, format!("broke at once: {why}"));
        }
    }

    fn is_avoided(&self, endpoint: &Endpoint) -> bool {
        self.avoided.iter().any(|(avoided, since, _)| avoided == endpoint && since.elapsed() < self.avoid_for)
    }

    fn avoid(&mut self, endpoint: &Endpoint, why: String) {
        self.avoided.retain(|(avoided, ..)| avoided != endpoint);
        if self.avoided.len() < AVOIDED_MAX {
            self.avoided.push((endpoint.clone(), Instant::now(), why));
        }
    }

    /// Says what carries the node's shards from now on, if that is news.
    fn tell(&mut self, endpoint: &Endpoint, usable: &[Endpoint]) {
        let provider = endpoint.provider();
        if self.told.replace(provider) == Some(provider) {
            return;
        }
        let better = usable.iter().take_while(|better| *better != endpoint);
        let reasons: Vec<String> = better
            .filter_map(|better| self.avoided.iter().find(|(avoided, ..)| avoided == better))
            .map(|(endpoint, _, why)| format!("{endpoint}: {why}"))
            .collect();
        if reasons.is_empty() {
            tracing::info!(node = %self.node, %endpoint, "connected");
        } else {
            tracing::warn!(node = %self.node, %endpoint, instead_of = reasons.join("; "), "connected by less than the best way");
        }
    }
}

impl Connected {
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

/// The endpoints that can be tried from here, the node's best first.
fn usable(advertised: &[String], domain: &Domain) -> Vec<Endpoint> {
    let parsed = advertised.iter().filter_map(|text| text.parse::<Advertised>().ok());
    parsed
        .filter(|each| each.is_reachable_from_here() && domain.carries(each.endpoint.provider()))
        .map(|each| each.endpoint)
        .collect()
}

/// A connection at which the node itself answers, and the slots it grants.
async fn connect(endpoint: &Endpoint, domain: &Domain, hello: &Hello) -> Result<Connected, String> {
    let options = ConnectOptions { private_data: hello.to_bytes(), deadline: CONNECT_DEADLINE };
    let connection = domain.connect(endpoint, options).await.map_err(|error| error.to_string())?;
    if connection.peer_private_data() != hello.to_bytes() {
        return Err("another node or cluster answers".to_owned());
    }
    match timeout(CONNECT_DEADLINE.scaled(), connection.recv()).await {
        Ok(Ok(Received::Message(message))) => match FromNode::from_bytes(&message) {
            Ok(FromNode::Slots { slots, .. }) => {
                Ok(Connected { connection, slots, endpoint: endpoint.clone(), since: Instant::now() })
            }
            _ => Err("the first message is not its slots".to_owned()),
        },
        _ => Err("its slots did not come".to_owned()),
    }
}
