//! The failure detector: the leader of group 0 marks silent nodes down, heard ones up, takes out those that stay away, and takes
//! poisoned targets out.
//!
//! Signs of life are kept in memory; only a verdict becomes a log entry. A fresh leader has heard of nobody and gives everyone
//! the full time from the moment it began to lead. Its verdicts are hints for placement: nothing relies on them for safety.
//!
//! A node goes *suspect* (shown, nothing else), then *down* (not asked; its shards stay its own), then *out* (they are made anew
//! elsewhere). It is taken out only while ten shards of every row are in service without it: with fewer nothing can be made
//! anew, and moving slots away from where the shards are would only hide them. Who was taken out is brought back by an operator.

use crate::api::ClusterCommand;
use crate::raft::ClusterEnvelope;
use crate::server::Core;
use crate::server::cluster::Heard;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenfour_placement::{ClusterMap, NodeState, Slot, TargetState};
use tenfour_types::limits::DATA_SHARDS;
use tenfour_types::{NodeId, Scaled};

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// For how long a node may be silent (who is suspected is the business of whoever shows it).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Patience {
    /// Until it is down.
    pub(super) down: Duration,
    /// Until it is out; `None`: it never is by itself.
    pub(super) out: Option<Duration>,
}

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
        let commands = {
            let heard = core.cluster.heard.lock();
            verdicts(&view.map, &Signs { heard: &heard, since, now: Instant::now() }, core.patience)
        };
        for command in commands {
            tracing::info!(?command, "the failure detector decided");
            let Ok(envelope) = postcard::to_stdvec(&ClusterEnvelope { id: None, command }) else { continue };
            let _ = core.cluster_group().commit_here(Bytes::from(envelope)).await;
        }
    }
}

/// What the leader has heard, and when.
struct Signs<'a> {
    heard: &'a BTreeMap<NodeId, Heard>,
    /// It leads since.
    since: Instant,
    now: Instant,
}

impl Signs<'_> {
    fn silence(&self, node: NodeId) -> Duration {
        let last = self.heard.get(&node).map_or(self.since, |heard| heard.at);
        self.now.saturating_duration_since(last)
    }
}

fn verdicts(map: &ClusterMap, signs: &Signs<'_>, patience: Patience) -> Vec<ClusterCommand> {
    let mut commands = Vec::new();
    for (&node, known) in &map.nodes {
        let (last, silence) = (signs.heard.get(&node), signs.silence(node));
        let stays_away = patience.out.is_some_and(|out| silence > out);
        let state = match known.state {
            NodeState::Up if silence > patience.down => Some(NodeState::Down),
            NodeState::Down if silence <= patience.down && last.is_some() => Some(NodeState::Up),
            NodeState::Down if stays_away && leaves_enough(map, node) => Some(NodeState::Out),
            _ => None,
        };
        commands.extend(state.map(|state| ClusterCommand::SetNodeState { node, state }));
        let poisoned = last.into_iter().flat_map(|heard| &heard.poisoned).filter(|target| {
            let known = map.targets.get(target);
            known.is_some_and(|known| known.node == node && known.state != TargetState::Poisoned)
        });
        commands.extend(poisoned.map(|&target| ClusterCommand::PoisonTarget { target }));
    }
    commands
}

/// Whether ten shards of every row are in service without a node.
fn leaves_enough(map: &ClusterMap, without: NodeId) -> bool {
    let serves = |target| map.is_usable(target) && map.node_of(target) != Some(without);
    let holds = |slot: &&Slot| match slot.sources.is_empty() {
        true => serves(slot.target),
        false => slot.sources.iter().any(|source| serves(*source)),
    };
    map.groups.iter().all(|row| row.slots.iter().filter(holds).count() >= DATA_SHARDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::cluster::RepairProgress;
    use tenfour_placement::{Node, Target, plan, rebalance};
    use tenfour_types::TargetId;

    const PATIENCE: Patience = Patience { down: Duration::from_secs(3), out: Some(Duration::from_secs(60)) };

    /// A leader whose clock the test moves, and whose verdicts are done at once.
    struct Leader {
        map: ClusterMap,
        heard: BTreeMap<NodeId, Heard>,
        since: Instant,
        now: Instant,
    }

    impl Leader {
        fn of(nodes: u32) -> Self {
            let mut map = ClusterMap::default();
            for id in 1..=nodes {
                let node = Node { endpoints: Vec::new(), rack: "r".to_owned(), state: NodeState::Up };
                map.nodes.insert(NodeId(id), node);
                let target = Target { node: NodeId(id), weight: 1, state: TargetState::Up };
                map.targets.insert(TargetId(id), target);
            }
            map.groups = plan(&map, 16);
            let now = Instant::now();
            Self { map, heard: BTreeMap::new(), since: now, now }
        }

        fn beat(&mut self, node: u32, poisoned: &[u32]) {
            let poisoned = poisoned.iter().map(|id| TargetId(*id)).collect();
            let heard = Heard { at: self.now, poisoned, repair: RepairProgress::default() };
            self.heard.insert(NodeId(node), heard);
        }

        /// So many seconds pass, in which all but some nodes beat.
        fn pass(&mut self, seconds: u64, silent: &[u32]) {
            for _ in 0..seconds * 2 {
                self.now += Duration::from_millis(500);
                let beating: Vec<u32> = self.map.nodes.keys().map(|node| node.0).collect();
                beating
                    .into_iter()
                    .filter(|node| !silent.contains(node))
                    .for_each(|node| self.beat(node, &[]));
                self.judge();
            }
        }

        fn judge(&mut self) {
            let signs = Signs { heard: &self.heard, since: self.since, now: self.now };
            for command in verdicts(&self.map, &signs, PATIENCE) {
                match command {
                    ClusterCommand::SetNodeState { node, state } => {
                        let known = self.map.nodes.get_mut(&node).unwrap();
                        let moves = state == NodeState::Out;
                        known.state = state;
                        if moves {
                            self.map.groups = rebalance(&self.map.groups, &self.map);
                        }
                    }
                    ClusterCommand::PoisonTarget { target } => {
                        self.map.targets.get_mut(&target).unwrap().state = TargetState::Poisoned;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }

        fn state(&self, node: u32) -> NodeState {
            self.map.nodes[&NodeId(node)].state
        }

        fn count(&self, state: NodeState) -> usize {
            self.map.nodes.values().filter(|node| node.state == state).count()
        }
    }

    #[test]
    fn a_silent_node_goes_down_and_then_out_and_one_that_beats_comes_up_but_not_back() {
        let mut leader = Leader::of(14);
        leader.pass(10, &[]);
        assert_eq!(leader.count(NodeState::Up), 14);
        leader.pass(3, &[5]);
        assert_eq!(leader.state(5), NodeState::Up);
        leader.pass(1, &[5]);
        assert_eq!(leader.state(5), NodeState::Down);
        leader.pass(1, &[]);
        assert_eq!(leader.state(5), NodeState::Up, "it was away for a moment");
        leader.pass(60, &[5]);
        assert_eq!(leader.state(5), NodeState::Down);
        leader.pass(1, &[5]);
        assert_eq!(leader.state(5), NodeState::Out);
        leader.pass(10, &[]);
        assert_eq!(leader.state(5), NodeState::Out, "only an operator brings it back");
    }

    #[test]
    fn nobody_is_taken_out_when_too_little_would_be_left_to_make_its_shards_of() {
        let mut leader = Leader::of(14);
        leader.pass(120, &[1, 2, 3, 4, 5]);
        assert_eq!((leader.count(NodeState::Down), leader.count(NodeState::Out)), (5, 0));
        leader.pass(1, &[1, 2, 3, 4]);
        assert_eq!((leader.state(5), leader.count(NodeState::Out)), (NodeState::Up, 4), "ten are left");
        // Nothing has been made anew yet: a fifth one would take shards that are needed for it.
        leader.pass(120, &[1, 2, 3, 4, 6]);
        assert_eq!(leader.state(6), NodeState::Down);
        leader.map.groups.iter_mut().flat_map(|row| &mut row.slots).for_each(|slot| slot.sources.clear());
        leader.pass(1, &[1, 2, 3, 4, 6]);
        assert_eq!(leader.state(6), NodeState::Out);
        let mut three = Leader::of(3);
        three.pass(120, &[3]);
        assert_eq!(three.state(3), NodeState::Down, "nine shards are left");
    }

    #[test]
    fn a_fresh_leader_gives_everyone_the_full_time() {
        let mut leader = Leader::of(14);
        leader.pass(59, &[5]);
        assert_eq!(leader.state(5), NodeState::Down);
        (leader.since, leader.heard) = (leader.now, BTreeMap::new());
        leader.judge();
        assert_eq!(leader.state(5), NodeState::Down, "it was not heard");
        leader.pass(60, &[5]);
        assert_eq!(leader.state(5), NodeState::Down);
        leader.pass(1, &[5]);
        assert_eq!(leader.state(5), NodeState::Out);
    }

    #[test]
    fn a_node_tells_of_its_own_targets_alone() {
        let mut leader = Leader::of(14);
        leader.beat(5, &[5, 6, 99]);
        leader.judge();
        let poisoned = leader.map.targets.iter().filter(|(_, target)| target.state == TargetState::Poisoned);
        assert_eq!(poisoned.map(|(id, _)| id.0).collect::<Vec<_>>(), [5]);
    }
}
