//! The judgement of a history by all of its checkers.

use crate::history::{Outcome, Record};
use crate::{listing, register};
use register::Verdict;
use serde::Serialize;
use std::collections::BTreeMap;

/// A promise that was not kept.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// Which: an invariant of `docs/FAULTS.md`.
    pub invariant: &'static str,
    /// What happened.
    pub text: String,
    /// When, µs; 0 when that makes no sense.
    pub at: u64,
}

impl Violation {
    /// One of a promise, at no moment in particular.
    pub fn new(invariant: &'static str, text: String) -> Self {
        Self { invariant, text, at: 0 }
    }
}

/// Every promise that a history shows broken, and those that could not be judged.
pub fn check(history: &[Record]) -> Vec<Violation> {
    let mut found = Vec::new();
    for record in history {
        if let Outcome::Wrong(what) = &record.outcome {
            let text = format!("{} {} through {}: {what}", record.action.kind(), record.key, record.door);
            found.push(Violation { invariant: "I3", text, at: record.ended });
        }
    }
    let mut keys: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in history.iter().filter(|record| !record.key.is_empty()) {
        keys.entry(&record.key).or_default().push(record);
    }
    for (key, records) in keys {
        let (how, record) = match register::check(&records) {
            Verdict::Linearizable => continue,
            Verdict::Violation(record) => ("no order of the operations explains", record),
            Verdict::Undecided(record) => ("too many orders are possible; given up at", record),
        };
        let text = format!(
            "{key}: {how} {} of client {} through {}, {:?}",
            record.action.kind(),
            record.client,
            record.door,
            record.outcome
        );
        found.push(Violation { invariant: "I2", text, at: record.ended });
    }
    let lists = listing::check(history).into_iter();
    found.extend(lists.map(|(text, record)| Violation {
        invariant: "I2",
        text: format!("LIST through {}: {text}", record.door),
        at: record.ended,
    }));
    found
}
