//! How wide a row is spread: shards counted per target, node and rack.
//!
//! "Most even" means the smallest sum of squares. The three sums are compared nodes first, then racks, then targets; since the
//! domains nest, a row that no single exchange makes wider is as wide as a row can be (the sums are M-natural-convex over a
//! laminar family: Murota, *Discrete Convex Analysis*, 2003), so looking at single exchanges is enough.

use crate::map::{ClusterMap, NodeState, TargetState};
use std::collections::BTreeMap;
use tenfour_types::TargetId;

/// The targets that may have slots, with their domains as dense numbers.
pub(crate) struct Domains {
    pub(crate) targets: Vec<Place>,
    nodes: usize,
    racks: usize,
}

/// One target and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) id: TargetId,
    pub(crate) weight: u64,
    node: usize,
    rack: usize,
}

impl Domains {
    /// The targets of a map that shards may live on: not those being replaced, but those of a silent node, which is expected back.
    pub(crate) fn of_residents(map: &ClusterMap) -> Self {
        Self::of(map, |id| {
            map.targets.get(&id).is_some_and(|target| {
                target.state == TargetState::Up
                    && map.nodes.get(&target.node).is_some_and(|node| node.state != NodeState::Out)
            })
        })
    }

    /// The targets of a map that pass a filter, in the order of their ids.
    pub(crate) fn of(map: &ClusterMap, accept: impl Fn(TargetId) -> bool) -> Self {
        let mut node_numbers = BTreeMap::new();
        let mut rack_numbers = BTreeMap::new();
        let mut targets = Vec::new();
        for (&id, target) in &map.targets {
            let Some(node) = map.nodes.get(&target.node).filter(|_| accept(id)) else { continue };
            let (next_node, next_rack) = (node_numbers.len(), rack_numbers.len());
            let node_number = *node_numbers.entry(target.node).or_insert(next_node);
            let rack_number = *rack_numbers.entry(node.rack.as_str()).or_insert(next_rack);
            let weight = u64::from(target.weight.max(1));
            targets.push(Place { id, weight, node: node_number, rack: rack_number });
        }
        Self { targets, nodes: node_numbers.len(), racks: rack_numbers.len() }
    }

    /// The number of a target, if it is among them.
    pub(crate) fn find(&self, id: TargetId) -> Option<usize> {
        self.targets.binary_search_by_key(&id, |place| place.id).ok()
    }
}

/// The shards of one row, counted per domain.
pub(crate) struct Counts<'a> {
    domains: &'a Domains,
    target: Vec<u16>,
    node: Vec<u16>,
    rack: Vec<u16>,
}

/// What one more shard costs in spread: smaller is wider. Shards already on the node, the rack and the target, in that order.
pub(crate) type Crowding = (u16, u16, u16);

impl<'a> Counts<'a> {
    pub(crate) fn new(domains: &'a Domains) -> Self {
        let zeros = |count| vec![0; count];
        Self {
            domains,
            target: zeros(domains.targets.len()),
            node: zeros(domains.nodes),
            rack: zeros(domains.racks),
        }
    }

    pub(crate) fn add(&mut self, target: usize) {
        let place = &self.domains.targets[target];
        self.target[target] += 1;
        self.node[place.node] += 1;
        self.rack[place.rack] += 1;
    }

    pub(crate) fn remove(&mut self, target: usize) {
        let place = &self.domains.targets[target];
        self.target[target] -= 1;
        self.node[place.node] -= 1;
        self.rack[place.rack] -= 1;
    }

    pub(crate) fn crowding(&self, target: usize) -> Crowding {
        let place = &self.domains.targets[target];
        (self.node[place.node], self.rack[place.rack], self.target[target])
    }
}
