//! Processes of this machine's cluster: started, watched, started again when they die, stopped in order.
//!
//! A child tells that it is ready by a line on its standard output. Its standard input is a pipe that this process holds, so
//! that it ends by itself when this process is gone, however that came about.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

/// What a child prints when it serves.
pub const READY_LINE: &str = "tenfour: ready";
/// How long an orderly stop may take before the child is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// How much of a log's end is looked at for a reason.
const LOG_TAIL_BYTES: u64 = 4096;
/// The pause before a process that died is started again: doubled each time up to the second, back to the first after a minute of life.
const RESTART_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What to run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name, for people.
    pub name: String,
    /// Arguments of this same binary.
    pub arguments: Vec<String>,
    /// Where its standard error goes, appended.
    pub log: PathBuf,
    /// Whether it is started again when it dies.
    pub restart: bool,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not yet ready.
    Starting,
    /// It serves.
    Ready {
        /// Its process id.
        pid: u32,
    },
    /// It was stopped or killed on purpose.
    Stopped,
    /// It ended by itself.
    Died {
        /// How, and what its log ends with.
        reason: String,
    },
}

enum Order {
    Start,
    Kill(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// One process under watch.
pub struct Process {
    /// Its name.
    pub name: String,
    restart: bool,
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<State>,
}

impl Process {
    /// Starts it.
    pub fn spawn(spec: Spec) -> Self {
        let (orders, inbox) = mpsc::channel(8);
        let (report, state) = watch::channel(State::Starting);
        let (name, restart) = (spec.name.clone(), spec.restart);
        tokio::spawn(Keeper { spec, report }.run(inbox));
        Self { name, restart, orders, state }
    }

    /// How it stands now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Its process id while it serves.
    pub fn pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            State::Ready { pid } => Some(pid),
            _ => None,
        }
    }

    /// Waits until it serves. One that is not started again has failed when it died; of one that is, the last reason is told
    /// when it takes too long.
    pub async fn ready(&self, deadline: Duration) -> Result<u32> {
        let mut state = self.state.clone();
        let mut reason = None;
        let settled = async {
            loop {
                match state.borrow_and_update().clone() {
                    State::Ready { pid } => return Ok(pid),
                    State::Died { reason } if !self.restart => bail!("{} ended: {reason}", self.name),
                    State::Died { reason: told } => reason = Some(told),
                    State::Starting | State::Stopped => {}
                }
                state.changed().await.with_context(|| format!("{}: its supervisor ended", self.name))?;
            }
        };
        let settled = timeout(deadline, settled).await;
        settled.unwrap_or_else(|_| {
            let reason = reason.map_or(String::new(), |reason| format!("; it ended before: {reason}"));
            bail!("{} is not ready after {} s{reason}", self.name, deadline.as_secs())
        })
    }

    /// SIGKILL, and it stays dead until it is started.
    pub async fn kill(&self) {
        self.order(Order::Kill).await;
    }

    /// An orderly stop.
    pub async fn stop(&self) {
        self.order(Order::Stop).await;
    }

    /// Starts it again after a kill or a stop.
    pub async fn start(&self) {
        let _ = self.orders.send(Order::Start).await;
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, wait) = oneshot::channel();
        if self.orders.send(order(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

struct Keeper {
    spec: Spec,
    report: watch::Sender<State>,
}

enum Ended {
    ByOrder,
    ByItself(String),
}

impl Keeper {
    async fn run(self, mut inbox: mpsc::Receiver<Order>) {
        let mut pause = RESTART_PAUSES.0;
        loop {
            let began = Instant::now();
            let ended = match self.launch() {
                Ok(child) => self.watch(child, &mut inbox).await,
                Err(error) => Ended::ByItself(format!("{error:#}")),
            };
            let again = match ended {
                Ended::ByOrder => {
                    self.report.send_replace(State::Stopped);
                    false
                }
                Ended::ByItself(reason) => {
                    tracing::warn!(process = self.spec.name, reason, "a process ended");
                    self.report.send_replace(State::Died { reason });
                    self.spec.restart
                }
            };
            pause = if began.elapsed() > Duration::from_secs(60) { RESTART_PAUSES.0 } else { pause };
            if !wait_for_start(&mut inbox, again.then_some(pause)).await {
                return;
            }
            pause = (pause * 2).min(RESTART_PAUSES.1);
            self.report.send_replace(State::Starting);
        }
    }

    fn launch(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(&self.spec.log);
        let log = log.with_context(|| format!("cannot open {}", self.spec.log.display()))?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        Command::new(program)
            .args(&self.spec.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.spec.name))
    }

    async fn watch(&self, mut child: Child, inbox: &mut mpsc::Receiver<Order>) -> Ended {
        let pid = child.id().unwrap_or(0);
        // Held here: waiting for a child that still has its standard input would close it.
        let mut stdin = child.stdin.take();
        let mut lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        loop {
            tokio::select! {
                status = child.wait() => {
                    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    return Ended::ByItself(format!("{how}; {}", last_line(&self.spec.log)));
                }
                line = next_line(&mut lines) => match line {
                    Some(line) if line == READY_LINE => { self.report.send_replace(State::Ready { pid }); }
                    Some(_) => {}
                    None => lines = None,
                },
                order = inbox.recv() => match order {
                    Some(Order::Start) => {}
                    Some(Order::Kill(done)) => {
                        let _ = child.kill().await;
                        self.report.send_replace(State::Stopped);
                        let _ = done.send(());
                        return Ended::ByOrder;
                    }
                    Some(Order::Stop(done)) => {
                        drop(stdin.take());
                        end(&mut child).await;
                        self.report.send_replace(State::Stopped);
                        let _ = done.send(());
                        return Ended::ByOrder;
                    }
                    None => {
                        drop(stdin.take());
                        end(&mut child).await;
                        return Ended::ByOrder;
                    }
                },
            }
        }
    }
}

async fn next_line<R: tokio::io::AsyncBufRead + Unpin>(
    lines: &mut Option<tokio::io::Lines<R>>,
) -> Option<String> {
    match lines {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Waits for a child whose standard input was closed; kills it when that takes too long.
async fn end(child: &mut Child) {
    if timeout(STOP_DEADLINE.scaled(), child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Waits for an order to start, or for the pause before a restart; `false` when nobody can order any more.
async fn wait_for_start(inbox: &mut mpsc::Receiver<Order>, pause: Option<Duration>) -> bool {
    let mut pause = pause;
    loop {
        let elapsed = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = elapsed => return true,
            order = inbox.recv() => match order {
                Some(Order::Start) => return true,
                Some(Order::Kill(done) | Order::Stop(done)) => {
                    pause = None;
                    let _ = done.send(());
                }
                None => return false,
            },
        }
    }
}

/// What a log ends with: the likeliest place of the reason.
fn last_line(log: &Path) -> String {
    let tail = tail(log).unwrap_or_default();
    let line = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("its log is empty");
    format!("{} ends with: {}", log.display(), line.trim())
}

fn tail(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}
