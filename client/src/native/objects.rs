//! Objects: get, head, delete. Storing them is in `put`.

use super::config::GetOptions;
use super::digest::blake3_of;
use super::error::{Error, Failure};
use super::link::{GRANT_EXPIRES, Held, Link, NotBegun, Reply};
use super::retry::{Again, Tries};
use super::{Client, Route};
use std::sync::Arc;
use tenfour_rdma::{Buffer, GrantError};
use tenfour_types::native::{
    Answer, ObjectInfo, Operation, Precondition, Range, Read, Refusal, Request, Retry,
};
use tenfour_types::{Checksum, ETag};

/// What carried a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    /// Between client and gateway: `shm`, `tcp`, `verbs` or `http`.
    pub carrier: String,
    /// Between gateway and nodes, as far as the gateway tells.
    pub fabric: String,
}

/// The bytes of an object are in the caller's buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Got {
    /// The object.
    pub object: ObjectInfo,
    /// The range that was read, first and past the last.
    pub range: (u64, u64),
    /// How many bytes of the buffer are the object's.
    pub bytes: usize,
    /// What carried it.
    pub served: Served,
}

/// What is known of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// The object.
    pub object: ObjectInfo,
    /// The range that a GET would read.
    pub range: (u64, u64),
    /// What carried it.
    pub served: Served,
}

/// An object or a part is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its ETag.
    pub etag: ETag,
    /// Its checksums, verified or computed.
    pub checksums: Vec<Checksum>,
    /// What carried it.
    pub served: Served,
}

/// A request of an object.
pub(super) fn request(bucket: &str, key: &str, operation: Operation) -> Request {
    Request { bucket: bucket.to_owned(), key: key.to_owned(), expected_owner: None, operation }
}

impl From<&GetOptions> for Read {
    fn from(options: &GetOptions) -> Self {
        Read { range: options.range, conditions: options.conditions.clone(), if_range: options.if_range }
    }
}

impl Client {
    /// Reads an object, or a range of it, to the beginning of a buffer, which comes back in any case but one: when this future is
    /// dropped, it returns to the client's memory once the gateway is done with it. What it holds after an error is nothing in
    /// particular. A range longer than the buffer is refused with `InvalidRequest`, an empty one with `InvalidArgument`.
    pub async fn get_object(
        &self,
        bucket: &str,
        key: &str,
        into: Buffer,
        options: &GetOptions,
    ) -> (Option<Buffer>, Result<Got, Error>) {
        let mut tries = Tries::new(self, Again::Reads);
        let is_host = into.is_host();
        let mut buffer = Some(into);
        loop {
            let Some(into) = buffer.take() else { return (None, Err(Error::Broken)) };
            let (back, got) = match self.route().await {
                Ok(Route::Rdma(link)) => self.get_over(&link, bucket, key, into, options).await,
                Ok(Route::Http(http)) => http.get(bucket, key, into, options).await,
                Err(failure) => (Some(into), Err(failure)),
            };
            buffer = back;
            match got.and_then(|got| got.asked(options)) {
                Ok(got) => {
                    self.note(is_host, &got.served, got.bytes);
                    return (buffer, Ok(got));
                }
                Err(failure) => {
                    if let Err(error) = tries.after(failure).await {
                        return (buffer, Err(error));
                    }
                }
            }
        }
    }

    pub(super) async fn get_over(
        &self,
        link: &Arc<Link>,
        bucket: &str,
        key: &str,
        into: Buffer,
        options: &GetOptions,
    ) -> (Option<Buffer>, Result<Got, Failure>) {
        let bytes = into.len();
        if u32::try_from(bytes).is_err() {
            return (
                Some(into),
                Err(Failure::before(Error::Buffer("a GET reads at most 4 GiB: ask for ranges"))),
            );
        }
        let grant = match link.core.connection.grant_write(into, 0..bytes, GRANT_EXPIRES) {
            Ok(grant) => grant,
            Err(refused) if refused.error == GrantError::NoResources && refused.buffer.is_host() => {
                return self.get_by_copy(link, (bucket, key), refused.buffer, options).await;
            }
            Err(refused) => return (Some(refused.buffer), Err(refused.error.into())),
        };
        let operation = Operation::Get { read: options.into(), into: (bytes > 0).then(|| grant.remote()) };
        let held = Held { into: Some(grant), from: Vec::new() };
        let mut call = match link.begin(held).await {
            Ok(call) => call,
            Err(NotBegun { failure, held }) => return (held.into_buffer().await, Err(failure)),
        };
        if let Err(failure) = call.send(request(bucket, key, operation)).await {
            return (call.take_back().await.into_buffer().await, Err(failure));
        }
        match call.reply(self.answer_within(bytes)).await {
            Ok(Reply { fabric, result, held }) => {
                let Some(grant) = held.into else { return (None, Err(Failure::broken(false))) };
                // Nobody can change the bytes from here on.
                let buffer = grant.seal().await.into_buffer();
                let served = Served { carrier: link.carrier().to_owned(), fabric };
                let got = match result {
                    Ok(answer) => got(answer, &buffer, served).await,
                    Err(refusal) => Err(refusal.into()),
                };
                (Some(buffer), got)
            }
            Err(held) => (held.into_buffer().await, Err(Failure::broken(false))),
        }
    }

    /// What is known of an object.
    pub async fn head_object(&self, bucket: &str, key: &str, options: &GetOptions) -> Result<Head, Error> {
        let mut tries = Tries::new(self, Again::Reads);
        let call = async |route: Route<'_>| match route {
            Route::Http(http) => http.head(bucket, key, options).await,
            Route::Rdma(link) => self.head_over(&link, bucket, key, options).await,
        };
        self.again(&mut tries, call).await
    }

    pub(super) async fn head_over(
        &self,
        link: &Arc<Link>,
        bucket: &str,
        key: &str,
        options: &GetOptions,
    ) -> Result<Head, Failure> {
        let operation = Operation::Head(options.into());
        let (answer, served) = self.ask(link, request(bucket, key, operation), false).await?;
        match answer {
            Answer::Object { object, range } => Ok(Head { object, range, served }),
            Answer::NotModified { .. } => Err(Failure::before(Error::NotModified)),
            _ => Err(unexpected()),
        }
    }

    /// Removes an object; succeeds when there is none, unless a condition wants one.
    pub async fn delete_object(
        &self,
        bucket: &str,
        key: &str,
        precondition: &Precondition,
    ) -> Result<(), Error> {
        let is_safe = matches!(precondition, Precondition::Match(_)) || self.config().retry.overwrite;
        let mut tries = Tries::new(self, if is_safe { Again::Safe } else { Again::Unsafe });
        let call = async |route: Route<'_>| match route {
            Route::Http(http) => http.delete(bucket, key, precondition).await,
            Route::Rdma(link) => {
                let operation = Operation::Delete { precondition: precondition.clone() };
                self.ask(&link, request(bucket, key, operation), true).await.map(drop)
            }
        };
        match self.again(&mut tries, call).await {
            Err(Error::OutcomeUnknown) if tries.found("NoSuchKey") => Ok(()),
            done => done,
        }
    }

    /// A request that is answered by one message and moves no bytes.
    pub(super) async fn ask(
        &self,
        link: &Arc<Link>,
        request: Request,
        changes: bool,
    ) -> Result<(Answer, Served), Failure> {
        let mut call = link.begin(Held::default()).await?;
        call.send(request).await?;
        let reply = call.reply(self.config().answer_deadline).await.map_err(|_| Failure::broken(changes))?;
        let served = Served { carrier: link.carrier().to_owned(), fabric: reply.fabric };
        Ok((reply.result?, served))
    }
}

impl Got {
    /// The same, if it is the range that was asked for.
    fn asked(self, options: &GetOptions) -> Result<Self, Failure> {
        let size = self.object.size;
        let all = (0, size);
        let asked = match options.range {
            Range::All => all,
            Range::From(first, end) => (first, end.unwrap_or(size).min(size)),
            Range::Last(bytes) => (size.saturating_sub(bytes), size),
            Range::Part(_) => self.range,
        };
        // Of another object than it was to be, all is sent.
        let is_asked = self.range == asked || (options.if_range.is_some() && self.range == all);
        if is_asked { Ok(self) } else { Err(unexpected()) }
    }
}

async fn got(answer: Answer, buffer: &Buffer, served: Served) -> Result<Got, Failure> {
    let (object, range, digest) = match answer {
        Answer::Read { object, range, digest } => (object, range, digest),
        Answer::NotModified { .. } => return Err(Failure::before(Error::NotModified)),
        _ => return Err(unexpected()),
    };
    let bytes = range.1.checked_sub(range.0).and_then(|bytes| usize::try_from(bytes).ok());
    let read = bytes.and_then(|bytes| buffer.get(..bytes)).ok_or_else(unexpected)?;
    if blake3_of(read).await != digest {
        return Err(Failure::before(Error::Corrupt));
    }
    Ok(Got { object, range, bytes: read.len(), served })
}

/// What a gateway, too, says of a range that does not fit.
pub(super) fn too_long(bytes: u64, room: usize) -> Failure {
    let message =
        format!("The range has {bytes} bytes, the client's buffer {room}: offer more, or ask for less.");
    Refusal { code: "InvalidRequest".to_owned(), message, retry: Retry::Never }.into()
}

pub(super) fn unexpected() -> Failure {
    Failure::before(Error::Untrusted("its answer is none to this request"))
}
