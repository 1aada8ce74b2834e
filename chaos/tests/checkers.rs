//! The checkers catch what they are for, and accept what a store may do: histories by hand, and of a simulated register.

use proptest::prelude::*;
use tenfour_chaos::check::check;
use tenfour_chaos::history::{Action, Condition, Outcome, Record, load, save};
use tenfour_chaos::register::{self, Verdict};
use tenfour_chaos::value::Value;

fn record(key: &str, (began, ended): (u64, u64), action: Action, outcome: Outcome) -> Record {
    Record { client: 1, door: "test".to_owned(), key: key.to_owned(), action, began, ended, outcome }
}

fn value(number: u32) -> Value {
    Value::new(1, number, 100)
}

fn put_if(number: u32, condition: Condition, when: (u64, u64), outcome: Outcome) -> Record {
    record("k", when, Action::Put { value: value(number), condition, parts: false }, outcome)
}

fn put(number: u32, when: (u64, u64)) -> Record {
    put_if(number, Condition::None, when, Outcome::Done)
}

fn lost(number: u32, when: (u64, u64)) -> Record {
    put_if(number, Condition::None, when, unknown())
}

fn unknown() -> Outcome {
    Outcome::Unknown("no answer".to_owned())
}

fn delete(when: (u64, u64), outcome: Outcome) -> Record {
    record("k", when, Action::Delete, outcome)
}

fn get(seen: Option<u32>, when: (u64, u64)) -> Record {
    record("k", when, Action::Get, Outcome::Saw(seen.map(value)))
}

fn list(seen: &[(&str, u32)], when: (u64, u64)) -> Record {
    let seen = seen.iter().map(|(key, number)| ((*key).to_owned(), value(*number))).collect();
    record("", when, Action::List, Outcome::Listed(seen))
}

fn violations(history: &[Record]) -> Vec<String> {
    check(history).into_iter().map(|found| format!("{} {}", found.invariant, found.text)).collect()
}

#[track_caller]
fn accepted(history: &[Record]) {
    assert_eq!(violations(history), [""; 0]);
}

#[track_caller]
fn caught(history: &[Record], sentence: &str) {
    let found = violations(history);
    assert!(found.len() == 1 && found[0].contains(sentence), "{found:?}, not {sentence:?}");
}

#[test]
fn a_stale_read_is_caught() {
    caught(&[put(1, (0, 10)), put(2, (20, 30)), get(Some(1), (40, 50))], "explains GET");
    accepted(&[put(1, (0, 10)), put(2, (20, 45)), get(Some(1), (40, 50))]);
}

#[test]
fn a_read_that_goes_back_is_caught() {
    let both = [put(1, (0, 10)), put(2, (20, 100)), get(Some(2), (30, 40)), get(Some(1), (50, 60))];
    caught(&both, "explains GET");
    accepted(&[put(1, (0, 10)), put(2, (20, 100)), get(Some(1), (30, 40)), get(Some(2), (50, 60))]);
}

#[test]
fn a_lost_acknowledged_write_is_caught() {
    caught(&[put(1, (0, 10)), get(None, (20, 30))], "explains GET");
    caught(&[put(1, (0, 10)), lost(2, (20, 30)), get(None, (40, 50))], "explains GET");
}

#[test]
fn a_lost_update_is_caught() {
    let on = |number, when, outcome| put_if(number, Condition::Is(value(1)), when, outcome);
    let both = [put(1, (0, 10)), on(2, (20, 40), Outcome::Done), on(3, (25, 45), Outcome::Done)];
    caught(&both, "explains PUT if-match");
    accepted(&[put(1, (0, 10)), on(2, (20, 40), Outcome::Done), on(3, (25, 45), Outcome::Refused)]);
    let created = |number, when| put_if(number, Condition::Absent, when, Outcome::Done);
    caught(&[created(1, (0, 10)), created(2, (5, 15))], "explains PUT if-none-match");
    caught(&[on(2, (0, 10), Outcome::Done)], "explains PUT if-match");
}

#[test]
fn a_refusal_without_a_reason_is_caught() {
    let refused = |when| put_if(2, Condition::Absent, when, Outcome::Refused);
    caught(&[refused((0, 10))], "explains PUT if-none-match");
    accepted(&[lost(1, (0, 5)), refused((10, 20))]);
    caught(&[put(1, (0, 10)), delete((20, 30), Outcome::Done), refused((40, 50))], "explains PUT");
}

#[test]
fn a_resurrected_object_is_caught() {
    caught(&[put(1, (0, 10)), delete((20, 30), Outcome::Done), get(Some(1), (40, 50))], "explains GET");
    accepted(&[put(1, (0, 10)), delete((20, 30), unknown()), get(Some(1), (40, 50)), get(None, (60, 70))]);
    let back = [put(1, (0, 9)), delete((20, 30), unknown()), get(None, (40, 50)), get(Some(1), (60, 70))];
    caught(&back, "explains GET");
}

#[test]
fn an_unknown_write_may_come_late_once_or_never() {
    accepted(&[lost(1, (0, 10)), get(None, (20, 30)), get(Some(1), (40, 50))]);
    accepted(&[lost(1, (0, 10)), get(None, (20, 30))]);
    let twice = [lost(1, (0, 10)), get(Some(1), (20, 30)), put(2, (40, 50)), get(Some(1), (60, 70))];
    caught(&twice, "explains GET");
    caught(&[get(Some(1), (0, 10)), lost(1, (20, 30))], "explains GET");
}

#[test]
fn a_write_that_certainly_failed_must_not_be_seen() {
    let failed = put_if(1, Condition::None, (0, 10), Outcome::Failed("refused".to_owned()));
    accepted(&[failed.clone(), get(None, (20, 30))]);
    caught(&[failed, get(Some(1), (20, 30))], "explains GET");
}

#[test]
fn wrong_bytes_are_caught() {
    let wrong = record("k", (20, 30), Action::Get, Outcome::Wrong("byte 7 differs".to_owned()));
    caught(&[put(1, (0, 10)), wrong], "I3 GET k through test: byte 7 differs");
}

#[test]
fn a_listing_shows_what_it_must() {
    let stored = [put(1, (0, 10))];
    let with = |more: &[Record]| [&stored[..], more].concat();
    accepted(&with(&[list(&[("k", 1)], (20, 30))]));
    caught(&with(&[list(&[], (20, 30))]), "k: is missing");
    accepted(&with(&[list(&[], (5, 30))]));
    accepted(&with(&[delete((15, 25), Outcome::Done), list(&[], (20, 30))]));
    accepted(&with(&[delete((11, 12), unknown()), list(&[], (20, 30))]));
    caught(&with(&[delete((31, 40), Outcome::Done), list(&[], (20, 30))]), "k: is missing");
}

#[test]
fn a_listing_shows_nothing_else() {
    let gone = [put(1, (0, 10)), delete((12, 15), Outcome::Done)];
    caught(&[&gone[..], &[list(&[("k", 1)], (20, 30))]].concat(), "deleted before");
    accepted(&[&gone[..], &[list(&[("k", 1)], (14, 30))]].concat());
    let replaced = [put(1, (0, 10)), put(2, (12, 15))];
    caught(&[&replaced[..], &[list(&[("k", 1)], (20, 30))]].concat(), "replaced before");
    accepted(&[&replaced[..], &[list(&[("k", 2)], (20, 30))]].concat());
    caught(&[list(&[("ghost", 1)], (20, 30))], "nobody had stored");
    caught(&[put(1, (0, 10)), list(&[("k", 1), ("k", 1)], (20, 30))], "listed twice");
    accepted(&[lost(1, (0, 10)), list(&[], (20, 30)), list(&[("k", 1)], (40, 50))]);
}

#[test]
fn a_history_survives_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("history.jsonl");
    let history = [put(1, (0, 10)), lost(2, (3, 4)), list(&[("k", 1)], (5, 6)), get(None, (7, 8))];
    save(&path, &history).expect("saved");
    assert_eq!(load(&path).expect("loaded"), history);
}

/// A step of a simulated client: what it does, how long it waits before and after the moment at which it happens, and what becomes of the answer.
type Step = (u8, u64, u64, u64, u8);

/// What clients would see of a true register: each operation happens at one moment within its interval, or its answer is lost, and then it
/// happens late or never.
fn simulated(clients: &[Vec<Step>]) -> Vec<Record> {
    let mut pending = Vec::new();
    let mut number = 0;
    for steps in clients {
        let mut clock = 0;
        for &(kind, pause, before, after, fate) in steps {
            number += 1;
            let began = clock + pause;
            let (moment, ended) = (began + before, began + before + after);
            clock = ended + 1;
            let is_lost = fate < 3 && kind < 5;
            // 0: never, 1: late, 2: within the interval.
            let moment = match fate {
                0 if is_lost => None,
                1 if is_lost => Some(ended + 100 * u64::from(kind)),
                _ => Some(moment),
            };
            pending.push((moment, number, kind, (began, ended), is_lost));
        }
    }
    pending.sort_by_key(|(moment, number, ..)| (*moment, *number));
    let (mut state, mut last_seen) = (None, 1);
    let mut history = Vec::new();
    for (moment, number, kind, when, is_lost) in pending {
        let condition = match kind {
            2 => Condition::Absent,
            3 => Condition::Is(value(last_seen)),
            _ => Condition::None,
        };
        let holds = match condition {
            Condition::None => true,
            Condition::Absent => state.is_none(),
            Condition::Is(value) => state == Some(value),
        };
        let outcome = match (is_lost, holds) {
            (true, _) => unknown(),
            (false, true) => Outcome::Done,
            (false, false) => Outcome::Refused,
        };
        match kind {
            0..=3 => history.push(put_if(number, condition, when, outcome)),
            4 => history.push(delete(when, outcome)),
            _ => history.push(record("k", when, Action::Get, Outcome::Saw(state))),
        }
        if moment.is_some() && holds && kind < 5 {
            state = (kind != 4).then(|| value(number));
            last_seen = number;
        }
    }
    history
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = (0..9u8, 0..8u64, 0..12u64, 0..12u64, 0..20u8);
    prop::collection::vec(prop::collection::vec(step, 1..16), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_true_register_is_accepted(clients in steps()) {
        let history = simulated(&clients);
        let records: Vec<&Record> = history.iter().collect();
        prop_assert_eq!(register::check(&records), Verdict::Linearizable);
    }

    #[test]
    fn a_read_of_a_version_from_before_an_acknowledged_write_is_caught(clients in steps(), lie in 0..1000usize) {
        let mut history = simulated(&clients);
        let end = history.iter().map(|record| record.ended).max().unwrap_or(0) + 10_000;
        let old = history.iter().filter(|record| record.action.is_write() && record.outcome == Outcome::Done);
        let Some(old) = old.clone().nth(lie % old.count().max(1)).cloned() else { return Ok(()) };
        let stale = match old.action {
            Action::Put { value, .. } => Some(value),
            _ => None,
        };
        // After everything, one more write is acknowledged, and then the old version is read.
        history.push(put(90_000, (end, end + 1)));
        let late = history.iter().any(|record| matches!(record.outcome, Outcome::Unknown(_)) && record.action == Action::Delete);
        history.push(record("k", (end + 2, end + 3), Action::Get, Outcome::Saw(stale)));
        let records: Vec<&Record> = history.iter().collect();
        let verdict = register::check(&records);
        // A DELETE whose outcome is unknown may come now, and explain that there is nothing.
        let may_be_gone = stale.is_none() && late;
        prop_assert!(may_be_gone || matches!(verdict, Verdict::Violation(_)), "{verdict:?}");
    }
}
