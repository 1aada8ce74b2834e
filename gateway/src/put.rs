//! **The protocol of a PUT**, of an object or of a part, step by step; each step says what a crash there leaves behind.
//!
//! Memory is bounded by three stripes, whatever the object's size: while stripe *n* is written to the nodes, *n* + 1 is encoded
//! and *n* + 2 received. A request that gets no memory for more goes on with one.
//!
//! Invariant: nothing is acknowledged that has not 14 durable shards a stripe ([`FullWidth`]) and a commit that was answered.

use crate::commit::{Authorised, CommitError, QueryError};
use crate::counters::count;
use crate::etag::{Taker, Unhashed};
use crate::fanout::{FanoutError, FullWidth, fan_out};
use crate::gateway::{Gateway, Inner};
use crate::ops::now_ms;
use crate::points;
use crate::stripe::{Addressed, Encoded, Filling, StripeError, memory_of};
use crate::transfer::{
    AccessError, Authorise, Destination, Source, SourceError, Stored, Summary, WriteError,
};
use crate::transport::Transports;
use futures::StreamExt as _;
use futures::future::poll_fn;
use futures::stream::FuturesUnordered;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use tenfour_erasure::geometry::{StripeGeometry, stripes};
use tenfour_metadata::StripeTicket;
use tenfour_metadata::api::{Bucket, IndexCommand, IndexRefusal, Part};
use tenfour_rdma::Buffer;
use tenfour_types::limits::{PARTS_MAX, PUT_BYTES_MAX};
use tenfour_types::{Body, CommandId, Extent, Manifest, ObjectKey, StripeRow};

/// Stripes of one request that are written to the nodes at once.
const WRITING_MAX: usize = 2;

impl Gateway {
    /// Stores an object or a part. When this returns, it is durable and visible; when it fails, nothing is, unless the error
    /// says that the outcome is unknown. Dropping the future leaves only garbage, which is collected.
    pub async fn put<S: Source>(
        &self,
        who: &dyn Authorise,
        to: Destination,
        source: &mut S,
    ) -> Result<Stored, WriteError> {
        check(&to, source.size())?;
        let inner = &*self.inner;

        // 0. Who asks may write to this bucket, by buckets and users as this gateway knows them; step 7 is refused when they
        //    have changed since. A crash here leaves nothing.
        let authorised = self.authorise(who).await?;
        let group = self.metadata().group_of(authorised.bucket.id, to.key());
        let lease = self.lease();

        let mut etag = inner.etags.begin(source.size(), source.wants_md5(), &inner.counters);
        let mut writing = FuturesUnordered::new();
        let mut written = Written::default();
        for (number, span) in stripes(source.size()).enumerate() {
            // 1. A stripe id from the lease, and memory for one stripe. A crash leaves an id that nobody uses: it is below the
            //    watermark once this lease is fenced.
            let ticket = lease.stripe(group);
            let id = ticket.id();
            let memory = memory_for(inner, span.geometry, &mut writing, &mut written).await?;
            points::reached(points::LEASED);

            // 2. Fill it, straight from the source into registered memory, while earlier stripes are written. A crash leaves
            //    nothing of this stripe, and shards of earlier ones: garbage, since no manifest names them.
            let filling = inner.counters.receive.measure(fill(memory, span.geometry, source));
            let filled = alongside(&mut writing, &mut written, filling).await??;
            points::reached(points::RECEIVED);

            // 3. Encode in place, with all checksums in the same pass. A crash leaves what step 2 left.
            let encoded = inner.counters.encode.run(|| filled.encode(id, &*inner.codec)).map_err(bug)?;
            etag.encoded(&encoded);
            points::reached(points::ENCODED);

            // 4. Take a row, whole if there is one, and 14 staging slots or none; write 14 records at once.
            // 5. Each node revokes the slot, verifies, persists, and only then answers.
            //    Meanwhile its bytes are hashed for the ETag, in the memory that they are sent from.
            // 6. Who is absent, fails or is late gets a substitute; the first durable answer is named.
            //    A crash leaves 0 to 14 shards (or copies of shards), durable or not: garbage.
            while writing.len() >= WRITING_MAX {
                written.take(writing.next().await)?;
            }
            writing.push(write(inner, number, ticket, encoded, etag.taker()));
        }
        // 6, of the last stripes. A crash leaves up to 14 durable shards a stripe: garbage.
        while !writing.is_empty() {
            written.take(writing.next().await)?;
        }
        drop(writing);

        // The client's word on its bytes (length, checksums, signature) is verified before anything becomes visible. A crash
        // leaves what step 6 left.
        let digested = etag.finish().map_err(bug)?;
        let summary = source.finish(digested).await?;
        points::reached(points::VERIFIED);

        // 7. Stripe rows and manifest, with the precondition, in one Raft entry: this is the moment at which the PUT happens. A
        //    crash before it was sent leaves what step 6 left; one afterwards leaves an object that is wholly there or wholly
        //    absent, and a client that does not know which.
        let stored = self.commit_put(who, authorised, &to, summary, written).await?;
        points::reached(points::COMMITTED);
        count(&inner.counters.puts);
        Ok(stored)
    }

    async fn commit_put(
        &self,
        who: &dyn Authorise,
        authorised: Authorised,
        to: &Destination,
        summary: Summary,
        written: Written,
    ) -> Result<Stored, WriteError> {
        let transports = written.transports();
        let (tickets, rows) = written.in_order();
        let modified_ms = now_ms();
        let bucket = authorised.bucket.id;
        let command =
            |bucket: &Bucket, id: CommandId| to.command(bucket, id, &summary, modified_ms, rows.clone());
        let committed = self.commit_stripes(who, authorised, to.key(), Some(bucket), tickets, command).await;
        let (version, _) = committed.map_err(write_error)?;
        Ok(Stored { version, summary, modified_ms, transports })
    }
}

/// What can be refused before a byte is read.
fn check(to: &Destination, bytes: u64) -> Result<(), WriteError> {
    match to {
        _ if bytes > PUT_BYTES_MAX => Err(WriteError::TooLarge),
        Destination::Part { number, .. } if !(1..=PARTS_MAX).contains(number) => {
            Err(WriteError::NoSuchUpload)
        }
        _ => Ok(()),
    }
}

/// Memory for one more stripe. A request that has stripes in memory never waits for more before those are written.
async fn memory_for<F>(
    inner: &Inner,
    geometry: StripeGeometry,
    writing: &mut FuturesUnordered<F>,
    written: &mut Written,
) -> Result<Vec<Buffer>, WriteError>
where
    F: Future<Output = Result<OneWritten, FanoutError>>,
{
    let lengths = memory_of(geometry);
    loop {
        return match inner.memory.try_take(&lengths) {
            None if writing.is_empty() => inner.memory.take(&lengths).await.map_err(|_| {
                count(&inner.counters.overloads);
                WriteError::Overloaded
            }),
            None => {
                written.take(writing.next().await)?;
                continue;
            }
            Some(taken) => Ok(taken),
        };
    }
}

/// Reads exactly one stripe's bytes.
async fn fill<S: Source>(
    memory: Vec<Buffer>,
    geometry: StripeGeometry,
    source: &mut S,
) -> Result<Filling, WriteError> {
    let mut filling = Filling::new(memory, geometry).ok_or_else(|| bug(StripeError::Memory))?;
    while !filling.is_full() {
        let bytes = source.read(filling.space()).await?;
        if bytes == 0 {
            return Err(SourceError::Truncated.into());
        }
        filling.advance(bytes);
    }
    Ok(filling)
}

/// Does some work while stripes are being written; fails as soon as one of them does.
async fn alongside<F, W>(
    writing: &mut FuturesUnordered<F>,
    written: &mut Written,
    work: W,
) -> Result<W::Output, WriteError>
where
    F: Future<Output = Result<OneWritten, FanoutError>>,
    W: Future,
{
    let mut work = pin!(work);
    poll_fn(|context| {
        while let Poll::Ready(Some(done)) = writing.poll_next_unpin(context) {
            if let Err(error) = written.take(Some(done)) {
                return Poll::Ready(Err(error));
            }
        }
        work.as_mut().poll(context).map(Ok)
    })
    .await
}

/// One stripe of the object with 14 durable shards.
struct OneWritten {
    number: usize,
    ticket: StripeTicket,
    stripe: FullWidth,
}

async fn write(
    inner: &Inner,
    number: usize,
    ticket: StripeTicket,
    encoded: Encoded,
    taker: Option<Taker>,
) -> Result<OneWritten, FanoutError> {
    let mut hashing = None;
    let begun = |stripe: &Addressed| hashing = taker.map(|taker| taker.take(number, stripe));
    let stripe = inner.counters.fanout.measure(fan_out(inner, encoded, begun)).await?;
    points::reached(points::DURABLE);
    // Waited for here, so that a stripe's memory is free when it counts as written.
    if let Some(hashing) = hashing
        && !hashing.done().await
    {
        return Err(FanoutError::Unavailable(Unhashed.to_string()));
    }
    Ok(OneWritten { number, ticket, stripe })
}

/// The stripes that are written, in the order in which they were.
#[derive(Default)]
struct Written {
    stripes: Vec<OneWritten>,
}

impl Written {
    fn take(&mut self, done: Option<Result<OneWritten, FanoutError>>) -> Result<(), WriteError> {
        match done {
            Some(Ok(stripe)) => self.stripes.push(stripe),
            Some(Err(FanoutError::Full)) => return Err(WriteError::Full),
            Some(Err(FanoutError::Unavailable(why))) => return Err(WriteError::Unavailable(why)),
            None => {}
        }
        Ok(())
    }

    fn transports(&self) -> Transports {
        let mut transports = Transports::default();
        self.stripes.iter().for_each(|stripe| transports.extend(stripe.stripe.transports()));
        transports
    }

    /// Tickets and rows in the order of the object's bytes.
    fn in_order(mut self) -> (Vec<StripeTicket>, Vec<StripeRow>) {
        self.stripes.sort_unstable_by_key(|stripe| stripe.number);
        self.stripes.into_iter().map(|stripe| (stripe.ticket, stripe.stripe.into_row())).unzip()
    }
}

impl Destination {
    fn key(&self) -> &ObjectKey {
        match self {
            Self::Object { key, .. } | Self::Part { key, .. } => key,
        }
    }

    /// The command that makes the stripes this object or part.
    fn command(
        &self,
        bucket: &Bucket,
        id: CommandId,
        summary: &Summary,
        modified_ms: u64,
        stripes: Vec<StripeRow>,
    ) -> IndexCommand {
        let extents: Vec<Extent> =
            stripes.iter().map(|row| Extent { stripe: row.id, offset: 0, bytes: row.data_bytes }).collect();
        let size = extents.iter().map(|extent| u64::from(extent.bytes)).sum();
        let Summary { etag, checksums } = summary.clone();
        match self.clone() {
            Self::Object { key, headers, precondition } => {
                let body = Body::Extents(extents);
                let manifest = Manifest { version: id, size, etag, modified_ms, checksums, headers, body };
                IndexCommand::PutObject { bucket: bucket.id, key, precondition, manifest, stripes }
            }
            Self::Part { key, upload, number } => {
                let part = Part { number, version: id, size, etag, checksums, modified_ms, extents };
                IndexCommand::PutPart { bucket: bucket.id, key, upload, part, stripes }
            }
        }
    }
}

fn write_error(error: CommitError) -> WriteError {
    match error {
        CommitError::Access(error) => error.into(),
        CommitError::OutcomeUnknown => WriteError::OutcomeUnknown,
        CommitError::Metadata(why) => WriteError::Metadata(why),
        CommitError::Refused(refusal) => match refusal {
            IndexRefusal::PreconditionFailed => WriteError::PreconditionFailed,
            IndexRefusal::NoSuchKey => WriteError::NoSuchKey,
            IndexRefusal::NoSuchUpload => WriteError::NoSuchUpload,
            IndexRefusal::BucketClosed => AccessError::NoSuchBucket.into(),
            IndexRefusal::StaleEpoch { .. } => WriteError::Unavailable(refusal.to_string()),
            // Its reply is no longer known.
            IndexRefusal::BelowWatermark => WriteError::OutcomeUnknown,
            other => WriteError::Metadata(other.to_string()),
        },
    }
}

impl From<QueryError> for WriteError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Access(error) => error.into(),
            QueryError::Metadata(why) => Self::Metadata(why),
        }
    }
}

fn bug(error: impl std::error::Error) -> WriteError {
    tracing::error!(%error, "a stripe could not be encoded or hashed");
    WriteError::Unavailable(error.to_string())
}
