//! Memory of Python objects, as the SDK takes it.
//!
//! An object is held by a `memoryview` of our own: while that lives, its exporter neither frees nor moves nor resizes the memory. The view
//! can be dropped on any thread, and nothing waits for it there: on a thread of Python's it goes when that thread next has Python's lock, on
//! others, which never have, when one of the runtime got it for that.
//!
//! What it does not do: keep other Python threads from touching the memory during a call. As with `socket.recv_into`, whoever does gets
//! bytes that are anything: a PUT of them is refused by its digest, a GET of them raises.
//!
//! Invariant: the memory that is described is that of the view, which lives as long as the description.
#![allow(unsafe_code)] // Memory comes from Python as a pointer and a length.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyMemoryError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::{Bound, Py, PyAny, PyAnyMethods, PyErr, PyResult, PyTypeMethods, Python};
use pyo3::types::{PyBytes, PyMemoryView};
use std::ops::Range;
use std::ptr::NonNull;
use tenfour_client::native::{Buffer, Error, Frozen, HostMemory, HostRegion};
use tokio::runtime::Handle;

/// The memory of an object, and the object.
pub struct PythonMemory {
    start: NonNull<u8>,
    bytes: usize,
    is_writable: bool,
    /// Until it is dropped.
    owner: Option<Py<PyAny>>,
}

// SAFETY: plain memory, on every thread; the owner is reference-counted under Python's lock wherever it is dropped.
unsafe impl Send for PythonMemory {}
// SAFETY: as above; it gives out nothing but the address.
unsafe impl Sync for PythonMemory {}

// SAFETY: the exporter of a buffer keeps its memory where it is while a view of it lives; `owner` is one, or the bytes themselves.
unsafe impl HostMemory for PythonMemory {
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_writable(&self) -> bool {
        self.is_writable
    }
}

impl PythonMemory {
    /// That of any object with the buffer protocol whose memory is in one piece, in the order in which it lies there.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let view = PyMemoryView::from(object).map_err(|error| not_a_buffer(object, error))?;
        let view = match view.getattr("ndim")?.extract::<usize>()? {
            // A scalar: pyo3 wants a shape.
            0 => view.call_method1("cast", ("B",))?,
            _ => view.into_any(),
        };
        let buffer = PyUntypedBuffer::get(&view)?;
        let is_in_one_piece = buffer.is_c_contiguous() || buffer.is_fortran_contiguous();
        let described = Self {
            start: NonNull::new(buffer.buf_ptr().cast()).unwrap_or(NonNull::dangling()),
            bytes: buffer.len_bytes(),
            is_writable: !buffer.readonly(),
            owner: Some(view.unbind()),
        };
        buffer.release(py);
        if !is_in_one_piece {
            return Err(PyBufferError::new_err(
                "the memory is not in one piece: make a contiguous copy (bytes(view), numpy.ascontiguousarray(array))",
            ));
        }
        Ok(described)
    }

    /// The same, for writing.
    pub fn writable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let memory = Self::of(object)?;
        if !memory.is_writable {
            return Err(PyBufferError::new_err("the buffer is read-only: nothing can be read into it"));
        }
        Ok(memory)
    }

    /// That of new `bytes`, zeroed, which nobody may see before it is filled.
    pub fn of_new_bytes(py: Python<'_>, bytes: usize) -> PyResult<(Py<PyBytes>, Self)> {
        let count = ffi::Py_ssize_t::try_from(bytes)
            .map_err(|_| PyMemoryError::new_err(format!("no {bytes} bytes can be had")))?;
        // SAFETY: it makes a `bytes` object, or says why not.
        let made = unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), count))?
        };
        // SAFETY: a live `bytes` object. That it may be written to as long as nobody else has seen it is Python's own rule
        // (PyBytes_FromStringAndSize).
        let start = unsafe { ffi::PyBytes_AsString(made.as_ptr()) };
        let memory = Self {
            start: NonNull::new(start.cast()).unwrap_or(NonNull::dangling()),
            bytes,
            is_writable: true,
            owner: Some(made.clone().unbind()),
        };
        py.detach(|| {
            // SAFETY: so many bytes begin there, which nobody else has seen.
            unsafe { memory.start().as_ptr().write_bytes(0, bytes) }
        });
        Ok((made.cast_into::<PyBytes>()?.unbind(), memory))
    }
}

impl Drop for PythonMemory {
    fn drop(&mut self) {
        // SAFETY: it only looks whether Python knows this thread.
        let is_strange = unsafe { ffi::PyGILState_GetThisThreadState() }.is_null();
        if let Ok(threads) = Handle::try_current()
            && is_strange
            && let Some(owner) = self.owner.take()
        {
            // No Python to attach to: it has ended, and the object with it.
            drop(threads.spawn_blocking(move || Python::try_attach(move |_| drop(owner))));
        }
    }
}

fn not_a_buffer(object: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyTypeError>(object.py()) {
        return error;
    }
    let name = object.get_type().name().map_or_else(|_| "this object".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!(
        "an object with the buffer protocol is needed (bytes, bytearray, an array), not {name}"
    ))
}

/// A part of adopted memory to read into.
pub fn part_to_fill(region: &HostRegion, range: Range<usize>) -> Result<Buffer, Error> {
    // SAFETY: Python cannot promise that no other thread touches an object; the contract foresees that: its bytes are then anything.
    // They are hashed, copied and compared, and no decision about memory is made by them.
    unsafe { region.buffer(range) }.ok_or(Error::Buffer("the range is not inside the buffer"))
}

/// A part of adopted memory to send.
pub fn part_to_send(region: &HostRegion, range: Range<usize>) -> Result<Frozen, Error> {
    // SAFETY: as above.
    unsafe { region.frozen(range) }.ok_or(Error::Buffer("the range is not inside the buffer"))
}
