//! Completion queues, one channel for each core: a task waits on it, and hands what comes to the connections.
//!
//! Whoever waits for a completion may also look for it without the task (`poll_all`): a lock keeps the order. With a spin time the
//! task goes on looking for so long after the last completion before it sleeps.
//!
//! Invariant: completions of one queue are handled one after another, in its order.

use super::device::Links;
use super::ffi::{CompletionChannel, CompletionQueue, Context};
use parking_lot::Mutex;
use rdma_sys::ibv_wc;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// Entries of one queue; another is made when connections have taken them all.
const ENTRIES: u32 = 8192;
/// Completions taken at a time.
const BATCH: usize = 32;

/// The queues of one core.
pub(super) struct Core {
    context: Context,
    vector: u32,
    entries: u32,
    links: Arc<Links>,
    spin: Duration,
    queues: Mutex<Vec<Arc<Queue>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    channel: Arc<CompletionChannel>,
}

/// One completion queue, and how much of it connections have reserved.
pub(super) struct Queue {
    pub(super) queue: CompletionQueue,
    /// Held while completions are taken and handled.
    order: Mutex<()>,
    reserved: Mutex<u32>,
    entries: u32,
    links: Arc<Links>,
}

/// Room for all that one connection can have outstanding.
pub(super) struct Room {
    pub(super) queue: Arc<Queue>,
    entries: u32,
}

impl Drop for Room {
    fn drop(&mut self) {
        *self.queue.reserved.lock() -= self.entries;
    }
}

impl Core {
    pub(super) fn create(
        context: Context,
        vector: u32,
        entries_max: u32,
        links: Arc<Links>,
        spin: Duration,
    ) -> io::Result<Arc<Self>> {
        let channel = Arc::new(CompletionChannel::create(context)?);
        let entries = ENTRIES.min(entries_max);
        let (queues, task) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { context, vector, entries, links, spin, queues, task, channel }))
    }

    /// Room in one of the queues, or in a new one.
    pub(super) fn reserve(self: &Arc<Self>, entries: u32) -> io::Result<Room> {
        self.ensure_task()?;
        let mut queues = self.queues.lock();
        for queue in queues.iter() {
            let mut reserved = queue.reserved.lock();
            if *reserved + entries <= queue.entries {
                *reserved += entries;
                return Ok(Room { queue: queue.clone(), entries });
            }
        }
        let number = queues.len();
        let queue = CompletionQueue::create(self.context, self.entries, &self.channel, number, self.vector)?;
        queue.arm()?;
        let (order, reserved, links) = (Mutex::new(()), Mutex::new(entries), self.links.clone());
        let queue = Arc::new(Queue { queue, order, reserved, entries: self.entries, links });
        queues.push(queue.clone());
        Ok(Room { queue, entries })
    }

    /// Starts the task, anew if the runtime that had it is gone.
    fn ensure_task(self: &Arc<Self>) -> io::Result<()> {
        let mut task = self.task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            // SAFETY: the descriptor is open for as long as the channel, which the result owns a share of.
            let ringing = unsafe { AsyncFd::register(Ringing(self.channel.clone()))? };
            *task = Some(tokio::spawn(run(Arc::downgrade(self), ringing)));
        }
        Ok(())
    }

    async fn handle(&self, number: usize) {
        let Some(queue) = self.queues.lock().get(number).cloned() else { return };
        if let Err(error) = queue.queue.arm() {
            tracing::error!(%error, "cannot arm a completion queue");
        }
        // What came before it was armed does not ring: the queue is emptied after.
        let mut last = Instant::now();
        loop {
            match queue.poll_once() {
                0 if last.elapsed() >= self.spin => return,
                0 => {}
                _ => last = Instant::now(),
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

/// A channel as something that tokio can wait on.
pub(super) struct Ringing(pub(super) Arc<CompletionChannel>);

impl AsRawFd for Ringing {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Ringing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

async fn run(core: Weak<Core>, ringing: AsyncFd<Ringing>) {
    loop {
        let Ok(mut ready) = ringing.readable().await else { return };
        let Some(core) = core.upgrade() else { return };
        match ringing.get_ref().0.take() {
            Some(number) => core.handle(number).await,
            None => ready.clear_ready(),
        }
    }
}

impl Queue {
    /// Takes and handles completions that are there, up to a batch; how many.
    pub(super) fn poll_once(&self) -> usize {
        let _order = self.order.lock();
        // SAFETY: plain structures of numbers, for the library to fill in.
        let mut completions: [ibv_wc; BATCH] = unsafe { zeroed() };
        let taken = self.queue.poll(&mut completions);
        for completion in completions.iter().take(taken) {
            if let Some(link) = self.links.get((completion.wr_id >> 32) as u32) {
                link.complete(completion);
            }
        }
        taken
    }

    /// All that are there.
    pub(super) fn poll_all(&self) {
        while self.poll_once() == BATCH {}
    }
}
