//! tenfour for Python, the compiled half: the SDK's client with Python's buffers, its exceptions and its threads.
//!
//! `python/tenfour` is what users see: names, types, defaults, NumPy. Nothing here knows NumPy: an array is memory with the buffer
//! protocol, like any other. What calls do, and what is sent again, is the SDK's business (`tenfour_client::native`).
//!
//! Invariant: no thread holds Python's lock while it waits for anything but that lock; and memory of a Python object is held, by an export
//! of its buffer, until no transfer can touch it any more (`memory`).

mod calls;
mod client;
mod errors;
mod memory;
mod registrations;
mod waiting;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::{PyResult, pyfunction, pymodule};
use tenfour_rdma::Provider;
use tenfour_types::TimeScale;

/// Multiplies every timeout of this process, for machines that are slow.
#[pyfunction]
fn set_timeout_scale(factor: f64) -> PyResult<()> {
    let scale = TimeScale::try_from(factor).map_err(|error| PyValueError::new_err(error.to_string()))?;
    scale.set_for_process();
    Ok(())
}

/// What this build knows to carry calls, each with the reason why this machine cannot use it, if it cannot.
#[pyfunction]
fn transports() -> Vec<(String, Option<String>)> {
    let told = |provider: Provider| {
        (provider.to_string(), provider.available().err().map(|reason| reason.to_string()))
    };
    [Provider::Verbs, Provider::Shm, Provider::Tcp].map(told).into()
}

/// `tenfour._native`
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::client::NativeClient;
    #[pymodule_export]
    use super::{set_timeout_scale, transports};
}
