//! One client's session, from its welcome to its end.
//!
//! One task takes what the client sends, frame by frame, and begins a task for each request; those answer for themselves. A frame
//! that is not the next one of this session, or says what the protocol does not, ends it without a word: whoever sent it is not the
//! client that logged in, or not one that can be spoken with.
//!
//! Invariant: a request is answered once, by `finish`; from then on its id is free.

use super::channel::Outgoing;
use super::door::told_to_stop;
use super::following::{Follower, Following, Follows};
use super::memory::{Lender, Permit, Room};
use super::slots::Slots;
use super::users::{Member, Users};
use crate::ops::Backend;
use crate::ops::refusal::{Refusal, Retry, slow_down};
use crate::ops::requester::Requester;
use crate::transport::Transports;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tenfour_metadata::api::Config;
use tenfour_rdma::{Buffer, Connection, ConnectionError, Frozen, OperationError, Provider, Received, Remote};
use tenfour_types::native::{
    self, Answer, FrameError, How, Opener, Operation, REQUESTS_MAX, Request, SESSION_MS_MAX, SessionKeys,
    ToClient, ToGateway, Welcome, slot_body_offset,
};
use tenfour_types::{DecodeError, Scaled};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Requests of a session that run, or are answered and wait for a place in the send queue; with more, nothing is read.
const TASKS_MAX: usize = 2 * REQUESTS_MAX;
/// A client that is told of the end of its session has so long to take note.
const FAREWELL: Duration = Duration::from_millis(200);

/// What all sessions of a door have in common.
pub(super) struct Shared<B> {
    pub(super) backend: B,
    pub(super) users: Users,
    pub(super) silence_max: Duration,
    pub(super) stop_within: Duration,
}

/// Why a session ends.
#[derive(Debug, Error)]
enum End {
    #[error("the client broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("a frame: {0}")]
    Frame(#[from] FrameError),
    #[error("a message: {0}")]
    Decode(#[from] DecodeError),
    #[error("the connection: {0}")]
    Connection(#[from] ConnectionError),
    #[error("an operation: {0}")]
    Operation(#[from] OperationError),
    #[error("told the client: {}", .0.message())]
    Told(Refusal),
}

/// What the tasks of a session have in common.
pub(super) struct Context<B> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) requester: Requester,
    pub(super) outgoing: Outgoing,
    pub(super) lender: Lender,
    /// Lists of parts that are incomplete.
    pub(super) part_lists: Semaphore,
    slots: Slots,
    running: Mutex<HashMap<u32, Option<Follower>>>,
    member: Member,
}

/// A client that has logged in.
pub(super) struct Session<B> {
    context: Arc<Context<B>>,
    opener: Opener,
    tasks: JoinSet<()>,
    is_stopping: bool,
}

impl<B: Backend> Session<B> {
    /// Welcomes a client; `None` when it is gone already, or its user has too many connections.
    pub(super) async fn begin(
        shared: Arc<Shared<B>>,
        connection: Connection,
        requester: Requester,
        keys: SessionKeys,
        room: &Room,
    ) -> Option<Self> {
        let outgoing = Outgoing::new(connection.clone(), keys.to_client);
        let Some(member) = shared.users.join(&requester.access_key) else {
            farewell(&outgoing, slow_down()).await;
            return None;
        };
        let is_alone = connection.provider() == Provider::Shm;
        let share = (!is_alone).then(|| member.memory.clone());
        let lender = Lender::new(room.pool().clone(), share);
        let (slots, granted) = Slots::grant(connection.clone(), &lender);
        let welcome = Welcome {
            slots: granted,
            requests_max: REQUESTS_MAX as u32,
            carrier: connection.provider().to_string(),
        };
        outgoing.send(&ToClient::Welcome(welcome)).await.ok()?;
        let context = Context {
            shared,
            requester,
            outgoing,
            lender,
            part_lists: Semaphore::new(super::uploads::PART_LISTS_MAX),
            slots,
            running: Mutex::default(),
            member,
        };
        let opener = Opener::new(keys.to_gateway);
        Some(Self { context: Arc::new(context), opener, tasks: JoinSet::new(), is_stopping: false })
    }

    /// Serves the client until it goes, breaks the protocol, may nothing any more, or the gateway stops.
    pub(super) async fn run(mut self, stopped: watch::Receiver<bool>, config: watch::Receiver<Arc<Config>>) {
        let id = self.context.outgoing.connection.id();
        let end = self.serve(stopped, config).await;
        // Requests that still run end here; a commit that was sent has a task of its own.
        self.tasks.shutdown().await;
        match end {
            End::Told(refusal) => {
                tracing::info!(connection = id, reason = refusal.message(), "a client's session ends");
                farewell(&self.context.outgoing, refusal).await;
            }
            end @ (End::Protocol(_) | End::Frame(_) | End::Decode(_)) => {
                tracing::warn!(connection = id, user = self.context.requester.access_key, %end, "closing a client's connection");
            }
            end => tracing::debug!(connection = id, %end, "a client's session ended"),
        }
    }

    async fn serve(
        &mut self,
        mut stopped: watch::Receiver<bool>,
        mut config: watch::Receiver<Arc<Config>>,
    ) -> End {
        let connection = self.context.outgoing.connection.clone();
        let mut age = std::pin::pin!(sleep(Duration::from_millis(SESSION_MS_MAX)));
        let mut grace = std::pin::pin!(sleep(Duration::MAX));
        loop {
            let step = tokio::select! {
                received = connection.recv(), if self.tasks.len() < TASKS_MAX => match received {
                    Ok(Received::Message(frame)) => self.message(&frame),
                    Ok(Received::Immediate { value, bytes }) => self.slot(value, bytes).await,
                    Err(error) => Err(error.into()),
                },
                Some(ended) = self.tasks.join_next() => match ended {
                    Err(error) if error.is_panic() => Err(End::Protocol("a request could not be answered")),
                    _ => Ok(()),
                },
                // Rung for a version that may be older than the one that this session was let in by: the newest is looked at.
                Ok(()) = config.changed() => {
                    config.mark_unchanged();
                    self.still_may(&self.context.shared.backend.config())
                }
                () = &mut age => Err(End::Told(Refusal::new("ExpiredToken", "The session is too old: connect again."))),
                () = told_to_stop(&mut stopped), if !self.is_stopping => {
                    self.is_stopping = true;
                    grace.as_mut().reset(tokio::time::Instant::now() + self.context.shared.stop_within.scaled());
                    Ok(())
                }
                () = &mut grace, if self.is_stopping => Err(End::Told(stops())),
            };
            if let Err(end) = step {
                return end;
            }
            if self.is_stopping && self.tasks.is_empty() {
                return End::Told(stops());
            }
        }
    }

    /// A user who was disabled, removed or given another secret is shown out.
    fn still_may(&self, config: &Config) -> Result<(), End> {
        self.context.requester.user(config).map(drop).map_err(|error| End::Told(error.into()))
    }

    fn message(&mut self, frame: &[u8]) -> Result<(), End> {
        let (message, after) = self.opener.open(frame)?;
        if !after.is_empty() {
            return Err(End::Protocol("something follows a message"));
        }
        match native::request::decode(message)? {
            ToGateway::Request { id, request } if !comes_here(&request.operation) => {
                self.request(id, request, None)
            }
            ToGateway::Request { .. } => {
                Err(End::Protocol("the bytes of a PUT are said to be here, and are not"))
            }
            ToGateway::Written { id, chunk } => self.follows(id, Following::Written(chunk)),
            ToGateway::MoreParts { id, parts } => self.follows(id, Following::Parts(parts)),
            ToGateway::MoreEntries { id, messages } => self.follows(id, Following::Entries(messages)),
        }
    }

    async fn slot(&mut self, index: u32, bytes: u32) -> Result<(), End> {
        let sealed = self.context.slots.seal(index).await;
        let sealed = sealed.ok_or(End::Protocol("a slot was written that is not granted"))?;
        let written =
            sealed.get(..bytes as usize).ok_or(End::Protocol("more was written than a slot holds"))?;
        let (message, _) = self.opener.open(written)?;
        let begin = slot_body_offset(message.len());
        let ToGateway::Request { id, request } = native::request::decode(message)? else {
            return Err(End::Protocol("a slot holds no request"));
        };
        let content = if comes_here(&request.operation) { begin..written.len() } else { 0..0 };
        if content.start > content.end {
            return Err(End::Protocol("a slot is cut off"));
        }
        let arrived = Arrived { index: index as u16, buffer: sealed.into_buffer(), content };
        self.request(id, request, Some(arrived))
    }

    fn request(&mut self, id: u32, request: Request, arrived: Option<Arrived>) -> Result<(), End> {
        let (follower, following) = match Follows::of(&request.operation) {
            Some(kind) => {
                let (sender, following) = mpsc::channel(kind.queued_max());
                (Some((kind, sender)), Some(following))
            }
            None => (None, None),
        };
        {
            let mut running = self.context.running.lock();
            if running.len() >= REQUESTS_MAX {
                return Err(End::Protocol("too many requests at once"));
            }
            match running.entry(id) {
                Entry::Occupied(_) => return Err(End::Protocol("the id of a request that is not answered")),
                Entry::Vacant(place) => place.insert(follower),
            };
        }
        let context = self.context.clone();
        let is_stopping = self.is_stopping;
        let task = async move {
            let Ok(permit) = context.member.requests.clone().try_acquire_owned() else {
                return context.finish(Asked::refused(id, arrived), Err(slow_down()), None).await;
            };
            if is_stopping {
                return context.finish(Asked::refused(id, arrived), Err(stops()), None).await;
            }
            let mut asked = Asked { following, ..Asked::refused(id, arrived) };
            let (result, last) = context.answer(request, &mut asked).await;
            context.finish(asked, result, last).await;
            drop(permit);
        };
        self.tasks.spawn(task);
        Ok(())
    }

    fn follows(&self, id: u32, following: Following) -> Result<(), End> {
        match self.context.running.lock().get(&id) {
            Some(Some((kind, _))) if !kind.fits(&following) => {
                Err(End::Protocol("that does not follow this request"))
            }
            Some(Some((_, sender))) => match sender.try_send(following) {
                // The request has all that it wanted, and is about to be answered.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => Err(End::Protocol("too much follows a request")),
            },
            Some(None) => Err(End::Protocol("nothing can follow this request")),
            // It was refused while this was on its way.
            None => Ok(()),
        }
    }
}

/// A request that came in a slot.
pub(super) struct Arrived {
    index: u16,
    pub(super) buffer: Buffer,
    /// The bytes of a PUT in it.
    pub(super) content: std::ops::Range<usize>,
}

/// What comes with a request.
pub(super) struct Asked {
    pub(super) id: u32,
    pub(super) arrived: Option<Arrived>,
    pub(super) following: Option<mpsc::Receiver<Following>>,
    /// What carried its shards.
    pub(super) transports: Transports,
}

impl Asked {
    fn refused(id: u32, arrived: Option<Arrived>) -> Self {
        Self { id, arrived, following: None, transports: Transports::default() }
    }
}

/// The last bytes of a GET, to be posted in one step with the answer.
pub(super) type Last = Option<(Frozen, Remote, Permit)>;

impl<B: Backend> Context<B> {
    async fn answer(&self, request: Request, asked: &mut Asked) -> (Result<Answer, Refusal>, Last) {
        let Request { bucket, key, expected_owner, operation } = request;
        let wants = match super::objects::wants(self, &bucket, expected_owner.as_deref()) {
            Ok(wants) => wants,
            Err(refusal) => return (Err(refusal), None),
        };
        // Each in a box of its own size: a request's task is moved as a whole, and a HEAD is no PUT.
        let result = match operation {
            Operation::Get { read, into } => {
                return Box::pin(self.get(&wants, &key, (read, into), asked)).await;
            }
            Operation::Head(read) => Box::pin(self.head(&wants, &key, read)).await,
            Operation::Put { headers, precondition, content } => {
                Box::pin(self.put(&wants, &key, (headers, precondition), content, asked)).await
            }
            Operation::Delete { precondition } => Box::pin(self.delete(&wants, &key, precondition)).await,
            Operation::List { prefix, delimiter, from, most, window } => {
                let listing = super::listing::Listing { prefix, delimiter, from, most, window };
                Box::pin(self.list(&wants, listing, asked)).await
            }
            Operation::CreateUpload { headers, checksum } => {
                Box::pin(self.create_upload(&wants, &key, headers, checksum)).await
            }
            Operation::UploadPart { upload, number, content } => {
                Box::pin(self.upload_part(&wants, &key, (&upload, number), content, asked)).await
            }
            Operation::CompleteUpload { upload, count, parts, precondition, checksum, full_object, size } => {
                let whole = super::uploads::Whole { count, precondition, checksum, full_object, size };
                Box::pin(self.complete_upload(&wants, &key, &upload, whole, parts, asked)).await
            }
            Operation::AbortUpload { upload } => Box::pin(self.abort_upload(&wants, &key, &upload)).await,
        };
        (result, None)
    }

    /// Answers a request, and grants its slot anew.
    async fn finish(&self, asked: Asked, result: Result<Answer, Refusal>, last: Last) {
        let Asked { id, arrived, transports, .. } = asked;
        let slot = arrived.and_then(|arrived| self.slots.grant_again(arrived.index, arrived.buffer));
        let fabric = transports.to_string();
        let reply = ToClient::Reply { id, slot, fabric, result: result.map_err(native::Refusal::from) };
        self.running.lock().remove(&id);
        let sent = match last {
            Some((source, to, permit)) => match self.outgoing.write_then_send(source, to, &reply).await {
                // The memory counts as the user's until the device has let go of it; a client's own pool sees to itself.
                Ok(placed) if permit.is_some() => placed.await,
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            },
            None => self.outgoing.send(&reply).await,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "an answer was not sent");
        }
    }
}

fn comes_here(operation: &Operation) -> bool {
    match operation {
        Operation::Put { content, .. } | Operation::UploadPart { content, .. } => content.how == How::Here,
        _ => false,
    }
}

fn stops() -> Refusal {
    Refusal::new("ServiceUnavailable", "The gateway stops. Nothing was changed; ask another one.")
        .with_retry(Retry::Later)
}

async fn farewell(outgoing: &Outgoing, refusal: Refusal) {
    let told = timeout(FAREWELL.scaled(), async {
        outgoing.send(&ToClient::Closing(refusal.into())).await?;
        // The client hangs up when it has read that.
        outgoing.connection.closed().await;
        Ok::<_, OperationError>(())
    });
    if !matches!(told.await, Ok(Ok(()))) {
        tracing::debug!("a client did not take note of its session's end");
    }
}
