//! Overlays, snapshots and what survives a crash.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

fn rows(table: &dyn Table, space: Space, start: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    table
        .scan(space, start, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            Ok(Scan::On)
        })
        .unwrap();
    found
}

fn bytes_of(table: &dyn Table) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_snapshot(table, &mut bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn an_overlay_reads_like_the_table_with_its_changes_made(
        base in prop::collection::btree_map(prop::collection::vec(0..4u8, 0..3), any::<u8>(), 0..20),
        changes in prop::collection::vec((prop::collection::vec(0..4u8, 0..3), prop::option::of(any::<u8>())), 0..20),
        start in prop::collection::vec(0..4u8, 0..3),
        most in 1..6usize,
    ) {
        let mut table = MemoryTable::default();
        for (key, value) in base {
            table.put(Space::Objects, key, vec![value]);
        }
        let mut made = table.clone();
        let mut overlay = Overlay::new(&table);
        for (key, value) in changes {
            for target in [&mut overlay as &mut dyn TableMut, &mut made] {
                match value {
                    Some(value) => target.put(Space::Objects, key.clone(), vec![value]),
                    None => target.remove(Space::Objects, &key),
                }
            }
            prop_assert_eq!(overlay.get(Space::Objects, &key).unwrap(), made.get(Space::Objects, &key).unwrap());
        }
        prop_assert_eq!(rows(&overlay, Space::Objects, &start), rows(&made, Space::Objects, &start));
        // A visitor that stops sees no more than it wanted.
        let mut seen = Vec::new();
        overlay.scan(Space::Objects, &start, &mut |key, _| {
            seen.push(key.to_vec());
            Ok(if seen.len() == most { Scan::Stop } else { Scan::On })
        }).unwrap();
        let expected: Vec<_> = rows(&made, Space::Objects, &start).into_iter().take(most).map(|(key, _)| key).collect();
        prop_assert_eq!(seen, expected);
        let changes = overlay.into_changes();
        table.apply(changes);
        prop_assert_eq!(table, made);
    }
}

fn sample() -> MemoryTable {
    let mut table = MemoryTable::default();
    for (number, space) in (0u32..).zip(Space::ALL) {
        for row in 0..200u32 {
            let key = [number.to_be_bytes(), row.to_be_bytes()].concat();
            table.put(space, key, vec![row as u8; (row * 37 % 900) as usize]);
        }
    }
    table.put(Space::Past, vec![0xff; 40], vec![9; 700_000]);
    table.put(Space::Raft, vec![0], Vec::new());
    table
}

#[test]
fn a_snapshot_that_is_cut_or_altered_anywhere_is_refused_and_nothing_changes() {
    let bytes = bytes_of(&sample());
    let store = MemoryStore::new();
    let refused = |bytes: &[u8]| {
        let error = store.install(&mut &*bytes).unwrap_err();
        assert!(matches!(error, TableError::Snapshot(_)), "{error}");
        store.read(|table| Ok(rows(table, Space::Raft, &[]).is_empty())).unwrap()
    };
    for cut in (0..bytes.len()).step_by(4099).chain(bytes.len() - 40..bytes.len()) {
        assert!(refused(&bytes[..cut]), "cut at {cut}");
    }
    let mut altered = bytes.clone();
    for at in (0..bytes.len()).step_by(5003).chain(0..16).chain(bytes.len() - 40..bytes.len()) {
        altered[at] ^= 0x10;
        assert!(refused(&altered), "altered at {at}");
        altered[at] ^= 0x10;
    }
    let summary = store.install(&mut bytes.as_slice()).unwrap();
    assert_eq!(summary.bytes, bytes.len() as u64);
    assert_eq!(store.read(|table| Ok(bytes_of(table))).unwrap(), bytes);
}

proptest! {
    #[test]
    fn no_bytes_make_the_snapshot_reader_panic(tail in prop::collection::vec(any::<u8>(), 0..200), at in 0..3000usize) {
        let store = MemoryStore::new();
        let mut bytes = bytes_of(&MemoryTable::default());
        bytes.extend_from_slice(&tail);
        // What follows the end is another stream's.
        prop_assert!(store.install(&mut bytes.as_slice()).is_ok());
        let mut bytes = bytes_of(&sample())[..3000].to_vec();
        bytes.splice(at.., tail);
        prop_assert!(store.install(&mut bytes.as_slice()).is_err());
    }
}

#[test]
fn a_refused_snapshot_leaves_fjall_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = FjallStore::open(folder.path()).unwrap();
    let bytes = bytes_of(&sample());
    store.install(&mut bytes.as_slice()).unwrap();
    let old = store.freeze().unwrap();
    store.install(&mut &bytes[..bytes.len() / 2]).unwrap_err();
    assert_eq!(store.read(|table| Ok(bytes_of(table))).unwrap(), bytes);
    // A view taken before an installation reads what it saw, to the end.
    store.install(&mut bytes_of(&MemoryTable::default()).as_slice()).unwrap();
    assert_eq!(bytes_of(&*old), bytes);
    assert!(store.read(|table| Ok(rows(table, Space::Objects, &[]).is_empty())).unwrap());
    drop(old);
    let generations = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(generations, 2, "CURRENT and one generation");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Commit number `number`: rows in several spaces, some replaced and some removed, and the number itself.
fn commit(number: u64) -> Changes {
    let base = MemoryTable::default();
    let mut overlay = Overlay::new(&base);
    let key = |number: u64| number.to_be_bytes().to_vec();
    for (at, space) in (0u64..).zip([Space::Objects, Space::Stripes, Space::Replies, Space::Past]) {
        overlay.put(space, key(number), vec![at as u8; 300]);
        overlay.put(space, key(number % 7), key(number));
        if let Some(old) = number.checked_sub(9) {
            overlay.remove(space, &key(old));
        }
    }
    overlay.put(Space::Raft, b"applied".to_vec(), key(number));
    overlay.into_changes()
}

#[test]
fn a_killed_fjall_store_is_as_it_was_after_some_commit_since_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    let store = FjallStore::open(&live).unwrap();
    let (mut model, mut states, mut checkpoint) = (MemoryTable::default(), BTreeMap::new(), 0);
    states.insert(0, bytes_of(&model));
    let mut seen = Vec::new();
    for number in 1..=240u64 {
        store.commit(commit(number)).unwrap();
        model.apply(commit(number));
        states.insert(number, bytes_of(&model));
        if number % 50 == 0 {
            store.checkpoint().unwrap();
            checkpoint = number;
        }
        if number % 30 == 17 {
            // What a killed process leaves: its files as they are, and nothing that was still in its memory.
            let image = folder.path().join(format!("image-{number}"));
            copy(&live, &image);
            let reopened = FjallStore::open(&image).unwrap();
            let applied = reopened.read(|table| table.get(Space::Raft, b"applied")).unwrap();
            let applied = applied.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
            assert!((checkpoint..=number).contains(&applied), "{applied} after {checkpoint}");
            assert!(
                reopened.read(|table| Ok(bytes_of(table))).unwrap() == states[&applied],
                "wholly commit {applied}"
            );
            // The log is replayed from there, and the result is the same as if nothing had happened.
            for replayed in applied + 1..=number {
                reopened.commit(commit(replayed)).unwrap();
            }
            assert!(reopened.read(|table| Ok(bytes_of(table))).unwrap() == states[&number]);
            seen.push(number - applied);
        }
    }
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().any(|&lost| lost > 0), "something was lost, or the test shows nothing: {seen:?}");
}

#[test]
fn pages_that_never_reached_the_disk_cost_only_commits_since_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    let (mut model, mut states) = (MemoryTable::default(), Vec::new());
    states.push(bytes_of(&model));
    let store = FjallStore::open(&live).unwrap();
    let mut synced_bytes = 0;
    for number in 1..=60u64 {
        store.commit(commit(number)).unwrap();
        model.apply(commit(number));
        states.push(bytes_of(&model));
        if number == 40 {
            store.checkpoint().unwrap();
            let journal = std::fs::read(live.join("gen-1/0.jnl")).unwrap();
            synced_bytes = journal.iter().rposition(|&byte| byte != 0).unwrap();
        }
    }
    drop(store);
    let whole = std::fs::read(live.join("gen-1/0.jnl")).unwrap();
    let end = whole.iter().rposition(|&byte| byte != 0).unwrap();
    let mut applied_after = Vec::new();
    for hole in (synced_bytes + 1..end).step_by(1777) {
        let image = folder.path().join(format!("image-{hole}"));
        copy(&live, &image);
        let mut torn = whole.clone();
        torn[hole..end.min(hole + 700)].fill(0);
        std::fs::write(image.join("gen-1/0.jnl"), torn).unwrap();
        let reopened = FjallStore::open(&image).unwrap();
        let applied = reopened.read(|table| table.get(Space::Raft, b"applied")).unwrap().unwrap();
        let applied = u64::from_be_bytes(applied.try_into().unwrap());
        assert!((40..60).contains(&applied), "{applied}");
        assert!(reopened.read(|table| Ok(bytes_of(table))).unwrap() == states[applied as usize]);
        reopened.commit(commit(applied + 1)).unwrap();
        drop(reopened);
        let again = FjallStore::open(&image).unwrap();
        assert!(again.read(|table| Ok(bytes_of(table))).unwrap() == states[applied as usize + 1]);
        std::fs::remove_dir_all(&image).unwrap();
        applied_after.push(applied);
    }
    assert!(applied_after.len() > 5 && applied_after.is_sorted(), "{applied_after:?}");
}

#[test]
fn large_values_survive_sled_and_shrink_again() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let database = ::sled::Config::default().path(folder.path()).segment_size(16 << 20).open().unwrap();
        SledStore::open(database, "cluster", std::sync::Arc::new(|| Ok(()))).unwrap()
    };
    let store = open();
    let put = |store: &SledStore, bytes: usize| {
        let base = MemoryTable::default();
        let mut overlay = Overlay::new(&base);
        overlay.put(Space::State, vec![1], (0..bytes).map(|at| at as u8).collect());
        overlay.put(Space::State, vec![1, 0, 0], vec![3]);
        store.commit(overlay.into_changes()).unwrap();
    };
    for bytes in [1_000_000, 14_336, 14_337, 0, 40_000] {
        put(&store, bytes);
        let value = store.read(|table| table.get(Space::State, &[1])).unwrap();
        assert_eq!(value.map(|value| value.len()), Some(bytes));
    }
    store.checkpoint().unwrap();
    let before = store.read(|table| Ok(bytes_of(table))).unwrap();
    drop(store);
    assert_eq!(open().read(|table| Ok(bytes_of(table))).unwrap(), before);
}
