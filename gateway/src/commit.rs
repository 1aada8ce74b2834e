//! One command to an index group, or one question: authorised by a version of buckets and users that is not older than the answer.
//!
//! A command runs in a task of its own from the moment it is sent, so that a client that hangs up leaves no command whose
//! fate nobody asked for. Invariant: a ticket is decided only when the reply was seen; an unknown outcome stays open, and
//! holds the lease's watermark back.

use crate::gateway::Gateway;
use crate::points;
use crate::transfer::{AccessError, Authorise};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tenfour_metadata::api::index::{IndexAnswerAt, IndexDone};
use tenfour_metadata::api::{Bucket, Config, Envelope, IndexAnswer, IndexCommand, IndexQuery, IndexRefusal};
use tenfour_metadata::{CommandTicket, MetadataError, ReadTicket, StripeTicket};
use tenfour_types::{BucketId, CommandId, ConfigVersion, MetaGroupId, ObjectKey};
use thiserror::Error;

/// Rounds of authorising again before a request is given up: each needs a change of buckets or users in between.
const ROUNDS_MAX: usize = 8;
/// At [`points::COMMITTING`] the process lives on for so long, so that the commit can reach metadata.
const COMMITTING_PAUSE: Duration = Duration::from_millis(2);

/// Why a command was not done. Nothing happened, unless it says that the outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommitError {
    /// May not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The group refused.
    #[error(transparent)]
    Refused(IndexRefusal),
    /// Metadata cannot be reached; nothing was changed.
    #[error("metadata cannot be reached: {0}")]
    Metadata(String),
    /// No answer came: done wholly or not at all.
    #[error("the outcome is unknown: the metadata service did not answer in time")]
    OutcomeUnknown,
}

impl CommitError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Metadata(_) | Self::OutcomeUnknown => true,
            Self::Refused(refusal) => {
                matches!(
                    refusal,
                    IndexRefusal::StaleEpoch { .. }
                        | IndexRefusal::StaleConfig { .. }
                        | IndexRefusal::LeaseEnded
                )
            }
            Self::Access(_) => false,
        }
    }
}

/// Why a question was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueryError {
    /// May not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Metadata cannot be reached.
    #[error("metadata cannot be reached: {0}")]
    Metadata(String),
}

impl QueryError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Metadata(_))
    }
}

/// What a request was authorised by, and for.
#[derive(Clone)]
pub(crate) struct Authorised {
    pub(crate) config: ConfigVersion,
    pub(crate) bucket: Bucket,
}

impl Gateway {
    /// Commits one command to the index group of a key. `command` is asked again, with a new id, when the authorisation
    /// turned out to be old.
    pub async fn commit<F>(
        &self,
        who: &dyn Authorise,
        key: &ObjectKey,
        command: F,
    ) -> Result<IndexDone, CommitError>
    where
        F: Fn(&Bucket, CommandId) -> IndexCommand + Send + Sync,
    {
        let authorised = self.authorise(who).await?;
        self.commit_stripes(who, authorised, key, None, Vec::new(), command).await.map(|(_, done)| done)
    }

    /// The same, for stripes of a bucket's group that were written before: another incarnation of the bucket is another bucket.
    pub(crate) async fn commit_stripes<F>(
        &self,
        who: &dyn Authorise,
        mut authorised: Authorised,
        key: &ObjectKey,
        written_for: Option<BucketId>,
        mut stripes: Vec<StripeTicket>,
        command: F,
    ) -> Result<(CommandId, IndexDone), CommitError>
    where
        F: Fn(&Bucket, CommandId) -> IndexCommand + Send + Sync,
    {
        for _ in 0..ROUNDS_MAX {
            if written_for.is_some_and(|bucket| bucket != authorised.bucket.id) {
                return Err(AccessError::NoSuchBucket.into());
            }
            let ticket = self.lease().command();
            let id = ticket.id();
            let command = command(&authorised.bucket, id);
            let group = self.metadata().group_of(authorised.bucket.id, key);
            let envelope = Envelope { id, config: authorised.config, command };
            let sent = Sent { gateway: self.clone(), group, envelope, ticket, stripes };
            match sent.decide().await {
                (Ok(done), _) => return Ok((id, done)),
                (Err(CommitError::Refused(IndexRefusal::StaleConfig { current })), open) => {
                    stripes = open;
                    stripes.iter_mut().for_each(StripeTicket::unnamed);
                    authorised = self.authorise_again(who, current).await?;
                }
                (Err(error), _) => return Err(error),
            }
        }
        Err(CommitError::Metadata("buckets and users change too fast".to_owned()))
    }

    /// Asks an index group; the answer was authorised by a version of buckets and users not older than its own.
    pub async fn index_query<F>(&self, who: &dyn Authorise, query: F) -> Result<IndexAnswer, QueryError>
    where
        F: Fn(&Bucket) -> (MetaGroupId, IndexQuery) + Send + Sync,
    {
        self.query_at(who, query).await.map(|(_, answer, _)| answer.answer)
    }

    /// The same, with the ticket that keeps what was found readable.
    pub(crate) async fn query_at<F>(
        &self,
        who: &dyn Authorise,
        query: F,
    ) -> Result<(Authorised, IndexAnswerAt, ReadTicket), QueryError>
    where
        F: Fn(&Bucket) -> (MetaGroupId, IndexQuery) + Send + Sync,
    {
        let unreachable = |error: MetadataError| QueryError::Metadata(error.to_string());
        let mut authorised = self.authorise(who).await?;
        for _ in 0..ROUNDS_MAX {
            let (group, question) = query(&authorised.bucket);
            let (answer, ticket) = self.lease().query(group, question).await.map_err(unreachable)?;
            if answer.config <= authorised.config {
                return Ok((authorised, answer, ticket));
            }
            let bucket = authorised.bucket.id;
            authorised = self.authorise_again(who, answer.config).await?;
            // The same incarnation of the bucket: what was answered is still the answer.
            if authorised.bucket.id == bucket && answer.config <= authorised.config {
                return Ok((authorised, answer, ticket));
            }
        }
        Err(QueryError::Metadata("buckets and users change too fast".to_owned()))
    }

    /// By the cached version, or, when that one refuses, by the newest.
    pub(crate) async fn authorise(&self, who: &dyn Authorise) -> Result<Authorised, QueryError> {
        match check(who, &self.metadata().config()) {
            Ok(authorised) => Ok(authorised),
            Err(_) => self.authorise_again(who, ConfigVersion(0)).await,
        }
    }

    /// By the newest version, which is at least `known`.
    async fn authorise_again(
        &self,
        who: &dyn Authorise,
        known: ConfigVersion,
    ) -> Result<Authorised, QueryError> {
        let mut config = self.metadata().config();
        if known == ConfigVersion(0) || config.version < known {
            let refreshed = self.metadata().refresh_config().await;
            config = refreshed.map_err(|error| QueryError::Metadata(error.to_string()))?;
        }
        Ok(check(who, &config)?)
    }
}

fn check(who: &dyn Authorise, config: &Arc<Config>) -> Result<Authorised, AccessError> {
    Ok(Authorised { config: config.version, bucket: who.check(config)? })
}

/// A command on its way, with everything that its fate decides.
struct Sent {
    gateway: Gateway,
    group: MetaGroupId,
    envelope: Envelope<IndexCommand>,
    ticket: CommandTicket,
    stripes: Vec<StripeTicket>,
}

impl Sent {
    /// What came of it; and the stripes again, when the command was refused in a way that another one may name them.
    async fn decide(self) -> (Result<IndexDone, CommitError>, Vec<StripeTicket>) {
        match tokio::spawn(self.send()).await {
            Ok(decided) => decided,
            // A panic, or the runtime ends: the tickets went with it, undecided.
            Err(_) => (Err(CommitError::OutcomeUnknown), Vec::new()),
        }
    }

    async fn send(self) -> (Result<IndexDone, CommitError>, Vec<StripeTicket>) {
        let Self { gateway, group, envelope, ticket, mut stripes } = self;
        stripes.iter_mut().for_each(StripeTicket::named);
        let commit = gateway.counters().commit.measure(gateway.metadata().commit(group, envelope));
        let reply =
            if points::is_armed(points::COMMITTING) { stop_while(commit).await } else { commit.await };
        match reply {
            Ok(Ok(done)) => {
                ticket.decided();
                stripes.into_iter().for_each(StripeTicket::committed);
                (Ok(done), Vec::new())
            }
            // An earlier sending of it may have happened.
            Ok(Err(IndexRefusal::LeaseEnded)) => {
                gateway.renew_lease();
                (Err(CommitError::OutcomeUnknown), Vec::new())
            }
            Ok(Err(refusal @ IndexRefusal::StaleConfig { .. })) => {
                ticket.decided();
                (Err(CommitError::Refused(refusal)), stripes)
            }
            Ok(Err(refusal)) => {
                ticket.decided();
                stripes.into_iter().for_each(StripeTicket::given_up);
                (Err(CommitError::Refused(refusal)), Vec::new())
            }
            Err(MetadataError::OutcomeUnknown) => (Err(CommitError::OutcomeUnknown), Vec::new()),
            Err(error) => {
                ticket.abandon();
                stripes.into_iter().for_each(StripeTicket::given_up);
                (Err(CommitError::Metadata(error.to_string())), Vec::new())
            }
        }
    }
}

/// Lets the commit run for a moment, then counts this as the point reached.
async fn stop_while<F: Future>(commit: F) -> F::Output {
    let mut commit = std::pin::pin!(commit);
    tokio::select! {
        biased;
        reply = &mut commit => { points::reached(points::COMMITTING); reply }
        () = tokio::time::sleep(COMMITTING_PAUSE) => { points::reached(points::COMMITTING); commit.await }
    }
}

impl From<QueryError> for CommitError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Access(error) => Self::Access(error),
            QueryError::Metadata(error) => Self::Metadata(error),
        }
    }
}

impl Gateway {
    /// Takes another lease in the background, once, when the cluster has ended ours.
    pub(crate) fn renew_lease(&self) {
        if self.inner.renewing.swap(true, Ordering::AcqRel) {
            return;
        }
        let gateway = self.clone();
        tokio::spawn(async move {
            tracing::warn!(lease = %gateway.lease().id(), "the cluster has ended this gateway's lease: taking another one");
            match gateway.metadata().lease(&gateway.inner.name).await {
                Ok(lease) => gateway.inner.lease.store(Arc::new(lease)),
                Err(error) => tracing::warn!(%error, "no lease yet"),
            }
            gateway.inner.renewing.store(false, Ordering::Release);
        });
    }
}
