//! A gateway's lease: it numbers commands and stripes, knows which are undecided, and publishes how far everything is decided.
//!
//! Invariant: a watermark never passes a command or a stripe whose fate is unknown, nor a read that still runs. So what is
//! undecided stays so for ever: a ticket that is dropped without a word holds the watermark back, until the lease ends: by a
//! word, or because its holder takes another one, as a gateway does that was killed and comes back.

use crate::api::cluster::ClusterDone;
use crate::api::index::IndexAnswerAt;
use crate::api::{ClusterCommand, Envelope, IndexAnswer, IndexCommand, IndexQuery, IndexRefusal, Watermark};
use crate::client::{Metadata, MetadataError, unreadable};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tenfour_types::Scaled;
use tenfour_types::{BucketId, CommandId, ConfigVersion, LeaseId, MetaGroupId, StripeId};

const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// A lease without news of its own tells in every so many rounds how far its readers are.
const IDLE_ROUNDS: u64 = 10;
/// And only when the group has moved on by so many entries since.
const IDLE_ENTRIES: u64 = 64;

/// The lease. A clone is the same lease.
#[derive(Clone)]
pub struct Lease {
    shared: Arc<Shared>,
}

struct Shared {
    id: LeaseId,
    metadata: Metadata,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    commands: Numbers,
    groups: BTreeMap<MetaGroupId, Group>,
    /// Something of the gateway's own was decided since the last watermark.
    news: bool,
    ended: bool,
}

#[derive(Default)]
struct Group {
    stripes: Numbers,
    /// Log indexes that running reads saw, and how many of each.
    reads: BTreeMap<u64, usize>,
    /// The highest log index that was seen.
    seen: u64,
    /// What could have been published a round ago: a read that was answered then has its ticket by now.
    floor_before: u64,
    published: Watermark,
}

impl Group {
    fn read_floor(&self) -> u64 {
        self.reads.keys().next().copied().unwrap_or(u64::MAX).min(self.seen)
    }
}

/// Numbers given out in order, and those of them whose fate is open.
#[derive(Default)]
struct Numbers {
    last: u64,
    open: BTreeSet<u64>,
}

impl Numbers {
    fn take(&mut self) -> u64 {
        self.last += 1;
        self.open.insert(self.last);
        self.last
    }
    /// All below are decided.
    fn below(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.last + 1)
    }
}

impl Lease {
    pub(super) async fn take(metadata: &Metadata, holder: &str) -> Result<Self, MetadataError> {
        let command = ClusterCommand::GrantLease { holder: holder.to_owned() };
        match metadata.cluster(command).await? {
            Ok(ClusterDone::Lease(id)) => {
                let shared = Shared { id, metadata: metadata.clone(), state: Mutex::default() };
                let lease = Self { shared: Arc::new(shared) };
                tokio::spawn(publish_while_held(Arc::downgrade(&lease.shared)));
                Ok(lease)
            }
            Ok(_) => Err(unreadable()),
            Err(refusal) => Err(MetadataError::Refused(refusal.to_string())),
        }
    }

    /// Its id.
    pub fn id(&self) -> LeaseId {
        self.shared.id
    }

    /// Whether the cluster has ended it: nothing is committed under it any more, and a new one is needed.
    pub fn is_ended(&self) -> bool {
        self.shared.state.lock().ended
    }

    /// The next command's name.
    pub fn command(&self) -> CommandTicket {
        let sequence = self.shared.state.lock().commands.take();
        CommandTicket { id: CommandId { lease: self.id(), sequence }, lease: self.clone() }
    }

    /// The next stripe's name, for objects of a group.
    pub fn stripe(&self, group: MetaGroupId) -> StripeTicket {
        let counter = self.shared.state.lock().groups.entry(group).or_default().stripes.take();
        let id = StripeId { meta_group: group, lease: self.id(), counter };
        StripeTicket { id, lease: self.clone(), fate: Fate::Open }
    }

    /// Holds what a read of a group saw at this log index, until the ticket is dropped. To be called at once after the answer
    /// came, without a wait between; [`Lease::query`] has no such gap.
    pub fn read(&self, group: MetaGroupId, applied: u64) -> ReadTicket {
        let mut state = self.shared.state.lock();
        let track = state.groups.entry(group).or_default();
        track.seen = track.seen.max(applied);
        *track.reads.entry(applied).or_default() += 1;
        ReadTicket { group, applied, lease: self.clone() }
    }

    /// A linearizable read whose answer stays readable (its bytes are not let go) until the ticket is dropped.
    pub async fn query(
        &self,
        group: MetaGroupId,
        query: IndexQuery,
    ) -> Result<(IndexAnswerAt, ReadTicket), MetadataError> {
        // The answer cannot be older than what was seen before it was asked for.
        let seen = self.shared.state.lock().groups.entry(group).or_default().seen;
        let asking = self.read(group, seen);
        let answer = self.shared.metadata.query(group, query).await?;
        let ticket = self.read(group, answer.applied);
        drop(asking);
        Ok((answer, ticket))
    }

    /// Ends the lease: nothing is committed under it any more, and what it left undecided is let go. To be called when
    /// nothing runs under it.
    pub async fn end(self) -> Result<(), MetadataError> {
        self.shared.state.lock().ended = true;
        match self.shared.metadata.cluster(ClusterCommand::EndLease { lease: self.id() }).await? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(MetadataError::Refused(refusal.to_string())),
        }
    }

    /// Publishes the watermark of every group now, where there is news; the background does it every second.
    pub async fn publish(&self) -> Result<(), MetadataError> {
        self.shared.publish(true).await
    }
}

async fn publish_while_held(shared: Weak<Shared>) {
    let mut round = 0;
    loop {
        tokio::time::sleep(PUBLISH_EVERY.scaled()).await;
        let Some(shared) = shared.upgrade() else { return };
        round += 1;
        if let Err(error) = shared.publish(round % IDLE_ROUNDS == 0).await {
            tracing::debug!(%error, "a watermark is published later");
        }
        if shared.state.lock().ended {
            return;
        }
    }
}

impl Shared {
    async fn publish(&self, even_idle: bool) -> Result<(), MetadataError> {
        let news = {
            let mut state = self.state.lock();
            if state.ended {
                return Ok(());
            }
            std::mem::take(&mut state.news)
        };
        if !news && !even_idle {
            return Ok(());
        }
        let published = self.publish_all(news).await;
        if news && published.is_err() {
            self.state.lock().news = true;
        }
        published
    }

    async fn publish_all(&self, news: bool) -> Result<(), MetadataError> {
        for group in self.metadata.index_groups() {
            // How far the group is, for a floor that rises without reads of our own.
            let query = IndexQuery::IsEmpty { bucket: BucketId(0) };
            let answer = self.metadata.query(group, query).await?;
            debug_assert!(matches!(answer.answer, IndexAnswer::IsEmpty(_)));
            let Some(watermark) = self.next_watermark(group, answer.applied, news) else { continue };
            self.send(group, watermark).await?;
        }
        Ok(())
    }

    /// The watermark to publish, if it is worth it.
    fn next_watermark(&self, group: MetaGroupId, applied: u64, news: bool) -> Option<Watermark> {
        let mut state = self.state.lock();
        let commands_below = state.commands.below();
        let track = state.groups.entry(group).or_default();
        let floor = track.read_floor();
        track.seen = track.seen.max(applied);
        let watermark = Watermark {
            commands_below,
            stripes_below: track.stripes.below(),
            reads_below: floor.min(track.floor_before).max(track.published.reads_below),
        };
        track.floor_before = floor;
        let known = track.published;
        let worth =
            if news { watermark != known } else { watermark.reads_below >= known.reads_below + IDLE_ENTRIES };
        worth.then_some(watermark)
    }

    async fn send(&self, group: MetaGroupId, watermark: Watermark) -> Result<(), MetadataError> {
        let sequence = self.state.lock().commands.take();
        let envelope = Envelope {
            id: CommandId { lease: self.id, sequence },
            config: ConfigVersion(u64::MAX),
            command: IndexCommand::Watermark { lease: self.id, watermark },
        };
        let sent = self.metadata.commit(group, envelope).await;
        let mut state = self.state.lock();
        // Repeating it does no harm, so its fate does not matter; what it holds back would.
        state.commands.open.remove(&sequence);
        match sent? {
            Ok(_) => state.groups.entry(group).or_default().published = watermark,
            Err(IndexRefusal::LeaseEnded) => state.ended = true,
            Err(refusal) => return Err(MetadataError::Refused(refusal.to_string())),
        }
        Ok(())
    }
}

/// The name of one command. Until it is decided, or abandoned before it was sent, it holds the watermark back.
#[must_use]
pub struct CommandTicket {
    id: CommandId,
    lease: Lease,
}

impl CommandTicket {
    /// The command's name.
    pub fn id(&self) -> CommandId {
        self.id
    }
    /// Its reply was seen.
    pub fn decided(self) {
        self.close();
    }
    /// It was never sent, and never will be.
    pub fn abandon(self) {
        self.close();
    }
    fn close(&self) {
        let mut state = self.lease.shared.state.lock();
        state.commands.open.remove(&self.id.sequence);
        state.news = true;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// No commit that names it was sent.
    Open,
    /// One was, and its outcome is open.
    Named,
    Closed,
}

/// The name of one stripe. Dropped before a commit that names it was sent, it is given up; after that, only a word decides.
#[must_use]
pub struct StripeTicket {
    id: StripeId,
    lease: Lease,
    fate: Fate,
}

impl StripeTicket {
    /// The stripe's name.
    pub fn id(&self) -> StripeId {
        self.id
    }
    /// A commit that names it is about to be sent: from here on dropping the ticket decides nothing.
    pub fn named(&mut self) {
        self.fate = Fate::Named;
    }
    /// The commit that names it was refused, and will not be sent again: it is as before [`StripeTicket::named`], may be named
    /// by another commit, and is given up when it is dropped. Only after an answer, never after
    /// [`MetadataError::OutcomeUnknown`].
    pub fn unnamed(&mut self) {
        self.fate = Fate::Open;
    }
    /// The commit that names it succeeded.
    pub fn committed(mut self) {
        self.close();
    }
    /// No commit that names it happened, nor ever will: its shards are garbage.
    pub fn given_up(mut self) {
        self.close();
    }
    fn close(&mut self) {
        self.fate = Fate::Closed;
        let mut state = self.lease.shared.state.lock();
        state.groups.entry(self.id.meta_group).or_default().stripes.open.remove(&self.id.counter);
        state.news = true;
    }
}

impl Drop for StripeTicket {
    fn drop(&mut self) {
        if self.fate == Fate::Open {
            self.close();
        }
    }
}

/// Holds what a read saw. Ends when it is dropped.
#[must_use]
pub struct ReadTicket {
    group: MetaGroupId,
    applied: u64,
    lease: Lease,
}

impl Drop for ReadTicket {
    fn drop(&mut self) {
        let mut state = self.lease.shared.state.lock();
        let reads = &mut state.groups.entry(self.group).or_default().reads;
        if let Some(count) = reads.get_mut(&self.applied) {
            *count -= 1;
            if *count == 0 {
                reads.remove(&self.applied);
            }
        }
        state.news = true;
    }
}
