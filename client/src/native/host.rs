//! Memory that the caller owns, in the place of buffers of the client's own: what a training job has in hand.
//!
//! Over `verbs` the gateway's device reads and writes it where it lies: no processor copies. Over `tcp`, and into it over `shm` and HTTP,
//! bytes go straight between it and what carries them: one copy. Over `shm` a gateway cannot read it, so a PUT goes through a buffer
//! of the client, chunk by chunk; so it does, and a GET, where a device has no room for it. Objects that fit a slot travel in one.
//!
//! Invariant: whatever becomes of a call, the memory is held until nothing can touch it any more: a grant owns it until the gateway
//! has answered or the connection is dead (`link`), and the fabric until its device has let go (`tenfour_rdma::HostRegion`). A future
//! that is dropped, or a thread that is interrupted, gives up the answer and nothing else.

use super::config::GetOptions;
use super::error::{Error, Failure};
use super::link::Link;
use super::objects::{Got, Head, Served, too_long, unexpected};
use super::{Client, Inner};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tenfour_rdma::{Buffer, Frozen, HostMemory, HostRegion};
use tenfour_types::native::{Conditions, Range, Tag};

/// A GET, as a value.
type Reading<'a> = Pin<Box<dyn Future<Output = (Option<Buffer>, Result<Got, Failure>)> + Send + 'a>>;

/// What is read at once into memory that the device did not take, bytes.
const PIECE_BYTES: usize = 512 << 10;
/// The carrier that copies nothing.
const DEVICE: &str = "verbs";

/// What became of calls with memory that the caller owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostMemoryCounters {
    /// Transfers that an RDMA device made from or to it: no processor copied.
    pub zero_copy_transfers: u64,
    /// Their bytes, as they were granted.
    pub zero_copy_bytes: u64,
    /// Bytes that were copied, once.
    pub copied_bytes: u64,
    /// Registrations with a device.
    pub registrations: u64,
    /// What the client holds now, bytes.
    pub held_bytes: u64,
}

impl Client {
    /// Makes memory of the caller usable for this client's calls, by the buffers that can be made of it. A device gets to know it
    /// when it first needs it, and then as long as the region lives: keep it for memory that is used again.
    pub fn adopt(&self, memory: impl HostMemory) -> HostRegion {
        self.inner.domain.pool().adopt(memory)
    }

    /// The same for memory that nobody else has, without further ado.
    pub fn adopt_bytes(&self, bytes: Box<[u8]>) -> Buffer {
        self.inner.domain.pool().adopt_bytes(bytes)
    }

    /// What became of calls with memory of the caller.
    pub fn host_memory_counters(&self) -> HostMemoryCounters {
        let of_fabric = self.inner.domain.pool().host_counters();
        HostMemoryCounters {
            zero_copy_transfers: of_fabric.device_transfers,
            zero_copy_bytes: of_fabric.device_bytes,
            copied_bytes: self.inner.copied_bytes.load(Ordering::Relaxed),
            registrations: of_fabric.registrations,
            held_bytes: of_fabric.held_bytes,
        }
    }

    /// Counts what a call has moved by a carrier that copies.
    pub(super) fn note(&self, is_host: bool, served: &Served, bytes: usize) {
        if is_host && served.carrier != DEVICE {
            self.inner.copied(bytes);
        }
    }

    /// What can be sent over this connection: the same, or a copy in a buffer of the client.
    pub(super) async fn sendable(&self, link: &Link, source: Frozen) -> Result<Frozen, Failure> {
        if link.core.connection.can_send(&source) {
            return Ok(source);
        }
        let mut buffer = self.buffer(source.len()).await?;
        buffer.copy_from_slice(&source);
        if link.is_device() {
            self.inner.copied(source.len());
        }
        Ok(buffer.freeze())
    }

    /// For memory that the device did not take: GETs into a buffer of the client, piece by piece, and copies. In a box, as it is a part
    /// of what it calls.
    pub(super) fn get_by_copy<'a>(
        &'a self,
        link: &'a Arc<Link>,
        (bucket, key): (&'a str, &'a str),
        mut into: Buffer,
        options: &'a GetOptions,
    ) -> Reading<'a> {
        Box::pin(async move {
            let got = self.get_pieces(link, (bucket, key), &mut into, options).await;
            (Some(into), got)
        })
    }

    async fn get_pieces(
        &self,
        link: &Arc<Link>,
        (bucket, key): (&str, &str),
        into: &mut [u8],
        options: &GetOptions,
    ) -> Result<Got, Failure> {
        let Head { object, range, served } = self.head_over(link, bucket, key, options).await?;
        let (count, room) = (range.1.saturating_sub(range.0), into.len());
        let bytes = usize::try_from(count).unwrap_or(usize::MAX);
        let into = into.get_mut(..bytes).ok_or_else(|| too_long(count, room))?;
        let matches = Some(Tag::OneOf(vec![object.etag]));
        let conditions = Conditions { matches, ..Conditions::default() };
        let mut first = range.0;
        for piece in into.chunks_mut(PIECE_BYTES.min(self.inner.domain.pool().capacity_bytes())) {
            let end = first + piece.len() as u64;
            let options = GetOptions {
                range: Range::From(first, Some(end)),
                conditions: conditions.clone(),
                ..GetOptions::default()
            };
            let buffer = self.buffer(piece.len()).await?;
            let (buffer, got) = self.get_over(link, bucket, key, buffer, &options).await;
            match got {
                Ok(got) if got.range == (first, end) => {}
                Ok(_) => return Err(unexpected()),
                // It was replaced meanwhile: all of it anew.
                Err(Failure { error: Error::Refused(refusal), .. })
                    if refusal.code == "PreconditionFailed" =>
                {
                    return Err(Failure::broken(false));
                }
                Err(failure) => return Err(failure),
            }
            piece.copy_from_slice(&buffer.ok_or_else(unexpected)?);
            first = end;
        }
        self.inner.copied(bytes);
        Ok(Got { object, range, bytes, served })
    }
}

impl Inner {
    /// Counts what was copied out of, or into, memory of the caller.
    pub(super) fn copied(&self, bytes: usize) {
        self.copied_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Link {
    /// Whether a device carries it. Of other carriers, [`Client::note`] counts what they copy.
    pub(super) fn is_device(&self) -> bool {
        self.carrier() == DEVICE
    }
}
