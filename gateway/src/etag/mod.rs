//! The ETag of an object or part, made while its stripes are written: MD5, which clients expect, or a digest of what is computed
//! anyway.
//!
//! Every MD5 of more than a little is left to threads of their own, which hash many requests side by side ([`lanes`]); it reads
//! the stripe in the memory that it is sent from, and needs to be known only before the commit. The CRC-64/NVME of the whole comes out of
//! the encoder's sums, beside it.
//!
//! Invariant: an ETag that is not an MD5 ends in `-1`, which clients know from objects uploaded in parts: they do not compare it.

mod lanes;

use crate::counters::Counters;
use crate::stripe::{Addressed, Encoded};
use crate::transfer::Digested;
use std::sync::Arc;
use tenfour_erasure::Md5;
use tenfour_rdma::Frozen;
use tenfour_types::ETag;

/// So many bytes are hashed where they are: sooner done than handed over.
const AT_ONCE_BYTES: u64 = 64 << 10;
/// What the digest is of that is no MD5: bytes 0 to 15 of BLAKE3, in key-derivation mode, over the object's size and the CRC-64/NVME
/// of each block of each data shard, in the order of the bytes.
const FAST_CONTEXT: &str = "tenfour etag of block checksums v1";

/// What ETags are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EtagKind {
    /// The MD5 of the bytes.
    #[default]
    Md5,
    /// A digest of the stripes' block checksums, for clients that do not take an ETag for an MD5: it costs nothing.
    Fast,
}

/// Makes the ETags of a gateway.
pub(crate) struct Etags {
    kind: EtagKind,
    lanes: lanes::Md5Threads<Frozen>,
}

/// Makes one, of bytes that come stripe by stripe.
pub(crate) struct EtagOf<'a> {
    counters: &'a Counters,
    /// The CRC-64/NVME of the bytes so far.
    crc64: u64,
    fast: Option<Box<blake3::Hasher>>,
    md5: Way,
}

enum Way {
    /// Nobody wants it.
    None,
    Here(Box<Md5>),
    SideBySide(lanes::Stream<Frozen>),
}

/// The bytes of one stripe on their way through the MD5.
pub(crate) type Hashing = lanes::Hashing<Frozen>;

/// The thread that was to hash has ended: a bug, since it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the MD5 could not be computed")]
pub(crate) struct Unhashed;

impl Etags {
    pub(crate) fn start(kind: EtagKind, counters: Arc<Counters>) -> std::io::Result<Self> {
        Ok(Self { kind, lanes: lanes::Md5Threads::start(counters)? })
    }

    /// Of `bytes` bytes; `wants_md5` whatever the ETag is.
    pub(crate) fn begin<'a>(&self, bytes: u64, wants_md5: bool, counters: &'a Counters) -> EtagOf<'a> {
        let fast = (self.kind == EtagKind::Fast).then(|| {
            let mut hasher = blake3::Hasher::new_derive_key(FAST_CONTEXT);
            hasher.update(&bytes.to_le_bytes());
            Box::new(hasher)
        });
        let md5 = match bytes {
            _ if fast.is_some() && !wants_md5 => Way::None,
            0..=AT_ONCE_BYTES => Way::Here(Box::default()),
            _ => Way::SideBySide(self.lanes.open()),
        };
        EtagOf { counters, crc64: 0, fast, md5 }
    }
}

impl EtagOf<'_> {
    /// The next stripe: what is done at once.
    pub(crate) fn encoded(&mut self, stripe: &Encoded) {
        self.crc64 = stripe.object_crc64(self.crc64);
        if let Some(hasher) = &mut self.fast {
            stripe.data_sums().for_each(|sum| {
                hasher.update(&sum.to_le_bytes());
            });
        }
        if let Way::Here(md5) = &mut self.md5 {
            self.counters.hash.run(|| stripe.object_bytes().for_each(|bytes| md5.update(bytes)));
        }
    }

    /// Who takes stripes over that others hash.
    pub(crate) fn taker(&self) -> Option<Taker> {
        match &self.md5 {
            Way::SideBySide(stream) => Some(Taker(stream.taker())),
            Way::None | Way::Here(_) => None,
        }
    }

    /// When every stripe was hashed.
    pub(crate) fn finish(self) -> Result<Digested, Unhashed> {
        let md5 = match self.md5 {
            Way::None => None,
            Way::Here(md5) => Some(md5.finish()),
            Way::SideBySide(stream) => Some(stream.finish().ok_or(Unhashed)?),
        };
        let fast = self.fast.map(|hasher| {
            let mut digest = [0; 16];
            hasher.finalize_xof().fill(&mut digest);
            ETag { md5: digest, parts: Some(1) }
        });
        let etag = fast.or(md5.map(|md5| ETag { md5, parts: None })).ok_or(Unhashed)?;
        Ok(Digested { etag, md5, crc64: self.crc64 })
    }
}

/// Takes the stripes of one object over.
#[derive(Clone)]
pub(crate) struct Taker(lanes::Taker<Frozen>);

impl Taker {
    /// Stripe `number` of the object, from 0: each once, in any order.
    pub(crate) fn take(&self, number: usize, stripe: &Addressed) -> Hashing {
        self.0.take(number, stripe.object_pieces())
    }
}
