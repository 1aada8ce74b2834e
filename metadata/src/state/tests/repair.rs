//! What repair says, and what becomes of it: replaced targets, slots that are whole, shards that are at home.

use super::cluster::{Zero, bare};
use super::*;
use crate::api::cluster::{ClusterCommand, ClusterDone, ClusterRefusal};
use crate::api::index::{IndexDone, IndexRefusal, ShardAway, SlotMove};
use crate::state::{cluster_map, pending_fences};
use std::sync::Arc;
use tenfour_placement::{ClusterMap, NodeState, TargetState};
use tenfour_types::{NodeId, Override, ShardIndex, TargetId};

/// Fourteen nodes with a target each, and their placement groups.
fn fourteen() -> Zero {
    let mut zero = Zero::new();
    for node in 1..=14 {
        zero.register(node, &[node]).unwrap();
    }
    zero.run(ClusterCommand::BuildGroups { count: Some(16) }).unwrap();
    zero
}

fn map(zero: &Zero) -> Arc<ClusterMap> {
    cluster_map(&zero.table).unwrap()
}

fn replace(zero: &mut Zero, node: u32, target: u32) -> TargetId {
    let command = ClusterCommand::ReplaceTarget { node: NodeId(node), target: TargetId(target) };
    match zero.run(command) {
        Ok(ClusterDone::Target(id)) => id,
        other => panic!("{other:?}"),
    }
}

/// The slots of a target that are not whole.
fn moving(map: &ClusterMap, target: TargetId) -> Vec<(GroupId, ShardIndex)> {
    let slots = (0..).map(GroupId).zip(&map.groups).flat_map(|(group, row)| {
        ShardIndex::all().zip(&row.slots).map(move |(index, slot)| ((group, index), slot))
    });
    let is_its = |slot: &tenfour_placement::Slot| slot.target == target && !slot.sources.is_empty();
    slots.filter(|(_, slot)| is_its(slot)).map(|(at, _)| at).collect()
}

#[test]
fn a_lost_target_is_replaced_in_one_epoch_and_no_id_is_wasted_or_used_twice() {
    let mut zero = fourteen();
    let before = map(&zero);
    let refused = ClusterCommand::ReplaceTarget { node: NodeId(4), target: TargetId(5) };
    assert_eq!(zero.run(refused), Err(ClusterRefusal::TargetRefused(TargetId(5))), "another node's");
    let first = replace(&mut zero, 5, 5);
    assert!(!before.targets.contains_key(&first));
    assert_eq!(replace(&mut zero, 5, 5), first, "it was never made");
    let other = replace(&mut zero, 6, 6);
    assert_ne!(other, first);
    assert_eq!(map(&zero), before, "nothing has happened yet");

    zero.register(5, &[first.0]).unwrap();
    let after = map(&zero);
    assert_eq!(after.epoch, Epoch(before.epoch.0 + 1));
    assert_eq!(after.targets[&TargetId(5)].state, TargetState::Poisoned);
    let slots = moving(&after, first);
    assert_eq!(slots.len(), 16, "one in every row");
    assert_eq!(tenfour_placement::diff(&before.groups, &after.groups).len(), 16, "and nothing else moved");
    assert_eq!(after.groups_at_full_width(), 0);
    for (group, index) in slots {
        assert_eq!(after.groups[group.0 as usize].slot(index).sources, [TargetId(5)]);
    }

    // It is lost as well: asked for under the configured id.
    let second = replace(&mut zero, 5, 5);
    assert!(second != first && second != other);
    assert_eq!(replace(&mut zero, 5, first.0), second);
    zero.register(5, &[second.0]).unwrap();
    let map = map(&zero);
    assert_eq!(map.targets[&first].state, TargetState::Poisoned);
    assert_eq!(map.groups[0].slots.iter().filter(|slot| slot.target == second).count(), 1);
    let slot = map.groups[0].slots.iter().find(|slot| slot.target == second).unwrap();
    assert_eq!(slot.sources, [first, TargetId(5)]);
}

#[test]
fn a_slot_is_whole_when_repair_says_so_of_the_map_in_which_it_moved_or_a_later_one() {
    let mut zero = fourteen();
    let next = replace(&mut zero, 5, 5);
    zero.register(5, &[next.0]).unwrap();
    let moved = map(&zero);
    let slots = moving(&moved, next);
    let whole = |epoch, target, slots: &[(GroupId, ShardIndex)]| ClusterCommand::SlotsWhole {
        target,
        epoch,
        slots: slots.to_vec(),
    };
    let early = Epoch(moved.epoch.0 - 1);
    for nothing in [
        whole(early, next, &slots),
        whole(moved.epoch, TargetId(6), &slots),
        whole(moved.epoch, next, &[(GroupId(99), ShardIndex::new(0).unwrap())]),
    ] {
        assert_eq!(zero.run(nothing), Ok(ClusterDone::Epoch(moved.epoch)));
    }
    let state = |node, state| ClusterCommand::SetNodeState { node: NodeId(node), state };
    zero.run(state(9, NodeState::Down)).unwrap();
    zero.run(whole(moved.epoch, next, &slots[..10])).unwrap();
    assert_eq!(moving(&map(&zero), next), slots[10..]);

    // The others move away and back: what was found before that says nothing about them any more.
    zero.run(state(5, NodeState::Out)).unwrap();
    zero.run(state(5, NodeState::Up)).unwrap();
    let back = map(&zero);
    let again = moving(&back, next);
    assert!(!again.is_empty());
    zero.run(whole(moved.epoch, next, &slots)).unwrap();
    assert_eq!(moving(&map(&zero), next), again);
    zero.run(whole(back.epoch, next, &again)).unwrap();
    assert_eq!(moving(&map(&zero), next), []);
}

#[test]
fn what_is_whole_is_an_epoch_that_moves_nothing() {
    let mut zero = fourteen();
    let mut replica = bare(GROUP);
    let next = replace(&mut zero, 5, 5);
    zero.register(5, &[next.0]).unwrap();
    let moved = map(&zero);
    zero.drive(GROUP, &mut replica);
    let slots = moving(&moved, next);
    zero.run(ClusterCommand::SlotsWhole { target: next, epoch: moved.epoch, slots }).unwrap();
    assert_eq!(map(&zero).groups_at_full_width(), 16);
    let told: Vec<Fence> =
        pending_fences(&zero.table, GROUP, 99).unwrap().into_iter().map(|(_, told)| told).collect();
    assert_eq!(told, [Fence::Epoch(Epoch(moved.epoch.0 + 1))]);
}

/// An index group that was fenced to epoch 5, in which slot 4 of group 0 moved, and stripes whose shards 3 and 4 are away.
fn away() -> Replica {
    let mut replica = Replica::new();
    let at = |index| ShardIndex::new(index).unwrap();
    let moves = vec![SlotMove { group: GroupId(0), index: at(4), from: TargetId(40), to: TargetId(41) }];
    replica.fence(Fence::Moves { epoch: Epoch(5), moves });
    replica.fence(Fence::Epoch(Epoch(5)));
    for sequence in 1..=3 {
        let mut command =
            put_command(id(1, sequence), &format!("k{sequence}"), 5, etag(1), Precondition::None);
        if let IndexCommand::PutObject { stripes, .. } = &mut command {
            stripes[0].epoch = Epoch(5);
            if sequence < 3 {
                stripes[0].overrides = [(3, 77), (4, 78)]
                    .map(|(index, target)| Override { index: at(index), target: TargetId(target) })
                    .to_vec();
            }
        }
        replica.run(id(1, sequence), command).unwrap();
    }
    replica
}

fn stripe_of(sequence: u64) -> StripeId {
    StripeId { meta_group: GROUP, lease: LeaseId(1), counter: sequence * 1000 }
}

/// Stripes with overrides, and the shards that those are for.
fn listed(replica: &Replica, after: Option<StripeId>, most: u32) -> Vec<(StripeId, Vec<usize>)> {
    let query = IndexQuery::StripesAway { after, most };
    let IndexAnswer::Stripes(rows) = query_index(&replica.table, 1, &query).unwrap().answer else { panic!() };
    rows.iter().map(|row| (row.id, row.overrides.iter().map(|away| away.index.get()).collect())).collect()
}

fn home(epoch: u64, shards: &[(u64, usize, u32)]) -> IndexCommand {
    let shard = |&(sequence, index, target): &(u64, usize, u32)| ShardAway {
        stripe: stripe_of(sequence),
        index: ShardIndex::new(index).unwrap(),
        target: TargetId(target),
    };
    IndexCommand::BringHome { epoch: Epoch(epoch), shards: shards.iter().map(shard).collect() }
}

#[test]
fn an_override_goes_when_it_is_the_one_that_repair_saw_and_home_is_where_it_was() {
    let mut replica = away();
    let both = [(stripe_of(1), vec![3, 4]), (stripe_of(2), vec![3, 4])];
    assert_eq!(listed(&replica, None, 9), both);
    assert_eq!(listed(&replica, None, 1), both[..1]);
    assert_eq!(listed(&replica, Some(stripe_of(1)), 9), both[1..]);
    let mut send = |command| replica.run(id(0, 0), command);
    // Another override, no such stripe, a stripe without overrides, and a slot that moved in between.
    assert_eq!(send(home(5, &[(1, 3, 78), (9, 3, 77), (3, 3, 77)])), Ok(IndexDone::Done));
    assert_eq!(send(home(4, &[(1, 4, 78)])), Ok(IndexDone::Done));
    assert!(
        matches!(send(home(6, &[(1, 3, 77)])), Err(IndexRefusal::Malformed(_))),
        "not fenced to that map"
    );
    assert_eq!(listed(&replica, None, 9), both);

    let mut send = |command| replica.run(id(0, 0), command);
    assert_eq!(send(home(5, &[(1, 3, 77), (2, 4, 78)])), Ok(IndexDone::Done));
    assert_eq!(send(home(5, &[(1, 3, 77)])), Ok(IndexDone::Done), "sent twice");
    assert_eq!(listed(&replica, None, 9), [(stripe_of(1), vec![4]), (stripe_of(2), vec![3])]);
    replica.run(id(0, 0), home(4, &[(2, 3, 77)])).unwrap();
    assert_eq!(listed(&replica, None, 9), [(stripe_of(1), vec![4])], "the slot did not move after that map");
}

#[test]
fn a_stripe_that_is_let_go_leaves_no_mark() {
    let mut replica = away();
    replica.run(id(1, 10), delete_command("k1")).unwrap();
    replica.settle();
    assert_eq!(listed(&replica, None, 9), [(stripe_of(2), vec![3, 4])]);
}
