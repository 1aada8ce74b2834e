//! The load: clients on every door that share few keys, each a loop of random operations from its own seed.

use crate::door::{BYTES_MAX, Door, PART_BYTES};
use crate::history::{Action, Condition, Outcome, Record};
use crate::value::{BYTES_MIN, Value};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tenfour_client::native::Range;
use tokio::time::{Instant, sleep, timeout};

/// Keys that everybody fights for.
const HOT_KEYS: u32 = 8;
/// Keys that are touched now and then.
const COLD_KEYS: u32 = 60;
/// An operation that took longer is given up; its outcome is unknown.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pauses of a client between two operations, ms.
const PAUSE_MS: std::ops::Range<u64> = 5..60;

/// The records of all clients, and the clock that they are measured by.
#[derive(Clone)]
pub struct Journal {
    zero: Instant,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { zero: Instant::now(), records: Arc::default() }
    }
}

impl Journal {
    /// Microseconds since the beginning.
    pub fn now(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, record: Record) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }
}

/// Every key of the workload.
pub fn keys() -> Vec<String> {
    let hot = (0..HOT_KEYS).map(|number| format!("hot/{number}"));
    hot.chain((0..COLD_KEYS).map(|number| format!("cold/{number}"))).collect()
}

/// One client.
pub struct Worker {
    /// Its number, which its values carry.
    pub client: u16,
    /// Its way in.
    pub door: Door,
    /// Where it writes down what it saw.
    pub journal: Journal,
    random: StdRng,
    sequence: u32,
    seen: HashMap<String, Value>,
}

impl Worker {
    /// The `client`-th of a run.
    pub fn new(client: u16, door: Door, journal: Journal, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed ^ (u64::from(client) + 1) << 40);
        Self { client, door, journal, random, sequence: 0, seen: HashMap::new() }
    }

    /// Works until then.
    pub async fn work(mut self, end: Instant) {
        while Instant::now() < end {
            let (key, action) = self.choose();
            self.perform(&key, action).await;
            sleep(Duration::from_millis(self.random.random_range(PAUSE_MS))).await;
        }
    }

    fn choose(&mut self) -> (String, Action) {
        let hot = self.random.random_range(0..10) < 7;
        let key = if hot {
            format!("hot/{}", self.random.random_range(0..HOT_KEYS))
        } else {
            format!("cold/{}", self.random.random_range(0..COLD_KEYS))
        };
        let put = |value, condition| Action::Put { value, condition, parts: false };
        let action = match self.random.random_range(0..100) {
            0..24 => Action::Get,
            24..34 => Action::GetRange,
            34..42 => Action::Head,
            42..64 => put(self.value(), Condition::None),
            64..73 => put(self.value(), Condition::Absent),
            73..83 => {
                let seen = self.seen.get(&key).copied();
                put(self.value(), seen.map_or(Condition::None, Condition::Is))
            }
            83..94 => Action::Delete,
            94..98 => Action::List,
            _ => {
                let bytes = self.random.random_range(PART_BYTES as u64 + 1..BYTES_MAX);
                Action::Put { value: self.next(bytes), condition: Condition::None, parts: true }
            }
        };
        (key, action)
    }

    /// A new value, small as a rule.
    fn value(&mut self) -> Value {
        let most = match self.random.random_range(0..100) {
            0..50 => 4 << 10,
            50..85 => 128 << 10,
            85..98 => 2 << 20,
            _ => BYTES_MAX,
        };
        let bytes = self.random.random_range(BYTES_MIN..most);
        self.next(bytes)
    }

    fn next(&mut self, bytes: u64) -> Value {
        self.sequence += 1;
        Value::new(self.client, self.sequence, bytes)
    }

    /// Does it, writes it down, and returns what came of it.
    pub async fn perform(&mut self, key: &str, action: Action) -> Outcome {
        let mut began = self.journal.now();
        let range = Range::From(0, Some(self.random.random_range(1..BYTES_MIN)));
        let ranged = match self.seen.get(key) {
            Some(seen) => {
                let first = self.random.random_range(0..seen.bytes());
                Range::From(first, Some(self.random.random_range(first..seen.bytes()) + 1))
            }
            None => range,
        };
        let journal = self.journal.clone();
        let door = self.door.clone();
        let operation = async {
            match &action {
                Action::Put { value, parts: true, .. } => {
                    door.put_parts(key, *value, || began = journal.now()).await
                }
                Action::Put { value, condition, .. } => door.put(key, *value, *condition).await,
                Action::Delete => door.delete(key).await,
                Action::Get => door.get(key, Range::All).await,
                Action::GetRange => door.get(key, ranged).await,
                Action::Head => door.head(key).await,
                Action::List => door.list().await,
            }
        };
        let outcome = timeout(DEADLINE, operation).await.unwrap_or_else(|_| {
            let what = format!("no answer within {} s", DEADLINE.as_secs());
            if action.is_write() { Outcome::Unknown(what) } else { Outcome::Failed(what) }
        });
        match (&outcome, &action) {
            (Outcome::Saw(Some(value)), _) | (Outcome::Done, Action::Put { value, .. }) => {
                self.seen.insert(key.to_owned(), *value);
            }
            _ => {}
        }
        let key = if action == Action::List { "" } else { key };
        self.journal.add(Record {
            client: self.client,
            door: self.door.name.clone(),
            key: key.to_owned(),
            action,
            began,
            ended: self.journal.now(),
            outcome: outcome.clone(),
        });
        outcome
    }
}
