//! Objects: put, get, head, delete.

use super::body::{Body, Expected};
use super::session::{Asked, Context, Last};
use crate::ops::conditions::{Conditions, IfRange, Tag, resolve};
use crate::ops::headers::{check_size, is_kept};
use crate::ops::reading::{self, Opened};
use crate::ops::refusal::{Refusal, slow_down};
use crate::ops::requester::Wants;
use crate::ops::{Backend, OpError, delete};
use crate::transfer::{Destination, ReadError, Reading, Sink, Wanted};
use std::collections::VecDeque;
use std::time::Duration;
use tenfour_metadata::api::Precondition;
use tenfour_rdma::{Buffer, Completion, OperationError, Remote};
use tenfour_types::limits::PARTS_MAX;
use tenfour_types::native::{self, Answer, CHUNK_BYTES, CHUNKS_OPEN_MAX, Content, ObjectInfo, Range, Read};
use tenfour_types::{BucketName, ChecksumKind, Headers, Manifest, ObjectKey};

use super::memory::Permit;

/// What an object keeps when its creator names no checksum.
const DEFAULT_KIND: ChecksumKind = ChecksumKind::Crc64Nvme;

/// Who asks, for which bucket.
pub(super) fn wants<B: Backend>(
    context: &Context<B>,
    bucket: &str,
    expected_owner: Option<&str>,
) -> Result<Wants, Refusal> {
    let name =
        BucketName::new(bucket).map_err(|error| Refusal::new("InvalidBucketName", error.to_string()))?;
    Ok(context.requester.wants(name, expected_owner))
}

/// A key, checked.
pub(super) fn object_key(key: &str) -> Result<ObjectKey, Refusal> {
    ObjectKey::new(key).map_err(|error| Refusal::new("KeyTooLongError", error.to_string()))
}

/// Headers, checked: one that no object keeps is refused rather than left out in silence.
pub(super) fn kept(headers: Headers) -> Result<Headers, Refusal> {
    if let Some((name, _)) = headers.0.iter().find(|(name, _)| !is_kept(name) || !is_header_name(name)) {
        let text = format!(
            "An object does not keep the header {name:?}: send lower-case x-amz-meta-* or a standard one."
        );
        return Err(Refusal::new("InvalidArgument", text));
    }
    if let Some((name, _)) =
        headers.0.iter().find(|(_, value)| value.bytes().any(|byte| byte < 32 || byte == 127))
    {
        return Err(Refusal::new("InvalidArgument", format!("The header {name} has control characters.")));
    }
    check_size(&headers)?;
    Ok(headers)
}

/// A name that HTTP can answer with later (RFC 9110, section 5.1), in lower case.
fn is_header_name(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

pub(super) fn precondition(given: native::Precondition) -> Precondition {
    match given {
        native::Precondition::None => Precondition::None,
        native::Precondition::Absent => Precondition::Absent,
        native::Precondition::Present => Precondition::Present,
        native::Precondition::Match(tags) => Precondition::Match(tags),
    }
}

fn asked(read: Read) -> Result<reading::Asked, Refusal> {
    let tag = |tag| match tag {
        native::Tag::Any => Tag::Any,
        native::Tag::OneOf(tags) => Tag::OneOf(tags),
    };
    let given = read.conditions;
    let conditions = Conditions {
        matches: given.matches.map(tag),
        none_matches: given.none_matches.map(tag),
        modified_since: given.modified_since,
        unmodified_since: given.unmodified_since,
    };
    let if_range = read.if_range.map(|known| match known {
        native::IfRange::Is(tag) => IfRange::Is(tag),
        native::IfRange::Date(seconds) => IfRange::Date(seconds),
    });
    let wanted = match read.range {
        Range::All => Wanted::All,
        Range::From(first, Some(end)) if end <= first => {
            return Err(Refusal::new("InvalidArgument", "The range ends before it begins."));
        }
        Range::From(first, end) => Wanted::From(first, end),
        Range::Last(bytes) => Wanted::Last(bytes),
        Range::Part(number) if (1..=PARTS_MAX).contains(&number) => Wanted::Part(number),
        Range::Part(_) => {
            let text = "Part number must be an integer between 1 and 10000, inclusive";
            return Err(Refusal::new("InvalidArgument", text));
        }
    };
    Ok(reading::Asked { wanted, conditions, if_range })
}

fn info(manifest: &Manifest, parts: Option<u32>) -> ObjectInfo {
    ObjectInfo {
        size: manifest.size,
        etag: manifest.etag,
        modified_ms: manifest.modified_ms,
        headers: manifest.headers.clone(),
        checksums: manifest.checksums.clone(),
        parts,
    }
}

impl<B: Backend> Context<B> {
    pub(super) async fn head(&self, wants: &Wants, key: &str, read: Read) -> Result<Answer, Refusal> {
        let key = object_key(key)?;
        let asked = asked(read)?;
        match asked.head(&self.shared.backend, wants, &key).await? {
            Opened::NotModified(manifest) => Ok(Answer::NotModified { object: info(&manifest, None) }),
            Opened::Reading(wanted, Reading { manifest, parts, range, .. }) => {
                let range = match wanted {
                    Wanted::Part(_) => range,
                    _ => resolve(wanted, manifest.size).ok_or(ReadError::Range { size: manifest.size })?,
                };
                Ok(Answer::Object { object: info(&manifest, part_count(wanted, parts)), range })
            }
        }
    }

    pub(super) async fn get(
        &self,
        wants: &Wants,
        key: &str,
        (read, into): (Read, Option<Remote>),
        asked: &mut Asked,
    ) -> (Result<Answer, Refusal>, Last) {
        match self.read_into(wants, key, (read, into), asked).await {
            Ok((answer, last)) => (Ok(answer), last),
            Err(refusal) => (Err(refusal), None),
        }
    }

    async fn read_into(
        &self,
        wants: &Wants,
        key: &str,
        (read, into): (Read, Option<Remote>),
        with: &mut Asked,
    ) -> Result<(Answer, Last), Refusal> {
        let key = object_key(key)?;
        let asked = asked(read)?;
        let (wanted, reading) = match asked.get(&self.shared.backend, wants, &key).await? {
            Opened::NotModified(manifest) => {
                return Ok((Answer::NotModified { object: info(&manifest, None) }, None));
            }
            Opened::Reading(wanted, reading) => (wanted, reading),
        };
        let Reading { manifest, parts, range, transports, mut body } = reading;
        with.transports = transports;
        let bytes = range.1 - range.0;
        let room = into.map_or(0, |into| u64::from(into.bytes));
        if bytes > room {
            let text = format!(
                "The range has {bytes} bytes, the client's buffer {room}: offer more, or ask for less."
            );
            return Err(Refusal::new("InvalidRequest", text));
        }
        let mut writer = Writer::new(self, into, bytes);
        while writer.left() > 0 {
            match body.next().await {
                Some(piece) => writer.take(&piece?).await?,
                None => {
                    return Err(ReadError::Unavailable("the object's bytes ended early".to_owned()).into());
                }
            }
        }
        let (digest, last) = writer.finish();
        Ok((Answer::Read { object: info(&manifest, part_count(wanted, parts)), range, digest }, last))
    }

    pub(super) async fn put(
        &self,
        wants: &Wants,
        key: &str,
        (headers, precondition_given): (Headers, native::Precondition),
        content: Content,
        asked: &mut Asked,
    ) -> Result<Answer, Refusal> {
        let to = Destination::Object {
            key: object_key(key)?,
            headers: kept(headers)?,
            precondition: precondition(precondition_given),
        };
        let kind = content.keep.unwrap_or(DEFAULT_KIND);
        self.store(wants, to, content, kind, asked).await
    }

    /// Brings bytes in and stores them; `kind` is the checksum to keep when the client gives none.
    pub(super) async fn store(
        &self,
        wants: &Wants,
        to: Destination,
        content: Content,
        kind: ChecksumKind,
        asked: &mut Asked,
    ) -> Result<Answer, Refusal> {
        let expected = Expected::of(&content, kind)?;
        let mut body = Body::open(self, content, expected, asked)?;
        let stored = self.shared.backend.put(wants, to, &mut body).await;
        if stored.is_err() {
            body.settle().await;
        }
        drop(body);
        let stored = stored?;
        asked.transports = stored.transports;
        Ok(Answer::Stored { etag: stored.summary.etag, checksums: stored.summary.checksums })
    }

    pub(super) async fn delete(
        &self,
        wants: &Wants,
        key: &str,
        given: native::Precondition,
    ) -> Result<Answer, Refusal> {
        delete::one(&self.shared.backend, wants, &object_key(key)?, precondition(given)).await?;
        Ok(Answer::Deleted)
    }
}

fn part_count(wanted: Wanted, parts: Option<u32>) -> Option<u32> {
    if matches!(wanted, Wanted::Part(_)) { parts } else { None }
}

/// The bytes of a GET on their way into the client's memory: copied once into memory of the door, hashed there, and written.
struct Writer<'a, B> {
    context: &'a Context<B>,
    into: Option<Remote>,
    bytes: u64,
    /// Bytes that are in chunks, the current one included.
    taken: u64,
    chunk: Option<Chunk>,
    /// Chunks that were posted, oldest first.
    posted: VecDeque<(Completion<()>, Permit)>,
    hasher: blake3::Hasher,
}

struct Chunk {
    buffer: Buffer,
    permit: Permit,
    filled: usize,
    offset: u64,
}

impl<'a, B: Backend> Writer<'a, B> {
    fn new(context: &'a Context<B>, into: Option<Remote>, bytes: u64) -> Self {
        let hasher = blake3::Hasher::new();
        Self { context, into, bytes, taken: 0, chunk: None, posted: VecDeque::new(), hasher }
    }

    fn left(&self) -> u64 {
        self.bytes - self.taken
    }

    async fn take(&mut self, mut piece: &[u8]) -> Result<(), Refusal> {
        while !piece.is_empty() {
            if self.left() == 0 {
                return Err(
                    ReadError::Unavailable("the object has more bytes than it should".to_owned()).into()
                );
            }
            let mut chunk = match self.chunk.take() {
                Some(chunk) if chunk.filled < chunk.buffer.len() => chunk,
                full => {
                    if let Some(full) = full {
                        self.post(full).await?;
                    }
                    self.next().await?
                }
            };
            let space = chunk.buffer.get_mut(chunk.filled..).unwrap_or_default();
            let (now, rest) = piece.split_at(piece.len().min(space.len()));
            if let Some(space) = space.get_mut(..now.len()) {
                space.copy_from_slice(now);
            }
            self.hasher.update(now);
            chunk.filled += now.len();
            self.taken += now.len() as u64;
            self.chunk = Some(chunk);
            piece = rest;
        }
        Ok(())
    }

    /// Memory for the next bytes. Waits for other clients only when none of its own is on its way back.
    async fn next(&mut self) -> Result<Chunk, Refusal> {
        let bytes = usize::try_from(self.left()).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let offset = self.taken;
        loop {
            if self.posted.len() < CHUNKS_OPEN_MAX
                && let Some((buffer, permit)) = self.context.lender.try_lease(bytes)
            {
                return Ok(Chunk { buffer, permit, filled: 0, offset });
            }
            let Some((completion, permit)) = self.posted.pop_front() else {
                let (buffer, permit) = self.context.lender.lease(bytes).await.map_err(|_| slow_down())?;
                return Ok(Chunk { buffer, permit, filled: 0, offset });
            };
            completion.await.map_err(broken)?;
            drop(permit);
        }
    }

    async fn post(&mut self, chunk: Chunk) -> Result<(), Refusal> {
        let Some(to) = self.place(&chunk) else { return Err(broken(OperationError::LocalProtection)) };
        let completion = self.context.outgoing.connection.post_write(chunk.buffer.freeze(), to, None).await;
        self.posted.push_back((completion.map_err(broken)?, chunk.permit));
        Ok(())
    }

    fn place(&self, chunk: &Chunk) -> Option<Remote> {
        self.into?.sub(u32::try_from(chunk.offset).ok()?, u32::try_from(chunk.buffer.len()).ok()?)
    }

    /// The digest of all bytes, and the last chunk, which goes out with the answer.
    fn finish(mut self) -> ([u8; 32], Last) {
        let last = self.chunk.take();
        let to = last.as_ref().and_then(|chunk| self.place(chunk));
        let last = last.zip(to).map(|(chunk, to)| (chunk.buffer.freeze(), to, chunk.permit));
        (*self.hasher.finalize().as_bytes(), last)
    }
}

/// Nobody will read this: the connection is in its error state.
fn broken(error: OperationError) -> Refusal {
    OpError::Metadata(format!("the connection to the client broke: {error}")).into()
}

/// A chunk that a client was granted ends by itself after so long: beyond every silence that it is allowed.
pub(super) const GRANT_EXPIRES: Duration = Duration::from_secs(600);
