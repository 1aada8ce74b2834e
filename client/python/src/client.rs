//! `tenfour._native.NativeClient`: arguments in, plain values out. `python/tenfour` gives them names.

use crate::calls::{Calls, FIRST_BYTES, ObjectRead, TOO_SMALL, TRIES, Wanted};
use crate::errors;
use crate::memory::{PythonMemory, part_to_fill};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::{Bound, Py, PyAny, PyErr, PyResult, Python, pyclass, pymethods};
use pyo3::types::PyBytes;
use std::sync::Arc;
use std::time::Duration;
use tenfour_client::native::{
    ClientConfig, ETag, Endpoint, Entry, Error, From as ListFrom, GetOptions, Headers, ListOptions,
    Precondition, PutMode, PutOptions, parse_etag,
};

/// What is known of an object: size, ETag, milliseconds since 1970, headers, the range that was read, what carried it to the gateway and
/// to the nodes.
type Info = (u64, String, u64, Vec<(String, String)>, (u64, u64), String, String);
/// Objects (key, size, ETag, milliseconds since 1970), common prefixes, and where to go on.
type Page = (Vec<(String, u64, String, u64)>, Vec<String>, Option<String>);

/// One client; its methods may be called from any number of threads at once.
#[pyclass(frozen, module = "tenfour._native")]
pub struct NativeClient {
    calls: Mutex<Option<Arc<Calls>>>,
    /// A child after a fork has the memory, but none of the threads.
    process: u32,
}

#[pymethods]
impl NativeClient {
    #[new]
    #[allow(clippy::too_many_arguments)] // Python's keywords are its own: this is called by one class.
    fn new(
        py: Python<'_>,
        endpoints: Vec<String>,
        http: Option<String>,
        access_key: &str,
        secret_key: &str,
        region: String,
        pool_bytes: usize,
        zero_copy_from: usize,
        kept_bytes: usize,
        connect_timeout_s: f64,
        answer_timeout_s: f64,
        attempts: u32,
        overwrite: bool,
    ) -> PyResult<Self> {
        if pool_bytes < FIRST_BYTES {
            let told = format!("pool_bytes is {pool_bytes}: a client needs {FIRST_BYTES} at least");
            return Err(PyValueError::new_err(told));
        }
        let mut config = ClientConfig::new(access_key, secret_key);
        let parse = |text: &String| text.parse::<Endpoint>();
        let endpoints: Result<Vec<Endpoint>, _> = endpoints.iter().map(parse).collect();
        config.endpoints = endpoints.map_err(|error| PyValueError::new_err(error.to_string()))?;
        (config.fallback_http, config.region, config.pool_bytes) = (http, region, pool_bytes);
        config.connect_deadline = seconds(connect_timeout_s)?;
        config.answer_deadline = seconds(answer_timeout_s)?;
        (config.retry.attempts_max, config.retry.overwrite) = (attempts, overwrite);
        let calls = Calls::connect(py, config, zero_copy_from, kept_bytes)?;
        Ok(Self { calls: Mutex::new(Some(Arc::new(calls))), process: std::process::id() })
    }

    /// Stores memory as an object: its ETag, and what carried it.
    #[allow(clippy::too_many_arguments)] // As above.
    fn put(
        &self,
        py: Python<'_>,
        bucket: &str,
        key: &str,
        data: &Bound<'_, PyAny>,
        headers: Vec<(String, String)>,
        if_match: Option<&str>,
        only_if_absent: bool,
        mode: &str,
    ) -> PyResult<(String, String, String)> {
        let calls = self.calls(py)?;
        let precondition = match (if_match, only_if_absent) {
            (None, false) => Precondition::None,
            (None, true) => Precondition::Absent,
            (Some("*"), false) => Precondition::Present,
            (Some(text), false) => Precondition::Match(vec![etag(text)?]),
            (Some(_), true) => {
                return Err(PyValueError::new_err("if_match and only_if_absent exclude each other"));
            }
        };
        let mode = match mode {
            "auto" => PutMode::Auto,
            "push" => PutMode::Push,
            "pull" => PutMode::Pull,
            _ => return Err(PyValueError::new_err(format!("mode {mode:?}: it is auto, push or pull"))),
        };
        let memory = PythonMemory::of(data)?;
        let options = PutOptions { headers: Headers(headers), precondition, mode, ..PutOptions::default() };
        let stored = calls.wait(py, || calls.put(bucket, key, memory, &options))?;
        Ok((stored.etag.to_string(), stored.served.carrier, stored.served.fabric))
    }

    /// Reads an object, or a range of it, as new `bytes`.
    fn get(
        &self,
        py: Python<'_>,
        bucket: &str,
        key: &str,
        start: u64,
        stop: Option<u64>,
        if_match: Option<&str>,
    ) -> PyResult<(Py<PyBytes>, Info)> {
        let calls = self.calls(py)?;
        let etag = if_match.map(etag).transpose()?;
        let wanted = Wanted { bucket, key, start, stop, etag };
        for attempt in TRIES {
            let (buffer, read) = calls.wait(py, || calls.first(&wanted))?;
            let first = buffer.get(..read.bytes()).unwrap_or_default();
            let end = stop.map_or(read.object.size, |stop| stop.min(read.object.size));
            let count = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
            if first.len() >= count {
                return Ok((PyBytes::new(py, first).unbind(), info(read)));
            }
            let (bytes, memory) = PythonMemory::of_new_bytes(py, count)?;
            let region = calls.client.adopt(memory);
            let raised = |error: Error| errors::raise(py, &error);
            part_to_fill(&region, 0..first.len()).map_err(raised)?.copy_from_slice(first);
            let rest_from = start + first.len() as u64;
            let rest = Wanted { start: rest_from, stop: None, etag: Some(read.object.etag), ..wanted };
            let filled = calls.outcome(py, || calls.fill(&rest, &region, first.len()..count));
            // A device takes its time to let go.
            py.detach(move || drop(region));
            match filled? {
                Ok(_) => return Ok((bytes, info(ObjectRead { range: (start, end), ..read }))),
                Err(error) if wanted.is_replaced(&error, attempt) => {}
                Err(error) => return Err(raised(error)),
            }
        }
        Err(errors::raise(py, &Error::Broken))
    }

    /// The first bytes of an object, all of it if it is small, and what it is.
    fn first(&self, py: Python<'_>, bucket: &str, key: &str) -> PyResult<(Py<PyBytes>, Info)> {
        let calls = self.calls(py)?;
        let wanted = Wanted { bucket, key, start: 0, stop: None, etag: None };
        let (buffer, read) = calls.wait(py, || calls.first(&wanted))?;
        let first = buffer.get(..read.bytes()).unwrap_or_default();
        Ok((PyBytes::new(py, first).unbind(), info(read)))
    }

    /// Reads an object, or a range of it, to the beginning of a buffer: how many bytes.
    #[allow(clippy::too_many_arguments)] // As above.
    fn get_into(
        &self,
        py: Python<'_>,
        bucket: &str,
        key: &str,
        buffer: &Bound<'_, PyAny>,
        start: u64,
        stop: Option<u64>,
        if_match: Option<&str>,
    ) -> PyResult<(usize, Info)> {
        let calls = self.calls(py)?;
        let wanted = Wanted { bucket, key, start, stop, etag: if_match.map(etag).transpose()? };
        let memory = PythonMemory::writable(buffer)?;
        match calls.outcome_or_let_go(py, || calls.read_into(&wanted, memory))? {
            Ok((count, read)) => Ok((count, info(read))),
            Err(Error::Refused(refusal)) if refusal.code == TOO_SMALL => {
                Err(errors::exception(py, TOO_SMALL, &refusal.message, None, false))
            }
            Err(error) => Err(errors::raise(py, &error)),
        }
    }

    /// What is known of an object.
    fn head(&self, py: Python<'_>, bucket: &str, key: &str) -> PyResult<Info> {
        let calls = self.calls(py)?;
        let options = GetOptions::default();
        let head = calls.wait(py, || calls.client.head_object(bucket, key, &options))?;
        Ok(info(ObjectRead { object: head.object, range: head.range, served: head.served }))
    }

    /// Removes an object.
    fn delete(&self, py: Python<'_>, bucket: &str, key: &str, if_match: Option<&str>) -> PyResult<()> {
        let calls = self.calls(py)?;
        let precondition = match if_match {
            None => Precondition::None,
            Some("*") => Precondition::Present,
            Some(text) => Precondition::Match(vec![etag(text)?]),
        };
        calls.wait(py, || calls.client.delete_object(bucket, key, &precondition))
    }

    /// Keys in order, at most so many, from the beginning, after a key, or from where an earlier listing ended.
    #[allow(clippy::too_many_arguments)] // As above.
    fn list(
        &self,
        py: Python<'_>,
        bucket: &str,
        prefix: String,
        delimiter: String,
        after: Option<String>,
        token: Option<String>,
        most: u64,
    ) -> PyResult<Page> {
        let calls = self.calls(py)?;
        let from = match (token, after) {
            (Some(token), _) => ListFrom::Token(token),
            (None, Some(key)) => ListFrom::After(key),
            (None, None) => ListFrom::Start,
        };
        let options = ListOptions { prefix, delimiter, from, most };
        let listed = calls.wait(py, || calls.client.list(bucket, &options))?;
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for entry in listed.entries {
            match entry {
                Entry::Object { key, size, etag, modified_ms, .. } => {
                    objects.push((key, size, etag.to_string(), modified_ms));
                }
                Entry::CommonPrefix(prefix) => prefixes.push(prefix),
            }
        }
        Ok((objects, prefixes, listed.next))
    }

    /// What carries calls now.
    fn transport(&self, py: Python<'_>) -> PyResult<String> {
        let calls = self.calls(py)?;
        calls.wait(py, || calls.client.transport())
    }

    /// What became of memory of Python.
    fn counters(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, u64)>> {
        Ok(self.calls(py)?.counters().into())
    }

    /// Lets go of memory that is kept registered.
    fn release_registrations(&self, py: Python<'_>) -> PyResult<()> {
        let calls = self.calls(py)?;
        py.detach(|| calls.release_registrations());
        Ok(())
    }

    /// Ends the connection; calls that run go on to their end.
    fn close(&self, py: Python<'_>) {
        if self.is_forked() {
            return;
        }
        let calls = self.calls.lock().take();
        py.detach(|| calls.and_then(Arc::into_inner).map_or((), Calls::end));
    }
}

impl NativeClient {
    fn calls(&self, py: Python<'_>) -> PyResult<Arc<Calls>> {
        let refuse = |text| errors::exception(py, "InvalidRequest", text, None, false);
        if self.is_forked() {
            return Err(refuse("this client was made before a fork: make one in the child"));
        }
        self.calls.lock().clone().ok_or_else(|| refuse("this client is closed"))
    }

    fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }
}

impl Drop for NativeClient {
    /// In a child after a fork nothing can be ended.
    fn drop(&mut self) {
        if self.is_forked() {
            std::mem::forget(self.calls.get_mut().take());
        }
    }
}

fn info(read: ObjectRead) -> Info {
    let ObjectRead { object, range, served } = read;
    let etag = object.etag.to_string();
    (object.size, etag, object.modified_ms, object.headers.0, range, served.carrier, served.fabric)
}

fn etag(text: &str) -> PyResult<ETag> {
    parse_etag(text).ok_or_else(|| PyValueError::new_err(format!("{text:?} is no ETag")))
}

fn seconds(number: f64) -> Result<Duration, PyErr> {
    Duration::try_from_secs_f64(number)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| PyValueError::new_err(format!("a timeout of {number} seconds")))
}
