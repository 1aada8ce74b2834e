//! Whether the operations on one key are those of a register: read, write, write on a condition, delete, each at one moment between its
//! request and its answer.
//!
//! The search keeps, along time, every state that the register can be in and which open operations made it so (just-in-time linearization,
//! Lowe 2017; the test of Wing and Gong 1993). An operation whose outcome is unknown stays open for ever. A situation is dropped when another in the same
//! state used no operation that it did not use: what has not happened yet may still never happen. Unknown writes that differ in nothing that anybody
//! saw are used in the order in which they began.
//! Not here: what bytes mean. A version that nobody stored never gets into a history as something seen.

use crate::history::{Action, Condition, Outcome, Record};
use crate::value::Value;
use std::collections::{BTreeSet, HashMap, HashSet};

/// More situations than this at one moment are not followed: the key is reported as undecided, which is no success.
const SITUATIONS_MAX: usize = 200_000;

/// What the search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is an order that explains all of it.
    Linearizable,
    /// There is none; no order explains this operation together with all before it.
    Violation(Box<Record>),
    /// The search was given up at this operation.
    Undecided(Box<Record>),
}

/// What an operation does to the register, and needs of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Effect {
    Write { new: Option<Value>, condition: Condition },
    Refused { condition: Condition },
    Read(Option<Value>),
}

struct Operation<'a> {
    effect: Effect,
    record: &'a Record,
    returns: bool,
    /// The unknown operation before it that does the same: used first.
    after: Option<usize>,
}

/// The register, and which of the open operations have happened.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Situation {
    state: Option<Value>,
    happened: BTreeSet<usize>,
}

/// Judges the records of one key, in any order; the object does not exist at first.
pub fn check(records: &[&Record]) -> Verdict {
    let operations = operations(records);
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (number, operation) in operations.iter().enumerate() {
        events.push((operation.record.began, false, number));
        if operation.returns {
            events.push((operation.record.ended, true, number));
        }
    }
    // At one and the same moment requests come before answers: what may overlap does.
    events.sort_unstable();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let mut now = HashSet::from([Situation { state: None, happened: BTreeSet::new() }]);
    for (_, is_answer, number) in events {
        if !is_answer {
            open.insert(number);
            continue;
        }
        let record = || Box::new(operations.get(number).map_or_else(nobody, |it| it.record.clone()));
        let Some(reached) = reach(&operations, &open, now, number) else {
            return Verdict::Undecided(record());
        };
        if reached.is_empty() {
            return Verdict::Violation(record());
        }
        open.remove(&number);
        now = without_dominated(reached, &operations);
    }
    Verdict::Linearizable
}

fn operations<'a>(records: &[&'a Record]) -> Vec<Operation<'a>> {
    let seen: HashSet<Value> = records.iter().filter_map(|record| seen(record)).collect();
    let mut sorted: Vec<&Record> = records.to_vec();
    sorted.sort_by_key(|record| record.began);
    let mut last_of_kind: HashMap<Effect, usize> = HashMap::new();
    let mut operations = Vec::new();
    for record in sorted {
        let Some((effect, returns)) = effect(record) else { continue };
        let effect = anonymous(effect, &seen);
        let after = (!returns).then(|| last_of_kind.insert(effect, operations.len())).flatten();
        operations.push(Operation { effect, record, returns, after });
    }
    operations
}

/// The version that a record speaks of as being there or having been there.
fn seen(record: &Record) -> Option<Value> {
    match (&record.action, &record.outcome) {
        (_, Outcome::Saw(seen)) => *seen,
        (Action::Put { condition: Condition::Is(value), .. }, _) => Some(*value),
        _ => None,
    }
}

/// Versions that nobody saw are one and the same to everybody who looked.
fn anonymous(effect: Effect, seen: &HashSet<Value>) -> Effect {
    match effect {
        Effect::Write { new: Some(value), condition } if !seen.contains(&value) => {
            Effect::Write { new: Some(Value(0)), condition }
        }
        effect => effect,
    }
}

/// What a record means for the register, and whether it ended; nothing when it certainly did not happen, or is judged elsewhere.
fn effect(record: &Record) -> Option<(Effect, bool)> {
    let write = match record.action {
        Action::Put { value, condition, .. } => Effect::Write { new: Some(value), condition },
        _ => Effect::Write { new: None, condition: Condition::None },
    };
    match (&record.outcome, &record.action) {
        (Outcome::Saw(seen), _) => Some((Effect::Read(*seen), true)),
        (Outcome::Done, action) if action.is_write() => Some((write, true)),
        (Outcome::Unknown(_), action) if action.is_write() => Some((write, false)),
        (Outcome::Refused, Action::Put { condition, .. }) => {
            Some((Effect::Refused { condition: *condition }, true))
        }
        _ => None,
    }
}

/// The state after an effect, if it can happen in this one.
fn apply(effect: Effect, state: Option<Value>) -> Option<Option<Value>> {
    let holds = |condition: Condition| match condition {
        Condition::None => true,
        Condition::Absent => state.is_none(),
        Condition::Is(value) => state == Some(value),
    };
    match effect {
        Effect::Write { new, condition } => holds(condition).then_some(new),
        Effect::Refused { condition } => (!holds(condition)).then_some(state),
        Effect::Read(seen) => (seen == state).then_some(state),
    }
}

/// Every situation in which `number` has happened, reached from `now` by open operations; `None` when there are too many.
fn reach(
    operations: &[Operation<'_>],
    open: &BTreeSet<usize>,
    now: HashSet<Situation>,
    number: usize,
) -> Option<Vec<Situation>> {
    let mut reached = Vec::new();
    let mut known: HashSet<Situation> = now.clone();
    let mut next: Vec<Situation> = now.into_iter().collect();
    while let Some(situation) = next.pop() {
        if situation.happened.contains(&number) {
            let mut situation = situation;
            situation.happened.remove(&number);
            reached.push(situation);
            continue;
        }
        for &candidate in open {
            let Some(operation) = operations.get(candidate) else { continue };
            let is_in_turn = operation.after.is_none_or(|before| situation.happened.contains(&before));
            if !is_in_turn || situation.happened.contains(&candidate) {
                continue;
            }
            let Some(state) = apply(operation.effect, situation.state) else { continue };
            let mut happened = situation.happened.clone();
            happened.insert(candidate);
            let later = Situation { state, happened };
            if known.insert(later.clone()) {
                next.push(later);
            }
        }
        if known.len() > SITUATIONS_MAX {
            return None;
        }
    }
    Some(reached)
}

/// Drops a situation when another, in the same state and with the same of those operations that will be answered, used fewer of the others.
fn without_dominated(situations: Vec<Situation>, operations: &[Operation<'_>]) -> HashSet<Situation> {
    let returns = |number: &usize| operations.get(*number).is_some_and(|operation| operation.returns);
    let mut groups: HashMap<Situation, Vec<BTreeSet<usize>>> = HashMap::new();
    for Situation { state, happened } in situations {
        let (answered, unknown) = happened.into_iter().partition(returns);
        groups.entry(Situation { state, happened: answered }).or_default().push(unknown);
    }
    let mut kept = HashSet::new();
    for (Situation { state, happened: answered }, mut unknown) in groups {
        unknown.sort_by_key(BTreeSet::len);
        let mut least: Vec<BTreeSet<usize>> = Vec::new();
        for used in unknown {
            if !least.iter().any(|fewer| fewer.is_subset(&used)) {
                least.push(used);
            }
        }
        kept.extend(least.into_iter().map(|used| Situation { state, happened: &answered | &used }));
    }
    kept
}

fn nobody() -> Record {
    let (door, key, outcome) = (String::new(), String::new(), Outcome::Refused);
    Record { client: 0, door, key, action: Action::Head, began: 0, ended: 0, outcome }
}
