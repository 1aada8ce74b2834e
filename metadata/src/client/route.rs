//! Finding the leader of a group and staying with it.
//!
//! The replica that last answered for a group is asked first. One that does not lead says who does; one that is silent for
//! [`ATTEMPT_TIMEOUT`] is passed over. All attempts of a command carry the same bytes, so it happens once.

use crate::client::{MetadataConfig, MetadataError};
use crate::net::{Expect, Frame, Hello, Identity, Kind, Link, LinkError, Role};
use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tenfour_types::MetaGroupId;
use tenfour_types::Scaled;

/// One replica is waited for this long before another is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Commands of group 0 wait for their fences, so they are waited for longer.
const CLUSTER_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);
/// So is a change of members, which ends when the new one has caught up.
const MEMBERS_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Rest between rounds over the replicas while there is no leader; doubled up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// Most replicas that are learned beyond the configured ones.
const LEARNED_MAX: usize = 16;
/// Groups whose leaders are remembered.
const GROUPS_MAX: usize = 128;

pub(super) struct Router {
    identity: Identity,
    deadline: Duration,
    links: RwLock<Vec<Arc<Link>>>,
    configured: usize,
    /// Position in `links` of each group's likely leader.
    leaders: Vec<AtomicUsize>,
}

/// What came of asking one replica.
enum Attempt {
    Answer(Frame),
    /// Nothing happened there; the leader may be at this position.
    Elsewhere(Option<usize>, String),
    /// It may have been done.
    Lost,
    /// Not a replica of ours, or we are none of theirs.
    Stranger(String),
}

impl Router {
    pub(super) fn new(config: &MetadataConfig) -> Self {
        let hello = Hello::new(config.cluster, Role::Client);
        let identity = Identity { key: config.cluster_key.clone(), hello };
        let links =
            config.peers.iter().map(|peer| Arc::new(Link::new(*peer, identity.clone(), Expect::AnyReplica)));
        let links: Vec<_> = links.collect();
        Self {
            identity,
            deadline: config.deadline.scaled(),
            configured: links.len(),
            links: RwLock::new(links),
            leaders: (0..GROUPS_MAX).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// Sends a command until it is decided.
    pub(super) async fn command<T: DeserializeOwned>(
        &self,
        kind: Kind,
        group: MetaGroupId,
        request: &impl Serialize,
    ) -> Result<T, MetadataError> {
        self.ask(kind, group, request, self.deadline, MetadataError::OutcomeUnknown).await
    }

    /// Sends a read until it is answered.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        kind: Kind,
        group: MetaGroupId,
        request: &impl Serialize,
    ) -> Result<T, MetadataError> {
        let late = MetadataError::Unavailable("no answer in time".to_owned());
        self.ask(kind, group, request, self.deadline, late).await
    }

    /// `late` is the error once the request may have been taken by a replica that did not answer. When it is
    /// [`MetadataError::OutcomeUnknown`], nothing that comes after says that the request did not happen.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        kind: Kind,
        group: MetaGroupId,
        request: &impl Serialize,
        within: Duration,
        late: MetadataError,
    ) -> Result<T, MetadataError> {
        let deadline = Instant::now() + within;
        let (mut lost, mut pause, mut why) = (false, PAUSES.0, String::new());
        let changes_something = late == MetadataError::OutcomeUnknown;
        let (mut at, mut turn) = (self.leader(group), 0);
        let first = at;
        // Replicas that were of no help in this round: a hint that names one of them is not followed.
        let mut useless = Vec::new();
        let mut strangers = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(if lost { late } else { MetadataError::Unavailable(why) });
            }
            match self.attempt(&self.link(at), kind, group, request, left).await {
                Ok(Attempt::Answer(frame)) => {
                    self.set_leader(group, at);
                    // A command that was answered happened, whatever the answer says.
                    return frame.decode().ok_or(if changes_something { late } else { super::unreadable() });
                }
                // A refusal speaks of its own attempt only, not of one that was lost before.
                Err(error) => return Err(if lost && changes_something { late } else { error }),
                Ok(Attempt::Elsewhere(hint, text)) => {
                    useless.push(at);
                    why = text;
                    if let Some(leader) = hint.filter(|leader| !useless.contains(leader)) {
                        at = leader;
                        continue;
                    }
                }
                Ok(Attempt::Lost) => {
                    useless.push(at);
                    lost = true;
                }
                Ok(Attempt::Stranger(text)) => {
                    useless.push(at);
                    strangers += 1;
                    why = text;
                }
            }
            turn += 1;
            let replicas = self.replicas();
            at = (first + turn) % replicas;
            if turn % replicas == 0 {
                if strangers >= replicas && !lost {
                    return Err(MetadataError::Stranger(why));
                }
                strangers = 0;
                useless.clear();
                tokio::time::sleep(pause.min(left)).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }

    /// One replica's answer. An error is final.
    async fn attempt(
        &self,
        link: &Link,
        kind: Kind,
        group: MetaGroupId,
        request: &impl Serialize,
        left: Duration,
    ) -> Result<Attempt, MetadataError> {
        let wait = left.min(match kind {
            Kind::Cluster => CLUSTER_ATTEMPT_TIMEOUT.scaled(),
            Kind::Members => MEMBERS_ATTEMPT_TIMEOUT.scaled(),
            _ => ATTEMPT_TIMEOUT.scaled(),
        });
        let pipe = match tokio::time::timeout(wait, link.pipe()).await {
            Ok(Ok(pipe)) => pipe,
            Ok(Err(error @ LinkError::Stranger(..))) => return Ok(Attempt::Stranger(error.to_string())),
            Ok(Err(error)) => return Ok(Attempt::Elsewhere(None, error.to_string())),
            Err(_) => return Ok(Attempt::Elsewhere(None, "no connection in time".to_owned())),
        };
        let fill = |out: &mut Vec<u8>| {
            postcard::to_io(request, out).map(drop).map_err(|_| std::io::ErrorKind::InvalidInput.into())
        };
        let frame = match pipe.ask_within(wait, kind, group.0, fill).await {
            Ok(frame) => frame,
            Err(LinkError::NotSent) => return Err(MetadataError::Refused(LinkError::NotSent.to_string())),
            Err(LinkError::Broken) => return Ok(Attempt::Lost),
            Err(error) => return Ok(Attempt::Elsewhere(None, error.to_string())),
        };
        Ok(match frame.kind {
            Kind::Done => Attempt::Answer(frame),
            Kind::NotLeader => {
                let leader: Option<(u64, String)> = frame.decode().flatten();
                let at = leader.and_then(|(id, address)| self.find(id, &address));
                Attempt::Elsewhere(at, "the group has no leader".to_owned())
            }
            Kind::Undecided => Attempt::Lost,
            Kind::Busy => Attempt::Elsewhere(None, "too many requests are waiting".to_owned()),
            _ => return Err(MetadataError::Refused(frame.decode().unwrap_or_default())),
        })
    }

    /// The position of a replica: by its id where a connection told it, else by its address, which is learned.
    fn find(&self, id: u64, address: &str) -> Option<usize> {
        let links = self.links.read();
        let by_id = links.iter().position(|link| link.connected().is_some_and(|pipe| pipe.replica == id));
        if by_id.is_some() {
            return by_id;
        }
        let address: SocketAddr = address.parse().ok()?;
        let by_address = links.iter().position(|link| link.address() == address);
        if by_address.is_some() || links.len() >= self.configured + LEARNED_MAX {
            return by_address;
        }
        drop(links);
        let mut links = self.links.write();
        links.push(Arc::new(Link::new(address, self.identity.clone(), Expect::AnyReplica)));
        Some(links.len() - 1)
    }

    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.links.read().clone()
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    fn replicas(&self) -> usize {
        self.links.read().len().max(1)
    }

    fn link(&self, at: usize) -> Arc<Link> {
        let links = self.links.read();
        match links.get(at % links.len().max(1)) {
            Some(link) => Arc::clone(link),
            // Without any address there is nobody to ask: an address that refuses connections.
            None => {
                Arc::new(Link::new(([127, 0, 0, 1], 0).into(), self.identity.clone(), Expect::AnyReplica))
            }
        }
    }

    fn leader(&self, group: MetaGroupId) -> usize {
        self.leaders.get(usize::from(group.0)).map_or(0, |leader| leader.load(Ordering::Relaxed))
    }

    fn set_leader(&self, group: MetaGroupId, at: usize) {
        let at = at % self.replicas();
        if let Some(leader) = self.leaders.get(usize::from(group.0))
            && leader.load(Ordering::Relaxed) != at
        {
            leader.store(at, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{FrameReader, Outbox};
    use tenfour_rdma::{ClusterKey, handshake};
    use tenfour_types::ClusterId;
    use tokio::net::TcpListener;

    const CLUSTER: ClusterId = ClusterId([3; 16]);

    /// A replica that gives every request this answer, or breaks the connection.
    async fn replica(id: u64, answer: Option<Kind>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let hello = Hello::new(CLUSTER, Role::Replica { id, incarnation: 1 });
                let key = ClusterKey::from_bytes([7; 32]);
                handshake::accept(&mut stream, &key, &hello.to_bytes()).await.unwrap();
                let (read, write) = stream.into_split();
                let (mut frames, outbox) = (FrameReader::new(read), Outbox::new(write));
                while let Ok(Some(frame)) = frames.next().await {
                    let Some(kind) = answer else { break };
                    outbox.put(|out| Frame::write(out, frame.id, kind, frame.group, &"no"));
                    outbox.send_now();
                }
            }
        });
        address
    }

    async fn asked(answers: [Option<Kind>; 2], late: MetadataError) -> MetadataError {
        let peers = vec![replica(1, answers[0]).await, replica(2, answers[1]).await];
        let router = Router::new(&MetadataConfig::new(CLUSTER, ClusterKey::from_bytes([7; 32]), peers));
        let within = Duration::from_secs(5);
        router.ask::<u64>(Kind::Commit, MetaGroupId(1), &1, within, late).await.unwrap_err()
    }

    #[tokio::test]
    async fn once_a_command_may_have_been_delivered_no_later_answer_says_that_it_did_not_happen() {
        let unknown = || MetadataError::OutcomeUnknown;
        let refused = MetadataError::Refused("no".to_owned());
        assert_eq!(asked([None, Some(Kind::Refused)], unknown()).await, unknown());
        assert_eq!(asked([Some(Kind::Refused), None], unknown()).await, refused);
        // It was answered: it happened, though the answer is not readable.
        assert_eq!(asked([Some(Kind::NotLeader), Some(Kind::Done)], unknown()).await, unknown());
        // A read has no outcome to be in doubt of.
        let late = MetadataError::Unavailable("late".to_owned());
        assert_eq!(asked([None, Some(Kind::Refused)], late).await, refused);
    }
}
