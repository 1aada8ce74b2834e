//! Storing objects and parts: in a slot, by push or by pull.

use super::config::{PutMode, PutOptions};
use super::digest::blake3_of;
use super::error::{Error, Failure};
use super::link::{Call, Event, GRANT_EXPIRES, Held, Link, Reply};
use super::objects::{Served, Stored, request, unexpected};
use super::retry::{Again, Tries};
use super::{Client, Route};
use std::sync::Arc;
use tenfour_rdma::{Frozen, GrantError, LeaseError};
use tenfour_types::limits::PUT_BYTES_MAX;
use tenfour_types::native::{
    Answer, Content, How, Operation, PULL_RANGES_MAX, Precondition, Request, SLOT_BYTES, ToGateway,
    slot_body_offset,
};
use tenfour_types::{Scaled as _, Wire as _};
use tokio::time::timeout;

/// Longest range that is offered at once, bytes.
const RANGE_BYTES_MAX: usize = 1 << 30;

/// Where bytes go.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Object,
    Part(&'a str, u32),
}

impl Client {
    /// Stores all bytes of `body` as an object. When it returns, the object is durable and visible. Dropping the future does not undo
    /// it: the object is there as a whole or not at all.
    pub async fn put_object(
        &self,
        bucket: &str,
        key: &str,
        body: &Frozen,
        options: &PutOptions,
    ) -> Result<Stored, Error> {
        let is_bound = matches!(options.precondition, Precondition::Absent | Precondition::Match(_));
        let again = if is_bound || self.config().retry.overwrite { Again::Safe } else { Again::Unsafe };
        let mut tries = Tries::new(self, again);
        self.put(&mut tries, Target::Object, bucket, key, body, options).await
    }

    pub(super) async fn put(
        &self,
        tries: &mut Tries,
        target: Target<'_>,
        bucket: &str,
        key: &str,
        body: &Frozen,
        options: &PutOptions,
    ) -> Result<Stored, Error> {
        if body.len() as u64 > PUT_BYTES_MAX {
            return Err(Error::Buffer("one PUT stores at most 5 GiB: upload parts"));
        }
        let mut known = None;
        // Not by `again`: of a future with an async closure in it that borrows so much the compiler does not see that it is `Send`.
        loop {
            let stored = match self.route().await {
                Ok(Route::Http(http)) => http.put(target, bucket, key, body, options).await,
                Ok(Route::Rdma(link)) => {
                    let digest = match known {
                        Some(digest) => digest,
                        None => *known.insert(blake3_of(body).await),
                    };
                    let putting = Putting { client: self, link, target, bucket, key, body, options, digest };
                    putting.run().await
                }
                Err(failure) => Err(failure),
            };
            match stored {
                Ok(stored) => {
                    self.note(body.is_host(), &stored.served, body.len());
                    return Ok(stored);
                }
                Err(failure) => tries.after(failure).await?,
            }
        }
    }
}

/// One try.
struct Putting<'a> {
    client: &'a Client,
    link: Arc<Link>,
    target: Target<'a>,
    bucket: &'a str,
    key: &'a str,
    body: &'a Frozen,
    options: &'a PutOptions,
    digest: [u8; 32],
}

impl Putting<'_> {
    async fn run(self) -> Result<Stored, Failure> {
        if self.options.mode != PutMode::Pull
            && let Some(stored) = self.in_slot().await?
        {
            return Ok(stored);
        }
        match self.options.mode {
            PutMode::Push => self.push().await,
            PutMode::Auto | PutMode::Pull => self.pull().await,
        }
    }

    fn request(&self, how: How) -> Request {
        let options = self.options;
        let content = Content {
            size: self.body.len() as u64,
            digest: self.digest,
            md5: options.md5,
            checksum: options.checksum.clone(),
            keep: options.keep,
            how,
        };
        let operation = match self.target {
            Target::Object => Operation::Put {
                headers: options.headers.clone(),
                precondition: options.precondition.clone(),
                content,
            },
            Target::Part(upload, number) => {
                Operation::UploadPart { upload: upload.to_owned(), number, content }
            }
        };
        request(self.bucket, self.key, operation)
    }

    /// One WRITE with everything; `None` when the object is too large, or no slot or memory for a copy is free now.
    async fn in_slot(&self) -> Result<Option<Stored>, Failure> {
        if self.body.len() >= SLOT_BYTES {
            return Ok(None);
        }
        let mut call = self.link.begin(Held::default()).await?;
        let message = ToGateway::Request { id: call.id, request: self.request(How::Here) }.to_bytes();
        let bytes = slot_body_offset(message.len()) + self.body.len();
        if bytes > SLOT_BYTES {
            return Ok(None);
        }
        let Some(buffer) = self.client.inner.domain.pool().try_lease(bytes) else { return Ok(None) };
        let Some(slot) = self.link.take_slot() else { return Ok(None) };
        call.send_in_slot(buffer, slot, &message, self.body).await?;
        if self.body.is_host() && self.link.is_device() {
            self.client.inner.copied(self.body.len());
        }
        self.answered(&mut call).await.map(Some)
    }

    async fn pull(&self) -> Result<Stored, Failure> {
        let mut held = Held::default();
        let mut ranges = Vec::new();
        for begin in (0..self.body.len()).step_by(RANGE_BYTES_MAX) {
            let range = begin..self.body.len().min(begin + RANGE_BYTES_MAX);
            let grant = self.link.core.connection.grant_read(self.body.clone(), range, GRANT_EXPIRES);
            let grant = match grant {
                Ok(grant) => grant,
                // Memory of the caller that the gateway cannot read.
                Err(GrantError::NotShared | GrantError::NoResources) if self.body.is_host() => {
                    return self.push().await;
                }
                Err(error) => return Err(error.into()),
            };
            ranges.push(grant.remote());
            held.from.push(grant);
        }
        debug_assert!(ranges.len() <= PULL_RANGES_MAX);
        let mut call = self.link.begin(held).await?;
        call.send(self.request(How::Pull(ranges))).await?;
        self.answered(&mut call).await
    }

    async fn push(&self) -> Result<Stored, Failure> {
        let mut call = self.link.begin(Held::default()).await?;
        call.send(self.request(How::Push)).await?;
        let mut written = 0;
        loop {
            match call.next(self.client.config().answer_deadline).await {
                Event::WriteHere(chunk, remote) => {
                    let bytes = (remote.bytes as usize).min(self.body.len() - written);
                    let source = self.body.slice(written..written + bytes);
                    let to = remote.sub(0, bytes as u32);
                    let (Some(source), Some(to)) = (source, to) else { return Err(unexpected()) };
                    let deadline = self.client.config().answer_deadline.scaled();
                    let sendable = timeout(deadline, self.client.sendable(&self.link, source)).await;
                    let source = sendable.map_err(|_| Error::Memory(LeaseError::Overloaded))??;
                    written += bytes;
                    // Nothing is committed before the last byte is there.
                    let sent = call.write(source, to, chunk).await;
                    sent.map_err(|_| Failure::broken(written == self.body.len()))?;
                }
                Event::Reply(reply) => return self.stored(*reply),
                Event::Broken(_) => return Err(Failure::broken(written == self.body.len())),
                Event::Entries(_) => return Err(unexpected()),
            }
        }
    }

    async fn answered(&self, call: &mut Call) -> Result<Stored, Failure> {
        let reply = call.reply(self.client.answer_within(self.body.len())).await;
        self.stored(reply.map_err(|_| Failure::broken(true))?)
    }

    fn stored(&self, reply: Reply) -> Result<Stored, Failure> {
        let served = Served { carrier: self.link.carrier().to_owned(), fabric: reply.fabric };
        match reply.result? {
            Answer::Stored { etag, checksums } => Ok(Stored { etag, checksums, served }),
            _ => Err(unexpected()),
        }
    }
}
