//! The same commands on every store: the same replies, and the same snapshot, byte for byte.

use super::*;
use crate::table::{FjallStore, MemoryStore, SledStore, Store, digest, write_snapshot};
use std::sync::Arc;

fn fill(store: &impl Store) -> Vec<IndexReply> {
    let mut replies = Vec::new();
    let mut index = 0;
    let mut batch = |commands: Vec<Envelope<IndexCommand>>| {
        index += 1;
        let changes = store.read(|table| {
            let mut overlay = Overlay::new(table);
            if index == 1 {
                init_index(&mut overlay, GROUP)?;
            }
            for command in &commands {
                replies.push(apply_index(&mut overlay, index, command)?);
            }
            Ok(overlay.into_changes())
        });
        store.commit(changes.unwrap()).unwrap();
    };
    let fence = |number, fence| envelope(id(0, 0), IndexCommand::Fence { number, fence });
    batch(vec![fence(1, Fence::LeaseGranted(LeaseId(1))), fence(2, Fence::Config(ConfigVersion(0)))]);
    for round in 0..40u64 {
        let puts = (0..8).map(|at| {
            let id = id(1, round * 8 + at + 1);
            put_envelope(id, &format!("key-{}", (round * 5 + at * 3) % 50), 1 + at * 4 * MIB, etag(at))
        });
        batch(puts.collect());
        batch(vec![envelope(id(1, 10_000 + round), delete_command(&format!("key-{round}")))]);
        let watermark = Watermark { commands_below: round * 8, stripes_below: 0, reads_below: round * 2 };
        batch(vec![envelope(id(0, 0), IndexCommand::Watermark { lease: LeaseId(1), watermark })]);
    }
    let upload = UploadId(id(1, 20_000));
    batch(vec![envelope(upload.0, create_command("big"))]);
    let parts = (1..=900).map(|number| {
        let id = id(1, 20_000 + u64::from(number));
        envelope(id, part_command(id, "big", upload, number, 5 * MIB))
    });
    batch(parts.collect());
    // A manifest of many parts: a large value.
    let parts: Vec<_> =
        (1..=900).map(|number| (number, id(1, 20_000 + u64::from(number)), 5 * MIB)).collect();
    batch(vec![envelope(id(1, 30_000), complete_command(id(1, 30_000), "big", upload, &parts))]);
    replies
}

fn stream(store: &impl Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_snapshot(&*store.freeze().unwrap(), &mut bytes).unwrap();
    bytes
}

fn sled_store(folder: &std::path::Path) -> SledStore {
    let database = sled::Config::default().path(folder).segment_size(16 << 20).open().unwrap();
    let file = std::fs::File::open(folder.join("db")).unwrap();
    SledStore::open(database, "cluster", Arc::new(move || file.sync_data())).unwrap()
}

#[test]
fn all_stores_give_the_same_replies_and_snapshots_and_take_each_others() {
    let folder = tempfile::tempdir().unwrap();
    let memory = MemoryStore::new();
    let fjall = FjallStore::open(&folder.path().join("fjall")).unwrap();
    let sled = sled_store(&folder.path().join("sled"));
    let replies = fill(&memory);
    assert!(replies.iter().filter(|reply| reply.is_ok()).count() > 1000);
    assert!(replies == fill(&fjall) && replies == fill(&sled));
    let snapshot = stream(&memory);
    assert!(snapshot.len() > 200_000);
    assert!(snapshot == stream(&fjall) && snapshot == stream(&sled));

    let expected = memory.read(|table| digest(table)).unwrap();
    for (name, into) in [("memory", &MemoryStore::new() as &dyn Taker), ("fjall", &fjall), ("sled", &sled)] {
        let summary = into.take(&mut snapshot.as_slice());
        assert_eq!(summary, expected, "{name}");
        assert_eq!(into.digest(), expected, "{name}");
    }
    drop((fjall, sled));
    let fjall = FjallStore::open(&folder.path().join("fjall")).unwrap();
    let sled = sled_store(&folder.path().join("sled"));
    assert!(snapshot == stream(&fjall) && snapshot == stream(&sled), "after a restart too");
    let blobs = folder.path().join("sled/blobs");
    assert_eq!(std::fs::read_dir(blobs).map_or(0, Iterator::count), 0, "no value left sled's log");
}

/// A store, whichever it is.
trait Taker {
    fn take(&self, snapshot: &mut &[u8]) -> [u8; 16];
    fn digest(&self) -> [u8; 16];
}

impl<S: Store> Taker for S {
    fn take(&self, snapshot: &mut &[u8]) -> [u8; 16] {
        self.install(snapshot).unwrap().digest
    }
    fn digest(&self) -> [u8; 16] {
        self.read(|table| digest(table)).unwrap()
    }
}
