//! The thread that drives a device: takes what is queued, begins it, looks whether it is done, and gives up on a device that fails.
//!
//! A batch is what has queued up while all lanes were busy. Into an idle lane a stripe goes alone and at once, so that batches cost
//! no latency where there is no load. Callers never call the driver: it may never return, and then they go on without it.
//!
//! Invariant: after the device was given up nobody gets a slot or an answer of it, and no memory that it may still write to is freed.

use std::collections::VecDeque;
use std::fmt;
use std::mem::forget;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tenfour_types::Scaled;

use crate::device::{Device, DeviceError, Job, LANES, guarded};
use crate::host_memory::Registrations;

/// Stripes that may be on their way at once: each takes 14 MiB of pinned and as much of the device's memory.
pub(crate) const SLOTS: usize = 8;
/// A batch is done after so long, or the device is given up. The longest takes a few milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// How often a batch that is under way is looked at.
const LOOK_EVERY: Duration = Duration::from_micros(20);
/// A device that cannot be opened by then is taken for none: the driver may have to compile the kernels.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// A device with its thread.
pub(crate) struct Engine<D: Device> {
    shared: Arc<Shared<D::Slot>>,
    name: String,
    registrations: Registrations,
}

struct Shared<S> {
    state: Mutex<State<S>>,
    changed: Condvar,
    patience: Duration,
    batches: AtomicU64,
}

struct State<S> {
    queue: VecDeque<Queued<S>>,
    free: Vec<S>,
    lost: Option<DeviceError>,
    ending: bool,
}

struct Queued<S> {
    job: Job<S>,
    done: SyncSender<Job<S>>,
}

/// A job that was handed over.
pub(crate) struct Pending<S>(Receiver<Job<S>>);

impl<D: Device> Engine<D> {
    /// Opens the device on a thread of its own, which keeps it.
    pub(crate) fn start(
        open: impl FnOnce() -> Result<D, DeviceError> + Send + 'static,
        patience: Duration,
    ) -> Result<Self, DeviceError> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { queue: VecDeque::new(), free: Vec::new(), lost: None, ending: false }),
            changed: Condvar::new(),
            patience: patience.scaled(),
            batches: AtomicU64::new(0),
        });
        let (opened, answer) = sync_channel(1);
        let of_thread = shared.clone();
        let body = move || match guarded(|| with_slots(open()?)) {
            Err(error) => drop(opened.send(Err(error))),
            Ok((device, slots)) => {
                of_thread.state.lock().free = slots;
                if opened.send(Ok((device.name(), device.registrations()))).is_err() {
                    return; // Too late: it was waited for long enough.
                }
                Driver { device, shared: of_thread, lanes: [const { None }; LANES] }.run();
            }
        };
        thread::Builder::new()
            .name("tenfour-gpu".to_owned())
            .spawn(body)
            .map_err(|error| DeviceError::Thread(error.to_string()))?;
        let within = OPEN_WITHIN.scaled();
        let (name, registrations) = answer.recv_timeout(within).unwrap_or(Err(DeviceError::Hung(within)))?;
        Ok(Self { shared, name, registrations })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    /// Batches begun.
    pub(crate) fn batches(&self) -> u64 {
        self.shared.batches.load(Ordering::Relaxed)
    }

    /// Whether a slot could be had now.
    pub(crate) fn has_room(&self) -> bool {
        !self.shared.state.lock().free.is_empty()
    }

    /// Why the device was given up, if it was.
    pub(crate) fn lost(&self) -> Option<DeviceError> {
        self.shared.state.lock().lost.clone()
    }

    /// Memory for a stripe; `None` when all is taken or the device was given up.
    pub(crate) fn take_slot(&self) -> Option<D::Slot> {
        self.shared.state.lock().free.pop()
    }

    /// What was taken comes back.
    pub(crate) fn give_back(&self, slot: D::Slot) {
        self.shared.give_back(slot);
    }

    /// Hands a job over.
    pub(crate) fn submit(&self, job: Job<D::Slot>) -> Pending<D::Slot> {
        let (done, answer) = sync_channel(1);
        let mut state = self.shared.state.lock();
        if state.lost.is_some() {
            forget(job);
        } else {
            state.queue.push_back(Queued { job, done });
            self.shared.changed.notify_one();
        }
        Pending(answer)
    }

    /// The job, done; `None` when the device was given up meanwhile, or is now.
    pub(crate) fn wait(&self, pending: &Pending<D::Slot>) -> Option<Job<D::Slot>> {
        // As long in the queue as under way, at worst; then even the thread that looks at the device hangs.
        let patience = self.shared.patience * 3;
        match pending.0.recv_timeout(patience) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                self.lose(DeviceError::Hung(patience));
                None
            }
        }
    }

    /// Gives the device up, for good.
    pub(crate) fn lose(&self, why: DeviceError) {
        self.shared.lose(why);
    }
}

impl<D: Device> Drop for Engine<D> {
    fn drop(&mut self) {
        self.shared.state.lock().ending = true;
        self.shared.changed.notify_one();
    }
}

impl<D: Device> fmt::Debug for Engine<D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Engine").field("name", &self.name).field("lost", &self.lost()).finish()
    }
}

fn with_slots<D: Device>(mut device: D) -> Result<(D, Vec<D::Slot>), DeviceError> {
    let slots = (0..SLOTS).map(|_| device.slot()).collect::<Result<_, _>>()?;
    Ok((device, slots))
}

impl<S> Shared<S> {
    fn give_back(&self, slot: S) {
        let mut state = self.state.lock();
        if state.lost.is_some() {
            forget(slot);
        } else {
            state.free.push(slot);
        }
    }

    /// The first reason stays. Whoever waits in the queue goes on without; slots are kept from everybody, their memory too.
    fn lose(&self, why: DeviceError) {
        let mut state = self.state.lock();
        if state.lost.is_some() {
            return;
        }
        tracing::error!(%why, "the GPU was given up: all encoding is on the CPU until the next start");
        state.lost = Some(why);
        for Queued { job, done } in state.queue.drain(..) {
            forget(job);
            drop(done);
        }
        forget(std::mem::take(&mut state.free));
        self.changed.notify_one();
    }
}

/// What is under way in a lane.
struct Flight<S> {
    jobs: Vec<Job<S>>,
    done: Vec<SyncSender<Job<S>>>,
    since: Instant,
}

struct Driver<D: Device> {
    device: D,
    shared: Arc<Shared<D::Slot>>,
    lanes: [Option<Flight<D::Slot>>; LANES],
}

impl<D: Device> Driver<D> {
    fn run(mut self) {
        let Err(why) = guarded(|| self.turns()) else { return };
        self.shared.lose(why);
        for Flight { jobs, done, .. } in self.lanes.iter_mut().filter_map(Option::take) {
            forget(jobs);
            drop(done);
        }
        // To free anything of a device that hangs would wait for it.
        forget(self.device);
    }

    fn turns(&mut self) -> Result<(), DeviceError> {
        loop {
            let progress = self.finish()? | self.begin()?;
            let mut state = self.shared.state.lock();
            if let Some(why) = &state.lost {
                return Err(why.clone());
            }
            let is_idle = self.lanes.iter().all(Option::is_none);
            if state.ending && is_idle && state.queue.is_empty() {
                return Ok(());
            }
            if is_idle && state.queue.is_empty() {
                self.shared.changed.wait(&mut state);
            } else if !progress {
                self.shared.changed.wait_for(&mut state, LOOK_EVERY);
            }
        }
    }

    /// Answers for the batches that are done.
    fn finish(&mut self) -> Result<bool, DeviceError> {
        let mut progress = false;
        for lane in 0..LANES {
            let Some(since) = self.lanes[lane].as_ref().map(|flight| flight.since) else { continue };
            if self.device.is_done(lane)? {
                let Some(Flight { jobs, done, .. }) = self.lanes[lane].take() else { continue };
                for (job, done) in jobs.into_iter().zip(done) {
                    if let Err(unwanted) = done.send(job) {
                        self.shared.give_back(unwanted.0.slot);
                    }
                }
                progress = true;
            } else if since.elapsed() > self.shared.patience {
                return Err(DeviceError::Hung(self.shared.patience));
            }
        }
        Ok(progress)
    }

    /// Begins what is queued, all of it as one batch, where a lane is idle.
    fn begin(&mut self) -> Result<bool, DeviceError> {
        let Some(lane) = self.lanes.iter().position(Option::is_none) else { return Ok(false) };
        let queued = std::mem::take(&mut self.shared.state.lock().queue);
        if queued.is_empty() {
            return Ok(false);
        }
        let (jobs, done) = queued.into_iter().map(|Queued { job, done }| (job, done)).unzip();
        // In its lane before the device knows of it: if that fails half-way, the memory is in its hands.
        let flight = self.lanes[lane].insert(Flight { jobs, done, since: Instant::now() });
        self.device.begin(lane, &mut flight.jobs)?;
        self.shared.batches.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}
