//! The fan-out: one encoded stripe becomes 14 durable shards, or an error. Never fewer.
//!
//! All 14 records are posted at one moment, when each of their nodes has a staging slot free. A shard that is refused, whose node
//! is lost, or whose answer is overdue, is written to a substitute as well; the first durable answer is named,
//! the other copy is garbage. The value that says "durable" ([`FullWidth`]) can only be made of 14 answers of nodes.

mod row;

use crate::counters::count;
use crate::gateway::Inner;
use crate::memory::{Lent, Spare};
use crate::nodes::{Credit, Failure, Inbox, StoreAnswer, Stored};
use crate::points;
use crate::stripe::{Addressed, Encoded, StripeError};
use crate::transport::Transports;
use row::{Absent, Reserved, Row};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tenfour_placement::ClusterMap;
use tenfour_rdma::Frozen;
use tenfour_types::Scaled;
use tenfour_types::limits::TOTAL_SHARDS;
use tenfour_types::shard_service::ShardError;
use tenfour_types::{NodeId, Override, ShardIndex, StripeRow, TargetId};
use tokio::time::{Instant, sleep_until, timeout};

/// How long a shard's own target may stay without an answer when another copy is durable already, but where it narrows the
/// spread of the stripe over nodes.
const HOME_GRACE: Duration = Duration::from_millis(500);
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
    transports: Transports,
}

impl FullWidth {
    fn new(
        stripe: &Addressed,
        row: &Row,
        holders: [(TargetId, Stored); TOTAL_SHARDS],
        transports: Transports,
    ) -> Self {
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
        Self { row, transports }
    }

    /// What carried its shards.
    pub(crate) fn transports(&self) -> Transports {
        self.transports
    }

    /// The row to commit.
    pub(crate) fn into_row(self) -> StripeRow {
        self.row
    }
}

/// Writes a stripe; `begun` sees it, from when on its bytes stay as they are.
pub(crate) async fn fan_out(
    inner: &Inner,
    encoded: Encoded,
    begun: impl FnOnce(&Addressed),
) -> Result<FullWidth, FanoutError> {
    let deadline = Instant::now() + inner.write_deadline;
    let Reserved { map, row, credits } = row::reserve(inner, deadline).await?;
    points::reached(points::CREDITED);
    let substituted = row.first.iter().zip(&row.home).filter(|(first, home)| first != home).count();
    inner.counters.substitutes.fetch_add(substituted as u64, Ordering::Relaxed);
    let stripe = encoded.address(&row.first, map.epoch)?;
    begun(&stripe);
    let mut fanout = Fanout {
        inner,
        map: &map,
        row: &row,
        stripe: &stripe,
        inbox: Inbox::new(),
        attempts: Vec::with_capacity(TOTAL_SHARDS),
        durable: std::array::from_fn(|_| None),
        standby: std::array::from_fn(|_| None),
        wanting: VecDeque::new(),
        failed: Vec::new(),
        transports: Transports::default(),
        saw_full: false,
    };
    fanout.post_first(credits);
    points::reached(points::SENT);
    let written = fanout.until_durable(deadline).await;
    let holders = std::mem::replace(&mut fanout.durable, std::array::from_fn(|_| None));
    let transports = fanout.transports;
    drop(fanout);
    written?;
    let mut all = holders.into_iter();
    let holders = std::array::from_fn(|_| all.next().flatten());
    match whole(holders) {
        Some(holders) => {
            count(&inner.counters.stripes);
            Ok(FullWidth::new(&stripe, &row, holders, transports))
        }
        None => Err(FanoutError::Unavailable("fewer than 14 answers".to_owned())),
    }
}

/// All 14, or nothing.
fn whole<T>(parts: [Option<T>; TOTAL_SHARDS]) -> Option<[T; TOTAL_SHARDS]> {
    let parts: Vec<T> = parts.into_iter().flatten().collect();
    parts.try_into().ok()
}

/// One shard written, or to be written, to one target.
struct Attempt<'a> {
    index: ShardIndex,
    target: TargetId,
    since: Instant,
    /// Answered, or not even posted.
    over: bool,
    /// The memory of a copy, until then.
    lent: Option<Lent<'a>>,
}

struct Fanout<'a> {
    inner: &'a Inner,
    map: &'a ClusterMap,
    row: &'a Row,
    stripe: &'a Addressed,
    inbox: Arc<Inbox<StoreAnswer>>,
    attempts: Vec<Attempt<'a>>,
    durable: [Option<(TargetId, Stored)>; TOTAL_SHARDS],
    /// Durable on a node that holds another shard of this stripe, while the shard's own target may still answer.
    standby: [Option<(TargetId, Stored)>; TOTAL_SHARDS],
    /// Shards that want another target.
    wanting: VecDeque<ShardIndex>,
    /// Targets that failed a shard of this stripe.
    failed: Vec<TargetId>,
    /// What the shards went by.
    transports: Transports,
    saw_full: bool,
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
                (Some(credit), Some(record)) => self.post(index, target, credit, record, None),
                _ => self.wanting.push_back(index),
            }
        }
    }

    fn post(
        &mut self,
        index: ShardIndex,
        target: TargetId,
        credit: Credit,
        record: Frozen,
        lent: Option<Lent<'a>>,
    ) {
        let (provider, bytes) = (credit.provider(), record.len());
        let over = credit.post(record, &self.inbox, self.attempts.len()).is_err();
        if !over {
            self.transports.insert(provider);
            self.inner.counters.traffic.stored(provider, bytes);
        }
        let lent = lent.filter(|_| !over);
        self.attempts.push(Attempt { index, target, since: Instant::now(), over, lent });
        if over {
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
                    self.settle();
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
        attempt.lent = None;
        let (index, target) = (attempt.index, attempt.target);
        match answer.result {
            Ok(stored) => self.stored(index, target, stored),
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
                self.settle();
                if self.standby[index.get()].is_none() {
                    self.want_another(index);
                }
            }
        }
    }

    /// The first durable answer is named, unless it narrows the stripe's spread and the shard's own target is only late: then
    /// that one has [`HOME_GRACE`] to answer, since a stripe with two shards on a node survives the loss of fewer nodes.
    fn stored(&mut self, index: ShardIndex, target: TargetId, stored: Stored) {
        let waits = self.narrows(index, target) && self.may_still_answer(index);
        let places = if waits { &mut self.standby } else { &mut self.durable };
        if let Some(place @ None) = places.get_mut(index.get()) {
            *place = Some((target, stored));
        }
    }

    /// Names the stand-ins whose shard's own target has failed, or had its time.
    fn settle(&mut self) {
        for index in ShardIndex::all() {
            if self.is_open(index)
                && !self.may_still_answer(index)
                && let Some(standby) = self.standby.get_mut(index.get()).and_then(Option::take)
                && let Some(place) = self.durable.get_mut(index.get())
            {
                *place = Some(standby);
            }
        }
    }

    /// Whether `target` shares its node with another shard of the stripe, and is not the shard's first choice.
    fn narrows(&self, index: ShardIndex, target: TargetId) -> bool {
        let node = self.map.node_of(target);
        let others = ShardIndex::all().zip(self.row.first).filter(|(other, _)| *other != index);
        self.row.first[index.get()] != target
            && others.map(|(_, first)| self.map.node_of(first)).any(|other| other == node)
    }

    fn may_still_answer(&self, index: ShardIndex) -> bool {
        let first = self
            .attempts
            .iter()
            .find(|attempt| attempt.index == index && attempt.target == self.row.first[index.get()]);
        first.is_some_and(|attempt| !attempt.over && attempt.since.elapsed() < HOME_GRACE.scaled())
    }

    /// Every shard whose newest attempt is overdue is written elsewhere too.
    fn hedge(&mut self) {
        let late_after = self.inner.nodes.store_hedge_delay();
        for index in ShardIndex::all() {
            let newest = self.attempts.iter().rev().find(|attempt| attempt.index == index);
            if self.is_open(index)
                && self.standby[index.get()].is_none()
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
                    let bytes = self.stripe.record_bytes();
                    return Ok(Some(Box::pin(acquire(self.inner, index, target, node, bytes, patience))));
                }
                None if is_pending => {}
                None => return Err(self.out_of_targets()),
            }
        }
        Ok(None)
    }

    fn acquired(&mut self, (index, target, acquired): Acquired<'a>) {
        // Nothing in time: another one may be quicker.
        let Some((credit, mut spare)) = acquired else { return self.want_another(index) };
        if !self.is_open(index) {
            return;
        }
        let copied = self.stripe.copy_for(index, target, spare.bytes());
        if let Some((lent, record)) = copied.and_then(|bytes| spare.share(bytes)) {
            count(&self.inner.counters.substitutes);
            self.post(index, target, credit, record, Some(lent));
        }
    }

    /// Another target for a shard, spread as widely as can be: the first of these that there is. One that has nothing of this
    /// stripe beyond its row; one that was not tried for this shard; one that answers; one that may answer after a while.
    fn substitute(&self, index: ShardIndex) -> Option<TargetId> {
        let (home, first) = (&self.row.home, &self.row.first);
        let mut absent: Vec<ShardIndex> =
            ShardIndex::all().filter(|other| home[other.get()] != first[other.get()]).collect();
        if !absent.contains(&index) {
            absent.push(index);
        }
        let view = self.inner.nodes.view_while_writing();
        let mut answering = Absent::among(self.map, &self.inner.nodes, view, true).all();
        answering.extend(&self.failed);
        let mut untried = answering.clone();
        untried.extend(
            self.attempts.iter().filter(|attempt| attempt.index == index).map(|attempt| attempt.target),
        );
        let mut unused = untried.clone();
        let is_taken = |target: &TargetId| {
            !home.contains(target) || first.iter().filter(|other| *other == target).count() > 1
        };
        unused.extend(self.attempts.iter().map(|attempt| attempt.target).filter(is_taken));
        let mut connected = Absent::now(self.map, &self.inner.nodes, false).all();
        connected.extend(&self.failed);
        let seed = rand::random();
        [unused, untried, answering, connected].iter().find_map(|avoid| {
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
    bytes: usize,
    patience: Duration,
) -> Acquired<'_> {
    let acquired = timeout(patience, async {
        // The spare first: a slot that waits for memory would keep others waiting.
        let spare = inner.memory.spare(bytes).await;
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
