//! tenfour: shards on disk and the shard service.
//!
//! [`Node::start`] opens the targets, registers staging memory, listens, and serves gateways and repairing nodes until
//! [`Node::shutdown`]. `disk` is the only room that touches files, `target` the only one that knows their formats, `service` the only
//! one that peers speak to, `repair` the only one that asks metadata and other nodes ([`Node::repair`]). The crate knows nothing of
//! buckets, users or S3: whoever wires it up registers the node and its heartbeats with [`Node::targets`], [`Node::poisoned`] and
//! [`Node::set_epoch`].

pub mod config;
pub mod disk;
mod repair;
mod service;
pub mod target;

pub use config::{NodeConfig, RepairConfig, TargetConfig};
pub use repair::Repair;
pub use service::STAGING_BYTES_MIN;

use disk::{Disk, RealDisk};
use futures::future::BoxFuture;
use service::{Inner, Listening};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use target::{OnPoison, OpenError, SUPERBLOCK, Target, TargetSettings};
use tenfour_metadata::Metadata;
use tenfour_rdma::{Buffer, Endpoint};
use tenfour_types::shard_service::TargetStatus;
use tenfour_types::{Epoch, TargetId};
use tokio::sync::watch;

/// A running node.
pub struct Node {
    inner: Arc<Inner>,
    listening: Listening,
    poisoned: watch::Receiver<Vec<TargetId>>,
    unopened: Vec<(TargetId, String)>,
    config: NodeConfig,
}

impl Node {
    /// Opens what can be opened, and serves from then on, on the runtime that this is called from. A target that cannot be opened
    /// keeps no other from being served; that none can is an error.
    pub fn start(config: NodeConfig) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(Self::start_on(config, |target| RealDisk::open(&target.folder)))
    }

    /// As [`Node::start`], on disks that the caller makes.
    pub async fn start_on<D: Disk>(
        config: NodeConfig,
        disk: impl Fn(&TargetConfig) -> io::Result<D> + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        service::check(&config)?;
        let (report, poisoned) = watch::channel(Vec::new());
        let on_poison: OnPoison = Arc::new(move |target| report.send_modify(|targets| targets.push(target)));
        let settings = config.clone();
        let (targets, unopened) = tokio::task::spawn_blocking(move || open_all(&settings, &disk, &on_poison))
            .await
            .map_err(|_| StartError::Panicked)??;
        let inner = Arc::new(Inner::new(&config, targets));
        let listening = Listening::start(&config, &inner).await?;
        Ok(Self { inner, listening, poisoned, unopened, config })
    }

    /// Where the shard service listens, with the ports that were chosen.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.listening.endpoints
    }

    /// How its targets are.
    pub fn targets(&self) -> Vec<TargetStatus> {
        self.inner.statuses()
    }

    /// Why a target is not in service, if it is not.
    pub fn poison_reason(&self, target: TargetId) -> Option<String> {
        match self.inner.targets.get(&target) {
            Some(open) => open.poison_reason().map(str::to_owned),
            None => self.unopened.iter().find(|(id, _)| *id == target).map(|(_, why)| why.clone()),
        }
    }

    /// The targets that could not be opened, and why: they are not served. Those of them whose shards are lost are
    /// [`Node::poisoned`] too; the others wait for somebody who mends the configuration, and for the next start.
    pub fn unopened(&self) -> &[(TargetId, String)] {
        &self.unopened
    }

    /// The targets that were lost at the start or poisoned since; changes the moment another one is.
    pub fn poisoned(&self) -> watch::Receiver<Vec<TargetId>> {
        self.poisoned.clone()
    }

    /// The epoch of the map that the node follows: told to peers when they connect.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.inner.epoch.fetch_max(epoch.0, Ordering::Relaxed);
    }

    /// An open target, for scrub, repair and garbage collection.
    pub fn target(&self, id: TargetId) -> Option<Arc<Target<Buffer>>> {
        self.inner.targets.get(&id).cloned()
    }

    /// Repairs what belongs on its targets, from now on, for as long as that is held.
    pub fn repair(&self, metadata: Metadata) -> Repair {
        Repair::start(&self.config, &self.inner.targets, metadata)
    }

    /// Stops listening, ends the connections, commits what was handed in, closes the targets.
    pub fn shutdown(self) -> BoxFuture<'static, ()> {
        Box::pin(self.end())
    }

    async fn end(self) {
        self.listening.stop().await;
        let inner = self.inner;
        let closed =
            tokio::task::spawn_blocking(move || inner.targets.values().for_each(|target| target.close()));
        if closed.await.is_err() {
            tracing::error!("closing the targets panicked");
        }
    }
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No target can be opened; this is the first.
    #[error("target {target} in {}: {source}", folder.display())]
    Target {
        /// Which.
        target: TargetId,
        /// Its folder.
        folder: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// Registered memory cannot be had.
    #[error("the fabric's memory: {0}")]
    Memory(#[from] tenfour_rdma::OpenError),
    /// The shard service cannot listen.
    #[error("listening on {endpoint}: {source}")]
    Listen {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: tenfour_rdma::ListenError,
    },
    /// A bug: opening a target panicked.
    #[error("opening a target panicked")]
    Panicked,
}

impl StartError {
    /// Whether the same start can succeed later without anyone's help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Target { source, .. } if source.is_retryable())
    }

    fn is_loss(&self) -> bool {
        matches!(self, Self::Target { source, .. } if source.is_loss())
    }
}

type Targets = HashMap<TargetId, Arc<Target<Buffer>>>;
type Unopened = Vec<(TargetId, String)>;

/// Opens all targets side by side: each may have a log to replay.
fn open_all<D: Disk>(
    config: &NodeConfig,
    disk: &(impl Fn(&TargetConfig) -> io::Result<D> + Sync),
    on_poison: &OnPoison,
) -> Result<(Targets, Unopened), StartError> {
    let open = |target: &TargetConfig| {
        open_one(config, target, disk, on_poison).map_err(|source| StartError::Target {
            target: target.id,
            folder: target.folder.clone(),
            source,
        })
    };
    let (mut targets, mut unopened, mut first) = (HashMap::new(), Vec::new(), None);
    std::thread::scope(|scope| {
        let spawn = |target| (target, scope.spawn(move || open(target)));
        let threads: Vec<(&TargetConfig, _)> = config.targets.iter().map(spawn).collect();
        for (wanted, thread) in threads {
            match thread.join().unwrap_or(Err(StartError::Panicked)) {
                Ok(target) => {
                    targets.insert(wanted.id, Arc::new(target));
                }
                Err(error) => {
                    let lost = !wanted.create && error.is_loss();
                    tracing::error!(target_id = %wanted.id, %error, lost, "a target is not served");
                    unopened.push((wanted.id, error.to_string()));
                    if lost {
                        on_poison(wanted.id);
                    }
                    first.get_or_insert(error);
                }
            }
        }
    });
    match first {
        Some(error) if targets.is_empty() => Err(error),
        _ => Ok((targets, unopened)),
    }
}

fn open_one<D: Disk>(
    config: &NodeConfig,
    target: &TargetConfig,
    disk: &impl Fn(&TargetConfig) -> io::Result<D>,
    on_poison: &OnPoison,
) -> Result<Target<Buffer>, OpenError> {
    let settings = TargetSettings {
        cluster: config.cluster,
        node: config.node,
        target: target.id,
        capacity_bytes: target.capacity_bytes,
        segment_bytes: config.segment_bytes,
    };
    let disk = disk(target)?;
    let is_there = disk.list()?.iter().any(|name| name == SUPERBLOCK);
    if target.create && !is_there {
        return Target::create(disk, settings, Arc::clone(on_poison));
    }
    Target::open(disk, settings, Arc::clone(on_poison))
}
