//! LIST against a naive model, and what it costs.

use super::*;
use crate::api::index::{ListEntry, ListPage, ListRequest};
use crate::table::{TableError, Visit};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeSet;

fn table_of<'a>(keys: impl IntoIterator<Item = &'a str>) -> MemoryTable {
    let mut table = MemoryTable::default();
    for (at, name) in keys.into_iter().enumerate() {
        let manifest = manifest(id(1, at as u64), 3, etag(1), Body::Extents(Vec::new()));
        let row = crate::state::keys::object(BUCKET, name);
        crate::state::rows::put(&mut table, Space::Objects, row, &manifest).unwrap();
    }
    table
}

fn list(table: &dyn Table, request: &ListRequest) -> ListPage {
    let IndexAnswer::List(page) = query_index(table, 1, &IndexQuery::List(request.clone())).unwrap().answer
    else {
        panic!("another answer")
    };
    page
}

/// Entries as S3 defines them, from all keys.
fn naive(keys: &BTreeSet<String>, request: &ListRequest) -> (Vec<String>, bool) {
    let roll = |key: &String| {
        let rest = key.strip_prefix(&request.prefix)?;
        let delimiter = request.delimiter.as_deref().unwrap_or_default();
        let common = if delimiter.is_empty() { None } else { rest.find(delimiter) };
        Some(common.map_or(key.clone(), |at| key[..request.prefix.len() + at + delimiter.len()].to_owned()))
    };
    let entries: BTreeSet<String> = keys.iter().filter_map(roll).collect();
    let after = |entry: &&String| request.after.as_ref().is_none_or(|after| *entry > after);
    let entries: Vec<String> = entries.iter().filter(after).cloned().collect();
    let most = request.most as usize;
    (entries.iter().take(most).cloned().collect(), most > 0 && entries.len() > most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_page_is_what_the_model_says(
        keys in prop::collection::btree_set("[ab/\\x00é]{1,6}", 0..40),
        prefix in "[ab/é]{0,3}",
        delimiter in prop::option::of("/|//|é|b|"),
        after in prop::option::of("[ab/\\x00é]{0,6}"),
        most in 0..9u32,
    ) {
        let mut table = table_of(keys.iter().map(String::as_str));
        // Neighbours in other buckets must not show.
        for bucket in [BucketId(0), BucketId(2)] {
            let manifest = manifest(id(1, 1), 3, etag(1), Body::Extents(Vec::new()));
            crate::state::rows::put(&mut table, Space::Objects, crate::state::keys::object(bucket, "a/b"), &manifest).unwrap();
        }
        let request = ListRequest { bucket: BUCKET, prefix, delimiter, after, most };
        let page = list(&table, &request);
        let found: Vec<String> = page.entries.iter().map(|entry| entry.sort_key().to_owned()).collect();
        prop_assert_eq!((found, page.more), naive(&keys, &request));
        for entry in &page.entries {
            let rolled = matches!(entry, ListEntry::CommonPrefix(_));
            let whole = keys.contains(entry.sort_key());
            prop_assert!(rolled || whole);
        }
    }

    #[test]
    fn pages_put_together_are_the_whole(keys in prop::collection::btree_set("[ab/]{1,5}", 0..40), most in 1..5u32) {
        let table = table_of(keys.iter().map(String::as_str));
        let mut request = ListRequest { bucket: BUCKET, prefix: String::new(), delimiter: Some("/".into()), after: None, most: 1000 };
        let whole = list(&table, &request).entries;
        request.most = most;
        let mut pages = Vec::new();
        loop {
            let page = list(&table, &request);
            request.after = page.entries.last().map(|entry| entry.sort_key().to_owned());
            pages.extend(page.entries);
            if !page.more {
                break;
            }
        }
        prop_assert_eq!(pages, whole);
    }
}

/// Counts what is asked of a table.
struct Counting<'a> {
    table: &'a MemoryTable,
    seeks: Cell<usize>,
    rows: Cell<usize>,
}

impl Table for Counting<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        self.seeks.set(self.seeks.get() + 1);
        self.table.get(space, key)
    }
    fn scan(&self, space: Space, start: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError> {
        self.seeks.set(self.seeks.get() + 1);
        self.table.scan(space, start, &mut |key, value| {
            self.rows.set(self.rows.get() + 1);
            visit(key, value)
        })
    }
}

#[test]
fn a_hundred_thousand_keys_under_ten_prefixes_cost_a_seek_per_prefix() {
    let keys: Vec<String> = (0..100_000).map(|at| format!("p{}/{at:06}", at % 10)).collect();
    let table = table_of(keys.iter().map(String::as_str));
    let counting = Counting { table: &table, seeks: Cell::new(0), rows: Cell::new(0) };
    let request = ListRequest {
        bucket: BUCKET,
        prefix: String::new(),
        delimiter: Some("/".into()),
        after: None,
        most: 1000,
    };
    let page = list(&counting, &request);
    assert_eq!((page.entries.len(), page.more), (10, false));
    assert!(counting.seeks.get() <= 12, "{} seeks", counting.seeks.get());
    assert!(counting.rows.get() <= 12, "{} rows", counting.rows.get());

    // A page of keys reads as many rows as it returns, and one more.
    let (seeks, rows) = (counting.seeks.take(), counting.rows.take());
    assert!(seeks > 0 && rows > 0);
    let request = ListRequest { prefix: "p3/".into(), after: Some("p3/050003".into()), ..request };
    let page = list(&counting, &request);
    assert_eq!((page.entries.len(), page.more), (1000, true));
    assert!(counting.seeks.get() <= 2 && counting.rows.get() <= 1001);
}

#[test]
fn a_listing_shows_what_the_manifest_says() {
    let mut replica = Replica::new();
    replica.apply(&put_envelope(id(1, 1), "k", 300, etag(9))).unwrap();
    let request = ListRequest { bucket: BUCKET, prefix: "k".into(), delimiter: None, after: None, most: 5 };
    let object = ListEntry::Object {
        key: "k".into(),
        size: 300,
        etag: etag(9),
        modified_ms: 1,
        checksums: Vec::new(),
    };
    assert_eq!(list(&replica.table, &request).entries, [object]);
}
