//! A target under everything that a disk does to it, each test named after what happened.
#![allow(clippy::unwrap_used)] // Also in the helpers, which are no tests themselves.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use support::{
    Bench, CLUSTER, NODE, TARGET, create, delete, fetch, fetch_range, key, open, record, settings, store,
    store_later, verify, verify_later, wait,
};
use tenfour_node::disk::{Call, Disk, Faults, RealDisk};
use tenfour_node::target::{FIRST_RECORD, OpenError, SUPERBLOCK, Target, TargetSettings, file_name};
use tenfour_types::limits::{CRC_BLOCK_BYTES, SHARD_BYTES_MAX, SHARD_BYTES_MIN};
use tenfour_types::record::record_bytes;
use tenfour_types::shard_service::ShardError;
use tenfour_types::{ClusterId, NodeId, TargetId};

const SMALL: usize = SHARD_BYTES_MIN;
const SEGMENT: u32 = 256 << 10;

#[test]
fn stored_shards_read_back_whole_and_in_ranges_on_every_kind_of_disk() {
    let folder = tempfile::tempdir().unwrap();
    for plain in [false, true] {
        let folder = folder.path().join(format!("plain-{plain}"));
        std::fs::create_dir(&folder).unwrap();
        let disk = || if plain { RealDisk::open_plain(&folder) } else { RealDisk::open(&folder) }.unwrap();
        let settings = settings(8 << 20, 4);
        let sizes = [SMALL, 64, 16 << 10, (16 << 10) + 64, 100_032, SHARD_BYTES_MAX];
        let target = create(disk(), settings).unwrap();
        let check = |target: &_| {
            for (number, bytes) in sizes.into_iter().enumerate() {
                let number = number as u64;
                assert_eq!(fetch(target, number, bytes), Ok(()));
                assert_eq!(verify(target, number, bytes), Ok(()));
                let whole = support::payload(number, bytes);
                for start in (0..bytes).step_by(CRC_BLOCK_BYTES) {
                    let end = (start + 2 * CRC_BLOCK_BYTES).min(bytes);
                    let range =
                        fetch_range(target, key(number, bytes), start as u32, (end - start) as u32).unwrap();
                    assert!(range == whole[start..end], "{bytes} bytes from {start}");
                }
            }
        };
        let answers: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(number, bytes)| store_later(&target, number as u64, *bytes))
            .collect();
        assert!(answers.iter().all(|answer| wait(answer) == Ok(())));
        check(&target);
        assert_eq!(target.status().shards, sizes.len() as u64);
        let used: usize = sizes.iter().map(|bytes| record_bytes(*bytes)).sum();
        assert_eq!(target.status().used_bytes, used as u64);
        drop(target);
        let target = open(disk(), settings).unwrap();
        check(&target);
        assert_eq!((target.status().shards, target.status().used_bytes), (sizes.len() as u64, used as u64));
    }
}

#[test]
fn a_range_that_cannot_be_verified_is_malformed() {
    let bench = Bench::new();
    let target = create(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(store(&target, 1, 40_000 / 64 * 64), Ok(()));
    let bytes = 40_000 / 64 * 64;
    let key = key(1, bytes);
    for (offset, length) in
        [(0, 0), (1, 64), (0, 100), (16 << 10, 100), (0, 1 << 20), (u32::MAX, 64), (48 << 10, 16 << 10)]
    {
        assert_eq!(
            fetch_range(&target, key, offset, length),
            Err(ShardError::Malformed),
            "{offset} {length}"
        );
    }
    assert!(fetch_range(&target, key, 32 << 10, bytes as u32 - (32 << 10)).is_ok());
    assert_eq!(fetch(&target, 2, SMALL), Err(ShardError::NotFound));
}

#[test]
fn the_same_shard_again_is_answered_without_a_second_copy() {
    let bench = Bench::new();
    let target = create(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(store(&target, 1, SMALL), Ok(()));
    let answers: Vec<_> = (0..10)
        .map(|_| store_later(&target, 1, SMALL))
        .chain((0..10).map(|_| store_later(&target, 2, SMALL)))
        .collect();
    assert!(answers.iter().all(|answer| wait(answer) == Ok(())));
    assert_eq!(target.status().shards, 2);
    assert_eq!(target.status().used_bytes, 2 * record_bytes(SMALL) as u64);
}

#[test]
fn a_record_for_another_target_is_refused() {
    let bench = Bench::new();
    let target: Target<_> =
        create(bench.disk.clone(), TargetSettings { target: TargetId(8), ..settings(SEGMENT, 4) }).unwrap();
    assert_eq!(store(&target, 1, SMALL), Err(ShardError::UnknownTarget));
}

#[test]
fn a_flush_precedes_every_acknowledgement_and_serves_all_that_arrived() {
    let bench = Bench::new();
    let target = create(bench.disk.clone(), settings(4 << 20, 4)).unwrap();
    assert_eq!(store(&target, 0, SMALL), Ok(()));
    bench.settle();
    let before = target.status().flushes;
    for number in 1..=20 {
        let (_, flushes) = bench.disk.counts();
        assert_eq!(store(&target, number, SMALL), Ok(()));
        assert!(bench.disk.counts().1 > flushes, "acknowledged without a flush");
    }
    assert_eq!(target.status().flushes - before, 20, "one after the other: a flush each");
    bench.disk.set_faults(Faults { flush_delay: Duration::from_millis(20), ..Faults::default() });
    let before = target.status().flushes;
    let answers: Vec<_> = (100..200).map(|number| store_later(&target, number, SMALL)).collect();
    assert!(answers.iter().all(|answer| wait(answer) == Ok(())));
    let flushes = target.status().flushes - before;
    assert!((1..=10).contains(&flushes), "100 stores at once took {flushes} flushes");
}

#[test]
fn a_failed_flush_acknowledges_nothing_and_poisons_for_good() {
    let mut bench = Bench::new();
    let poisoned = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&poisoned);
    let on_poison = Arc::new(move |target| {
        assert_eq!(target, TARGET);
        count.fetch_add(1, Ordering::SeqCst);
    });
    let target = Target::create(bench.disk.clone(), settings(SEGMENT, 4), on_poison).unwrap();
    assert_eq!(store(&target, 1, SMALL), Ok(()));
    bench.settle();
    bench.disk.set_faults(Faults { fail_flush_after: Some(0), ..Faults::default() });
    assert_eq!(store(&target, 2, SMALL), Err(ShardError::TargetOut));
    // The disk's next flush would succeed: the target must not try.
    let (writes, flushes) = bench.disk.counts();
    assert_eq!(store(&target, 3, SMALL), Err(ShardError::TargetOut));
    assert_eq!(fetch(&target, 1, SMALL), Err(ShardError::TargetOut));
    assert_eq!(verify(&target, 1, SMALL), Err(ShardError::TargetOut));
    assert_eq!(delete(&target, vec![key(1, SMALL)]), Err(ShardError::TargetOut));
    assert!(!target.status().healthy);
    assert!(target.poison_reason().unwrap().contains("flush"));
    drop(target);
    assert_eq!(bench.disk.counts(), (writes, flushes), "a poisoned target touched the disk");
    assert_eq!(poisoned.load(Ordering::SeqCst), 1);
    bench.cut_power(0, None);
    let target = open(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(fetch(&target, 1, SMALL), Ok(()));
    assert_eq!(fetch(&target, 2, SMALL), Err(ShardError::NotFound));
}

#[test]
fn a_failed_or_torn_write_poisons_and_leaves_no_half_shard() {
    for torn in [false, true] {
        let mut bench = Bench::new();
        let target = create(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
        assert_eq!(store(&target, 1, SMALL), Ok(()));
        bench.settle();
        let faults = Faults::default();
        bench.disk.set_faults(if torn {
            Faults { tear_write_after: Some(0), ..faults }
        } else {
            Faults { fail_writes_after: Some(0), ..faults }
        });
        assert_eq!(store(&target, 2, 40_000), Err(ShardError::TargetOut));
        drop(target);
        for seed in 0..8 {
            let mut again = Bench { disk: bench.disk.clone(), ..Bench::new() };
            again.cut_power(seed, None);
            let target = open(again.disk.clone(), settings(SEGMENT, 4)).unwrap();
            assert_eq!(fetch(&target, 1, SMALL), Ok(()));
            assert_eq!(fetch(&target, 2, 40_000), Err(ShardError::NotFound), "torn {torn}, seed {seed}");
            assert_eq!(store(&target, 2, 40_000), Ok(()));
            assert_eq!(fetch(&target, 2, 40_000), Ok(()));
        }
        bench.cut_power(1, None);
    }
}

#[test]
fn a_record_that_its_process_died_before_flushing_is_flushed_before_it_counts() {
    let mut bench = Bench::new();
    let target = create(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(store(&target, 1, SMALL), Ok(()));
    bench.settle();
    bench.disk.set_faults(Faults { flush_delay: Duration::from_millis(300), ..Faults::default() });
    let (writes, _) = bench.disk.counts();
    let answer = store_later(&target, 2, SMALL);
    while bench.disk.counts().0 == writes {
        std::thread::sleep(Duration::from_millis(1));
    }
    let died = bench.disk.after_process_death(&bench.folder.path().join("index-died"));
    assert_eq!(wait(&answer), Ok(()));
    let lost =
        Bench { disk: died.after_power_cut(0, &bench.folder.path().join("index-lost")), ..Bench::new() };
    let target = open(lost.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(fetch(&target, 2, SMALL), Err(ShardError::NotFound), "it was flushed before the process died");
    bench.disk = died;
    // Long enough that no other flush, of zeroes written ahead, comes before the power cut.
    bench.disk.set_faults(Faults { flush_delay: Duration::from_millis(300), ..Faults::default() });
    let target = open(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(store(&target, 2, SMALL), Ok(()));
    assert_eq!(target.status().shards, 2, "the second is a repetition");
    bench.cut_power(0, None);
    let target = open(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(fetch(&target, 2, SMALL), Ok(()));
}

#[test]
fn a_storage_thread_that_panics_takes_its_target_out_and_leaves_nobody_waiting() {
    for call in [Call::Create, Call::Write, Call::Read] {
        let bench = Bench::new();
        let poisoned = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&poisoned);
        let on_poison = Arc::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let target = Target::create(bench.disk.clone(), settings(SEGMENT, 4), on_poison).unwrap();
        assert_eq!(store(&target, 0, SMALL), Ok(()));
        bench.settle();
        bench.disk.set_faults(Faults { panic_at: Some(call), ..Faults::default() });
        // The job at hand is dropped with its thread; every other one is answered.
        let answers: Vec<_> = (1..200)
            .map(|number| match call {
                Call::Read => verify_later(&target, 0, SMALL),
                Call::Create | Call::Write => store_later(&target, number, SMALL),
            })
            .collect();
        let answers: Vec<_> =
            answers.iter().map(|answer| answer.recv_timeout(Duration::from_secs(10))).collect();
        assert!(answers.iter().all(|answer| *answer != Err(RecvTimeoutError::Timeout)), "{call:?}");
        for _ in 0..500 {
            if target.is_poisoned() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(target.poison_reason().unwrap().contains("panicked"), "{call:?}");
        assert_eq!(store(&target, 500, SMALL), Err(ShardError::TargetOut));
        assert_eq!(fetch(&target, 0, SMALL), Err(ShardError::TargetOut));
        assert_eq!(delete(&target, vec![key(0, SMALL)]), Err(ShardError::TargetOut));
        drop(target);
        assert_eq!(poisoned.load(Ordering::SeqCst), 1, "{call:?}");
    }
}

#[test]
fn a_folder_taken_away_is_noticed_before_any_acknowledgement() {
    let bench = Bench::new();
    let target = create(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(store(&target, 1, SMALL), Ok(()));
    bench.disk.remove_folder();
    assert_eq!(store(&target, 2, SMALL), Err(ShardError::TargetOut));
    assert!(target.is_poisoned());
}

#[test]
fn a_real_folder_removed_moved_or_replaced_is_noticed() {
    for how in ["removed", "moved", "replaced", "linked"] {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("target");
        std::fs::create_dir(&home).unwrap();
        let target = create(RealDisk::open(&home).unwrap(), settings(8 << 20, 4)).unwrap();
        assert_eq!(store(&target, 1, SMALL), Ok(()));
        match how {
            "removed" => support::remove_folder(&home),
            "moved" => std::fs::rename(&home, folder.path().join("elsewhere")).unwrap(),
            "linked" => std::fs::hard_link(home.join(SUPERBLOCK), folder.path().join("second name")).unwrap(),
            _ => {
                let copy = folder.path().join("copy");
                std::fs::create_dir(&copy).unwrap();
                std::fs::copy(home.join(SUPERBLOCK), copy.join(SUPERBLOCK)).unwrap();
                support::remove_folder(&home);
                std::fs::rename(copy, &home).unwrap();
            }
        }
        assert_eq!(store(&target, 2, SMALL), Err(ShardError::TargetOut), "{how}");
        assert!(target.poison_reason().is_some(), "{how}");
    }
}

#[test]
fn a_folder_that_is_not_this_target_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk = || RealDisk::open(folder.path()).unwrap();
    let wanted = settings(8 << 20, 4);
    assert!(matches!(open(disk(), wanted), Err(OpenError::Missing)));
    let target = create(disk(), wanted).unwrap();
    assert!(matches!(open(disk(), wanted), Err(OpenError::InUse)));
    drop(target);
    assert!(matches!(create(disk(), wanted), Err(OpenError::Exists { target: TARGET })));
    let other = TargetSettings { cluster: ClusterId([1; 16]), ..wanted };
    assert!(matches!(open(disk(), other), Err(OpenError::WrongCluster { found: CLUSTER, .. })));
    for other in
        [TargetSettings { target: TargetId(1), ..wanted }, TargetSettings { node: NodeId(1), ..wanted }]
    {
        assert!(matches!(open(disk(), other), Err(OpenError::WrongTarget { found: (NODE, TARGET), .. })));
    }
    let superblock = folder.path().join(SUPERBLOCK);
    let good = std::fs::read(&superblock).unwrap();
    let mut one_copy = good.clone();
    one_copy[..4096].fill(0xff);
    std::fs::write(&superblock, &one_copy).unwrap();
    drop(open(disk(), wanted).unwrap());
    std::fs::write(&superblock, vec![0; good.len()]).unwrap();
    assert!(matches!(open(disk(), wanted), Err(OpenError::SuperblockDamaged)));
    std::fs::remove_file(&superblock).unwrap();
    assert!(matches!(open(disk(), wanted), Err(OpenError::Missing)));
    assert!(matches!(create(disk(), wanted), Err(OpenError::NotEmpty)));
}

#[test]
fn a_creation_that_was_cut_short_can_be_done_again() {
    let mut bench = Bench::new();
    bench.disk.set_faults(Faults { fail_flush_after: Some(0), ..Faults::default() });
    assert!(create(bench.disk.clone(), settings(SEGMENT, 4)).is_err());
    bench.cut_power(3, None);
    assert!(matches!(
        open(bench.disk.clone(), settings(SEGMENT, 4)),
        Err(OpenError::Missing | OpenError::SuperblockDamaged)
    ));
    let target = create(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(store(&target, 1, SMALL), Ok(()));
}

#[test]
fn a_full_target_says_so_before_the_disk_does_and_goes_on_reading() {
    let bench = Bench::new();
    let target = create(bench.disk.clone(), settings(SEGMENT, 3)).unwrap();
    let mut stored = 0;
    while store(&target, stored, SMALL) == Ok(()) {
        stored += 1;
        assert!(stored < 1000);
    }
    // All of three segments but what is kept for tombstones.
    assert_eq!(stored, u64::from(3 * (SEGMENT - FIRST_RECORD) - SEGMENT / 16) / record_bytes(SMALL) as u64);
    assert_eq!(store(&target, 5000, SMALL), Err(ShardError::TargetFull));
    assert!(target.status().healthy);
    assert!((0..stored).all(|number| fetch(&target, number, SMALL) == Ok(())));
    // And it can be emptied.
    assert_eq!(delete(&target, (0..stored).map(|number| key(number, SMALL)).collect()), Ok(()));
    assert_eq!(store_until_there_is_room(&target, 5000), Ok(()));
}

/// Space that was freed is found within a second.
fn store_until_there_is_room(target: &support::TestTarget, number: u64) -> Result<(), ShardError> {
    let mut result = store(target, number, SMALL);
    for _ in 0..30 {
        if result != Err(ShardError::TargetFull) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        result = store(target, number, SMALL);
    }
    result
}

#[test]
fn a_disk_that_runs_out_of_space_is_full_not_broken() {
    let bench = Bench::new();
    let space_bytes = Some(u64::from(SEGMENT) * 4 + 10_000);
    bench.disk.set_faults(Faults { space_bytes, ..Faults::default() });
    let target = create(bench.disk.clone(), settings(SEGMENT, 100)).unwrap();
    let mut stored = 0;
    while store(&target, stored, SMALL) == Ok(()) {
        stored += 1;
        assert!(stored < 1000);
    }
    assert!(stored > 60, "{stored} stored");
    assert_eq!(store(&target, 5000, SMALL), Err(ShardError::TargetFull));
    assert!(target.status().healthy);
    assert!((0..stored).all(|number| fetch(&target, number, SMALL) == Ok(())));
}

#[test]
fn deleted_shards_stay_deleted_and_their_segments_live_again() {
    let mut bench = Bench::new();
    let wanted = settings(SEGMENT, 3);
    let mut target = create(bench.disk.clone(), wanted).unwrap();
    // Ten times what fits: impossible without recycling.
    for round in 0..30_u64 {
        let numbers = round * 50..(round + 1) * 50;
        for number in numbers.clone() {
            assert_eq!(store_until_there_is_room(&target, number), Ok(()), "round {round}");
        }
        assert!(numbers.clone().all(|number| fetch(&target, number, SMALL) == Ok(())));
        assert_eq!(delete(&target, numbers.clone().map(|number| key(number, SMALL)).collect()), Ok(()));
        assert!(numbers.clone().all(|number| fetch(&target, number, SMALL) == Err(ShardError::NotFound)));
        if round % 5 == 4 {
            drop(target);
            // Every other time the index is lost.
            let index = bench.index_folder();
            bench.cut_power(round, (round % 2 == 0).then_some(index.as_path()));
            target = open(bench.disk.clone(), wanted).unwrap();
            assert_eq!(target.status().shards, 0);
            assert!(
                (0..(round + 1) * 50)
                    .all(|number| fetch(&target, number, SMALL) == Err(ShardError::NotFound))
            );
        }
    }
}

#[test]
fn a_shard_deleted_and_stored_again_is_there_after_a_rebuild() {
    let mut bench = Bench::new();
    let wanted = settings(SEGMENT, 4);
    let target = create(bench.disk.clone(), wanted).unwrap();
    assert_eq!(store(&target, 1, SMALL), Ok(()));
    assert_eq!(delete(&target, vec![key(1, SMALL), key(2, SMALL), key(1, SMALL)]), Ok(()));
    assert_eq!(store(&target, 1, SMALL), Ok(()));
    drop(target);
    bench.cut_power(0, None);
    let target = open(bench.disk.clone(), wanted).unwrap();
    assert_eq!(fetch(&target, 1, SMALL), Ok(()));
    assert_eq!(target.status().shards, 1);
}

#[test]
fn the_index_folder_can_be_deleted_at_any_time() {
    let folder = tempfile::tempdir().unwrap();
    let disk = || RealDisk::open(folder.path()).unwrap();
    let wanted = settings(8 << 20, 8);
    let target = create(disk(), wanted).unwrap();
    let answers: Vec<_> = (0..3000).map(|number| store_later(&target, number, SMALL)).collect();
    assert!(answers.iter().all(|answer| wait(answer) == Ok(())));
    let status = target.status();
    drop(target);
    for how in ["deleted", "garbled", "kept"] {
        let index = disk().index_folder();
        match how {
            "deleted" => std::fs::remove_dir_all(&index).unwrap(),
            "garbled" => {
                for entry in std::fs::read_dir(&index).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_file() {
                        std::fs::write(path, b"not what it was").unwrap();
                    }
                }
            }
            _ => {}
        }
        let target = open(disk(), wanted).unwrap();
        assert_eq!(
            (target.status().shards, target.status().used_bytes),
            (status.shards, status.used_bytes),
            "{how}"
        );
        assert!((0..3000).step_by(97).all(|number| fetch(&target, number, SMALL) == Ok(())), "{how}");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_record_is_damage_and_costs_that_record_only() {
    let bytes = 40_000 / 64 * 64;
    let length = record_bytes(bytes);
    let offsets = [0, 9, 17, 25, 57, 64, 65, 90, 110, 120, 128, 140, 300, 5000, 30_000];
    for rebuild in [false, true] {
        for offset in offsets {
            let mut bench = Bench::new();
            let target = create(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
            for number in 0..3 {
                assert_eq!(store(&target, number, bytes), Ok(()));
            }
            let at = FIRST_RECORD as usize + length + offset;
            bench.disk.damage(&file_name(0), |contents| contents[at] ^= 4);
            let (target, lost) = if rebuild {
                drop(target);
                bench.cut_power(0, None);
                // Past the torn tail's rule a record of the last segment that does not verify was never there.
                (open(bench.disk.clone(), settings(SEGMENT, 4)).unwrap(), ShardError::NotFound)
            } else {
                (target, ShardError::Damaged)
            };
            assert_eq!(fetch(&target, 1, bytes), Err(lost), "offset {offset}");
            assert_eq!(verify(&target, 1, bytes), Err(lost), "offset {offset}");
            assert_eq!(
                (fetch(&target, 0, bytes), fetch(&target, 2, bytes)),
                (Ok(()), Ok(())),
                "offset {offset}"
            );
            // A repaired copy is stored, not taken for one that is there.
            assert_eq!(store(&target, 1, bytes), Ok(()));
            assert_eq!(fetch(&target, 1, bytes), Ok(()));
            assert_eq!(target.status().shards, 3);
        }
    }
}

#[test]
fn only_the_blocks_asked_for_decide() {
    let bytes = 100_032;
    let bench = Bench::new();
    let target = create(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(store(&target, 1, bytes), Ok(()));
    bench.disk.damage(&file_name(0), |contents| contents[FIRST_RECORD as usize + 50_000] ^= 1);
    let block = CRC_BLOCK_BYTES as u32;
    assert!(fetch_range(&target, key(1, bytes), 0, block).is_ok());
    assert_eq!(fetch_range(&target, key(1, bytes), 3 * block, block), Err(ShardError::Damaged));
    assert!(fetch_range(&target, key(1, bytes), 4 * block, block).is_ok());
}

#[test]
fn stale_and_misdirected_records_are_recognised() {
    let bench = Bench::new();
    let target = create(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(store(&target, 1, SMALL), Ok(()));
    assert_eq!(store(&target, 2, SMALL), Ok(()));
    // A write that the disk acknowledged and never did: the space still holds zeroes.
    bench.settle();
    bench.disk.set_faults(Faults { lose_write_after: Some(0), ..Faults::default() });
    assert_eq!(store(&target, 3, SMALL), Ok(()));
    assert_eq!(fetch(&target, 3, SMALL), Err(ShardError::Damaged));
    // A whole good record, in the wrong place.
    let (from, length) = (FIRST_RECORD as usize, record_bytes(SMALL));
    bench.disk.damage(&file_name(0), |contents| contents.copy_within(from..from + length, from + length));
    assert_eq!(fetch(&target, 2, SMALL), Err(ShardError::Damaged));
    assert_eq!(fetch(&target, 1, SMALL), Ok(()));
}

#[test]
fn a_read_error_is_that_reads_answer_and_nothing_more() {
    let bench = Bench::new();
    let target = create(bench.disk.clone(), settings(SEGMENT, 4)).unwrap();
    assert_eq!(store(&target, 1, SMALL), Ok(()));
    bench.disk.set_faults(Faults { fail_reads: true, ..Faults::default() });
    assert_eq!(fetch(&target, 1, SMALL), Err(ShardError::Disk));
    assert_eq!(verify(&target, 1, SMALL), Err(ShardError::Disk));
    bench.disk.set_faults(Faults::default());
    assert_eq!(fetch(&target, 1, SMALL), Ok(()));
    assert!(target.status().healthy);
}

#[test]
fn a_damaged_segment_header_loses_no_other_segment() {
    let mut bench = Bench::new();
    let wanted = settings(SEGMENT, 8);
    let target = create(bench.disk.clone(), wanted).unwrap();
    for number in 0..150 {
        assert_eq!(store(&target, number, SMALL), Ok(()));
    }
    drop(target);
    bench.disk.damage(&file_name(0), |contents| contents[..4096].fill(0));
    bench.cut_power(0, None);
    let target = open(bench.disk.clone(), wanted).unwrap();
    assert!(
        (0..150).all(|number| fetch(&target, number, SMALL) == Ok(())),
        "the second copy of the header serves"
    );
    drop(target);
    bench.disk.damage(&file_name(0), |contents| contents[..8192].fill(0));
    bench.cut_power(0, None);
    let target = open(bench.disk.clone(), wanted).unwrap();
    let lost = (0..150).filter(|number| fetch(&target, *number, SMALL) != Ok(())).count();
    assert_eq!(lost as u32, (SEGMENT - FIRST_RECORD) / record_bytes(SMALL) as u32);
    assert!(bench.disk.names().iter().any(|name| name.starts_with("damaged-")), "set aside, not removed");
    assert_eq!(store(&target, 0, SMALL), Ok(()));
    assert_eq!(fetch(&target, 0, SMALL), Ok(()));
}

#[test]
fn refused_records_are_told_why() {
    let (good, _) = record(1, SMALL);
    let memory = good.into_memory();
    let try_bytes = |change: &dyn Fn(&mut [u8]), bytes: usize| {
        let mut copy = tenfour_node::disk::AlignedBuffer::zeroed(memory.len());
        copy.copy_from_slice(&memory);
        change(&mut copy);
        tenfour_node::target::Verified::verify(copy, bytes).map(drop).map_err(|(_, error)| error)
    };
    let whole = 192 + SMALL;
    assert_eq!(try_bytes(&|_| {}, whole), Ok(()));
    assert_eq!(try_bytes(&|_| {}, whole - 64), Err(ShardError::Malformed));
    assert_eq!(try_bytes(&|_| {}, 0), Err(ShardError::Malformed));
    assert_eq!(try_bytes(&|_| {}, usize::MAX), Err(ShardError::Malformed));
    assert_eq!(try_bytes(&|bytes| bytes[70] ^= 1, whole), Err(ShardError::Malformed));
    assert_eq!(try_bytes(&|bytes| bytes[130] ^= 1, whole), Err(ShardError::ChecksumMismatch));
    assert_eq!(try_bytes(&|bytes| bytes[1000] ^= 1, whole), Err(ShardError::ChecksumMismatch));
}
