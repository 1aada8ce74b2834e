//! One look at the stripe table by one map, and everything that it finds to be done.
//!
//! Invariant: a slot is called whole only when every row that the last walk met, which began after every index group had committed
//! the map's fences, has its shard on the slot's target. Rows that come meanwhile were written by this map, to that target.

use super::duty::{Duty, Wanted};
use super::pace::Pace;
use super::peers::Peers;
use super::rebuild::{Done, Job, Tools};
use super::rows::{Rows, Which, row_of};
use super::{RoundError, Worker};
use crate::target::ShardKey;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use tenfour_metadata::api::cluster::ClusterStatus;
use tenfour_metadata::api::index::ShardAway;
use tenfour_metadata::api::{ClusterAnswer, ClusterCommand, ClusterQuery, Envelope, IndexCommand};
use tenfour_placement::ClusterMap;
use tenfour_rdma::{Domain, DomainConfig};
use tenfour_types::{
    CommandId, ConfigVersion, Epoch, GroupId, LeaseId, MetaGroupId, ShardIndex, StripeId, TargetId,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Stripes at once, as far as there is memory.
const JOBS_MAX: usize = 32;
/// Shards that are said to be at home in one command.
const HOME_AT_ONCE: usize = 128;
/// Slots that are said to be whole in one command.
const SLOTS_AT_ONCE: usize = 1024;
const PAGE_BYTES: usize = 4096;

/// How a round ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Nothing is left to do.
    Done,
    /// The map's fences are still on their way.
    Later,
    /// Some shards cannot be had now.
    NotAll,
}

pub(super) struct Round<'a> {
    pub(super) worker: &'a Worker,
}

impl Round<'_> {
    pub(super) async fn run(self) -> Result<Outcome, RoundError> {
        let worker = self.worker;
        let mut damaged = self.damaged().await?;
        let is_quiet = damaged.is_empty() && !self.has_moving(&worker.metadata.map());
        if is_quiet && self.is_nothing_away().await? {
            worker.counters.set_left(0);
            return Ok(Outcome::Done);
        }
        let ClusterAnswer::Status(status) = worker.metadata.cluster_query(ClusterQuery::Status).await? else {
            return Err(RoundError::Answer);
        };
        let ClusterStatus { map, fences_pending, .. } = status;
        if !fences_pending.is_empty() || worker.metadata.index_groups().is_empty() {
            return Ok(Outcome::Later);
        }
        let duty = Duty::new(&map, self.healthy());
        let which = if duty.moving().is_empty() { Which::Away } else { Which::All };
        let (mut shards, ranks) = self.survey(&duty, which).await?;
        shards += damaged.iter().map(|job| job.wanted.len() as u64).sum::<u64>();
        if shards == 0 {
            // That was a walk too, and it met no row whose shard could be missing.
            self.say_whole(&duty, &HashSet::new(), map.epoch).await?;
            worker.counters.set_left(0);
            return Ok(Outcome::Done);
        }
        worker.counters.begin(shards);
        tracing::info!(shards, slots = duty.moving().len(), epoch = %map.epoch, "repair begins");
        let mut work = Work::new(worker, &map)?;
        let done = match work.walk_all(&duty, which, &ranks).await {
            Ok(()) => work.mend(std::mem::take(&mut damaged)).await,
            walked => walked,
        };
        work.close().await;
        done?;
        self.say_whole(&duty, &work.unfinished, map.epoch).await?;
        worker.counters.set_left(work.failed);
        tracing::info!(left = work.failed, "repair has come through");
        Ok(if work.failed == 0 { Outcome::Done } else { Outcome::NotAll })
    }

    fn healthy(&self) -> impl Iterator<Item = TargetId> + '_ {
        self.worker.targets.iter().filter(|(_, target)| !target.is_poisoned()).map(|(id, _)| *id)
    }

    /// Copies on this node's targets that were found damaged, as far as their stripes still name them.
    async fn damaged(&self) -> Result<Vec<Job>, RoundError> {
        let mut found: BTreeMap<StripeId, Vec<(TargetId, ShardKey)>> = BTreeMap::new();
        for target in self.healthy() {
            let keys = self.worker.targets.get(&target).map(|open| open.damaged()).unwrap_or_default();
            keys.into_iter().for_each(|key| found.entry(key.stripe).or_default().push((target, key)));
        }
        let map = self.worker.metadata.map();
        let mut jobs = Vec::new();
        for (stripe, copies) in found {
            let Some(row) = row_of(&self.worker.metadata, stripe).await? else { continue };
            let is_named = |(target, key): &(TargetId, ShardKey)| {
                let mut holders = map.holders(&row, key.index);
                row.digests[key.index.get()] == key.digest && holders.any(|holder| holder == *target)
            };
            let named = copies.into_iter().filter(is_named);
            let wanted: Vec<Wanted> =
                named.map(|(target, key)| Wanted { index: key.index, target, away: None }).collect();
            if !wanted.is_empty() {
                jobs.push(Job { row, wanted });
            }
        }
        Ok(jobs)
    }

    fn has_moving(&self, map: &ClusterMap) -> bool {
        !Duty::new(map, self.healthy()).moving().is_empty()
    }

    /// Whether no stripe has a shard elsewhere that belongs here, by the map that is known.
    async fn is_nothing_away(&self) -> Result<bool, RoundError> {
        let map = self.worker.metadata.map();
        let duty = Duty::new(&map, self.healthy());
        let mut rows = Rows::new(&self.worker.metadata, Which::Away);
        while let Some(page) = rows.next().await? {
            if page.iter().any(|row| !duty.wanted(row).is_empty()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many shards there are to look after, and how urgent the stripes are that they belong to.
    async fn survey(&self, duty: &Duty<'_>, which: Which) -> Result<(u64, BTreeSet<usize>), RoundError> {
        let (mut shards, mut ranks) = (0, BTreeSet::new());
        let mut rows = Rows::new(&self.worker.metadata, which);
        while let Some(page) = rows.next().await? {
            for row in &page {
                let wanted = duty.wanted(row).len();
                if wanted > 0 {
                    shards += wanted as u64;
                    ranks.insert(duty.rank(row));
                }
            }
        }
        Ok((shards, ranks))
    }

    /// Says which slots are whole.
    async fn say_whole(
        &self,
        duty: &Duty<'_>,
        unfinished: &HashSet<(GroupId, ShardIndex)>,
        epoch: Epoch,
    ) -> Result<(), RoundError> {
        let mut whole: BTreeMap<TargetId, Vec<(GroupId, ShardIndex)>> = BTreeMap::new();
        for (slot, target) in duty.moving().iter().filter(|(slot, _)| !unfinished.contains(slot)) {
            whole.entry(*target).or_default().push(*slot);
        }
        for (target, slots) in whole {
            for slots in slots.chunks(SLOTS_AT_ONCE) {
                let command = ClusterCommand::SlotsWhole { target, epoch, slots: slots.to_vec() };
                if let Err(refusal) = self.worker.metadata.cluster(command).await? {
                    tracing::warn!(%target, %refusal, "slots are not called whole");
                }
            }
        }
        Ok(())
    }
}

/// The work of one round.
struct Work<'a> {
    worker: &'a Worker,
    tools: Arc<Tools>,
    memory: Arc<Semaphore>,
    pages: usize,
    jobs: JoinSet<Done>,
    /// Of each index group: shards that are at home, and whose overrides are still there.
    home: BTreeMap<MetaGroupId, Vec<ShardAway>>,
    unfinished: HashSet<(GroupId, ShardIndex)>,
    failed: u64,
}

impl<'a> Work<'a> {
    fn new(worker: &'a Worker, map: &Arc<ClusterMap>) -> Result<Self, RoundError> {
        let config = &worker.config;
        let (providers, optional) = (config.providers(), config.optional_providers());
        let name = format!("repair-{}", config.node.0);
        let mut settings =
            DomainConfig::carrying(providers, &name, config.cluster_key.clone(), config.repair.memory_bytes);
        settings.tunables = config.tunables.clone();
        let domain = Domain::open_without(settings, &optional)?;
        let pool = domain.pool().clone();
        // What is left over keeps the free pages from lying scattered.
        let pages = pool.capacity_bytes() / PAGE_BYTES / 8 * 7;
        let tools = Tools {
            map: Arc::clone(map),
            targets: worker.targets.clone(),
            peers: Peers::new(config, domain),
            pool,
            pace: Pace::new(config.repair.bytes_per_second),
            codec: Arc::clone(&worker.codec),
            counters: Arc::clone(&worker.counters),
        };
        Ok(Self {
            worker,
            tools: Arc::new(tools),
            memory: Arc::new(Semaphore::new(pages)),
            pages,
            jobs: JoinSet::new(),
            home: BTreeMap::new(),
            unfinished: HashSet::new(),
            failed: 0,
        })
    }

    /// A walk for each rank but the last, the most urgent first, and then one that leaves nothing out: a row's rank may have changed
    /// since it was counted.
    async fn walk_all(
        &mut self,
        duty: &Duty<'_>,
        which: Which,
        ranks: &BTreeSet<usize>,
    ) -> Result<(), RoundError> {
        let mut seen = HashSet::new();
        for rank in ranks.iter().take(ranks.len().saturating_sub(1)) {
            self.walk(duty, which, Some(*rank), &mut seen).await?;
        }
        self.walk(duty, which, None, &mut seen).await
    }

    async fn walk(
        &mut self,
        duty: &Duty<'_>,
        which: Which,
        rank: Option<usize>,
        seen: &mut HashSet<StripeId>,
    ) -> Result<(), RoundError> {
        let mut rows = Rows::new(&self.worker.metadata, which);
        while let Some(page) = rows.next().await? {
            for row in page {
                let wanted = duty.wanted(&row);
                let is_due = rank.is_none_or(|rank| duty.rank(&row) == rank) && !seen.contains(&row.id);
                if wanted.is_empty() || !is_due {
                    continue;
                }
                if rank.is_some() {
                    seen.insert(row.id);
                }
                self.begin(Job { row, wanted }).await?;
            }
        }
        self.settle().await
    }

    /// Makes damaged copies anew where they are.
    async fn mend(&mut self, damaged: Vec<Job>) -> Result<(), RoundError> {
        for job in damaged {
            self.begin(job).await?;
        }
        self.settle().await
    }

    /// Waits for all jobs.
    async fn settle(&mut self) -> Result<(), RoundError> {
        while let Some(done) = self.jobs.join_next().await {
            self.finish(done.ok()).await?;
        }
        self.bring_home(1).await
    }

    async fn begin(&mut self, job: Job) -> Result<(), RoundError> {
        let pages = job.memory_bytes().div_ceil(PAGE_BYTES).min(self.pages) as u32;
        while self.jobs.len() >= JOBS_MAX
            || (!self.jobs.is_empty() && self.memory.available_permits() < pages as usize)
        {
            let done = self.jobs.join_next().await.and_then(Result::ok);
            self.finish(done).await?;
        }
        let Ok(permit) = Arc::clone(&self.memory).acquire_many_owned(pages).await else { return Ok(()) };
        let tools = Arc::clone(&self.tools);
        self.jobs.spawn(async move {
            let done = job.run(&tools).await;
            drop(permit);
            done
        });
        Ok(())
    }

    async fn finish(&mut self, done: Option<Done>) -> Result<(), RoundError> {
        // A job that panicked leaves its slots unknown: none of the round's is called whole.
        let Some(Done { row, there, failed }) = done else { return Err(RoundError::Job) };
        for Wanted { index, .. } in &failed {
            self.unfinished.insert((row.group, *index));
            self.failed += 1;
        }
        let away = |wanted: Wanted| {
            wanted.away.map(|target| ShardAway { stripe: row.id, index: wanted.index, target })
        };
        self.home.entry(row.id.meta_group).or_default().extend(there.into_iter().filter_map(away));
        self.bring_home(HOME_AT_ONCE).await
    }

    /// Clears the overrides of shards that are at home, where there are so many of a group.
    async fn bring_home(&mut self, at_least: usize) -> Result<(), RoundError> {
        for (&group, shards) in &mut self.home {
            if shards.len() < at_least {
                continue;
            }
            let command =
                IndexCommand::BringHome { epoch: self.tools.map.epoch, shards: std::mem::take(shards) };
            let id = CommandId { lease: LeaseId(0), sequence: 0 };
            let envelope = Envelope { id, config: ConfigVersion(u64::MAX), command };
            if let Err(refusal) = self.worker.metadata.commit(group, envelope).await? {
                tracing::warn!(%group, %refusal, "overrides stay for now");
            }
        }
        Ok(())
    }

    async fn close(&mut self) {
        self.jobs.shutdown().await;
        self.tools.peers.close().await;
    }
}
