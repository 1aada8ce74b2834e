//! One process of a cluster: a metadata replica, a node or a gateway, from its configuration file to its orderly end.

pub mod codec;
pub mod gateway;
pub mod meta;
pub mod node;
mod targets;

use crate::supervisor::READY_LINE;
use anyhow::Result;
use std::future::Future;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How a process is run.
#[derive(clap::Args, Clone, Debug)]
pub struct ProcessArguments {
    /// Its configuration file (TOML; docs/OPERATIONS.md lists every option).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// End when standard input is closed: for a supervisor that must not leave children behind.
    #[arg(long, hide = true)]
    pub end_with_stdin: bool,
}

/// A tokio runtime for a process, then `body` on it.
pub fn run(workers: usize, body: impl Future<Output = Result<()>>) -> Result<()> {
    let mut builder = match workers {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(workers.max(1)).enable_all().build()?;
    let outcome = runtime.block_on(body);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

/// Tells the supervisor that requests are served from now on.
pub fn announce_ready() {
    println!("{READY_LINE}");
}

/// Resolves when the process is asked to end: SIGINT, SIGTERM, or the supervisor's end of standard input.
pub async fn asked_to_end(end_with_stdin: bool) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (closed, stdin_closed) = oneshot::channel();
    if end_with_stdin {
        // A thread of its own: reading standard input cannot be cancelled, and must not hold up the runtime's end.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = closed.send(());
        });
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = stdin_closed => {}
    }
    Ok(())
}
