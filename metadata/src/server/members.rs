//! Who the replicas are, and how that changes: a new one joins as a learner, and becomes a voter when it has caught up.
//!
//! One change at a time, asked of the group's leader. A learner has to be empty and new: an id is never used twice.

use crate::net::{Expect, Kind, Link};
use crate::raft::{Failure, Replica};
use crate::server::Core;
use crate::server::bootstrap::Greeting;
use crate::server::connection::Asked;
use openraft::error::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tenfour_types::Scaled;

/// A new replica answers within this.
const GREET_TIMEOUT: Duration = Duration::from_secs(2);

/// A change of a group's replicas.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum MembersRequest {
    /// Adds a learner and waits until it has caught up.
    AddLearner { id: u64, address: SocketAddr },
    /// Makes exactly these the voters; a voter that is not among them leaves the group.
    SetVoters(BTreeSet<u64>),
}

/// A member of group 0 as this replica knows it.
pub(super) fn member(core: &Core, id: u64) -> Option<Replica> {
    let metrics = core.cluster_group().raft.metrics();
    let metrics = metrics.borrow();
    metrics.membership_config.membership().get_node(&id).cloned()
}

/// The leader of a group as this replica knows it, and where it is.
pub(super) fn leader(core: &Core, group: u16) -> Option<(u64, String)> {
    let leader = core.group(group)?.leader()?;
    Some((leader, member(core, leader).map(|replica| replica.address).unwrap_or_default()))
}

pub(super) async fn change(asked: &Asked) {
    let Some(request) = asked.frame.decode::<MembersRequest>() else {
        return asked.refuse("the change of members is not readable");
    };
    let Some(group) = asked.core.group(asked.frame.group) else { return };
    let changed = match request {
        MembersRequest::AddLearner { id, address } => {
            let known = group.raft.metrics().borrow().membership_config.membership().get_node(&id).cloned();
            match greet(&asked.core, id, address).await {
                Err(why) => return asked.refuse(why),
                Ok(learner)
                    if known.as_ref().is_some_and(|known| known.incarnation != learner.incarnation) =>
                {
                    return asked.refuse(format!(
                        "id {id} is a member's, in another life of its store: take a new id"
                    ));
                }
                Ok(learner) => group.raft.add_learner(id, learner, true).await,
            }
        }
        MembersRequest::SetVoters(voters) => group.raft.change_membership(voters, false).await,
    };
    match changed {
        Ok(_) => asked.done(&()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            let address = forward.leader_node.map(|node| node.address).unwrap_or_default();
            asked.fail(&Failure::NotLeader(forward.leader_id.map(|id| (id, address))));
        }
        Err(RaftError::APIError(error)) => asked.refuse(error.to_string()),
        Err(RaftError::Fatal(_)) => asked.fail(&Failure::Undecided),
    }
}

async fn greet(core: &Core, id: u64, address: SocketAddr) -> Result<Replica, String> {
    let link = Link::new(address, core.introduction.clone(), Expect::AnyReplica);
    let pipe = link.pipe().await.map_err(|error| error.to_string())?;
    if pipe.replica != id {
        return Err(format!("replica {} answers at {address}, not replica {id}", pipe.replica));
    }
    let answer = pipe
        .ask_within(GREET_TIMEOUT.scaled(), Kind::Greet, 0, |_| Ok(()))
        .await
        .map_err(|error| error.to_string())?;
    let greeting: Greeting = answer.decode().ok_or("its greeting is not readable")?;
    if greeting.index_groups + 1 != core.groups.len() as u16 {
        return Err(format!(
            "it has {} index groups, the cluster {}",
            greeting.index_groups,
            core.groups.len() - 1
        ));
    }
    Ok(Replica { address: address.to_string(), incarnation: pipe.incarnation })
}
