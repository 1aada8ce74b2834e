//! Calls of a client, and the ways that objects take into and out of memory of Python. How they are waited for is in `waiting`.

use crate::errors;
use crate::memory::{PythonMemory, part_to_fill, part_to_send};
use crate::registrations::{Found, IDLE_MAX, Registrations};
use crate::waiting::{Ending, disconnect, wait_on};
use pyo3::prelude::{PyResult, Python};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tenfour_client::native::{
    Buffer, Client, ClientConfig, Conditions, ETag, Error, Frozen, GetOptions, Got, HostMemory, HostRegion,
    ObjectInfo, PutOptions, Range, Refusal, Retry, Stored, Tag,
};
use tokio::runtime::{Builder, Handle, Runtime};

/// What is read at once of an object whose size is not known: most objects are smaller, and are there after one round trip.
pub const FIRST_BYTES: usize = 64 << 10;
/// An object that was replaced while it was read is read anew so often.
const REPLACED_MAX: u32 = 5;
/// Tries to read an object that is read in pieces.
pub const TRIES: RangeInclusive<u32> = 0..=REPLACED_MAX;
/// Most bytes of one GET; more are several.
const GET_BYTES_MAX: usize = 1 << 30;
/// The code of a refusal that is this client's own.
pub const TOO_SMALL: &str = "BufferTooSmall";

/// What a client is made of.
pub struct Calls {
    pub client: Client,
    registrations: Arc<Registrations>,
    /// Smaller objects are copied, over a device too: to register them costs more.
    zero_copy_from: usize,
    /// Of those.
    copied_bytes: AtomicU64,
    threads: Handle,
    /// Until it is ended.
    runtime: Option<Runtime>,
}

/// Which bytes of which object.
pub struct Wanted<'a> {
    pub bucket: &'a str,
    pub key: &'a str,
    pub start: u64,
    pub stop: Option<u64>,
    pub etag: Option<ETag>,
}

impl Wanted<'_> {
    fn options(&self) -> GetOptions {
        let range = match (self.start, self.stop) {
            (0, None) => Range::All,
            (start, stop) => Range::From(start, stop),
        };
        let matches = self.etag.map(|etag| Tag::OneOf(vec![etag]));
        GetOptions { range, conditions: Conditions { matches, ..Conditions::default() }, if_range: None }
    }

    /// Whether a piece could not be read because the object was replaced since the first, and all is to be read anew.
    pub fn is_replaced(&self, error: &Error, attempt: u32) -> bool {
        error.code() == Some("PreconditionFailed") && self.etag.is_none() && attempt < REPLACED_MAX
    }
}

impl Calls {
    /// Connects; waits without Python's lock.
    pub fn connect(
        py: Python<'_>,
        config: ClientConfig,
        zero_copy_from: usize,
        kept_bytes: usize,
    ) -> PyResult<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let runtime = Builder::new_multi_thread()
            .worker_threads(cores.clamp(1, 4))
            .thread_name("tenfour")
            .enable_all()
            .build()?;
        let client = wait_on(py, runtime.handle(), || Client::connect(config))?
            .map_err(|error| errors::raise(py, &error))?;
        let registrations = Registrations::new(kept_bytes);
        let weak = Arc::downgrade(&registrations);
        runtime.spawn(async move {
            while let Some(registrations) = weak.upgrade() {
                registrations.sweep();
                drop(registrations);
                tokio::time::sleep(IDLE_MAX / 4).await;
            }
        });
        let (threads, copied_bytes) = (runtime.handle().clone(), AtomicU64::new(0));
        Ok(Self { client, registrations, zero_copy_from, copied_bytes, threads, runtime: Some(runtime) })
    }

    /// Waits for a call.
    pub fn wait<T: Send, C: Future<Output = Result<T, Error>>>(
        &self,
        py: Python<'_>,
        call: impl FnOnce() -> C + Send,
    ) -> PyResult<T> {
        self.outcome(py, call)?.map_err(|error| errors::raise(py, &error))
    }

    /// The same; an error of the call is the caller's to judge. What is raised is the interruption.
    pub fn outcome<T: Send, C: Future<Output = Result<T, Error>>>(
        &self,
        py: Python<'_>,
        call: impl FnOnce() -> C + Send,
    ) -> PyResult<Result<T, Error>> {
        wait_on(py, &self.threads, call)
    }

    /// The same for a call that writes into memory of the caller: when it is interrupted, the connection ends with it, so that nobody
    /// writes there any more when the caller goes on. Other calls that run make a new one.
    pub fn outcome_or_let_go<T: Send, C: Future<Output = Result<T, Error>>>(
        &self,
        py: Python<'_>,
        call: impl FnOnce() -> C + Send,
    ) -> PyResult<Result<T, Error>> {
        self.outcome(py, call).inspect_err(|_| {
            py.detach(|| disconnect(&self.threads, &self.client));
        })
    }

    /// Stores an object.
    pub async fn put(
        &self,
        bucket: &str,
        key: &str,
        memory: PythonMemory,
        options: &PutOptions,
    ) -> Result<Stored, Error> {
        let body = self.body(memory).await?;
        self.client.put_object(bucket, key, &body, options).await
    }

    async fn body(&self, memory: PythonMemory) -> Result<Frozen, Error> {
        let bytes = memory.bytes();
        if !self.is_device().await? {
            return part_to_send(&self.client.adopt(memory), 0..bytes);
        }
        if bytes < self.zero_copy_from {
            let mut buffer = self.client.buffer(bytes).await?;
            buffer.copy_from_slice(&part_to_send(&self.client.adopt(memory), 0..bytes)?);
            self.copied(bytes);
            return Ok(buffer.freeze());
        }
        let Found { region, offset } = self.registrations.get(&self.client, memory);
        part_to_send(&region, offset..offset + bytes)
    }

    /// The first bytes of what is wanted, at the beginning of a buffer, and what object it is.
    pub async fn first(&self, wanted: &Wanted<'_>) -> Result<(Buffer, ObjectRead), Error> {
        let Wanted { bucket, key, start, stop, etag } = *wanted;
        let end = start.saturating_add(FIRST_BYTES as u64);
        let stop = Some(stop.map_or(end, |stop| stop.min(end)));
        let buffer = self.client.buffer(FIRST_BYTES).await?;
        let first = Wanted { bucket, key, start, stop, etag };
        let (buffer, got) = self.client.get_object(bucket, key, buffer, &first.options()).await;
        match (got, buffer) {
            (Ok(got), Some(buffer)) => {
                self.copied(got.bytes);
                Ok((buffer, got.into()))
            }
            // Of an empty object no range can be had.
            (Err(Error::Refused(refusal)), Some(buffer)) if refusal.code == "InvalidRange" && start == 0 => {
                let head = Wanted { stop: None, ..first };
                let head = self.client.head_object(bucket, key, &head.options()).await?;
                match head.object.size {
                    0 => Ok((buffer, ObjectRead { object: head.object, range: (0, 0), served: head.served })),
                    _ => Err(Error::Refused(refusal)),
                }
            }
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(Error::Broken),
        }
    }

    /// Reads bytes of an object from `start` into a part of a region, all of it.
    pub async fn fill(
        &self,
        wanted: &Wanted<'_>,
        region: &HostRegion,
        part: std::ops::Range<usize>,
    ) -> Result<Option<Got>, Error> {
        let Wanted { bucket, key, etag, .. } = *wanted;
        let (mut start, mut last) = (wanted.start, None);
        for begin in part.clone().step_by(GET_BYTES_MAX) {
            let end = part.end.min(begin + GET_BYTES_MAX);
            let stop = start + (end - begin) as u64;
            let piece = Wanted { bucket, key, start, stop: Some(stop), etag };
            let into = part_to_fill(region, begin..end)?;
            let got = self.client.get_object(bucket, key, into, &piece.options()).await.1?;
            if got.bytes != end - begin {
                return Err(Error::Broken);
            }
            (start, last) = (stop, Some(got));
        }
        Ok(last)
    }

    /// Reads what is wanted to the beginning of memory of the caller.
    pub async fn read_into(
        &self,
        wanted: &Wanted<'_>,
        memory: PythonMemory,
    ) -> Result<(usize, ObjectRead), Error> {
        let room = memory.bytes();
        let read = self.read_into_room(wanted, memory).await;
        match read {
            // What the gateway says of a range that does not fit, among other things.
            Err(Error::Refused(refusal)) if refusal.code == "InvalidRequest" => {
                let head = self.client.head_object(wanted.bucket, wanted.key, &wanted.options()).await?;
                let bytes = head.range.1.saturating_sub(head.range.0);
                Err(Error::Refused(if bytes > room as u64 { too_small(bytes, room) } else { refusal }))
            }
            read => read,
        }
    }

    async fn read_into_room(
        &self,
        wanted: &Wanted<'_>,
        memory: PythonMemory,
    ) -> Result<(usize, ObjectRead), Error> {
        let room = memory.bytes();
        let is_device = self.is_device().await?;
        let Found { region, offset } = match is_device && room >= self.zero_copy_from {
            true => self.registrations.get(&self.client, memory),
            false => Found { region: self.client.adopt(memory), offset: 0 },
        };
        if room > GET_BYTES_MAX {
            return self.read_long(wanted, &region, offset..offset + room).await;
        }
        let into = part_to_fill(&region, offset..offset + room)?;
        if is_device && room < self.zero_copy_from {
            let (buffer, got) = self.get(wanted, self.client.buffer(room).await?).await;
            let (got, buffer) = (got?, buffer.ok_or(Error::Broken)?);
            let mut into = into;
            if let (Some(place), Some(bytes)) = (into.get_mut(..got.bytes), buffer.get(..got.bytes)) {
                place.copy_from_slice(bytes);
            }
            self.copied(got.bytes);
            return Ok((got.bytes, got.into()));
        }
        let got = self.get(wanted, into).await.1?;
        Ok((got.bytes, got.into()))
    }

    async fn get(&self, wanted: &Wanted<'_>, into: Buffer) -> (Option<Buffer>, Result<Got, Error>) {
        self.client.get_object(wanted.bucket, wanted.key, into, &wanted.options()).await
    }

    /// Into more memory than one GET fills.
    async fn read_long(
        &self,
        wanted: &Wanted<'_>,
        region: &HostRegion,
        part: std::ops::Range<usize>,
    ) -> Result<(usize, ObjectRead), Error> {
        for attempt in TRIES {
            match self.read_version(wanted, region, part.clone()).await {
                Err(error) if wanted.is_replaced(&error, attempt) => {}
                read => return read,
            }
        }
        Err(Error::Broken)
    }

    /// The same, of the version that is there now.
    async fn read_version(
        &self,
        wanted: &Wanted<'_>,
        region: &HostRegion,
        part: std::ops::Range<usize>,
    ) -> Result<(usize, ObjectRead), Error> {
        let Wanted { bucket, key, .. } = *wanted;
        let head = self.client.head_object(bucket, key, &wanted.options()).await?;
        let bytes = head.range.1.saturating_sub(head.range.0);
        let count = usize::try_from(bytes).ok().filter(|count| *count <= part.len());
        let count = count.ok_or_else(|| Error::Refused(too_small(bytes, part.len())))?;
        let all = Wanted { bucket, key, start: head.range.0, stop: None, etag: Some(head.object.etag) };
        self.fill(&all, region, part.start..part.start + count).await?;
        Ok((count, ObjectRead { object: head.object, range: head.range, served: head.served }))
    }

    /// Whether an RDMA device carries calls now.
    async fn is_device(&self) -> Result<bool, Error> {
        Ok(self.client.transport().await? == "verbs")
    }

    fn copied(&self, bytes: usize) {
        self.copied_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What became of memory of Python, by name.
    pub fn counters(&self) -> [(&'static str, u64); 5] {
        let counters = self.client.host_memory_counters();
        [
            ("zero_copy_transfers", counters.zero_copy_transfers),
            ("zero_copy_bytes", counters.zero_copy_bytes),
            ("copied_bytes", counters.copied_bytes + self.copied_bytes.load(Ordering::Relaxed)),
            ("registrations", counters.registrations),
            ("held_bytes", counters.held_bytes),
        ]
    }

    /// Lets go of memory that is kept registered.
    pub fn release_registrations(&self) {
        self.registrations.clear();
    }

    /// Ends the connection in order, and the threads. Waits.
    pub fn end(mut self) {
        let ending = self.ending();
        drop(self);
        if let Some(ending) = ending {
            ending.run();
        }
    }

    fn ending(&mut self) -> Option<Ending> {
        let runtime = self.runtime.take()?;
        Some(Ending { client: self.client.clone(), registrations: self.registrations.clone(), runtime })
    }
}

impl Drop for Calls {
    /// Whoever drops it last may hold Python's lock, and has other things to do than to wait.
    fn drop(&mut self) {
        let Some(ending) = self.ending() else { return };
        // Not spawned: it is dropped, and the gateway learns of it from the socket.
        drop(std::thread::Builder::new().name("tenfour-end".to_owned()).spawn(|| ending.run()));
    }
}

/// An object, and which of its bytes were read.
pub struct ObjectRead {
    pub object: ObjectInfo,
    pub range: (u64, u64),
    pub served: tenfour_client::native::Served,
}

impl ObjectRead {
    /// How many.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.range.1.saturating_sub(self.range.0)).unwrap_or(usize::MAX)
    }
}

impl From<Got> for ObjectRead {
    fn from(got: Got) -> Self {
        Self { object: got.object, range: got.range, served: got.served }
    }
}

fn too_small(bytes: u64, room: usize) -> Refusal {
    let message =
        format!("{bytes} bytes are to be read, the buffer has {room}: offer more, or ask for a range");
    Refusal { code: TOO_SMALL.to_owned(), message, retry: Retry::Never }
}
