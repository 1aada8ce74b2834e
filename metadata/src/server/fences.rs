//! The fence driver: carries group 0's decisions into the index groups, in order, and tells group 0 when they are committed.
//!
//! Every replica runs it, one task for each index group, and only the leader of group 0 acts. A fence that is sent twice, by
//! an old leader and a new one, changes nothing the second time.

use crate::api::{ClusterCommand, Envelope, IndexCommand};
use crate::client::{Metadata, MetadataConfig};
use crate::raft::ClusterEnvelope;
use crate::server::Core;
use crate::state::pending_fences;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tenfour_types::{CommandId, ConfigVersion, LeaseId, MetaGroupId};
use tokio::task::JoinSet;

/// A driver that failed, or that hears nothing, looks again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// Fences that are carried at once.
const FENCES_AT_ONCE: usize = 64;
/// One fence is committed within this, or tried again.
const FENCE_DEADLINE: Duration = Duration::from_secs(5);

pub(super) fn spawn(core: &Arc<Core>, tasks: &mut JoinSet<()>) {
    let config = MetadataConfig {
        cluster: core.hello.cluster,
        cluster_key: core.introduction.key.clone(),
        peers: core.peers.values().copied().collect(),
        deadline: FENCE_DEADLINE,
    };
    let metadata = Metadata::unconnected(&config);
    for group in core.index_groups() {
        let task = drive(Arc::clone(core), metadata.clone(), group);
        tasks.spawn(Arc::clone(core).watched("fence driver", task));
    }
}

async fn drive(core: Arc<Core>, metadata: Metadata, group: MetaGroupId) {
    let mut applied = core.cluster_group().machine.applied();
    loop {
        applied.mark_unchanged();
        let carried = core.leads(0) && carry(&core, &metadata, group).await;
        if !carried {
            let _ = tokio::time::timeout(LOOK_AGAIN, applied.changed()).await;
        }
    }
}

/// Carries what is pending for a group; whether anything was.
async fn carry(core: &Core, metadata: &Metadata, group: MetaGroupId) -> bool {
    let machine = core.cluster_group().machine.clone();
    let pending = tokio::task::spawn_blocking(move || {
        machine.read(|table, _| pending_fences(table, group, FENCES_AT_ONCE))
    });
    let pending = match pending.await {
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        pending => pending,
    };
    let Ok(Ok(pending)) = pending else { return false };
    let mut last = None;
    for (number, fence) in pending {
        let envelope = Envelope {
            id: CommandId { lease: LeaseId(0), sequence: number },
            config: ConfigVersion(u64::MAX),
            command: IndexCommand::Fence { number, fence },
        };
        match metadata.commit(group, envelope).await {
            Ok(Ok(_)) => last = Some(number),
            Ok(Err(refusal)) => {
                tracing::error!(%group, number, %refusal, "a fence was refused");
                break;
            }
            Err(error) => {
                tracing::warn!(%group, number, %error, "a fence is not committed yet");
                break;
            }
        }
    }
    let Some(number) = last else { return false };
    let done = ClusterEnvelope { id: None, command: ClusterCommand::FenceDone { group, number } };
    let Ok(done) = postcard::to_stdvec(&done) else { return false };
    core.cluster_group().commit_here(Bytes::from(done)).await.is_ok()
}
