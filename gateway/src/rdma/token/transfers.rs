//! Transfers that are agreed on one at a time (`hipobj-rc-v2`): prepared, run once, or given up.
//!
//! A PUT's memory is opened to the client's queue pair when the transfer is prepared, and closed when the client says, by the immediate data of
//! its WRITE, that all is there: a WRITE of exactly the object's length into memory of exactly that length has covered every byte of it.
//!
//! Invariant: a transfer runs once, for the user who prepared it.

use super::super::memory::{Permit, share_of};
use super::super::users::Member;
use super::incoming::{Checks, TokenSource};
use super::{DeliverError, TokenRefusal, Tokens, UNIT_BYTES, outgoing, pair_token, peer};
use crate::transfer::Sink;
use std::time::{Duration, Instant};
use tenfour_rdma::{Admits, Buffer, Exposed, ForeignPair, Place};
use tenfour_types::Scaled;
use tenfour_types::rdma_token::control::{Connected, Op, Prepare, Ready};
use tenfour_types::rdma_token::{Psn, QueuePairToken, SessionId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::super::memory::Lender;

/// A queue pair that has received outlives its transfer by so long, so that the client hears that its WRITE arrived even if the first
/// word of it was lost.
const LINGER: Duration = Duration::from_secs(2);

/// A transfer that was prepared and has not run.
pub(super) struct Transfer {
    owner: String,
    agreed: Agreed,
    until: Instant,
}

/// A transfer that runs.
pub struct Agreed {
    prepare: Prepare,
    /// Before the queue pair that it is open to.
    staging: Option<(Exposed<Buffer>, Permit)>,
    pair: ForeignPair,
    lender: Lender,
    from: Place,
    written_within: Duration,
    counted: Counted,
}

struct Counted {
    _member: Member,
    _place: OwnedSemaphorePermit,
}

impl Transfer {
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until || self.agreed.pair.is_broken()
    }
}

impl Tokens {
    /// Prepares a transfer of this user, who may do it.
    pub async fn prepare(&self, owner: &str, prepare: Prepare) -> Result<Connected, TokenRefusal> {
        let open = self.opened().await?;
        let most = (share_of(open.domain.pool()) * UNIT_BYTES) as u64;
        if prepare.op == Op::Put && prepare.bytes > most {
            return Err(TokenRefusal::TooLarge { most });
        }
        let (member, place) = (open.join(owner)?, self.sessions.place()?);
        let lender = open.lender(&member);
        let admits = if prepare.op == Op::Put { Admits::WritesOnly } else { Admits::Nothing };
        let pair = open.domain.queue_pair(admits, Some(&prepare.pair.gid))?;
        let (local, mut staging) = (pair.local(), None);
        let mut token = pair_token(&local);
        if prepare.op == Op::Put {
            let bytes = usize::try_from(prepare.bytes).unwrap_or(usize::MAX);
            let lent = lender.lease(bytes).await;
            let (buffer, permit) = lent.map_err(|_| TokenRefusal::Exhausted("no registered memory"))?;
            pair.post_receive().map_err(failed)?;
            let exposed = pair.expose_to_write(buffer)?;
            let Place { address, key } = exposed.place();
            token = QueuePairToken { key, address, bytes: prepare.bytes, ..token };
            staging = Some((exposed, permit));
        }
        let agreed = Agreed {
            prepare,
            staging,
            pair,
            lender,
            from: Place { address: 0, key: 0 },
            written_within: self.config.written_within.scaled(),
            counted: Counted { _member: member, _place: place },
        };
        let until = Instant::now() + self.config.ready_within.scaled();
        let session = self.sessions.agreed(Transfer { owner: owner.to_owned(), agreed, until });
        Ok(Connected { session, pair: token, psn: Psn::of(local.psn) })
    }

    /// The client's end stands: connects ours. The transfer is gone from the table, whatever becomes of it.
    pub async fn ready(&self, owner: &str, ready: &Ready) -> Result<Agreed, TokenRefusal> {
        let transfer = self.sessions.take(owner, ready.session).ok_or(TokenRefusal::NoSuchTransfer)?;
        let mut agreed = transfer.agreed;
        if agreed.prepare.cookie != ready.cookie {
            return Err(TokenRefusal::WrongCookie);
        }
        let prepare = &agreed.prepare;
        let number = ready.pair.unwrap_or(prepare.pair.number);
        agreed.pair.connect(peer(&prepare.pair, number, prepare.psn)?).await?;
        agreed.from = Place { address: ready.address, key: ready.key };
        Ok(agreed)
    }

    /// Gives a transfer of this user up, if there is one.
    pub fn cancel(&self, owner: &str, session: SessionId) {
        drop(self.sessions.take(owner, session));
    }
}

impl Agreed {
    /// What was agreed on.
    pub fn prepare(&self) -> &Prepare {
        &self.prepare
    }

    /// Waits until the client has written, and closes the memory. The bytes are ours from then on.
    pub async fn receive(&mut self, checks: Checks) -> Result<TokenSource, TokenRefusal> {
        let arrived = timeout(self.written_within, self.pair.arrival()).await;
        let arrived = arrived.map_err(|_| TokenRefusal::Failed("nothing was written in time".to_owned()))?;
        let arrival = arrived.map_err(failed)?;
        if arrival.value != self.prepare.cookie || u64::from(arrival.bytes) != self.prepare.bytes {
            let text = format!(
                "{} bytes arrived with the immediate data {:08x}: {} bytes with the cookie were agreed on",
                arrival.bytes, arrival.value, self.prepare.bytes
            );
            return Err(TokenRefusal::Failed(text));
        }
        let (exposed, permit) = self.staging.take().ok_or(TokenRefusal::NoSuchTransfer)?;
        let buffer = exposed.end();
        let buffer = buffer
            .ok_or_else(|| TokenRefusal::Failed("the device does not let go of the memory".to_owned()))?;
        Ok(TokenSource::staged(buffer, permit, self.prepare.bytes, checks))
    }

    /// Writes `bytes` of an object into the client's memory, the last of them with the cookie.
    pub async fn deliver<S: Sink>(&self, sink: &mut S, bytes: u64) -> Result<(), DeliverError> {
        let cookie = Some(self.prepare.cookie);
        outgoing::deliver(sink, bytes, (&self.pair, self.from), &self.lender, cookie).await
    }

    /// Ends a transfer that went well.
    pub fn finish(self) {
        let Self { pair, counted, .. } = self;
        tokio::spawn(async move {
            sleep(LINGER.scaled()).await;
            drop((pair, counted));
        });
    }
}

fn failed(error: tenfour_rdma::OperationError) -> TokenRefusal {
    TokenRefusal::Failed(error.to_string())
}
