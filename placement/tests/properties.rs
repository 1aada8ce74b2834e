//! What placement promises, checked on clusters of every small size and on random ones, against counts made here and not by
//! the code under test.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::{BTreeMap, BTreeSet};
use tenfour_placement::{
    ClusterMap, Node, NodeState, Row, Target, TargetState, default_group_count, diff, plan, rebalance,
};
use tenfour_types::{Epoch, GroupId, NodeId, ShardIndex, TargetId};

const TOTAL: usize = 14;

/// A cluster of nodes with so many targets each, node *i* in rack *i* mod `racks`, all of weight 1000.
fn cluster(targets_of_nodes: &[u32], racks: u32) -> ClusterMap {
    let mut map = ClusterMap { epoch: Epoch(1), ..ClusterMap::default() };
    for (node, &targets) in targets_of_nodes.iter().enumerate() {
        add_node(&mut map, node as u32, &format!("rack{}", node as u32 % racks), targets);
    }
    map
}

fn add_node(map: &mut ClusterMap, id: u32, rack: &str, targets: u32) {
    let node = Node { endpoints: Vec::new(), rack: rack.to_owned(), state: NodeState::Up };
    map.nodes.insert(NodeId(id), node);
    for _ in 0..targets {
        let target = TargetId(map.targets.len() as u32);
        map.targets.insert(target, Target { node: NodeId(id), weight: 1000, state: TargetState::Up });
    }
}

/// Shards of a row by some domain of their targets, most first.
fn shape<D: Ord>(targets: impl IntoIterator<Item = TargetId>, domain: impl Fn(TargetId) -> D) -> Vec<usize> {
    let mut counts = BTreeMap::new();
    for target in targets {
        *counts.entry(domain(target)).or_insert(0) += 1;
    }
    let mut shape: Vec<usize> = counts.into_values().collect();
    shape.sort_unstable_by(|a, b| b.cmp(a));
    shape
}

fn targets(row: &Row) -> Vec<TargetId> {
    row.slots.iter().map(|slot| slot.target).collect()
}

/// `shards` over `domains` as evenly as can be.
fn even(shards: usize, domains: usize) -> Vec<usize> {
    let mut shape: Vec<usize> =
        (0..domains).map(|domain| shards / domains + usize::from(domain < shards % domains)).collect();
    shape.retain(|&count| count > 0);
    shape
}

fn loads(map: &ClusterMap, rows: &[Row]) -> BTreeMap<TargetId, usize> {
    let mut loads: BTreeMap<TargetId, usize> = map.targets.keys().map(|&target| (target, 0)).collect();
    for target in rows.iter().flat_map(targets) {
        *loads.get_mut(&target).expect("a target of the map") += 1;
    }
    loads
}

/// How far the worst target is from its share, as a fraction of it; a target's share is by weight.
fn imbalance(map: &ClusterMap, rows: &[Row]) -> f64 {
    let usable =
        |target: &Target| target.state == TargetState::Up && map.nodes[&target.node].state != NodeState::Out;
    let weight: f64 =
        map.targets.values().filter(|target| usable(target)).map(|target| f64::from(target.weight)).sum();
    let slots = (rows.len() * TOTAL) as f64;
    loads(map, rows)
        .iter()
        .map(|(id, &load)| (&map.targets[id], load as f64))
        .filter(|(target, _)| usable(target))
        .map(|(target, load)| {
            let share = slots * f64::from(target.weight) / weight;
            (load - share).abs() / share
        })
        .fold(0.0, f64::max)
}

#[test]
fn a_row_is_as_wide_as_can_be_for_every_number_of_nodes() {
    for nodes in 1..=30 {
        for targets_per_node in [1, 2, 5] {
            let map = cluster(&vec![targets_per_node; nodes], 3);
            for row in plan(&map, 64) {
                let shape = shape(targets(&row), |target| map.node_of(target));
                assert_eq!(shape, even(TOTAL, nodes), "{nodes} nodes of {targets_per_node} targets");
            }
        }
    }
}

#[test]
fn targets_of_one_node_share_a_row_evenly() {
    for count in 1..=20 {
        let map = cluster(&[count], 1);
        for row in plan(&map, 64) {
            assert_eq!(shape(targets(&row), |target| target), even(TOTAL, count as usize));
        }
    }
}

#[test]
fn racks_share_a_row_evenly_when_their_nodes_allow_it() {
    for racks in 1..=20 {
        let map = cluster(&[1; 60], racks);
        for row in plan(&map, 64) {
            let rack = |target| map.nodes[&map.node_of(target).expect("known")].rack.clone();
            assert_eq!(shape(targets(&row), |target| map.node_of(target)), [1; TOTAL], "{racks} racks");
            assert_eq!(shape(targets(&row), rack), even(TOTAL, racks as usize), "{racks} racks");
        }
    }
}

#[test]
fn a_small_rack_gets_no_more_than_its_nodes_can_hold() {
    let mut map = cluster(&[1; 16], 1);
    add_node(&mut map, 100, "small", 4);
    add_node(&mut map, 101, "small", 4);
    for row in plan(&map, 64) {
        assert_eq!(shape(targets(&row), |target| map.node_of(target)), [1; TOTAL]);
        assert_eq!(
            shape(targets(&row), |target| map.nodes[&map.node_of(target).expect("known")].rack.clone()),
            [12, 2]
        );
    }
}

#[test]
fn a_hundred_targets_are_balanced_within_a_tenth() {
    for (targets_of_nodes, racks) in
        [(vec![1; 100], 1), (vec![1; 100], 10), (vec![4; 25], 5), (vec![5; 20], 20)]
    {
        let map = cluster(&targets_of_nodes, racks);
        let rows = plan(&map, default_group_count(map.targets.len()));
        let off = imbalance(&map, &rows);
        assert!(off < 0.1, "{targets_of_nodes:?} in {racks} racks: {off}");
    }
}

#[test]
fn a_thousand_targets_are_planned_balanced_and_changed_as_well() {
    let mut map = cluster(&[10; 100], 20);
    let rows = plan(&map, default_group_count(map.targets.len()));
    let off = imbalance(&map, &rows);
    assert!(off < 0.1, "{off}");
    let minimum: usize = loads(&map, &rows).values().skip(500).take(10).sum();
    map.nodes.get_mut(&NodeId(50)).expect("there").state = NodeState::Out;
    assert_near(moved(&rows, &map, "a node of a hundred leaves").1, minimum, "a node of a hundred leaves");
}

#[test]
fn slots_follow_the_weights() {
    let mut map = cluster(&[4; 25], 5);
    for (id, target) in &mut map.targets {
        target.weight = [1000, 2000, 4000, 3700][(id.0 % 4) as usize];
    }
    let rows = plan(&map, default_group_count(map.targets.len()));
    let off = imbalance(&map, &rows);
    assert!(off < 0.1, "{off}");
}

#[test]
fn every_target_shares_rows_with_nearly_every_other() {
    let mut map = cluster(&[1; 100], 1);
    let least = |map: &ClusterMap| {
        let mut partners: BTreeMap<TargetId, BTreeSet<TargetId>> = BTreeMap::new();
        for row in plan(map, 1024) {
            for target in targets(&row) {
                partners.entry(target).or_default().extend(targets(&row));
            }
        }
        partners.values().map(BTreeSet::len).min().expect("rows")
    };
    assert!(least(&map) > 90, "equal weights: {}", least(&map));
    for (id, target) in &mut map.targets {
        target.weight = 1000 + 17 * id.0;
    }
    assert!(least(&map) > 90, "weights of all kinds: {}", least(&map));
}

/// Moves a table to a map, checks that it is as good as a new plan, and returns the slots moved.
fn moved(old: &[Row], map: &ClusterMap, what: &str) -> (Vec<Row>, usize) {
    let new = rebalance(old, map);
    for (row, fresh) in new.iter().zip(plan(map, old.len())) {
        let (nodes, fresh_nodes) =
            (shape(targets(row), |t| map.node_of(t)), shape(targets(&fresh), |t| map.node_of(t)));
        assert_eq!(nodes, fresh_nodes, "{what}: nodes");
        let rack = |target| map.nodes[&map.node_of(target).expect("known")].rack.clone();
        assert_eq!(shape(targets(row), rack), shape(targets(&fresh), rack), "{what}: racks");
    }
    let off = imbalance(map, &new);
    assert!(off < 0.1, "{what}: {off} off balance");
    let moves = diff(old, &new);
    for step in &moves {
        let slot = new[step.group.0 as usize].slot(step.index);
        let is_known = map.targets.contains_key(&step.from);
        assert_eq!(slot.sources.contains(&step.from), is_known, "{what}: the chain");
        assert!(!slot.sources.contains(&slot.target), "{what}: no target is its own source");
    }
    let count = moves.len();
    (new, count)
}

fn assert_near(moves: usize, minimum: usize, what: &str) {
    assert!(moves >= minimum, "{what}: {moves} moves, at least {minimum} were needed");
    assert!(moves * 10 <= minimum * 13, "{what}: {moves} moves where {minimum} would do");
}

#[test]
fn a_target_that_leaves_moves_its_own_slots_and_little_else() {
    for (targets_of_nodes, racks) in
        [(vec![4; 25], 5), (vec![1; 100], 1), (vec![1; 30], 3), (vec![10; 4], 2), (vec![14], 1)]
    {
        let mut map = cluster(&targets_of_nodes, racks);
        let rows = plan(&map, default_group_count(map.targets.len()));
        let gone = TargetId(map.targets.len() as u32 / 2);
        let minimum = loads(&map, &rows)[&gone];
        map.targets.get_mut(&gone).expect("there").state = TargetState::Poisoned;
        let what = format!("{targets_of_nodes:?} in {racks} racks less one target");
        let (new, moves) = moved(&rows, &map, &what);
        assert_near(moves, minimum, &what);
        assert_eq!(loads(&map, &new)[&gone], 0, "{what}");
    }
}

#[test]
fn a_node_that_leaves_moves_its_own_slots_and_little_else() {
    for (targets_of_nodes, racks) in
        [(vec![4; 25], 5), (vec![1; 40], 1), (vec![2; 15], 1), (vec![1; 14], 1), (vec![1; 10], 1)]
    {
        let mut map = cluster(&targets_of_nodes, racks);
        let rows = plan(&map, default_group_count(map.targets.len()));
        let gone = NodeId(targets_of_nodes.len() as u32 / 2);
        let minimum: usize = loads(&map, &rows)
            .iter()
            .filter(|(target, _)| map.node_of(**target) == Some(gone))
            .map(|(_, load)| load)
            .sum();
        map.nodes.get_mut(&gone).expect("there").state = NodeState::Out;
        let what = format!("{targets_of_nodes:?} in {racks} racks less one node");
        let (_, moves) = moved(&rows, &map, &what);
        assert_near(moves, minimum, &what);
    }
}

#[test]
fn a_node_that_comes_takes_its_share_and_little_else_moves() {
    for (targets_of_nodes, racks) in [
        (vec![4; 25], 1),
        (vec![4; 24], 5),
        (vec![1; 99], 1),
        (vec![1; 13], 1),
        (vec![1; 14], 1),
        (vec![1; 5], 1),
        (vec![14], 1),
    ] {
        let mut map = cluster(&targets_of_nodes, racks);
        let group_count = default_group_count(map.targets.len());
        let rows = plan(&map, group_count);
        let (node, per_node) = (targets_of_nodes.len() as u32, targets_of_nodes[0]);
        add_node(&mut map, node, &format!("rack{}", node % racks), per_node);
        let what = format!("{targets_of_nodes:?} in {racks} racks and one node more");
        let (new, moves) = moved(&rows, &map, &what);
        let share: usize = loads(&map, &new)
            .iter()
            .filter(|(target, _)| map.node_of(**target) == Some(NodeId(node)))
            .map(|(_, load)| load)
            .sum();
        assert_near(moves, share, &what);
    }
}

#[test]
fn a_silent_node_keeps_its_slots_and_nothing_moves_without_a_reason() {
    let mut map = cluster(&[4; 25], 5);
    let rows = plan(&map, 1024);
    assert_eq!(rebalance(&rows, &map), rows);
    map.nodes.get_mut(&NodeId(3)).expect("there").state = NodeState::Down;
    assert_eq!(rebalance(&rows, &map), rows);
}

#[test]
fn a_cluster_grows_from_one_machine_to_twenty_without_ever_being_narrow_or_unbalanced() {
    let mut map = cluster(&[14], 1);
    let mut rows = plan(&map, 1024);
    for node in 1..20 {
        add_node(&mut map, node, &format!("rack{node}"), 14);
        rows = moved(&rows, &map, &format!("{} nodes", node + 1)).0;
        // Repair is done: every slot is whole.
        rows.iter_mut().flat_map(|row| &mut row.slots).for_each(|slot| slot.sources.clear());
    }
    for row in &rows {
        assert_eq!(shape(targets(row), |target| map.node_of(target)), [1; TOTAL]);
    }
}

#[test]
fn a_slot_that_moves_again_and_back_keeps_every_holder_once() {
    let mut map = cluster(&[1; 20], 1);
    let rows = plan(&map, 64);
    let first = rows[0].slots[0].target;
    map.nodes.get_mut(&NodeId(first.0)).expect("there").state = NodeState::Out;
    let rows = rebalance(&rows, &map);
    let second = rows[0].slots[0].target;
    map.nodes.get_mut(&NodeId(second.0)).expect("there").state = NodeState::Out;
    let rows = rebalance(&rows, &map);
    assert_eq!(rows[0].slots[0].sources, [second, first]);
    map.targets.retain(|&target, _| target.0 == first.0);
    map.nodes.get_mut(&NodeId(first.0)).expect("there").state = NodeState::Up;
    let rows = rebalance(&rows, &map);
    assert_eq!(rows[0].slots[0].target, first);
    assert_eq!(
        rows[0].slots[0].sources,
        [],
        "what left the map is no source, and the slot's own target neither"
    );
}

#[test]
fn a_slot_that_moved_often_is_left_alone_until_it_is_whole() {
    let mut map = cluster(&[1; 20], 1);
    let mut rows = plan(&map, 64);
    add_node(&mut map, 20, "rack0", 1);
    let with_chains = |rows: &mut Vec<Row>, length: u32| {
        let sources: Vec<TargetId> = (100..100 + length).map(TargetId).collect();
        rows.iter_mut().flat_map(|row| &mut row.slots).for_each(|slot| slot.sources.clone_from(&sources));
    };
    with_chains(&mut rows, 4);
    assert_eq!(diff(&rows, &rebalance(&rows, &map)), []);
    with_chains(&mut rows, 3);
    assert!(!diff(&rows, &rebalance(&rows, &map)).is_empty());
    with_chains(&mut rows, 4);
    map.nodes.get_mut(&NodeId(3)).expect("there").state = NodeState::Out;
    assert_eq!(
        diff(&rows, &rebalance(&rows, &map)).len(),
        loads(&map, &rows)[&TargetId(3)],
        "what must move does"
    );
}

#[test]
fn without_any_target_there_is_no_plan_and_no_change() {
    let mut map = cluster(&[1; 14], 1);
    let rows = plan(&map, 64);
    map.nodes.values_mut().for_each(|node| node.state = NodeState::Out);
    assert_eq!(plan(&map, 64), []);
    assert_eq!(rebalance(&rows, &map), rows);
}

#[test]
fn the_default_number_of_groups_is_a_bounded_power_of_two() {
    for (targets, groups) in [(0, 64), (1, 64), (14, 128), (100, 1024), (1000, 8192), (usize::MAX, 8192)] {
        assert_eq!(default_group_count(targets), groups, "{targets} targets");
    }
}

#[test]
fn a_group_is_chosen_whole_if_there_is_one_and_uniformly() {
    let mut map = cluster(&[1; 40], 1);
    map.groups = plan(&map, 64);
    map.nodes.get_mut(&NodeId(7)).expect("there").state = NodeState::Down;
    let mut chosen = BTreeMap::new();
    for seed in 0..6400 {
        let group = map.choose_group(seed).expect("groups");
        assert!(map.groups[group.0 as usize].slots.iter().all(|slot| slot.target != TargetId(7)));
        *chosen.entry(group).or_insert(0) += 1;
    }
    assert_eq!(chosen.len(), map.groups_at_full_width(), "every whole row is chosen");
    let expected = 6400 / chosen.len();
    assert!(chosen.values().all(|&times| times > expected / 2 && times < expected * 2), "{chosen:?}");
}

#[test]
fn with_no_whole_group_one_is_chosen_all_the_same() {
    let mut map = cluster(&[1; 14], 1);
    assert_eq!(map.choose_group(1), None);
    map.groups = plan(&map, 64);
    map.nodes.get_mut(&NodeId(0)).expect("there").state = NodeState::Down;
    assert!(map.choose_group(1).is_some());
}

fn indexes(positions: &[usize]) -> Vec<ShardIndex> {
    positions.iter().map(|&position| ShardIndex::new(position).expect("below 14")).collect()
}

#[test]
fn with_one_target_a_substitute_is_that_target_unless_it_is_to_be_avoided() {
    let mut map = cluster(&[1], 1);
    map.groups = plan(&map, 1);
    let two = indexes(&[2]);
    assert_eq!(map.substitutes(GroupId(0), &two, &[], 5), Some(vec![(two[0], TargetId(0))]));
    assert_eq!(map.substitutes(GroupId(0), &two, &[TargetId(0)], 5), None);
    assert_eq!(map.substitutes(GroupId(1), &two, &[], 5), None, "no such group");
    map.nodes.get_mut(&NodeId(0)).expect("there").state = NodeState::Down;
    assert_eq!(map.substitutes(GroupId(0), &two, &[], 5), None);
}

#[test]
fn with_fourteen_nodes_and_four_of_them_dead_no_node_gets_three_shards() {
    let mut map = cluster(&[1; 14], 1);
    map.groups = plan(&map, 128);
    for dead in [1, 5, 8, 13] {
        map.nodes.get_mut(&NodeId(dead)).expect("there").state = NodeState::Down;
    }
    for group in 0..128 {
        let row = map.groups[group as usize].clone();
        let absent: Vec<ShardIndex> =
            ShardIndex::all().filter(|&index| !map.is_usable(row.slot(index).target)).collect();
        let substitutes =
            map.substitutes(GroupId(group), &absent, &[], u64::from(group)).expect("ten are left");
        let kept =
            ShardIndex::all().filter(|index| !absent.contains(index)).map(|index| row.slot(index).target);
        let all: Vec<TargetId> = kept.chain(substitutes.iter().map(|&(_, target)| target)).collect();
        assert_eq!(shape(all, |target| map.node_of(target)), even(TOTAL, 10));
    }
}

#[test]
fn the_node_of_a_target_that_just_failed_is_not_the_next_one_tried() {
    let mut map = cluster(&[1; 14], 1);
    map.groups = plan(&map, 1);
    add_node(&mut map, 14, "rack0", 2);
    add_node(&mut map, 15, "rack0", 1);
    for seed in 0..100 {
        let chosen =
            map.substitutes(GroupId(0), &indexes(&[4]), &[TargetId(14)], seed).expect("two are spare");
        assert_eq!(chosen[0].1, TargetId(16), "not the other target of the same node");
    }
}

#[test]
fn substitutes_follow_the_weights() {
    let mut map = cluster(&[1; 16], 1);
    map.groups = plan(&map, 1);
    let spare: Vec<TargetId> =
        map.targets.keys().copied().filter(|target| !targets(&map.groups[0]).contains(target)).collect();
    map.targets.get_mut(&spare[0]).expect("there").weight = 3000;
    let first = |seed| map.substitutes(GroupId(0), &indexes(&[4]), &[], seed).expect("two are spare")[0].1;
    let heavy = (0..1000).filter(|&seed| first(seed) == spare[0]).count();
    assert!((700..800).contains(&heavy), "{heavy} of 1000 where 750 are expected");
}

prop_compose! {
    fn any_cluster()(
        targets_of_nodes in prop::collection::vec(1u32..6, 1..31),
        racks in 1u32..8,
        weights in prop::collection::vec(1u32..9, 180),
        down in prop::collection::btree_set(0u32..30, 0..6),
    ) -> ClusterMap {
        let mut map = cluster(&targets_of_nodes, racks);
        for (target, weight) in map.targets.values_mut().zip(weights) {
            target.weight = weight;
        }
        map.groups = plan(&map, 16);
        for id in down {
            if let Some(node) = map.nodes.get_mut(&NodeId(id)) {
                node.state = NodeState::Down;
            }
        }
        map
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(14), failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn every_row_is_planned_even_over_nodes_whatever_the_weights(map in any_cluster()) {
        for row in &map.groups {
            prop_assert_eq!(shape(targets(row), |target| map.node_of(target)), even(TOTAL, map.nodes.len()));
        }
    }

    #[test]
    fn a_node_that_leaves_any_cluster_moves_little_more_than_its_own_slots(map in any_cluster(), which: prop::sample::Index) {
        // With weights of all kinds the others' shares shift as well, and more has to move.
        let mut map = map;
        map.targets.values_mut().for_each(|target| target.weight = 1);
        let old = plan(&map, 128);
        let which = which.index(map.nodes.len());
        let (_, node) = map.nodes.iter_mut().nth(which).expect("a node");
        node.state = NodeState::Out;
        let gone = |target: TargetId| map.nodes[&map.targets[&target].node].state == NodeState::Out;
        let minimum = old.iter().flat_map(targets).filter(|&target| gone(target)).count();
        let moves = diff(&old, &rebalance(&old, &map)).len();
        prop_assert!(map.nodes.len() == 1 || moves >= minimum);
        prop_assert!(moves * 10 <= minimum * 13 + 50, "{} moves where {} would do", moves, minimum);
    }

    #[test]
    fn a_node_that_joins_any_cluster_takes_its_share_and_little_else_moves(map in any_cluster(), count in 1u32..6, rack in 0u32..8) {
        let old = plan(&map, 128);
        let mut map = map;
        add_node(&mut map, 99, &format!("rack{rack}"), count);
        for target in map.targets.values_mut().filter(|target| target.node == NodeId(99)) {
            target.weight = 4;
        }
        let new = rebalance(&old, &map);
        let share = new.iter().flat_map(targets).filter(|&target| map.node_of(target) == Some(NodeId(99))).count();
        let moves = diff(&old, &new).len();
        prop_assert!(moves * 10 <= share * 13 + 50, "{} moves for a share of {}", moves, share);
    }

    #[test]
    fn a_plan_depends_on_nothing_but_the_map(map in any_cluster()) {
        prop_assert_eq!(&plan(&map, 16), &map.groups);
    }

    #[test]
    fn no_other_choice_of_substitutes_would_be_wider(map in any_cluster(), group in 0u32..16, seed: u64) {
        let row = &map.groups[group as usize];
        let absent: Vec<ShardIndex> = ShardIndex::all().filter(|&index| !map.is_usable(row.slot(index).target)).collect();
        let usable: Vec<TargetId> = map.targets.keys().copied().filter(|&target| map.is_usable(target)).collect();
        match map.substitutes(GroupId(group), &absent, &[], seed) {
            None => prop_assert!(usable.is_empty() && !absent.is_empty()),
            Some(substitutes) => {
                prop_assert_eq!(substitutes.iter().map(|&(index, _)| index).collect::<Vec<_>>(), absent.clone());
                let mut all = targets(row);
                for &(index, target) in &substitutes {
                    prop_assert!(map.is_usable(target));
                    all[index.get()] = target;
                }
                // No single substitute could go to a node (or, on nodes equally full, a target) with two shards less.
                let on_node = |node| all.iter().filter(|&&target| map.node_of(target) == node).count();
                let on_target = |id| all.iter().filter(|&&target| target == id).count();
                for &(_, chosen) in &substitutes {
                    for &other in &usable {
                        let (here, there) = (on_node(map.node_of(chosen)), on_node(map.node_of(other)));
                        prop_assert!(here <= there + 1, "{} on the node of {}, {} on that of {}", here, chosen, there, other);
                        if map.node_of(chosen) == map.node_of(other) {
                            prop_assert!(on_target(chosen) <= on_target(other) + 1);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_to_be_avoided_is_never_chosen(map in any_cluster(), group in 0u32..16, seed: u64, avoid in prop::collection::vec(0u32..90, 0..9)) {
        let avoid: Vec<TargetId> = avoid.into_iter().map(TargetId).collect();
        if let Some(substitutes) = map.substitutes(GroupId(group), &indexes(&[0, 3, 13]), &avoid, seed) {
            prop_assert!(substitutes.iter().all(|(_, target)| map.is_usable(*target) && !avoid.contains(target)));
        } else {
            prop_assert!(map.targets.keys().all(|target| !map.is_usable(*target) || avoid.contains(target)));
        }
    }
}
