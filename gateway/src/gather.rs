//! The gather: verified bytes of one stripe, from as few nodes as will do.
//!
//! Nodes write whole CRC blocks into memory that was granted for exactly that; nothing is looked at before the grant is sealed, and
//! nothing is handed on before its blocks match a table that matches the stripe row's digest. A shard that is missing, bad or overdue is
//! computed from ten others, and of those only the blocks that it takes are fetched.

mod holders;
mod plan;

use crate::counters::count;
use crate::gateway::Inner;
use crate::memory::Exhausted;
use crate::nodes::{Failure, FetchAnswer, Inbox, Link, View};
use crate::transport::Transports;
use bytes::Bytes;
use holders::{PassedOver, SecondLooks};
use plan::{Need, Shard, Step};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tenfour_erasure::geometry::StripeGeometry;
use tenfour_erasure::verify_blocks;
use tenfour_placement::ClusterMap;
use tenfour_rdma::{Buffer, Frozen, Grant};
use tenfour_types::limits::{CRC_BLOCK_BYTES, TOTAL_SHARDS};
use tenfour_types::record::shard_digest;
use tenfour_types::shard_service::{ShardError, ShardRef, ShardTable};
use tenfour_types::{ShardIndex, StripeRow, TargetId};
use tokio::time::{Instant, sleep_until};

/// Why a stripe cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GatherError {
    #[error("{0}")]
    Unavailable(String),
    #[error("no memory came in time")]
    Overloaded,
}

impl From<Exhausted> for GatherError {
    fn from(_: Exhausted) -> Self {
        Self::Overloaded
    }
}

/// Bytes of a stripe on their way. The nodes go on writing whether this is polled or not.
pub(crate) struct Gather {
    inner: Arc<Inner>,
    map: Arc<ClusterMap>,
    view: View,
    row: Arc<StripeRow>,
    shards: [Shard; TOTAL_SHARDS],
    passed_over: Vec<PassedOver>,
    needs: Vec<Need>,
    pieces: Vec<Piece>,
    fetches: Vec<Fetch>,
    inbox: Arc<Inbox<FetchAnswer>>,
    second_looks: SecondLooks,
    deadline: Instant,
}

/// Verified blocks of one shard.
struct Piece {
    index: ShardIndex,
    range: Range<usize>,
    bytes: Frozen,
}

/// What came of asking for shards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    All,
    /// Some could not be asked for: others have to be.
    NotAll,
    /// Nothing was asked.
    NoMemory,
}

struct Fetch {
    index: ShardIndex,
    target: TargetId,
    range: Range<usize>,
    since: Instant,
}

impl Gather {
    /// Begins to fetch a range of a stripe's object bytes. With `wait`, memory and shards are waited for, and the caller holds no
    /// memory; without, there is no gather when they cannot be had now.
    pub(crate) async fn begin(
        inner: &Arc<Inner>,
        row: &Arc<StripeRow>,
        range: Range<usize>,
        wait: bool,
    ) -> Result<Option<Self>, GatherError> {
        let unreadable = || GatherError::Unavailable(format!("the row of {:?} makes no sense", row.id));
        let geometry = StripeGeometry::new(row.data_bytes as usize).ok_or_else(unreadable)?;
        let mut gather = Self {
            inner: inner.clone(),
            map: inner.metadata.map(),
            view: inner.nodes.view_for_reading(),
            row: row.clone(),
            shards: std::array::from_fn(|_| Shard::default()),
            passed_over: Vec::new(),
            needs: plan::needs(geometry, range),
            pieces: Vec::new(),
            fetches: Vec::new(),
            inbox: Inbox::new(),
            second_looks: SecondLooks::default(),
            deadline: Instant::now() + inner.read_deadline,
        };
        gather.look_for_holders();
        if wait {
            gather.ask_from_nothing().await?;
            return Ok(Some(gather));
        }
        let Some(fetches) = gather.next_fetches() else { return Ok(None) };
        let has_memory = gather.ask_if_there_is_memory(fetches) != Asked::NoMemory;
        Ok(has_memory.then_some(gather))
    }

    /// What carries the shards that are asked first for a range of a stripe.
    pub(crate) fn transports_of(inner: &Inner, row: &StripeRow, range: Range<usize>) -> Transports {
        let map = inner.metadata.map();
        let Some(geometry) = StripeGeometry::new(row.data_bytes as usize) else {
            return Transports::default();
        };
        let links = plan::needs(geometry, range).into_iter().filter_map(|need| {
            let mut nodes = map.holders(row, need.index).filter_map(|target| map.node_of(target));
            nodes.find_map(|node| inner.nodes.link(node))
        });
        links.map(|link| link.provider()).collect()
    }

    /// Waits for the bytes, in order. May be dropped and called again.
    pub(crate) async fn finish(&mut self) -> Result<Vec<Bytes>, GatherError> {
        while !plan::is_enough(&self.needs, &self.shards) {
            let fetches = self.fetches_or_look_again().await?;
            match self.ask_if_there_is_memory(fetches) {
                Asked::All => {}
                Asked::NotAll => continue,
                Asked::NoMemory => {
                    self.ask_from_nothing().await?;
                    continue;
                }
            }
            if plan::is_enough(&self.needs, &self.shards) {
                break;
            }
            let patience = self.inner.nodes.fetch_hedge_delay();
            let oldest =
                self.fetches.iter().filter(|fetch| self.is_waited_for(fetch)).map(|fetch| fetch.since).min();
            let look = oldest.map_or(self.deadline, |since| since + patience).min(self.deadline);
            let waited_for = self.fetches.iter().filter(|fetch| self.is_waited_for(fetch)).count();
            let inbox = self.inbox.clone();
            tokio::select! {
                biased;
                answers = inbox.take(waited_for) => self.take(answers).await,
                () = sleep_until(look) => {
                    let answers = inbox.take_now();
                    self.take(answers).await;
                    if Instant::now() >= self.deadline {
                        return Err(self.unavailable());
                    }
                    self.note_late();
                }
            }
        }
        self.assemble()
    }

    /// What is to be asked for now; `None` when fewer than ten shards can be had.
    fn next_fetches(&self) -> Option<Vec<(ShardIndex, Range<usize>)>> {
        match plan::next(&self.needs, &self.shards) {
            Step::Fetch(fetches) => Some(fetches),
            Step::Impossible => None,
        }
    }

    /// The same, and when it is impossible: by the newest map and connections, for as long as there is hope.
    async fn fetches_or_look_again(&mut self) -> Result<Vec<(ShardIndex, Range<usize>)>, GatherError> {
        loop {
            if let Some(fetches) = self.next_fetches() {
                return Ok(fetches);
            }
            if !self.look_again().await {
                return Err(self.unavailable());
            }
        }
    }

    fn ask_if_there_is_memory(&mut self, fetches: Vec<(ShardIndex, Range<usize>)>) -> Asked {
        if fetches.is_empty() {
            return Asked::All;
        }
        let lengths: Vec<usize> = fetches.iter().map(|(_, range)| range.len()).collect();
        match self.inner.memory.try_take(&lengths) {
            Some(memory) => self.ask(fetches, memory),
            None => Asked::NoMemory,
        }
    }

    /// Lets go of everything and waits for all the memory that is needed, so that nobody waits while holding some.
    async fn ask_from_nothing(&mut self) -> Result<(), GatherError> {
        self.pieces.clear();
        self.fetches.clear();
        self.inbox = Inbox::new();
        self.shards.iter_mut().for_each(Shard::forget);
        let fetches = self.fetches_or_look_again().await?;
        let lengths: Vec<usize> = fetches.iter().map(|(_, range)| range.len()).collect();
        let memory = self.inner.memory.take(&lengths).await?;
        self.ask(fetches, memory);
        Ok(())
    }

    fn ask(&mut self, fetches: Vec<(ShardIndex, Range<usize>)>, memory: Vec<Buffer>) -> Asked {
        let mut outcome = Asked::All;
        for ((index, range), buffer) in fetches.into_iter().zip(memory) {
            if !self.needs.iter().any(|need| need.index == index) {
                count(&self.inner.counters.read_hedges);
            }
            let Some((target, _)) = self.holder(index) else {
                self.shards[index.get()].failed = true;
                outcome = Asked::NotAll;
                continue;
            };
            match self.fetch(index, target, range.clone(), buffer) {
                Ok(()) => self.shards[index.get()].expected = Some(range),
                Err(failure) => {
                    tracing::debug!(%index, %failure, "a shard cannot be asked for");
                    self.fetch_failed(index, target, failure);
                    outcome = Asked::NotAll;
                }
            }
        }
        outcome
    }

    fn fetch(
        &mut self,
        index: ShardIndex,
        target: TargetId,
        range: Range<usize>,
        buffer: Buffer,
    ) -> Result<(), Failure> {
        let link: Arc<Link> =
            self.map.node_of(target).and_then(|node| self.inner.nodes.link(node)).ok_or(Failure::Lost)?;
        let digest = self.row.digests[index.get()];
        let shard = ShardRef { stripe: self.row.id, index, target, digest };
        let tag = self.fetches.len();
        self.inner.counters.traffic.fetched(link.provider(), range.len());
        self.fetches.push(Fetch { index, target, range: range.clone(), since: Instant::now() });
        link.fetch(shard, range, buffer, &self.inbox, tag)
    }

    /// Whether a fetch is still out and not given up as late.
    fn is_waited_for(&self, fetch: &Fetch) -> bool {
        let shard = &self.shards[fetch.index.get()];
        shard.expected.as_ref() == Some(&fetch.range) && !shard.late && !shard.failed
    }

    /// Shards whose answer is overdue are computed from others.
    fn note_late(&mut self) {
        let patience = self.inner.nodes.fetch_hedge_delay();
        for fetch in &self.fetches {
            let shard = &mut self.shards[fetch.index.get()];
            if shard.expected.as_ref() == Some(&fetch.range) && fetch.since.elapsed() >= patience {
                shard.late = true;
            }
        }
    }

    async fn take(&mut self, answers: Vec<FetchAnswer>) {
        for FetchAnswer { tag, result } in answers {
            let Some(Fetch { index, target, range, .. }) = self.fetches.get(tag) else { continue };
            let (index, target, range) = (*index, *target, range.clone());
            let checked = match result {
                Ok((grant, table)) => self.check(index, &range, grant, &table).await,
                Err(failure) => Err(failure),
            };
            let shard = &mut self.shards[index.get()];
            shard.expected = None;
            match checked {
                Ok(bytes) => {
                    shard.held = Some(range.clone());
                    shard.late = false;
                    self.pieces.push(Piece { index, range, bytes });
                }
                Err(failure) => self.fetch_failed(index, target, failure),
            }
        }
    }

    /// Takes the bytes away from the node, and verifies them.
    async fn check(
        &self,
        index: ShardIndex,
        range: &Range<usize>,
        grant: Grant,
        table: &ShardTable,
    ) -> Result<Frozen, Failure> {
        let bytes = grant.seal().await.into_buffer().freeze();
        let ours = self.row.digests.get(index.get());
        let digest = shard_digest(self.row.id, index, table.payload_bytes, &table.block_sums);
        let is_ours = table.payload_bytes as usize == self.row.shard_bytes() && Some(&digest) == ours;
        let sound = verify_blocks(&bytes, range.start / CRC_BLOCK_BYTES, &table.block_sums).is_ok();
        if is_ours && sound { Ok(bytes) } else { Err(Failure::Refused(ShardError::Damaged)) }
    }

    fn unavailable(&self) -> GatherError {
        let alive = self.shards.iter().filter(|shard| !shard.failed).count();
        GatherError::Unavailable(format!("{:?}: {alive} shards can be asked for", self.row.id))
    }

    /// The bytes wanted, of pieces and of what is computed from them.
    fn assemble(&mut self) -> Result<Vec<Bytes>, GatherError> {
        let rebuilt = self.rebuild()?;
        let mut parts = Vec::with_capacity(self.needs.len());
        for need in &self.needs {
            let piece = self
                .pieces
                .iter()
                .find(|piece| piece.index == need.index && plan::covers(&piece.range, &need.blocks));
            let computed = || rebuilt.iter().find(|(index, _, _)| *index == need.index);
            let (start, whole) = match piece {
                Some(piece) => (piece.range.start, Bytes::from_owner(piece.bytes.clone())),
                None => computed()
                    .map(|(_, range, bytes)| (range.start, bytes.clone()))
                    .ok_or_else(|| self.unavailable())?,
            };
            parts.push(whole.slice(need.within.start - start..need.within.end - start));
        }
        self.pieces.clear();
        Ok(parts)
    }

    /// Computes the shards that did not come.
    fn rebuild(&self) -> Result<Vec<(ShardIndex, Range<usize>, Bytes)>, GatherError> {
        let Some((range, missing)) = plan::rebuild(&self.needs, &self.shards) else { return Ok(Vec::new()) };
        let mut present: [Option<&[u8]>; TOTAL_SHARDS] = [None; TOTAL_SHARDS];
        for piece in self.pieces.iter().filter(|piece| plan::covers(&piece.range, &range)) {
            let within = range.start - piece.range.start..range.end - piece.range.start;
            present[piece.index.get()] = piece.bytes.get(within);
        }
        let mut rebuilt: Vec<(usize, Vec<u8>)> =
            missing.iter().map(|index| (index.get(), vec![0; range.len()])).collect();
        let mut places: Vec<(usize, &mut [u8])> =
            rebuilt.iter_mut().map(|(index, bytes)| (*index, bytes.as_mut_slice())).collect();
        self.inner.codec.reconstruct(&present, &mut places).map_err(|error| {
            tracing::error!(%error, stripe = %self.row.id, "a stripe could not be reconstructed");
            self.unavailable()
        })?;
        self.inner.counters.reconstructions.fetch_add(1, Ordering::Relaxed);
        let named = missing.into_iter().zip(rebuilt);
        Ok(named.map(|(index, (_, bytes))| (index, range.clone(), Bytes::from(bytes))).collect())
    }
}
