//! The power-cut test: what was acknowledged is there after everything that was not flushed is gone.
//!
//! A child process appends entries of 1 B to 1 MiB to a log store on a real ext4 in a loop file, whose journal is committed
//! every ten minutes only, and prints each acknowledged index. It is stopped in the middle; the image, which holds just what
//! the kernel was told to write out, is copied, and the copy is mounted and read. Needs root and loop devices; without them it
//! says loudly that it was skipped.

use crate::raft::{BatchBuilder, Entry, LogId, Vote};
use crate::store::{Database, LogStore, Writer};
use openraft::RaftLogReader;
use openraft::entry::EntryPayload;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const IMAGE_BYTES: u64 = 256 << 20;
const CHILD: &str = "TENFOUR_POWER_CUT_FOLDER";
const GROUPS: u16 = 2;

/// Deterministic sizes from 1 B to 1 MiB, mostly small, and bytes that tell their entry.
fn batch_of(group: u16, index: u64) -> BatchBuilder {
    let sizes = [1, 100, 700, 16_300, 40_000, 4_000, 300_000, 1, 1_048_000, 2_000];
    let size: usize = sizes[(index as usize * 7 + usize::from(group)) % sizes.len()];
    let mut batch = BatchBuilder::new();
    let bytes: Vec<u8> = (0..size).map(|at| (at as u64 ^ index ^ u64::from(group) << 3) as u8).collect();
    assert!(batch.push(&bytes));
    batch
}

fn entry(group: u16, index: u64) -> Entry {
    let log_id = LogId::new(openraft::CommittedLeaderId::new(1, 1), index);
    Entry { log_id, payload: EntryPayload::Normal(batch_of(group, index).build()) }
}

fn open(folder: &Path) -> Vec<LogStore> {
    let database = Arc::new(Database::open(folder).unwrap());
    let mut loaded = database.load().unwrap();
    let writer = Writer::start(Arc::clone(&database)).unwrap();
    let stores = (0..GROUPS).map(|group| {
        LogStore::new(group, Arc::clone(&database), writer.clone(), loaded.remove(&group).unwrap_or_default())
    });
    stores.collect()
}

/// Appends until it is killed; `group index` on standard output for each acknowledged entry.
#[test]
fn child_that_appends() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for (group, mut store) in open(Path::new(&folder)).into_iter().enumerate() {
            tasks.push(tokio::spawn(async move {
                store.save_vote(&Vote::new(group as u64 + 5, 1)).await.unwrap();
                for index in 0.. {
                    store.blocking_append([entry(group as u16, index)]).await.unwrap();
                    let line = format!("acked {group} {index}\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                    if index % 50 == 49 {
                        let upto = LogId::new(openraft::CommittedLeaderId::new(1, 1), index - 20);
                        store.purge(upto).await.unwrap();
                    }
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(image: &Path, at: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-o", "loop,commit=600", path(image), path(at)]).then_some(Self(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if !run("umount", &[path(self.0)]) {
            run("umount", &["-l", path(self.0)]);
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let ran = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_acknowledged_entry_survives_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (image, copy) = (folder.path().join("disk"), folder.path().join("copy"));
    std::fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
    let at = folder.path().join("mounted");
    let made = run("mkfs.ext4", &["-q", "-F", path(&image)]);
    let Some(mounted) = made.then(|| Mounted::new(&image, &at)).flatten() else {
        let needs = "the power-cut test needs root, mkfs.ext4 and loop devices; run it where they are";
        assert!(std::env::var_os("TENFOUR_MUST_RUN").is_none(), "{needs}");
        eprintln!("SKIPPED: {needs}");
        return;
    };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::power_cut::child_that_appends", "--nocapture"])
        .env(CHILD, at.join("log"))
        .stdout(Stdio::piped())
        .spawn()
        .map(Killed)
        .unwrap();
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let until = Instant::now() + Duration::from_millis(2500);
    let (mut acked, mut count) = ([None; GROUPS as usize], 0);
    for line in lines.by_ref() {
        let line = line.unwrap();
        let mut words = line.split_whitespace().skip_while(|word| !word.ends_with("acked")).skip(1);
        let (Some(Ok(group)), Some(Ok(index))) =
            (words.next().map(str::parse::<usize>), words.next().map(str::parse::<u64>))
        else {
            continue;
        };
        acked[group] = Some(index);
        count += 1;
        if Instant::now() > until {
            break;
        }
    }
    // The moment of the cut: nothing runs while the image is copied.
    assert!(run("kill", &["-STOP", &child.0.id().to_string()]));
    assert!(count > 40, "only {count} entries were acknowledged");
    std::fs::copy(&image, &copy).unwrap();
    drop(child);
    drop(mounted);

    let copied = folder.path().join("after");
    let _mounted = Mounted::new(&copy, &copied).expect("the copy cannot be mounted");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (group, mut store) in open(&copied.join("log")).into_iter().enumerate() {
        runtime.block_on(async {
            let last = acked[group].expect("nothing was acknowledged");
            assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new(group as u64 + 5, 1)));
            let state = store.get_log_state().await.unwrap();
            let first = state.last_purged_log_id.map_or(0, |id| id.index + 1);
            assert!(first <= last, "group {group}: {first} entries are purged, {last} was the last");
            for index in first..=last {
                let found = store.try_get_log_entries(index..index + 1).await.unwrap();
                assert_eq!(
                    found,
                    [entry(group as u16, index)],
                    "group {group}: entry {index} of {last} is lost"
                );
            }
        });
    }
    eprintln!("{count} acknowledged entries survived");
}
