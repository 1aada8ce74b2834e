//! How a thread of Python waits for a call, and for the end of a client.
//!
//! Each call runs on the thread that makes it; the runtime's threads serve the connection. Signals are looked for while it waits, so that
//! Ctrl-C ends the wait. It ends nothing else: what the call was working in is held until its transfer has ended.
//!
//! Invariant: whoever waits here holds no lock of Python's, and is not inside of the runtime while Python runs.

use crate::registrations::Registrations;
use pyo3::prelude::{PyResult, Python};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tenfour_client::native::{Client, Error};
use tokio::runtime::{Handle, Runtime};
use tokio::time::timeout;

/// How often a wait looks for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);
/// A connection is waited for so long to let go of memory.
const LET_GO: Duration = Duration::from_secs(5);

/// Without Python's lock, until the call is through or a signal's handler raises. The call is made on this thread, and stays there.
/// Handlers run outside of the runtime: they may make calls of their own.
#[allow(clippy::redundant_closure_for_method_calls, reason = "the method is not general over lifetimes")]
pub fn wait_on<T: Send, C: Future<Output = Result<T, Error>>>(
    py: Python<'_>,
    threads: &Handle,
    call: impl FnOnce() -> C + Send,
) -> PyResult<Result<T, Error>> {
    py.detach(|| {
        // What a call that is given up leaves to be done is done by its runtime.
        let _inside = threads.enter();
        let mut call = pin!(call());
        loop {
            if let Ok(done) = threads.block_on(async { timeout(SIGNALS_EVERY, call.as_mut()).await }) {
                return Ok(done);
            }
            // No Python to attach to: it ends, and nobody has signals to handle.
            Python::try_attach(|py| py.check_signals()).unwrap_or(Ok(()))?;
        }
    })
}

/// What takes its time to end.
pub struct Ending {
    pub client: Client,
    pub registrations: Arc<Registrations>,
    pub runtime: Runtime,
}

impl Ending {
    /// Ends the connection in order, and the threads. Waits.
    pub fn run(self) {
        self.registrations.clear();
        disconnect(self.runtime.handle(), &self.client);
        drop(self.client);
        self.runtime.shutdown_timeout(LET_GO);
        // What was let go of here is Python's from now on, and not from its next call of this package.
        let _ = Python::try_attach(|_| ());
    }
}

/// Ends a connection, and waits until it has let go of memory, or for long enough.
pub fn disconnect(threads: &Handle, client: &Client) {
    let disconnected = threads.block_on(async { timeout(LET_GO, client.disconnect()).await });
    // Elapsed: what it still holds is held until it lets go.
    drop(disconnected);
}
