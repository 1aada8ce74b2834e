//! The fan-out: one encoded stripe becomes 14 durable shards, or an error. Never fewer.
//!
//! All 14 records are posted at one moment, when each of their nodes has a staging slot free. A shard that is refused, whose node
//! is lost or has no slot, or whose answer is overdue, is written to a substitute as well; the first durable answer is named,
//! the other copy is garbage. The value that says "durable" ([`FullWidth`]) can only be made of 14 answers of nodes.

use crate::counters::count;
use crate::gateway::Inner;
use crate::memory::{Lent, Spare};
use crate::nodes::{Credit, Failure, Inbox, Nodes, StoreAnswer, Stored, View};
use crate::points;
use crate::stripe::{Addressed, Encoded, StripeError};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tenfour_placement::ClusterMap;
use tenfour_rdma::Frozen;
use tenfour_types::limits::TOTAL_SHARDS;
use tenfour_types::shard_service::ShardError;
use tenfour_types::{GroupId, NodeId, Override, ShardIndex, StripeRow, TargetId};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Rows looked at for one whose 14 nodes answer.
const ROWS_TRIED_MAX: u64 = 8;
/// When no row can be had, one is looked for again every so often, for so long.
const ROW_PAUSE: Duration = Duration::from_millis(50);
const ROW_WAIT: Duration = Duration::from_secs(2);
/// Targets tried for one shard before the write fails.
const ATTEMPTS_MAX: usize = 8;

/// Why a stripe has not 14 durable shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FanoutError {
    #[error("{0}")]
    Unavailable(String),
    #[error("every target is full")]
    Full,
}

impl From<StripeError> for FanoutError {
    fn from(error: StripeError) -> Self {
        tracing::error!(%error, "a stripe could not be addressed");
        Self::Unavailable(error.to_string())
    }
}

/// A stripe of which 14 shards are durable, and where.
pub(crate) struct FullWidth {
    row: StripeRow,
}

impl FullWidth {
    fn new(stripe: &Addressed, row: &Row, holders: [(TargetId, Stored); TOTAL_SHARDS]) -> Self {
        let elsewhere =
            ShardIndex::all().zip(&holders).filter(|(index, (target, _))| row.home[index.get()] != *target);
        let overrides = elsewhere.map(|(index, (target, _))| Override { index, target: *target }).collect();
        let row = StripeRow {
            id: stripe.id(),
            group: row.group,
            epoch: stripe.epoch(),
            data_bytes: stripe.data_bytes(),
            live_bytes: stripe.data_bytes(),
            digests: stripe.digests,
            overrides,
        };
        Self { row }
    }

    /// The row to commit.
    pub(crate) fn into_row(self) -> StripeRow {
        self.row
    }
}

/// Writes a stripe.
pub(crate) async fn fan_out(inner: &Inner, encoded: Encoded) -> Result<FullWidth, FanoutError> {
    let deadline = Instant::now() + inner.write_deadline;
    let map = inner.metadata.map();
    let row = Row::choose(inner, &map).await?;
    let substituted = row.first.iter().zip(&row.home).filter(|(first, home)| first != home).count();
    inner.counters.substitutes.fetch_add(substituted as u64, std::sync::atomic::Ordering::Relaxed);
    let stripe = encoded.address(&row.first, map.epoch)?;
    let credits = row.credits(&map, &inner.nodes).await;
    points::reached(points::CREDITED);
    let mut fanout = Fanout {
        inner,
        map: &map,
        row: &row,
        stripe: &stripe,
        inbox: Inbox::new(),
        attempts: Vec::with_capacity(TOTAL_SHARDS),
        durable: std::array::from_fn(|_| None),
        wanting: VecDeque::new(),
        failed: Vec::new(),
        saw_full: false,
        lent: Vec::new(),
    };
    fanout.post_first(credits);
    points::reached(points::SENT);
    let written = fanout.until_durable(deadline).await;
    let holders = std::mem::replace(&mut fanout.durable, std::array::from_fn(|_| None));
    drop(fanout);
    written?;
    let mut all = holders.into_iter();
    let holders = std::array::from_fn(|_| all.next().flatten());
    match whole(holders) {
        Some(holders) => {
            count(&inner.counters.stripes);
            Ok(FullWidth::new(&stripe, &row, holders))
        }
        None => Err(FanoutError::Unavailable("fewer than 14 answers".to_owned())),
    }
}

/// All 14, or nothing.
fn whole<T>(parts: [Option<T>; TOTAL_SHARDS]) -> Option<[T; TOTAL_SHARDS]> {
    let parts: Vec<T> = parts.into_iter().flatten().collect();
    parts.try_into().ok()
}

/// A placement group, and the targets that the shards go to first.
struct Row {
    group: GroupId,
    home: [TargetId; TOTAL_SHARDS],
    first: [TargetId; TOTAL_SHARDS],
}

impl Row {
    /// A row whose 14 targets answer, if there is one; absent ones get substitutes at once. When hardly anybody answers,
    /// those that are slow or refused something will have to do, and some may come back in a moment.
    async fn choose(inner: &Inner, map: &ClusterMap) -> Result<Self, FanoutError> {
        let seed = rand::random();
        let give_up = Instant::now() + ROW_WAIT;
        loop {
            for strict in [true, false] {
                if let Some(row) = Self::among(map, &Absent::now(map, &inner.nodes, strict), seed) {
                    return Ok(row);
                }
            }
            if Instant::now() >= give_up {
                return Err(FanoutError::Unavailable("no targets, or none that answers".to_owned()));
            }
            sleep(ROW_PAUSE).await;
        }
    }

    fn among(map: &ClusterMap, absent_now: &Absent<'_>, seed: u64) -> Option<Self> {
        let mut best: Option<(GroupId, Vec<ShardIndex>)> = None;
        for attempt in 0..ROWS_TRIED_MAX {
            let group = map.choose_group(seed.wrapping_add(attempt))?;
            let row = map.row(group)?;
            let absent: Vec<_> =
                ShardIndex::all().filter(|index| absent_now.is(row.slot(*index).target)).collect();
            let is_whole = absent.is_empty();
            if best.as_ref().is_none_or(|(_, fewest)| absent.len() < fewest.len()) {
                best = Some((group, absent));
            }
            if is_whole {
                break;
            }
        }
        let (group, absent) = best?;
        let home = map.row(group)?.slots.each_ref().map(|slot| slot.target);
        let mut first = home;
        if !absent.is_empty() {
            for (index, target) in map.substitutes(group, &absent, &absent_now.all(), seed)? {
                first[index.get()] = target;
            }
        }
        Some(Self { group, home, first })
    }

    /// A staging slot for each shard, all taken at one moment; a shard whose node had none free before the hedge delay
    /// passed has none here.
    async fn credits(&self, map: &ClusterMap, nodes: &Nodes) -> Vec<Option<Credit>> {
        let wanted: Vec<NodeId> = self.first.iter().filter_map(|target| map.node_of(*target)).collect();
        if wanted.len() == TOTAL_SHARDS
            && let Ok(Ok(credits)) = timeout(nodes.store_hedge_delay(), nodes.credits().all(&wanted)).await
        {
            return credits.into_iter().map(Some).collect();
        }
        let now = |target: &TargetId| map.node_of(*target).and_then(|node| nodes.credits().one_now(node));
        self.first.iter().map(now).collect()
    }
}

/// The targets that are not worth asking now.
struct Absent<'a> {
    map: &'a ClusterMap,
    nodes: &'a Nodes,
    view: View,
    /// Late nodes and refusing targets count as well.
    strict: bool,
}

impl<'a> Absent<'a> {
    fn now(map: &'a ClusterMap, nodes: &'a Nodes, strict: bool) -> Self {
        Self { map, nodes, view: nodes.view(), strict }
    }

    fn is(&self, target: TargetId) -> bool {
        let Some(node) = self.map.node_of(target).filter(|_| self.map.is_usable(target)) else { return true };
        if self.strict {
            !self.view.is_ready(node) || self.nodes.is_refusing(target)
        } else {
            !self.view.is_connected(node)
        }
    }

    fn all(&self) -> Vec<TargetId> {
        self.map.targets.keys().copied().filter(|target| self.is(*target)).collect()
    }
}

/// One shard written, or to be written, to one target.
struct Attempt {
    index: ShardIndex,
    target: TargetId,
    since: Instant,
    /// Answered, or given up as lost.
    over: bool,
}

struct Fanout<'a> {
    inner: &'a Inner,
    map: &'a ClusterMap,
    row: &'a Row,
    stripe: &'a Addressed,
    inbox: Arc<Inbox<StoreAnswer>>,
    attempts: Vec<Attempt>,
    durable: [Option<(TargetId, Stored)>; TOTAL_SHARDS],
    /// Shards that want another target.
    wanting: VecDeque<ShardIndex>,
    /// Targets that failed a shard of this stripe.
    failed: Vec<TargetId>,
    saw_full: bool,
    /// Copies that are read by writes.
    lent: Vec<Lent<'a>>,
}

/// A substitute's staging slot and the memory for the copy.
type Acquired<'a> = (ShardIndex, TargetId, Option<(Credit, Spare<'a>)>);
type Acquiring<'a> = Pin<Box<dyn Future<Output = Acquired<'a>> + Send + 'a>>;

impl<'a> Fanout<'a> {
    /// Posts what has a slot; the rest wants another target at once.
    fn post_first(&mut self, credits: Vec<Option<Credit>>) {
        for ((index, target), credit) in ShardIndex::all().zip(self.row.first).zip(credits) {
            points::reached(points::SENDING);
            match (credit, self.stripe.record(index)) {
                (Some(credit), Some(record)) => self.post(index, target, credit, record),
                _ => self.wanting.push_back(index),
            }
        }
    }

    fn post(&mut self, index: ShardIndex, target: TargetId, credit: Credit, record: Frozen) {
        let tag = self.attempts.len();
        let posted = credit.post(record, &self.inbox, tag);
        self.attempts.push(Attempt { index, target, since: Instant::now(), over: posted.is_err() });
        if posted.is_err() {
            self.want_another(index);
        }
    }

    /// Takes answers, hedges what is overdue, replaces what failed.
    async fn until_durable(&mut self, deadline: Instant) -> Result<(), FanoutError> {
        let inbox = self.inbox.clone();
        let mut acquiring: Option<Acquiring<'a>> = None;
        let mut next_look = Instant::now() + self.inner.nodes.store_hedge_delay();
        while self.durable.iter().any(Option::is_none) {
            if acquiring.is_none() {
                acquiring = self.acquire_next(deadline)?;
            }
            // One wake for all the first answers; later, for each.
            let open = self.attempts.iter().filter(|attempt| !attempt.over).count();
            let at_least = if self.attempts.len() > TOTAL_SHARDS { 1 } else { open };
            tokio::select! {
                biased;
                answers = inbox.take(at_least) => answers.into_iter().for_each(|answer| self.answered(answer)),
                acquired = next(&mut acquiring) => {
                    acquiring = None;
                    self.acquired(acquired);
                }
                () = sleep_until(next_look.min(deadline)) => {
                    if Instant::now() >= deadline {
                        return Err(self.too_late());
                    }
                    inbox.take_now().into_iter().for_each(|answer| self.answered(answer));
                    self.hedge();
                    next_look = Instant::now() + self.inner.nodes.store_hedge_delay();
                }
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: StoreAnswer) {
        let Some(attempt) = self.attempts.get_mut(answer.tag) else { return };
        attempt.over = true;
        let (index, target) = (attempt.index, attempt.target);
        match answer.result {
            Ok(stored) => {
                if let Some(place @ None) = self.durable.get_mut(index.get()) {
                    *place = Some((target, stored));
                }
            }
            Err(failure) => {
                tracing::debug!(stripe = %self.stripe.id(), %index, %target, %failure, "a shard was not stored");
                self.failed.push(target);
                if let Failure::Refused(error) = failure {
                    self.saw_full |= error == ShardError::TargetFull;
                    if matches!(
                        error,
                        ShardError::TargetFull | ShardError::TargetOut | ShardError::UnknownTarget
                    ) {
                        self.inner.nodes.refuses(target);
                    }
                }
                self.want_another(index);
            }
        }
    }

    /// Every shard whose newest attempt is overdue is written elsewhere too.
    fn hedge(&mut self) {
        let late_after = self.inner.nodes.store_hedge_delay();
        for index in ShardIndex::all() {
            let newest = self.attempts.iter().rev().find(|attempt| attempt.index == index);
            if self.is_open(index)
                && newest.is_some_and(|attempt| !attempt.over && attempt.since.elapsed() >= late_after)
            {
                count(&self.inner.counters.write_hedges);
                self.want_another(index);
            }
        }
    }

    fn is_open(&self, index: ShardIndex) -> bool {
        self.durable.get(index.get()).is_some_and(Option::is_none)
    }

    fn want_another(&mut self, index: ShardIndex) {
        if self.is_open(index) && !self.wanting.contains(&index) {
            self.wanting.push_back(index);
        }
    }

    /// Begins to take what the next shard needs that wants another target.
    fn acquire_next(&mut self, deadline: Instant) -> Result<Option<Acquiring<'a>>, FanoutError> {
        while let Some(index) = self.wanting.pop_front() {
            if !self.is_open(index) {
                continue;
            }
            let tried = self.attempts.iter().filter(|attempt| attempt.index == index).count();
            let is_pending = self.attempts.iter().any(|attempt| attempt.index == index && !attempt.over);
            let chosen = if tried < ATTEMPTS_MAX { self.substitute(index) } else { None };
            match chosen.and_then(|target| Some((target, self.map.node_of(target)?))) {
                Some((target, node)) => {
                    let patience = self.inner.nodes.store_hedge_delay().min(deadline - Instant::now());
                    return Ok(Some(Box::pin(acquire(self.inner, index, target, node, patience))));
                }
                None if is_pending => {}
                None => return Err(self.out_of_targets()),
            }
        }
        Ok(None)
    }

    fn acquired(&mut self, (index, target, acquired): Acquired<'a>) {
        let Some((credit, mut spare)) = acquired else {
            self.attempts.push(Attempt { index, target, since: Instant::now(), over: true });
            return self.want_another(index);
        };
        if !self.is_open(index) {
            return;
        }
        let copied = self.stripe.copy_for(index, target, spare.bytes());
        if let Some((lent, record)) = copied.and_then(|bytes| spare.share(bytes)) {
            count(&self.inner.counters.substitutes);
            self.lent.push(lent);
            self.post(index, target, credit, record);
        }
    }

    /// Another target for a shard: one that was not tried for it, spread as widely as can be; when there is none, one whose
    /// slots were only taken.
    fn substitute(&self, index: ShardIndex) -> Option<TargetId> {
        let seed = rand::random();
        let mut absent: Vec<ShardIndex> = ShardIndex::all()
            .filter(|other| self.row.home[other.get()] != self.row.first[other.get()])
            .collect();
        if !absent.contains(&index) {
            absent.push(index);
        }
        let mut avoid = Absent::now(self.map, &self.inner.nodes, true).all();
        avoid.extend(&self.failed);
        let tried =
            self.attempts.iter().filter(|attempt| attempt.index == index).map(|attempt| attempt.target);
        let others =
            self.attempts.iter().filter(|attempt| attempt.index != index).map(|attempt| attempt.target);
        let others = others.filter(|target| {
            !self.row.home.contains(target)
                || self.row.first.iter().filter(|first| *first == target).count() > 1
        });
        let strict: Vec<TargetId> = avoid.iter().copied().chain(tried.clone()).chain(others).collect();
        let looser: Vec<TargetId> = avoid.iter().copied().chain(tried).collect();
        [strict, looser, avoid].iter().find_map(|avoid| {
            let chosen = self.map.substitutes(self.row.group, &absent, avoid, seed)?;
            chosen.into_iter().find(|(other, _)| *other == index).map(|(_, target)| target)
        })
    }

    fn out_of_targets(&self) -> FanoutError {
        if self.saw_full { FanoutError::Full } else { self.too_late() }
    }

    fn too_late(&self) -> FanoutError {
        let durable = self.durable.iter().flatten().count();
        FanoutError::Unavailable(format!(
            "{durable} of {TOTAL_SHARDS} shards are durable, and no further target answers"
        ))
    }
}

async fn acquire(
    inner: &Inner,
    index: ShardIndex,
    target: TargetId,
    node: NodeId,
    patience: Duration,
) -> Acquired<'_> {
    let acquired = timeout(patience, async {
        // The spare first: a slot that waits for memory would keep others waiting.
        let spare = inner.memory.spare().await;
        let credit = inner.nodes.credits().all(&[node]).await.ok()?.pop()?;
        Some((credit, spare))
    });
    (index, target, acquired.await.ok().flatten())
}

async fn next<'a>(acquiring: &mut Option<Acquiring<'a>>) -> Acquired<'a> {
    match acquiring {
        Some(acquiring) => acquiring.await,
        None => std::future::pending().await,
    }
}
