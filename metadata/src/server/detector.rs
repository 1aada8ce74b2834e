//! The failure detector: the leader of group 0 marks silent nodes down, heard ones up, and takes poisoned targets out.
//!
//! Signs of life are kept in memory; only a verdict becomes a log entry. A fresh leader has heard of nobody and gives everyone
//! the full time from the moment it began to lead. Its verdicts are hints for placement: nothing relies on them for safety.

use crate::api::ClusterCommand;
use crate::raft::ClusterEnvelope;
use crate::server::Core;
use crate::server::cluster::{Heard, View};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_placement::{NodeState, TargetState};
use tenfour_types::NodeId;
use tenfour_types::Scaled;

const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn run(core: Arc<Core>) {
    let mut leading_since: Option<Instant> = None;
    let mut ticks = tokio::time::interval(LOOK_EVERY.scaled());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !core.leads(0) {
            leading_since = None;
            core.cluster.heard.lock().clear();
            continue;
        }
        let since = *leading_since.get_or_insert_with(Instant::now);
        let Ok(view) = core.cluster.local() else { continue };
        for command in verdicts(&core, &view, since) {
            tracing::info!(?command, "the failure detector decided");
            let Ok(envelope) = postcard::to_stdvec(&ClusterEnvelope { id: None, command }) else { continue };
            let _ = core.cluster_group().commit_here(Bytes::from(envelope)).await;
        }
    }
}

fn verdicts(core: &Core, view: &View, leading_since: Instant) -> Vec<ClusterCommand> {
    let heard = core.cluster.heard.lock();
    let mut commands = Vec::new();
    for (&node, known) in &view.map.nodes {
        let last = heard.get(&node);
        let silent = last.map_or(leading_since, |heard| heard.at).elapsed() > core.node_down_after;
        let state = match known.state {
            NodeState::Up if silent => Some(NodeState::Down),
            NodeState::Down if !silent && last.is_some() => Some(NodeState::Up),
            _ => None,
        };
        commands.extend(state.map(|state| ClusterCommand::SetNodeState { node, state }));
        commands.extend(last.into_iter().flat_map(|heard| poisoned(view, node, heard)));
    }
    commands
}

fn poisoned<'a>(view: &'a View, node: NodeId, heard: &'a Heard) -> impl Iterator<Item = ClusterCommand> + 'a {
    heard.poisoned.iter().filter_map(move |target| {
        let known = view.map.targets.get(target)?;
        (known.node == node && known.state != TargetState::Poisoned)
            .then_some(ClusterCommand::PoisonTarget { target: *target })
    })
}
