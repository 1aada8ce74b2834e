//! A target against a model that is a map: random stores, deletions, reopenings, lost indexes and power cuts. What was acknowledged
//! is there, what was not is whole or absent, and nothing else ever is.
#![allow(clippy::unwrap_used)] // Also in the helpers, which are no tests themselves.

mod support;

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use support::{
    Bench, TestTarget, copy_folder, create, delete, fetch, key, open, settings, store_later, verify, wait,
};
use tenfour_node::disk::Faults;
use tenfour_node::target::file_name;
use tenfour_types::shard_service::ShardError;

const SEGMENT: u32 = 128 << 10;
const SEGMENTS: u64 = 40;
const NUMBERS: u64 = 24;

#[derive(Clone, Debug)]
enum Step {
    Store(Vec<u64>),
    Delete(Vec<u64>),
    /// An orderly close, then open; with or without the index.
    Reopen {
        index: bool,
    },
    /// Stores under way when the power goes: each unflushed block is there or not.
    Cut {
        under_way: Vec<u64>,
        seed: u64,
        stale_index: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    There,
    Absent,
    /// Not acknowledged when the power went.
    Either,
}

struct Model {
    bench: Bench,
    target: Option<TestTarget>,
    shards: BTreeMap<u64, State>,
    old_index: Option<PathBuf>,
    copies: u32,
}

fn bytes_of(number: u64) -> usize {
    [64, 3904, 20_032, 60_032][(number % 4) as usize]
}

impl Model {
    fn new() -> Self {
        let bench = Bench::new();
        let target = Some(create(bench.disk.clone(), settings(SEGMENT, SEGMENTS)).unwrap());
        let shards = (0..NUMBERS).map(|number| (number, State::Absent)).collect();
        Self { bench, target, shards, old_index: None, copies: 0 }
    }

    fn target(&self) -> &TestTarget {
        self.target.as_ref().unwrap()
    }

    fn start(&self, numbers: &[u64]) -> Vec<(u64, Receiver<Result<(), ShardError>>)> {
        numbers
            .iter()
            .map(|number| (*number, store_later(self.target(), *number, bytes_of(*number))))
            .collect()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Store(numbers) => {
                for (number, answer) in self.start(numbers) {
                    assert_eq!(wait(&answer), Ok(()));
                    self.shards.insert(number, State::There);
                }
            }
            Step::Delete(numbers) => {
                let keys = numbers.iter().map(|number| key(*number, bytes_of(*number))).collect();
                assert_eq!(delete(self.target(), keys), Ok(()));
                self.shards.extend(numbers.iter().map(|number| (*number, State::Absent)));
            }
            Step::Reopen { index } => {
                self.target = None;
                if *index {
                    self.keep_index();
                } else {
                    std::fs::remove_dir_all(self.bench.index_folder()).unwrap();
                }
                self.target = Some(open(self.bench.disk.clone(), settings(SEGMENT, SEGMENTS)).unwrap());
            }
            Step::Cut { under_way, seed, stale_index } => self.cut(under_way, *seed, *stale_index),
        }
    }

    fn keep_index(&mut self) {
        self.copies += 1;
        let copy = self.bench.folder.path().join(format!("copy-{}", self.copies));
        copy_folder(&self.bench.index_folder(), &copy);
        self.old_index = Some(copy);
    }

    fn cut(&mut self, under_way: &[u64], seed: u64, stale_index: bool) {
        self.bench
            .disk
            .set_faults(Faults { flush_delay: Duration::from_micros(seed % 3 * 300), ..Faults::default() });
        let started = self.start(under_way);
        std::thread::sleep(Duration::from_micros(seed % 7 * 100));
        for (number, answer) in &started {
            let acknowledged = answer.try_recv() == Ok(Ok(()));
            let state = self.shards.entry(*number).or_insert(State::Absent);
            *state = match *state {
                _ if acknowledged => State::There,
                State::There => State::There,
                _ => State::Either,
            };
        }
        let old_index = self.old_index.clone().filter(|_| stale_index);
        self.bench.cut_power(seed, old_index.as_deref());
        self.target = None;
        self.target = Some(open(self.bench.disk.clone(), settings(SEGMENT, SEGMENTS)).unwrap());
    }

    fn check(&mut self) {
        let mut there = 0;
        for (number, state) in &mut self.shards {
            let target = self.target.as_ref().unwrap();
            let bytes = bytes_of(*number);
            let found = fetch(target, *number, bytes);
            assert_eq!(verify(target, *number, bytes), found);
            let expected = match (*state, found) {
                (State::There, _) | (State::Either, Ok(())) => Ok(()),
                _ => Err(ShardError::NotFound),
            };
            assert_eq!(found, expected, "shard {number}, which is {state:?}");
            *state = if found.is_ok() { State::There } else { State::Absent };
            there += u64::from(found.is_ok());
        }
        assert_eq!(self.target().status().shards, there);
    }
}

fn numbers() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0..NUMBERS, 1..8)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => numbers().prop_map(Step::Store),
        2 => numbers().prop_map(Step::Delete),
        1 => any::<bool>().prop_map(|index| Step::Reopen { index }),
        2 => (numbers(), any::<u64>(), any::<bool>())
            .prop_map(|(under_way, seed, stale_index)| Step::Cut { under_way, seed, stale_index }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_shards_are_there_and_the_others_are_whole_or_absent(steps in prop::collection::vec(step(), 1..16)) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
            model.check();
        }
    }

    #[test]
    fn no_damage_to_a_segment_gives_wrong_bytes_or_a_panic(
        wounds in prop::collection::vec((0..SEGMENT as usize, 1..9000_usize, any::<u8>()), 1..5),
        rebuild: bool,
    ) {
        let mut bench = Bench::new();
        let wanted = settings(SEGMENT, SEGMENTS);
        let target = create(bench.disk.clone(), wanted).unwrap();
        for number in 0..NUMBERS {
            prop_assert_eq!(wait(&store_later(&target, number, bytes_of(number))), Ok(()));
        }
        bench.disk.damage(&file_name(0), |contents| {
            for (at, bytes, value) in &wounds {
                let end = (at + bytes).min(contents.len());
                contents[(*at).min(end)..end].fill(*value);
            }
        });
        let target = if rebuild {
            drop(target);
            bench.cut_power(0, None);
            open(bench.disk.clone(), wanted).unwrap()
        } else {
            target
        };
        for number in 0..NUMBERS {
            // `fetch` compares what it gets.
            let found = fetch(&target, number, bytes_of(number));
            prop_assert!(matches!(found, Ok(()) | Err(ShardError::NotFound | ShardError::Damaged)), "{:?}", found);
            if found.is_err() {
                prop_assert_eq!(wait(&store_later(&target, number, bytes_of(number))), Ok(()));
                prop_assert_eq!(fetch(&target, number, bytes_of(number)), Ok(()));
            }
        }
    }
}
