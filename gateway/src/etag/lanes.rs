//! Threads that compute the MD5 of many streams side by side.
//!
//! A vector takes hardly longer for 16 streams than for one, so the CPU that an MD5 costs depends on how many are hashed together.
//! Nobody waits for a hash while the stripe is still written to the nodes, so what is handed over is *left lying* until one of these
//! holds: somebody waits for one of the runs; as many lie there as there are lanes; or every stream that is open has something
//! there, so that waiting would bring nobody else (an only stream is hashed at once). Then all that lie there are hashed on
//! together, and looked at anew after every [`TURN_BYTES`].
//!
//! Not here, on purpose: a limit of its own on what lies there. A piece is registered memory, which is bounded, and of which a
//! request holds a few stripes.
//!
//! Invariant: a stream's runs are hashed in the order of their numbers, each once, and a piece is held until its bytes are hashed.

use crate::counters::Counters;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;
use tenfour_erasure::{Md5, Md5Lanes};
use tokio::sync::oneshot;

/// A stream advances by so much before it is looked at again who else has come.
const TURN_BYTES: usize = 64 << 10;
const BLOCK_BYTES: usize = 64;
/// Processors for each thread: the gain is in the lanes, and one thread with full lanes hashes what several fan-outs send.
const PROCESSORS_PER_THREAD: usize = 4;
const THREADS_MAX: usize = 8;

/// The threads; they end when this is dropped.
pub(crate) struct Md5Threads<P> {
    shared: Arc<Shared<P>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<P> {
    lanes: Md5Lanes,
    counters: Arc<Counters>,
    table: Mutex<Table<P>>,
    /// Something may be worth running.
    work: Condvar,
}

struct Table<P> {
    streams: HashMap<u64, Lying<P>>,
    /// Streams whose next run lies there, those first for which somebody waits: (nobody waits, stream).
    ready: BTreeSet<(bool, u64)>,
    /// Streams that a thread has now.
    running: usize,
    next_id: u64,
    ended: bool,
}

/// An open stream.
struct Lying<P> {
    /// None while a thread has it.
    md5: Option<Md5>,
    /// By number.
    runs: BTreeMap<usize, Run<P>>,
    /// So many runs are hashed.
    done: usize,
    /// Somebody waits for the runs below this.
    wanted: usize,
}

struct Run<P> {
    pieces: VecDeque<P>,
    /// Of the first piece, so many bytes are hashed.
    at: usize,
    done: oneshot::Sender<()>,
}

/// A stream that a thread has.
struct Taken<P> {
    stream: u64,
    md5: Md5,
    run: Run<P>,
}

impl<P: AsRef<[u8]> + Send + 'static> Md5Threads<P> {
    pub(crate) fn start(counters: Arc<Counters>) -> std::io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with(Md5Lanes::best(), processors.div_ceil(PROCESSORS_PER_THREAD).min(THREADS_MAX), counters)
    }

    fn with(lanes: Md5Lanes, threads: usize, counters: Arc<Counters>) -> std::io::Result<Self> {
        let table =
            Table { streams: HashMap::new(), ready: BTreeSet::new(), running: 0, next_id: 0, ended: false };
        let shared = Arc::new(Shared { lanes, counters, table: Mutex::new(table), work: Condvar::new() });
        let mut started = Self { shared: shared.clone(), threads: Vec::with_capacity(threads) };
        for number in 1..=threads {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("md5-{number}"));
            started.threads.push(thread.spawn(move || shared.run())?);
        }
        Ok(started)
    }

    /// A new stream, of no bytes yet.
    pub(crate) fn open(&self) -> Stream<P> {
        let mut table = self.shared.table.lock();
        let id = table.next_id;
        table.next_id += 1;
        let lying = Lying { md5: Some(Md5::new()), runs: BTreeMap::new(), done: 0, wanted: 0 };
        table.streams.insert(id, lying);
        Stream { shared: self.shared.clone(), id }
    }
}

impl<P> Drop for Md5Threads<P> {
    fn drop(&mut self) {
        self.shared.table.lock().ended = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// One object's bytes on their way through the MD5. When it is dropped, what was not begun of it is not hashed.
pub(crate) struct Stream<P> {
    shared: Arc<Shared<P>>,
    id: u64,
}

impl<P> Stream<P> {
    pub(crate) fn taker(&self) -> Taker<P> {
        Taker { shared: self.shared.clone(), stream: self.id }
    }

    /// The MD5 of all runs; `None` when one was not waited for.
    pub(crate) fn finish(self) -> Option<[u8; 16]> {
        let lying = self.shared.table.lock().remove(self.id)?;
        let md5 = lying.md5.filter(|_| lying.runs.is_empty())?;
        Some(md5.finish())
    }
}

impl<P> Drop for Stream<P> {
    fn drop(&mut self) {
        let mut table = self.shared.table.lock();
        let removed = table.remove(self.id);
        // Those that are left may have waited for this one only.
        self.shared.wake_for(&table);
        drop(table);
        drop(removed);
    }
}

/// Hands a stream's runs over.
pub(crate) struct Taker<P> {
    shared: Arc<Shared<P>>,
    stream: u64,
}

impl<P> Clone for Taker<P> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), stream: self.stream }
    }
}

impl<P> Taker<P> {
    /// Run `number` of the stream, from 0: each once, in any order.
    pub(crate) fn take(&self, number: usize, pieces: impl IntoIterator<Item = P>) -> Hashing<P> {
        let (done, receiver) = oneshot::channel();
        let mut table = self.shared.table.lock();
        if let Some(lying) = table.streams.get_mut(&self.stream) {
            lying.runs.insert(number, Run { pieces: pieces.into_iter().collect(), at: 0, done });
            table.look_at(self.stream);
        }
        self.shared.wake_for(&table);
        Hashing { shared: self.shared.clone(), stream: self.stream, number, done: receiver }
    }
}

/// A run that was handed over.
pub(crate) struct Hashing<P> {
    shared: Arc<Shared<P>>,
    stream: u64,
    number: usize,
    done: oneshot::Receiver<()>,
}

impl<P> Hashing<P> {
    /// Waits until it is hashed, and the stream's runs before it; false when it never will be.
    pub(crate) async fn done(mut self) -> bool {
        match self.done.try_recv() {
            Ok(()) => return true,
            Err(oneshot::error::TryRecvError::Closed) => return false,
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        {
            let mut table = self.shared.table.lock();
            table.want(self.stream, self.number + 1);
            self.shared.wake_for(&table);
        }
        self.done.await.is_ok()
    }
}

impl<P> Table<P> {
    /// Whether the stream's next run lies there, as [`Table::ready`] says it.
    fn look_at(&mut self, stream: u64) {
        let Some(lying) = self.streams.get(&stream) else { return };
        self.ready.remove(&(true, stream));
        self.ready.remove(&(false, stream));
        if lying.md5.is_some() && lying.runs.contains_key(&lying.done) {
            self.ready.insert((lying.wanted <= lying.done, stream));
        }
    }

    fn want(&mut self, stream: u64, below: usize) {
        if let Some(lying) = self.streams.get_mut(&stream) {
            lying.wanted = lying.wanted.max(below);
            self.look_at(stream);
        }
    }

    fn remove(&mut self, stream: u64) -> Option<Lying<P>> {
        self.ready.remove(&(true, stream));
        self.ready.remove(&(false, stream));
        self.streams.remove(&stream)
    }

    /// Whether what lies there is to be hashed now.
    fn is_due(&self, lanes: usize) -> bool {
        let Some((nobody_waits, _)) = self.ready.first() else { return false };
        !nobody_waits || self.ready.len() >= lanes || self.ready.len() + self.running == self.streams.len()
    }

    /// As many streams as there are lanes, those first for which somebody waits.
    fn take(&mut self, lanes: usize) -> Vec<Taken<P>> {
        let mut taken = Vec::with_capacity(lanes);
        while taken.len() < lanes
            && let Some((_, stream)) = self.ready.pop_first()
        {
            let Some(lying) = self.streams.get_mut(&stream) else { continue };
            if let Some(run) = lying.runs.remove(&lying.done)
                && let Some(md5) = lying.md5.take()
            {
                taken.push(Taken { stream, md5, run });
            }
        }
        self.running += taken.len();
        taken
    }

    /// Gives them back, further on.
    fn give_back(&mut self, taken: Vec<Taken<P>>) {
        self.running -= taken.len();
        for Taken { stream, md5, run } in taken {
            // It may have been dropped meanwhile.
            let Some(lying) = self.streams.get_mut(&stream) else { continue };
            lying.md5 = Some(md5);
            if run.pieces.is_empty() {
                lying.done += 1;
                // Who waited may be gone.
                let _ = run.done.send(());
            } else {
                lying.runs.insert(lying.done, run);
            }
            self.look_at(stream);
        }
    }
}

impl<P> Shared<P> {
    fn wake_for(&self, table: &Table<P>) {
        if table.is_due(self.lanes.lanes()) {
            self.work.notify_one();
        }
    }
}

impl<P: AsRef<[u8]>> Shared<P> {
    fn run(&self) {
        let mut table = self.table.lock();
        while !table.ended {
            if !table.is_due(self.lanes.lanes()) {
                self.work.wait(&mut table);
                continue;
            }
            let mut taken = table.take(self.lanes.lanes());
            // There may be enough for another thread.
            self.wake_for(&table);
            MutexGuard::unlocked(&mut table, || self.turn(&mut taken));
            table.give_back(taken);
        }
    }

    /// Hashes each of them on by [`TURN_BYTES`], or as far as one of the runs goes.
    fn turn(&self, taken: &mut [Taken<P>]) {
        let begin = Instant::now();
        let (mut bytes, mut steps) = (0, 0);
        while steps < TURN_BYTES && taken.iter().all(|taken| !taken.run.pieces.is_empty()) {
            let (step, hashed) = self.step(taken, TURN_BYTES - steps);
            (bytes, steps) = (bytes + hashed, steps + step);
        }
        let nanos = begin.elapsed().as_nanos() as u64;
        self.counters.hash.add(nanos, nanos);
        self.counters.hash_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.counters.hash_step_bytes.fetch_add(steps as u64, Ordering::Relaxed);
    }

    /// From each as many whole blocks as all have in one piece; of a piece that has less than a block, the rest. How far each went,
    /// and how many bytes that were.
    fn step(&self, taken: &mut [Taken<P>], most: usize) -> (usize, usize) {
        let blocks =
            taken.iter().map(|taken| taken.run.rest().len() / BLOCK_BYTES).filter(|blocks| *blocks > 0);
        let step = blocks.min().unwrap_or(0).min(most.div_ceil(BLOCK_BYTES)).max(1) * BLOCK_BYTES;
        let mut lanes: Vec<(&mut Md5, &[u8])> = taken
            .iter_mut()
            .map(|taken| {
                let rest = taken.run.rest();
                (&mut taken.md5, rest.get(..step).unwrap_or(rest))
            })
            .collect();
        self.lanes.update(&mut lanes);
        let bytes = taken.iter_mut().map(|taken| taken.run.advance(step)).sum();
        (step, bytes)
    }
}

impl<P: AsRef<[u8]>> Run<P> {
    /// What is left of the first piece.
    fn rest(&self) -> &[u8] {
        self.pieces.front().and_then(|piece| piece.as_ref().get(self.at..)).unwrap_or_default()
    }

    /// So many bytes of the first piece are hashed, or all that it had: how many these were.
    fn advance(&mut self, bytes: usize) -> usize {
        let left = self.rest().len();
        if bytes < left {
            self.at += bytes;
            return bytes;
        }
        self.pieces.pop_front();
        self.at = 0;
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn bytes(length: usize, seed: usize) -> Vec<u8> {
        (0..length).map(|at| (at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 11) as u8).collect()
    }

    fn md5(bytes: &[u8]) -> [u8; 16] {
        use ::md5::Digest as _;
        ::md5::Md5::digest(bytes).into()
    }

    fn threads(lanes: usize, threads: usize) -> Md5Threads<Vec<u8>> {
        let kernel = Md5Lanes::all().into_iter().find(|kernel| kernel.lanes() == lanes).unwrap();
        Md5Threads::with(kernel, threads, Arc::default()).unwrap()
    }

    fn hashed_bytes(threads: &Md5Threads<Vec<u8>>) -> u64 {
        threads.shared.counters.hash_bytes.load(Ordering::Relaxed)
    }

    async fn settled(threads: &Md5Threads<Vec<u8>>, bytes: usize) {
        for _ in 0..2000 {
            if hashed_bytes(threads) == bytes as u64 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{} bytes are hashed, not {bytes}", hashed_bytes(threads));
    }

    #[tokio::test]
    async fn one_stream_alone_is_hashed_at_once() {
        let threads = threads(4, 1);
        let stream = threads.open();
        let object = bytes(300_007, 1);
        let hashing = stream.taker().take(0, [object.clone()]);
        settled(&threads, object.len()).await;
        assert!(hashing.done().await);
        assert_eq!(stream.finish(), Some(md5(&object)));
        assert_eq!(threads.open().finish(), Some(md5(b"")));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_lies_until_somebody_does_and_then_all_goes_on_together() {
        let threads = threads(4, 1);
        let streams: Vec<_> = (0..4).map(|_| threads.open()).collect();
        let objects: Vec<_> = (0..3).map(|seed| bytes(1 << 20, seed)).collect();
        let hashings: Vec<_> = streams
            .iter()
            .zip(&objects)
            .map(|(stream, object)| stream.taker().take(0, [object.clone()]))
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(hashed_bytes(&threads), 0, "the fourth may still come");
        let mut hashings = hashings.into_iter();
        assert!(hashings.next().unwrap().done().await);
        settled(&threads, 3 << 20).await;
        let steps = threads.shared.counters.hash_step_bytes.load(Ordering::Relaxed);
        assert_eq!(steps, 1 << 20, "three side by side");
        for hashing in hashings {
            assert!(hashing.done().await);
        }
        for (stream, object) in streams.into_iter().zip(&objects) {
            assert_eq!(stream.finish(), Some(md5(object)));
        }
    }

    #[tokio::test]
    async fn full_lanes_and_a_stream_that_goes_start_the_rest() {
        let threads = threads(4, 1);
        let mut streams: Vec<_> = (0..6).map(|_| threads.open()).collect();
        let object = bytes(200_000, 3);
        let _hashings: Vec<_> =
            streams.iter().take(4).map(|stream| stream.taker().take(0, [object.clone()])).collect();
        settled(&threads, 4 * object.len()).await;
        let fifth = streams[4].taker().take(0, [object.clone()]);
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(hashed_bytes(&threads), 4 * object.len() as u64);
        drop(streams.pop());
        streams.drain(..4);
        settled(&threads, 5 * object.len()).await;
        assert!(fifth.done().await);
    }

    #[tokio::test]
    async fn a_stream_that_is_dropped_lets_its_memory_go() {
        let threads = threads(4, 1);
        let (other, stream) = (threads.open(), threads.open());
        let hashing = stream.taker().take(0, [bytes(1000, 1)]);
        let taker = stream.taker();
        assert!(stream.finish().is_none(), "nothing was hashed");
        assert!(!hashing.done().await);
        assert!(!taker.take(1, [bytes(10, 1)]).done().await);
        assert!(threads.shared.table.lock().ready.is_empty());
        drop(other);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_streams_of_all_lengths_and_any_order_of_runs() {
        for kernel in 0..Md5Lanes::all().len() {
            for threads in [1, 3] {
                let kernel = Md5Lanes::all().swap_remove(kernel);
                let threads = Arc::new(Md5Threads::with(kernel, threads, Arc::default()).unwrap());
                let tasks: Vec<_> = (0..40_usize)
                    .map(|seed| {
                        let threads = threads.clone();
                        tokio::spawn(async move {
                            let lengths: Vec<usize> =
                                (0..seed % 5).map(|run| seed * 977 * (run + 1) % 150_000).collect();
                            let whole = bytes(lengths.iter().sum(), seed);
                            let stream = threads.open();
                            let mut at = 0;
                            let mut runs: Vec<(usize, Vec<Vec<u8>>)> = Vec::new();
                            for (number, length) in lengths.iter().enumerate() {
                                let run = &whole[at..at + length];
                                at += length;
                                let (first, second) = run.split_at(length / 3 / BLOCK_BYTES * BLOCK_BYTES);
                                runs.push((number, vec![first.to_vec(), second.to_vec()]));
                            }
                            if seed % 2 == 1 {
                                runs.reverse();
                            }
                            let mut hashings = Vec::new();
                            for (number, pieces) in runs {
                                hashings.push(stream.taker().take(number, pieces));
                                tokio::task::yield_now().await;
                            }
                            for hashing in hashings {
                                assert!(hashing.done().await);
                            }
                            assert_eq!(stream.finish(), Some(md5(&whole)), "{seed}");
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
            }
        }
    }
}
