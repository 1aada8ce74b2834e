//! Repair: every shard that belongs on a target of this node comes to be there.
//!
//! **Who does what.** Each shard has one home, the target of its slot, and the home's node makes it anew: no two nodes store the
//! same shard, and nobody has to share out the work. A target that is lost is repaired by all nodes that its slots moved to, side
//! by side. Three kinds of shards are looked for: those of slots that moved here and are not whole yet, those that went elsewhere when
//! they were written ([`tenfour_types::Override`]), and copies here that were found damaged when somebody read them. Stripes that survive the fewest further losses come first.
//!
//! **Why it is safe** beside PUT, overwrite, DELETE and another change of the map is told in `docs/adr/0005-repair.md`. In short: a
//! look at the stripe table counts only when every index group had committed the map's fences before it began; a shard is
//! immutable and found by its digest, so that the same one stored twice is one; and both words that repair says to metadata
//! (these slots are whole, these shards are at home) are compared with what is there, and with the epoch in which the slot moved
//! last, before they change anything.
//!
//! It keeps no state: after a restart it looks again, and finds what it has stored already. It reads no more than its share of the
//! bandwidth and holds no more than its share of memory. It deletes nothing, and looks for no damage that nobody met.

mod duty;
mod pace;
mod peer;
mod peers;
mod progress;
mod rebuild;
mod round;
mod rows;

use crate::config::NodeConfig;
use crate::target::Target;
use progress::Counters;
use round::{Outcome, Round};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tenfour_erasure::Codec;
use tenfour_metadata::api::cluster::RepairProgress;
use tenfour_metadata::{Metadata, MetadataError};
use tenfour_rdma::Buffer;
use tenfour_types::{Epoch, Scaled, TargetId};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Stripes that have shards elsewhere are looked for so often; a new map is looked at when it comes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What could not be done is tried again after this.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How often a new map is noticed.
const NOTICE_EVERY: Duration = Duration::from_millis(100);

/// Repair of a running node. Dropping it ends it; what it stored stays.
pub struct Repair {
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Repair {
    pub(crate) fn start(
        config: &NodeConfig,
        targets: &HashMap<TargetId, Arc<Target<Buffer>>>,
        metadata: Metadata,
    ) -> Self {
        let counters = Arc::<Counters>::default();
        let worker = Worker {
            config: config.clone(),
            targets: targets.clone(),
            metadata,
            codec: tenfour_erasure::best(),
            counters: Arc::clone(&counters),
        };
        Self { counters, task: tokio::spawn(worker.run()) }
    }

    /// How far it is.
    pub fn progress(&self) -> RepairProgress {
        self.counters.progress()
    }
}

impl Drop for Repair {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What every round works with.
struct Worker {
    config: NodeConfig,
    targets: HashMap<TargetId, Arc<Target<Buffer>>>,
    metadata: Metadata,
    codec: Arc<dyn Codec>,
    counters: Arc<Counters>,
}

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("metadata: {0}")]
    Metadata(#[from] MetadataError),
    #[error("metadata answered something else than was asked")]
    Answer,
    #[error("the fabric's memory for repair: {0}")]
    Memory(#[from] tenfour_rdma::OpenError),
    #[error("the repair of a stripe panicked")]
    Job,
}

impl Worker {
    async fn run(self) {
        loop {
            let epoch = self.metadata.map().epoch;
            let outcome = Round { worker: &self }.run().await;
            self.counters.rest();
            let pause = match outcome {
                Ok(Outcome::Later) => TRY_AGAIN,
                Ok(Outcome::Done | Outcome::NotAll) => LOOK_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "repair goes on later");
                    LOOK_EVERY
                }
            };
            self.rest(epoch, pause.scaled()).await;
        }
    }

    /// Waits for a new map, and not for ever.
    async fn rest(&self, known: Epoch, most: Duration) {
        let until = Instant::now() + most;
        while self.metadata.map().epoch == known && Instant::now() < until {
            sleep(NOTICE_EVERY).await;
        }
    }
}
