//! One connection to a gateway, from its login to its end: requests on their way out, each known under its id until it is answered.
//!
//! Invariant: what was granted for a request stays granted until the gateway answered it or the connection is dead: revoking it under
//! a gateway that still writes or reads would cost every other request of the connection.

mod call;

pub(super) use call::Call;

use super::config::ClientConfig;
use super::error::{Error, Failure};
use super::receive;
use bytes::{BufMut as _, Bytes, BytesMut};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tenfour_rdma::{
    Buffer, ConnectOptions, Connection, Domain, Endpoint, Frozen, Grant, Open, OperationError, ReadGrant,
    Received, Remote,
};
use tenfour_types::native::login::{Secrets, SigningKey, carrier_code, date_of};
use tenfour_types::native::{
    Answer, Entry, Greeting, HEAD_BYTES, Login, LoginAnswer, Opener, Refusal, Sealer, Slot, ToClient,
    ToGateway, Welcome, answer, slot_body_offset,
};
use tenfour_types::{Scaled, Wire as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A grant for a request ends by itself after so long; its connection is over before.
pub(super) const GRANT_EXPIRES: Duration = Duration::from_secs(24 * 3600);
const SECONDS_PER_DAY: u64 = 24 * 3600;

/// What the gateway says to one request.
pub(super) enum Event {
    /// Memory for a chunk of a push.
    WriteHere(u32, Remote),
    /// Some of a listing.
    Entries(Vec<Entry>),
    /// The answer, and what was granted for it.
    Reply(Box<Reply>),
    /// There will be none.
    Broken(Held),
}

pub(super) struct Reply {
    pub(super) fabric: String,
    pub(super) result: Result<Answer, Refusal>,
    pub(super) held: Held,
}

/// What is granted for a request.
#[derive(Default)]
pub(super) struct Held {
    pub(super) into: Option<Grant<Open>>,
    pub(super) from: Vec<ReadGrant>,
}

impl Held {
    /// What a GET was to be written to. Nobody writes to it any more.
    pub(super) async fn into_buffer(self) -> Option<Buffer> {
        match self.into {
            Some(grant) => Some(grant.seal().await.into_buffer()),
            None => None,
        }
    }
}

/// A request that nobody heard of, and what was granted for it.
pub(super) struct NotBegun {
    pub(super) failure: Failure,
    pub(super) held: Held,
}

impl From<NotBegun> for Failure {
    fn from(not_begun: NotBegun) -> Self {
        not_begun.failure
    }
}

pub(super) struct Pending {
    /// At most 4 chunks, 16 messages of a listing and one answer wait in it: the protocol bounds what the gateway may say.
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) held: Held,
    pub(super) _place: OwnedSemaphorePermit,
}

/// What the sending and the receiving side share.
pub(super) struct Core {
    pub(super) connection: Connection,
    state: Mutex<State>,
    pub(super) carrier: String,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) pending: HashMap<u32, Pending>,
    pub(super) slots: Vec<Slot>,
    pub(super) dead: bool,
    last_id: u32,
}

impl Core {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that has logged in.
pub(crate) struct Link {
    pub(super) core: Arc<Core>,
    sealer: tokio::sync::Mutex<Sealer>,
    places: Arc<Semaphore>,
    receiving: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.receiving.abort();
        let pending = {
            let mut state = self.core.state();
            state.dead = true;
            std::mem::take(&mut state.pending)
        };
        // After the connection's error state, so that no peer is surprised.
        let connection = self.core.connection.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                connection.close().await;
                drop(pending);
            });
        }
    }
}

impl Link {
    /// Connects and logs in.
    pub(super) async fn connect(
        domain: &Domain,
        endpoint: &Endpoint,
        config: &ClientConfig,
    ) -> Result<Arc<Self>, Failure> {
        let connecting = timeout(config.connect_deadline.scaled(), Self::enter(domain, endpoint, config));
        connecting
            .await
            .unwrap_or(Err(Error::Connect(tenfour_rdma::ConnectError::Timeout)))
            .map_err(Failure::before)
    }

    async fn enter(domain: &Domain, endpoint: &Endpoint, config: &ClientConfig) -> Result<Arc<Self>, Error> {
        let ours = Greeting::new(nonce());
        let options =
            ConnectOptions { private_data: ours.encode().to_vec(), deadline: config.connect_deadline };
        let connection = domain.connect(endpoint, options).await?;
        let theirs = Greeting::decode(connection.peer_private_data());
        let theirs = theirs.map_err(|_| Error::Untrusted("it is no gateway of this protocol's version"))?;
        let days =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / SECONDS_PER_DAY;
        let date = date_of(i64::try_from(days).unwrap_or(0));
        let key = SigningKey::derive(&config.secret_key, &date, &config.region);
        let names = (config.access_key.as_str(), date.as_str(), config.region.as_str());
        let carrier = carrier_code(&connection.provider().to_string());
        let secrets = Secrets::new(key, &ours, &theirs, carrier, names);
        let login = Login {
            access_key: config.access_key.clone(),
            date: date.clone(),
            region: config.region.clone(),
            proof: secrets.client_proof(),
        };
        let broken = |_| Error::Broken;
        drop(connection.post_send(Bytes::from(login.to_bytes())).await.map_err(broken)?);
        let message = message(&connection).await?;
        match LoginAnswer::from_bytes(&message) {
            Ok(LoginAnswer::Proved(proof)) if secrets.is_gateway_proof(proof) => {}
            Ok(LoginAnswer::Proved(_)) => {
                return Err(Error::Untrusted("it does not know this user's secret"));
            }
            Ok(LoginAnswer::Refused(refusal)) => return Err(Error::Refused(refusal)),
            Err(_) => return Err(Error::Untrusted("its answer to the login is malformed")),
        }
        let keys = secrets.session_keys();
        let mut opener = Opener::new(keys.to_client);
        let frame = self::message(&connection).await?;
        let welcome = match open(&mut opener, &frame)? {
            ToClient::Welcome(welcome) => welcome,
            ToClient::Closing(refusal) => return Err(Error::Refused(refusal)),
            _ => return Err(Error::Untrusted("it does not say welcome")),
        };
        Ok(Self::start(connection, keys.to_gateway, opener, welcome))
    }

    fn start(connection: Connection, key: [u8; 32], opener: Opener, welcome: Welcome) -> Arc<Self> {
        let state = State { slots: welcome.slots, ..State::default() };
        let core = Arc::new(Core { connection, state: Mutex::new(state), carrier: welcome.carrier });
        let receiving = tokio::spawn(receive::run(core.clone(), opener));
        let places = Arc::new(Semaphore::new(welcome.requests_max as usize));
        Arc::new(Self { core, sealer: tokio::sync::Mutex::new(Sealer::new(key)), places, receiving })
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.core.state().dead && self.core.connection.is_connected()
    }

    pub(super) fn carrier(&self) -> &str {
        &self.core.carrier
    }

    pub(super) async fn close(&self) {
        self.core.connection.close().await;
    }

    /// A request in the table of those that are not answered. It is not on its way yet.
    pub(super) async fn begin(self: &Arc<Self>, held: Held) -> Result<Call, NotBegun> {
        let place = self.places.clone().acquire_owned().await;
        let (events, received) = mpsc::unbounded_channel();
        let mut state = self.core.state();
        let place = match place {
            Ok(place) if !state.dead => place,
            _ => return Err(NotBegun { failure: Failure::broken(false), held }),
        };
        let id = loop {
            state.last_id = state.last_id.wrapping_add(1);
            if !state.pending.contains_key(&state.last_id) {
                break state.last_id;
            }
        };
        state.pending.insert(id, Pending { events, held, _place: place });
        drop(state);
        Ok(Call { link: self.clone(), id, events: received, sent: false })
    }

    /// A slot for a small PUT, if there is one now.
    pub(super) fn take_slot(&self) -> Option<TakenSlot<'_>> {
        let slot = self.core.state().slots.pop()?;
        Some(TakenSlot { core: &self.core, slot, is_written: false })
    }

    async fn send(&self, message: &ToGateway) -> Result<(), OperationError> {
        let message = message.to_bytes();
        let mut sealer = self.sealer.lock().await;
        let frame = frame(&sealer, &message)?;
        self.core.connection.post_send(frame).await?;
        sealer.sent();
        Ok(())
    }

    async fn write_then_send(
        &self,
        source: Frozen,
        to: Remote,
        message: &ToGateway,
    ) -> Result<(), OperationError> {
        let message = message.to_bytes();
        let mut sealer = self.sealer.lock().await;
        let frame = frame(&sealer, &message)?;
        self.core.connection.post_write_then_send(source, to, frame).await?;
        sealer.sent();
        Ok(())
    }

    /// Writes a message and, behind it, the object's bytes to a slot. `into` is as long as both.
    async fn write_slot(
        &self,
        mut into: Buffer,
        mut taken: TakenSlot<'_>,
        message: &[u8],
        content: &[u8],
    ) -> Result<(), OperationError> {
        let begin = slot_body_offset(message.len());
        let (bytes, slot) = (into.len(), taken.slot);
        let to = u32::try_from(bytes).ok().and_then(|bytes| slot.remote.sub(0, bytes));
        let to = to.filter(|_| bytes == begin + content.len()).ok_or(OperationError::LocalProtection)?;
        let mut place = |range: std::ops::Range<usize>, from: &[u8]| {
            if let Some(place) = into.get_mut(range).filter(|place| place.len() == from.len()) {
                place.copy_from_slice(from);
            }
        };
        place(HEAD_BYTES..HEAD_BYTES + message.len(), message);
        place(HEAD_BYTES + message.len()..begin, &[0; 64][..begin - HEAD_BYTES - message.len()]);
        place(begin..bytes, content);
        let mut sealer = self.sealer.lock().await;
        let head = sealer.head(message).map_err(|_| OperationError::MessageTooLong)?;
        if let Some(place) = into.get_mut(..HEAD_BYTES) {
            place.copy_from_slice(&head);
        }
        self.core.connection.post_write(into.freeze(), to, Some(u32::from(slot.index))).await?;
        sealer.sent();
        taken.is_written = true;
        Ok(())
    }
}

/// A slot that one request is to be written to. If it is not, whatever the reason, the next one may use it: the gateway grants a slot
/// anew only after it was written.
pub(super) struct TakenSlot<'a> {
    core: &'a Core,
    slot: Slot,
    is_written: bool,
}

impl Drop for TakenSlot<'_> {
    fn drop(&mut self) {
        if !self.is_written {
            self.core.state().slots.push(self.slot);
        }
    }
}

async fn message(connection: &Connection) -> Result<Bytes, Error> {
    match connection.recv().await {
        Ok(Received::Message(message)) => Ok(message),
        Ok(Received::Immediate { .. }) => Err(Error::Untrusted("it writes where it should not")),
        Err(_) => Err(Error::Broken),
    }
}

/// The message in a frame, which is all of it.
pub(super) fn open(opener: &mut Opener, frame: &[u8]) -> Result<ToClient, Error> {
    match opener.open(frame) {
        Ok((message, [])) => {
            answer::decode(message).map_err(|_| Error::Untrusted("it sent a malformed message"))
        }
        _ => Err(Error::Untrusted("a message is not the next one of this session")),
    }
}

fn frame(sealer: &Sealer, message: &[u8]) -> Result<Bytes, OperationError> {
    let head = sealer.head(message).map_err(|_| OperationError::MessageTooLong)?;
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + message.len());
    frame.put_slice(&head);
    frame.put_slice(message);
    Ok(frame.freeze())
}

fn nonce() -> [u8; 32] {
    rand::random()
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
