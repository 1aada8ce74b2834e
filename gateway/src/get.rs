//! **The protocol of a GET**, step by step. It changes nothing, so a crash leaves nothing.
//!
//! Invariant: what is yielded is one version, byte for byte, verified against the digests that its commit brought; or the
//! stream ends with an error.

use crate::commit::{Authorised, QueryError};
use crate::counters::count;
use crate::gateway::Gateway;
use crate::gather::{Gather, GatherError};
use crate::transfer::{Authorise, ReadError, Reading, Sink, Wanted};
use crate::transport::Transports;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tenfour_metadata::ReadTicket;
use tenfour_metadata::api::index::IndexAnswerAt;
use tenfour_metadata::api::{IndexAnswer, IndexQuery, ObjectView, Segment};
use tenfour_types::{Body, BucketId, CommandId, MetaGroupId, ObjectKey};

impl Gateway {
    /// Opens an object to read it.
    pub async fn get(
        &self,
        who: &dyn Authorise,
        key: &ObjectKey,
        wanted: Wanted,
    ) -> Result<Reading<ObjectReader>, ReadError> {
        // 1. The manifest and where its bytes are: one linearizable read at the leader of the key's group, authorised by a
        //    version of buckets and users that is not older than the answer. What was found stays readable while the ticket lives,
        //    also when the object is replaced meanwhile.
        let asking = self.query_at(who, |bucket| {
            let (group, bucket, key) = (self.metadata().group_of(bucket.id, key), bucket.id, key.clone());
            match wanted {
                Wanted::Part(number) => (group, IndexQuery::ObjectPart { bucket, key, number }),
                _ => (group, IndexQuery::Object { bucket, key, range: guess(wanted) }),
            }
        });
        let (authorised, answer, ticket) = self.counters().lookup.measure(asking).await?;
        let view = view_of(answer)?.ok_or(ReadError::NoSuchKey)?;

        // 2. The range, now that the size is known.
        let range = resolve(wanted, &view)?;

        // 3. The bytes come when they are asked for: stripe by stripe, the next one while the one before goes out.
        let ObjectView { mut manifest, parts, segments } = view;
        manifest.body = Body::Extents(Vec::new());
        let body = ObjectReader {
            gateway: self.clone(),
            place: Place::of(self, authorised, key, manifest.version),
            segments: segments.into(),
            position: range.start,
            end: range.end,
            ahead: None,
            ready: VecDeque::new(),
            _ticket: ticket,
        };
        count(&self.counters().gets);
        let transports = body.first_transports();
        Ok(Reading { manifest: Arc::new(manifest), parts, range: (range.start, range.end), transports, body })
    }
}

/// The range to ask for before the size is known: never less than what is wanted.
fn guess(wanted: Wanted) -> Option<(u64, u64)> {
    match wanted {
        Wanted::Head => None,
        Wanted::All | Wanted::Last(_) | Wanted::Part(_) => Some((0, u64::MAX)),
        Wanted::From(first, end) => Some((first, end.unwrap_or(u64::MAX))),
    }
}

/// The range of an object that is wanted.
fn resolve(wanted: Wanted, view: &ObjectView) -> Result<Range<u64>, ReadError> {
    let size = view.manifest.size;
    match wanted {
        Wanted::Head => Ok(0..0),
        Wanted::All => Ok(0..size),
        Wanted::From(first, end) if first < size => Ok(first..end.unwrap_or(size).clamp(first, size)),
        Wanted::Last(bytes) if bytes > 0 && size > 0 => Ok(size - bytes.min(size)..size),
        Wanted::From(..) | Wanted::Last(_) => Err(ReadError::Range { size }),
        Wanted::Part(number) => part_of(view, number).ok_or(ReadError::NoSuchPart),
    }
}

/// The range of a part, by order. An object that was not uploaded in parts is its only part.
fn part_of(view: &ObjectView, number: u32) -> Option<Range<u64>> {
    let size = view.manifest.size;
    match &view.manifest.body {
        Body::Extents(_) => (number == 1).then_some(0..size),
        Body::Parts { parts, .. } => {
            let part = parts.first()?;
            let first = view.segments.first().map_or(size, |segment| segment.object_offset);
            Some(first..first + part.bytes)
        }
    }
}

fn view_of(answer: IndexAnswerAt) -> Result<Option<ObjectView>, ReadError> {
    match answer.answer {
        IndexAnswer::Object(view) => Ok(view),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> ReadError {
    ReadError::Metadata("an answer to another question".to_owned())
}

/// Which version of which object is read.
struct Place {
    group: MetaGroupId,
    bucket: BucketId,
    key: ObjectKey,
    version: CommandId,
}

impl Place {
    fn of(gateway: &Gateway, authorised: Authorised, key: &ObjectKey, version: CommandId) -> Self {
        let bucket = authorised.bucket.id;
        Self { group: gateway.metadata().group_of(bucket, key), bucket, key: key.clone(), version }
    }
}

/// The bytes of an object on their way out. Holds at most two stripes in memory, and more than one only when there is plenty.
pub struct ObjectReader {
    gateway: Gateway,
    place: Place,
    /// Where the bytes from `position` on are, as far as it is known.
    segments: VecDeque<Segment>,
    /// The first byte that nothing was begun for.
    position: u64,
    end: u64,
    ahead: Option<Gather>,
    ready: VecDeque<Bytes>,
    _ticket: ReadTicket,
}

impl Sink for ObjectReader {
    async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(Ok(bytes));
            }
            match self.advance().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    (self.position, self.ahead) = (self.end, None);
                    return Some(Err(error));
                }
            }
        }
    }
}

impl ObjectReader {
    /// What carries the shards of the first stripe of the range; the others are asked in the same way.
    fn first_transports(&self) -> Transports {
        let is_first = |segment: &&Segment| {
            (segment.object_offset..segment.object_offset + u64::from(segment.extent.bytes))
                .contains(&self.position)
        };
        let segment = self.segments.iter().find(is_first).filter(|_| self.position < self.end);
        segment.map_or_else(Transports::default, |segment| {
            let range = self.within(segment);
            Gather::transports_of(&self.gateway.inner, &segment.row, range)
        })
    }

    /// What is wanted of a segment that holds `position`, as a range of its stripe.
    fn within(&self, segment: &Segment) -> Range<usize> {
        let within = self.position - segment.object_offset;
        let bytes = (u64::from(segment.extent.bytes) - within).min(self.end - self.position);
        let start = segment.extent.offset as usize + within as usize;
        start..start + bytes as usize
    }

    /// Makes the next stripe's bytes ready, and begins the one after; false at the end. May be dropped and called again.
    async fn advance(&mut self) -> Result<bool, ReadError> {
        if self.ahead.is_none() && !self.begin(true).await? {
            return Ok(false);
        }
        let Some(gather) = self.ahead.as_mut() else { return Ok(false) };
        let gathered = self.gateway.inner.counters.gather.measure(gather.finish()).await;
        self.ahead = None;
        self.ready.extend(gathered?.into_iter().filter(|bytes| !bytes.is_empty()));
        if self.position < self.end && self.gateway.inner.memory.is_plenty() {
            self.begin(false).await?;
        }
        Ok(true)
    }

    /// Begins to gather the stripe at `position`; false when there is none, or no memory and no wait.
    async fn begin(&mut self, wait: bool) -> Result<bool, ReadError> {
        if self.position >= self.end {
            return Ok(false);
        }
        let segment = self.segment().await?;
        let range = self.within(&segment);
        let bytes = range.len() as u64;
        match Gather::begin(&self.gateway.inner, &segment.row, range, wait).await? {
            Some(gather) => {
                self.ahead = Some(gather);
                self.position += bytes;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Where the byte at `position` is; asks metadata for more when it is not known.
    async fn segment(&mut self) -> Result<Segment, ReadError> {
        for _ in 0..2 {
            while let Some(first) = self.segments.front() {
                let end = first.object_offset + u64::from(first.extent.bytes);
                if end <= self.position {
                    self.segments.pop_front();
                } else if first.object_offset <= self.position {
                    return Ok(first.clone());
                } else {
                    break;
                }
            }
            let Place { group, bucket, key, version } = &self.place;
            let range = (self.position, self.end);
            let query = IndexQuery::Segments { bucket: *bucket, key: key.clone(), version: *version, range };
            let answer = self.gateway.metadata().query(*group, query).await;
            match answer.map_err(|error| ReadError::Metadata(error.to_string()))?.answer {
                IndexAnswer::Segments(Some(segments)) => self.segments = segments.into(),
                IndexAnswer::Segments(None) => break,
                _ => return Err(unexpected()),
            }
        }
        Err(ReadError::Unavailable("the version that was being read is gone".to_owned()))
    }
}

impl From<QueryError> for ReadError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Access(error) => error.into(),
            QueryError::Metadata(why) => Self::Metadata(why),
        }
    }
}

impl From<GatherError> for ReadError {
    fn from(error: GatherError) -> Self {
        match error {
            GatherError::Unavailable(why) => Self::Unavailable(why),
            GatherError::Overloaded => Self::Overloaded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenfour_types::{ETag, Headers, LeaseId, Manifest};

    fn view(size: u64, parts: Option<u32>) -> ObjectView {
        let manifest = Manifest {
            version: CommandId { lease: LeaseId(1), sequence: 1 },
            size,
            etag: ETag { md5: [0; 16], parts },
            modified_ms: 0,
            checksums: Vec::new(),
            headers: Headers::default(),
            body: Body::Extents(Vec::new()),
        };
        ObjectView { manifest, parts, segments: Vec::new() }
    }

    #[test]
    fn ranges_are_resolved_as_http_says() {
        let resolved =
            |wanted, size| resolve(wanted, &view(size, None)).ok().map(|range| (range.start, range.end));
        assert_eq!(resolved(Wanted::All, 10), Some((0, 10)));
        assert_eq!(resolved(Wanted::All, 0), Some((0, 0)));
        assert_eq!(resolved(Wanted::From(3, Some(5)), 10), Some((3, 5)));
        assert_eq!(resolved(Wanted::From(3, None), 10), Some((3, 10)));
        assert_eq!(resolved(Wanted::From(3, Some(50)), 10), Some((3, 10)));
        assert_eq!(resolved(Wanted::From(9, Some(3)), 10), Some((9, 9)));
        assert_eq!(resolved(Wanted::From(10, None), 10), None);
        assert_eq!(resolved(Wanted::From(0, None), 0), None);
        assert_eq!(resolved(Wanted::Last(3), 10), Some((7, 10)));
        assert_eq!(resolved(Wanted::Last(30), 10), Some((0, 10)));
        assert_eq!(resolved(Wanted::Last(0), 10), None);
        assert_eq!(resolved(Wanted::Last(1), 0), None);
        assert_eq!(resolved(Wanted::Part(1), 10), Some((0, 10)));
        assert_eq!(resolved(Wanted::Part(2), 10), None);
    }
}
