//! Whether a listing shows what it must and nothing that it must not, key by key.
//!
//! Only what is certain counts: a key must be there when its PUT was acknowledged before the listing began and no DELETE can have come after it;
//! it must not when its DELETE was and no PUT can have come after it. A listed version must have been stored there, and not certainly
//! replaced before the listing began. What ran at the same time, or has an unknown outcome, excuses either.

use crate::history::{Action, Outcome, Record};
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Judges every listing of a history; each fault as a sentence, with the listing.
pub fn check(history: &[Record]) -> Vec<(String, Record)> {
    let mut writes: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in history.iter().filter(|record| may_have_happened(record)) {
        writes.entry(&record.key).or_default().push(record);
    }
    let mut found = Vec::new();
    for listing in history {
        let Outcome::Listed(entries) = &listing.outcome else { continue };
        let mut listed: BTreeMap<&str, Value> = BTreeMap::new();
        for (key, value) in entries {
            if listed.insert(key, *value).is_some() {
                found.push((format!("{key} is listed twice"), listing.clone()));
            }
        }
        let keys: BTreeSet<&str> = writes.keys().chain(listed.keys()).copied().collect();
        for key in keys {
            let writes = writes.get(key).map_or(&[][..], Vec::as_slice);
            let fault = match listed.get(key) {
                None => must_be_there(writes, listing),
                Some(value) => must_not_be_that(writes, listing, *value),
            };
            found.extend(fault.map(|fault| (format!("{key}: {fault}"), listing.clone())));
        }
    }
    found
}

fn may_have_happened(record: &Record) -> bool {
    record.action.is_write() && matches!(record.outcome, Outcome::Done | Outcome::Unknown(_))
}

/// The last moment at which a write can have happened.
fn latest(write: &Record) -> u64 {
    if write.outcome == Outcome::Done { write.ended } else { u64::MAX }
}

/// Why a key that is not listed must be.
fn must_be_there(writes: &[&Record], listing: &Record) -> Option<String> {
    let is_delete = |write: &&&Record| write.action == Action::Delete;
    let put = writes.iter().filter(|write| !is_delete(write) && latest(write) < listing.began);
    let put = put.max_by_key(|put| put.began)?;
    let may_be_gone = writes
        .iter()
        .filter(is_delete)
        .any(|delete| latest(delete) >= put.began && delete.began <= listing.ended);
    (!may_be_gone).then(|| "is missing, stored before and not deleted since".to_owned())
}

/// Why a version that is listed must not be.
fn must_not_be_that(writes: &[&Record], listing: &Record, listed: Value) -> Option<String> {
    let is_it = |write: &&&Record| matches!(write.action, Action::Put { value, .. } if value == listed);
    let Some(put) = writes.iter().find(is_it).filter(|put| put.began <= listing.ended) else {
        return Some("is listed with a version that nobody had stored there".to_owned());
    };
    let after = writes.iter().find(|write| write.began > latest(put) && latest(write) < listing.began);
    let after = after?;
    let what = if after.action == Action::Delete { "deleted" } else { "replaced" };
    Some(format!("is listed with a version that was {what} before"))
}
