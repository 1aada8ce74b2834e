//! For operators: how the replicas fare, and changing who they are.

use crate::client::{Metadata, MetadataError, MetadataStatus, ReplicaStatus};
use crate::net::{Kind, Link};
use crate::server::MembersRequest;
use futures::future::join_all;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tenfour_types::MetaGroupId;
use tenfour_types::Scaled;

/// A replica tells its status within this.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// A new replica catches up with one group within this, or the call is to be repeated.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(120);

impl Metadata {
    /// Every replica that this handle knows of, asked at once.
    pub async fn status(&self) -> Result<MetadataStatus, MetadataError> {
        let links = self.shared.router.all();
        let answers =
            join_all(links.iter().map(|link| async move { (link.address(), status_of(link).await) })).await;
        let mut status = MetadataStatus { replicas: Vec::new(), silent: Vec::new() };
        for (address, answer) in answers {
            match answer {
                Some(replica) => status.replicas.push((address, replica)),
                None => status.silent.push(address),
            }
        }
        status.replicas.sort_by_key(|(_, replica)| replica.replica);
        if status.replicas.is_empty() {
            return Err(MetadataError::Unavailable("no replica answers".to_owned()));
        }
        Ok(status)
    }

    /// Adds a replica, running with an empty folder under an id that was never used, to all groups: it learns, and does not
    /// vote yet. Returns when it has caught up. May be repeated.
    pub async fn add_replica(&self, id: u64, address: SocketAddr) -> Result<(), MetadataError> {
        for group in self.all_groups() {
            self.change_members(group, &MembersRequest::AddLearner { id, address }).await?;
        }
        Ok(())
    }

    /// Makes exactly these replicas the voters of all groups; they have to be members. A voter left out leaves the cluster
    /// and may be stopped. May be repeated.
    pub async fn set_voters(&self, voters: &BTreeSet<u64>) -> Result<(), MetadataError> {
        for group in self.all_groups() {
            self.change_members(group, &MembersRequest::SetVoters(voters.clone())).await?;
        }
        Ok(())
    }

    fn all_groups(&self) -> impl Iterator<Item = MetaGroupId> {
        std::iter::once(MetaGroupId(0)).chain(self.index_groups())
    }

    async fn change_members(
        &self,
        group: MetaGroupId,
        request: &MembersRequest,
    ) -> Result<(), MetadataError> {
        let late = MetadataError::OutcomeUnknown;
        self.shared.router.ask(Kind::Members, group, request, CATCH_UP_TIMEOUT.scaled(), late).await
    }
}

async fn status_of(link: &Arc<Link>) -> Option<ReplicaStatus> {
    let asked = async {
        link.pipe().await.ok()?.ask_within(STATUS_TIMEOUT.scaled(), Kind::Status, 0, |_| Ok(())).await.ok()
    };
    let answer = tokio::time::timeout(STATUS_TIMEOUT.scaled(), asked).await.ok()??;
    (answer.kind == Kind::Done).then(|| answer.decode()).flatten()
}
