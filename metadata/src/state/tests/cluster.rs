//! The cluster group: buckets, users, leases, the map, and their fences reaching index groups.

use super::*;
use crate::api::cluster::{BucketState, ClusterCommand, ClusterDone, ClusterRefusal, ClusterReply, User};
use crate::state::{apply_cluster, cluster_config, cluster_map, pending_fences, query_cluster};
use tenfour_placement::{NodeState, TargetState};
use tenfour_types::limits::ACCESS_KEY_BYTES_MAX;
use tenfour_types::{BucketName, ClusterId, NodeId, TargetId};

fn user(name: &str) -> User {
    let [access_key, secret_key, display_name] = [name, "secret", name].map(str::to_owned);
    User { access_key, secret_key, display_name, enabled: true, root: false }
}

pub(super) struct Zero {
    pub(super) table: MemoryTable,
    sequence: u64,
}

impl Zero {
    pub(super) fn new() -> Self {
        let mut zero = Self { table: MemoryTable::default(), sequence: 0 };
        let cluster = ClusterId([1; 16]);
        zero.run(ClusterCommand::Bootstrap { cluster, index_groups: 2, root: Some(user("root")) }).unwrap();
        zero
    }
    pub(super) fn run(&mut self, command: ClusterCommand) -> ClusterReply {
        self.sequence += 1;
        self.send(self.sequence, &command)
    }
    fn send(&mut self, sequence: u64, command: &ClusterCommand) -> ClusterReply {
        apply_cluster(&mut self.table, sequence, Some(id(1 << 40, sequence)), command).unwrap().reply
    }
    fn create(&mut self, name: &str, owner: &str) -> ClusterReply {
        let name = BucketName::new(name).unwrap();
        self.run(ClusterCommand::CreateBucket { name, owner: owner.into(), created_ms: 1 })
    }
    pub(super) fn register(&mut self, node: u32, targets: &[u32]) -> ClusterReply {
        let targets = targets.iter().map(|&target| (TargetId(target), 10)).collect();
        let endpoints = vec![format!("tcp:127.0.0.1:{node}")];
        self.run(ClusterCommand::RegisterNode { node: NodeId(node), endpoints, rack: "r".into(), targets })
    }
    /// Carries the fences of a group to its tables.
    pub(super) fn drive(&mut self, group: MetaGroupId, replica: &mut Replica) {
        loop {
            let pending = pending_fences(&self.table, group, 3).unwrap();
            let Some(&(last, _)) = pending.last() else { break };
            for (number, fence) in pending {
                replica.run(id(0, 0), IndexCommand::Fence { number, fence }).unwrap();
            }
            self.run(ClusterCommand::FenceDone { group, number: last }).unwrap();
        }
    }
}

pub(super) fn bare(group: MetaGroupId) -> Replica {
    let mut table = MemoryTable::default();
    init_index(&mut table, group).unwrap();
    Replica { table, index: 0, fences: 0 }
}

#[test]
fn a_cluster_is_bootstrapped_once() {
    let mut table = MemoryTable::default();
    let lease = ClusterCommand::GrantLease { holder: "x".into() };
    let early = apply_cluster(&mut table, 1, None, &lease).unwrap();
    assert_eq!(early.reply, Err(ClusterRefusal::Bootstrapped));
    let mut zero = Zero::new();
    let again = |cluster| ClusterCommand::Bootstrap {
        cluster: ClusterId([cluster; 16]),
        index_groups: 2,
        root: None,
    };
    assert_eq!(zero.run(again(1)), Ok(ClusterDone::Done));
    assert_eq!(zero.run(again(2)), Err(ClusterRefusal::Bootstrapped));
    let config = cluster_config(&zero.table).unwrap();
    assert_eq!((config.slots.len(), config.users.len()), (1024, 1));
}

#[test]
fn buckets_have_unique_names_and_each_incarnation_its_own_id() {
    let mut zero = Zero::new();
    zero.run(ClusterCommand::PutUser { user: user("eve") }).unwrap();
    assert_eq!(zero.create("photos", "nobody"), Err(ClusterRefusal::NoSuchUser));
    let Ok(ClusterDone::Bucket(bucket)) = zero.create("photos", "root") else { panic!() };
    assert_eq!(zero.create("photos", "root"), Err(ClusterRefusal::BucketOwnedByYou));
    assert_eq!(zero.create("photos", "eve"), Err(ClusterRefusal::BucketExists));
    let version = cluster_config(&zero.table).unwrap().version;

    let close = ClusterCommand::CloseBucket { bucket: bucket.id };
    let Ok(ClusterDone::Closing { round }) = zero.run(close.clone()) else { panic!() };
    assert_eq!(zero.run(close.clone()), Ok(ClusterDone::Closing { round }), "joins the round");
    let config = cluster_config(&zero.table).unwrap();
    assert_eq!(config.buckets[&bucket.name].state, BucketState::Closing);
    assert!(config.version > version);
    let finish = |round, empty| ClusterCommand::FinishCloseBucket { bucket: bucket.id, round, empty };
    assert_eq!(zero.run(finish(round, false)), Ok(ClusterDone::Done));
    assert_eq!(zero.run(finish(round, true)), Err(ClusterRefusal::NotClosing), "it is open again");
    let Ok(ClusterDone::Closing { round: second }) = zero.run(close) else { panic!() };
    assert_eq!(
        zero.run(finish(round, true)),
        Err(ClusterRefusal::NotClosing),
        "what was found in another round"
    );
    assert_eq!(zero.run(finish(second, true)), Ok(ClusterDone::Done));
    assert_eq!(zero.run(finish(second, true)), Err(ClusterRefusal::NoSuchBucket));
    let Ok(ClusterDone::Bucket(next)) = zero.create("photos", "eve") else { panic!() };
    assert_ne!(next.id, bucket.id);
}

#[test]
fn an_access_key_is_no_longer_than_a_login_can_say() {
    let mut zero = Zero::new();
    let put =
        |zero: &mut Zero, bytes: usize| zero.run(ClusterCommand::PutUser { user: user(&"k".repeat(bytes)) });
    assert_eq!(put(&mut zero, ACCESS_KEY_BYTES_MAX), Ok(ClusterDone::Done));
    let version = cluster_config(&zero.table).unwrap().version;
    for bytes in [0, ACCESS_KEY_BYTES_MAX + 1, 5000] {
        assert_eq!(put(&mut zero, bytes), Err(ClusterRefusal::AccessKeyLength), "{bytes}");
    }
    let config = cluster_config(&zero.table).unwrap();
    assert_eq!((config.version, config.users.len()), (version, 2), "nothing happened");
    assert!(ClusterRefusal::AccessKeyLength.to_string().contains("1 to 128 bytes"));
    // One of an older release, that is there already, can be disabled.
    let long = "k".repeat(ACCESS_KEY_BYTES_MAX + 1);
    let key = crate::state::keys::state_text(crate::state::keys::tag::USER, &long);
    crate::state::rows::put(&mut zero.table, Space::State, key, &user(&long)).unwrap();
    let disabled = User { enabled: false, ..user(&long) };
    assert_eq!(zero.run(ClusterCommand::PutUser { user: disabled }), Ok(ClusterDone::Done));
    assert!(!cluster_config(&zero.table).unwrap().users[&long].enabled);
}

#[test]
fn the_buckets_of_a_removed_user_become_the_root_users() {
    let mut zero = Zero::new();
    zero.run(ClusterCommand::PutUser { user: user("eve") }).unwrap();
    zero.run(ClusterCommand::PutUser { user: User { root: true, ..user("boss") } }).unwrap();
    zero.create("photos", "eve").unwrap();
    zero.create("others", "root").unwrap();
    zero.run(ClusterCommand::RemoveUser { access_key: "eve".into() }).unwrap();
    zero.run(ClusterCommand::PutUser { user: user("eve") }).unwrap();
    let config = cluster_config(&zero.table).unwrap();
    let owner = |name: &str| config.buckets[&BucketName::new(name).unwrap()].owner.as_str();
    assert_eq!((owner("photos"), owner("others")), ("boss", "root"));
}

#[test]
fn an_owner_has_so_many_buckets_at_most() {
    let mut zero = Zero::new();
    zero.run(ClusterCommand::PutUser { user: user("eve") }).unwrap();
    for number in 0..1000 {
        zero.create(&format!("bucket-{number}"), "root").unwrap();
    }
    assert_eq!(zero.create("one-more", "root"), Err(ClusterRefusal::TooManyBuckets));
    assert!(zero.create("one-more", "eve").is_ok());
}

#[test]
fn a_command_sent_twice_happens_once() {
    let mut zero = Zero::new();
    let grant = ClusterCommand::GrantLease { holder: "gateway".into() };
    let first = zero.send(1000, &grant);
    assert_eq!(zero.send(1000, &grant), first);
    assert_eq!(query_cluster(&zero.table).unwrap().leases, [(LeaseId(1), "gateway".to_owned())]);
    // 4,096 ids later it is forgotten.
    for sequence in 2000..2000 + 4096 {
        zero.send(sequence, &ClusterCommand::RemoveUser { access_key: "none".into() }).unwrap_err();
    }
    assert_ne!(zero.send(1000, &grant), first);
    assert_eq!(zero.table.len(Space::Replies), 4096);
}

#[test]
fn a_holder_that_comes_back_takes_over_and_others_are_left_alone() {
    let mut zero = Zero::new();
    let mut replica = bare(GROUP);
    let mut grant = |holder: &str| match zero.run(ClusterCommand::GrantLease { holder: holder.into() }) {
        Ok(ClusterDone::Lease(lease)) => lease,
        other => panic!("{other:?}"),
    };
    let leases = ["a", "b", "", "a", "", "a"].map(&mut grant);
    let live = [(leases[1], "b"), (leases[2], ""), (leases[4], ""), (leases[5], "a")];
    let live = live.map(|(lease, holder)| (lease, holder.to_owned()));
    assert_eq!(query_cluster(&zero.table).unwrap().leases, live);
    // The index groups take nothing more from the earlier ones.
    zero.drive(GROUP, &mut replica);
    let version = cluster_config(&zero.table).unwrap().version;
    for (at, lease) in leases.into_iter().enumerate() {
        let mut put = put_envelope(CommandId { lease, sequence: 1 }, "k", 0, etag(1));
        put.config = version;
        let ended = replica.apply(&put) == Err(crate::api::IndexRefusal::LeaseEnded);
        assert_eq!(ended, at == 0 || at == 3, "lease {lease}");
    }
}

#[test]
fn fences_reach_every_group_in_order_and_are_then_forgotten() {
    let mut zero = Zero::new();
    let (mut one, mut two) = (bare(MetaGroupId(1)), bare(MetaGroupId(2)));
    let Ok(ClusterDone::Lease(lease)) = zero.run(ClusterCommand::GrantLease { holder: "g".into() }) else {
        panic!()
    };
    let Ok(ClusterDone::Bucket(bucket)) = zero.create("photos", "root") else { panic!() };
    assert_eq!(query_cluster(&zero.table).unwrap().fences_pending, [MetaGroupId(1), MetaGroupId(2)]);
    zero.drive(MetaGroupId(1), &mut one);
    assert_eq!(query_cluster(&zero.table).unwrap().fences_pending, [MetaGroupId(2)]);
    assert!(!pending_fences(&zero.table, MetaGroupId(2), 99).unwrap().is_empty());
    zero.drive(MetaGroupId(2), &mut two);
    let overview = query_cluster(&zero.table).unwrap();
    assert_eq!((overview.fences_pending, overview.last_fence), (Vec::new(), overview.fences_done[0].1));
    let config = cluster_config(&zero.table).unwrap();
    for replica in [&mut one, &mut two] {
        assert_eq!(crate::state::fenced_config(&replica.table).unwrap(), config.version);
    }
    // The slots send each key to one of them.
    let name = (0..)
        .map(|at| format!("k{at}"))
        .find(|name| config.slots[usize::from(tenfour_types::key_slot(bucket.id, name))] == MetaGroupId(1))
        .unwrap();
    let mut put = put_envelope(CommandId { lease, sequence: 1 }, &name, 0, etag(1));
    put.config = config.version;
    assert_eq!(bucket.id, BUCKET);
    assert!(one.apply(&put).is_ok());
    assert!(two.apply(&put).is_err());
    zero.run(ClusterCommand::EndLease { lease }).unwrap();
    assert_eq!(zero.run(ClusterCommand::EndLease { lease }), Err(ClusterRefusal::NoSuchLease));
    zero.drive(MetaGroupId(1), &mut one);
    put.id.sequence = 2;
    assert_eq!(one.apply(&put), Err(crate::api::IndexRefusal::LeaseEnded));
}

#[test]
fn the_map_follows_nodes_and_every_change_is_an_epoch_that_says_what_moved() {
    let mut zero = Zero::new();
    assert_eq!(zero.run(ClusterCommand::BuildGroups { count: None }), Err(ClusterRefusal::NoTargets));
    for node in 1..=14 {
        assert_eq!(zero.register(node, &[node]), Ok(ClusterDone::Epoch(Epoch(u64::from(node)))));
    }
    assert_eq!(zero.register(3, &[3]), Ok(ClusterDone::Epoch(Epoch(14))), "nothing new");
    assert_eq!(zero.register(3, &[4]), Err(ClusterRefusal::TargetRefused(TargetId(4))));
    assert_eq!(zero.run(ClusterCommand::BuildGroups { count: Some(64) }), Ok(ClusterDone::Epoch(Epoch(15))));
    assert_eq!(zero.run(ClusterCommand::BuildGroups { count: Some(64) }), Err(ClusterRefusal::GroupsExist));
    let built = cluster_map(&zero.table).unwrap();
    assert_eq!(built.groups_at_full_width(), 64);

    // Down and up again: nothing moves.
    let state = |node, state| ClusterCommand::SetNodeState { node: NodeId(node), state };
    assert_eq!(zero.run(state(99, NodeState::Down)), Err(ClusterRefusal::NoSuchNode));
    assert_eq!(zero.run(state(5, NodeState::Down)), Ok(ClusterDone::Epoch(Epoch(16))));
    assert_eq!(zero.run(state(5, NodeState::Down)), Ok(ClusterDone::Epoch(Epoch(16))));
    assert_eq!(zero.register(5, &[5]), Ok(ClusterDone::Epoch(Epoch(17))));
    assert_eq!(cluster_map(&zero.table).unwrap().groups, built.groups);

    // A fifteenth node takes slots, a poisoned target loses all of its own; index groups are told which.
    let mut replica = bare(GROUP);
    zero.drive(GROUP, &mut replica);
    zero.register(15, &[15]).unwrap();
    zero.run(ClusterCommand::PoisonTarget { target: TargetId(2) }).unwrap();
    let map = cluster_map(&zero.table).unwrap();
    assert_eq!(map.targets[&TargetId(2)].state, TargetState::Poisoned);
    assert!(map.groups.iter().all(|row| row.slots.iter().all(|slot| slot.target != TargetId(2))));
    let told: usize = pending_fences(&zero.table, GROUP, 99)
        .unwrap()
        .iter()
        .map(|(_, fence)| if let Fence::Moves { moves, .. } = fence { moves.len() } else { 0 })
        .sum();
    assert!(told >= 64, "{told}");
    // It is never used again; its node may list it, and comes back with its other targets.
    zero.run(state(2, NodeState::Down)).unwrap();
    zero.register(2, &[2, 16]).unwrap();
    let map = cluster_map(&zero.table).unwrap();
    assert_eq!(map.nodes[&NodeId(2)].state, NodeState::Up);
    let states = [2, 16].map(|target| map.targets[&TargetId(target)].state);
    assert_eq!(states, [TargetState::Poisoned, TargetState::Up]);
    assert!(map.groups.iter().all(|row| row.slots.iter().all(|slot| slot.target != TargetId(2))));
    assert_eq!(zero.register(3, &[2]), Err(ClusterRefusal::TargetRefused(TargetId(2))), "another node's");
    zero.drive(GROUP, &mut replica);

    // A node that was taken out does not come back by itself.
    zero.run(state(7, NodeState::Out)).unwrap();
    zero.register(7, &[7]).unwrap();
    assert_eq!(cluster_map(&zero.table).unwrap().nodes[&NodeId(7)].state, NodeState::Out);
}
