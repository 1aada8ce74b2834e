//! The types that openraft is instantiated with.
//!
//! A log entry carries a batch of encoded envelopes. The leader checks that each decodes before it proposes it; followers and
//! the log store only pass the bytes on, and apply decodes them.

use crate::api::{ClusterCommand, ClusterReply, IndexReply};
use crate::raft::SnapshotStream;
use bytes::{BufMut, Bytes, BytesMut};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use tenfour_types::CommandId;
use tenfour_types::limits::RAFT_ENTRY_BYTES_MAX;

openraft::declare_raft_types!(
    /// One configuration serves all groups.
    pub TypeConfig:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = Replica,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotStream,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Replica>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Replica>;

/// A member of a group: where it listens, and which life of its store is the member.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Replica {
    /// Address and port.
    pub address: String,
    /// The life of its store. A store that was lost and begun anew has another, and is a stranger.
    pub incarnation: u128,
}

/// A command for group 0 as it is sent and logged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ClusterEnvelope {
    /// Its name, when it must not happen twice; the plumbing's own commands may.
    pub(crate) id: Option<CommandId>,
    pub(crate) command: ClusterCommand,
}

/// The format of a batch (stored).
const FORMAT: u8 = 1;
const FORMAT_BYTES: usize = 1;
const LENGTH_BYTES: usize = 4;
/// Room for the log id and the frame around a batch, bytes.
const ENTRY_OVERHEAD_BYTES: usize = 256;
/// Largest batch, bytes.
const BATCH_BYTES_MAX: usize = RAFT_ENTRY_BYTES_MAX - ENTRY_OVERHEAD_BYTES;
/// Largest encoded envelope, bytes.
pub(crate) const ENVELOPE_BYTES_MAX: usize = BATCH_BYTES_MAX - FORMAT_BYTES - LENGTH_BYTES;

/// Encoded envelopes, each behind its length. A clone shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch(Bytes);

impl Batch {
    /// Its encoded length.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The envelopes; the iterator ends early, with an error, where the bytes are no batch.
    pub(crate) fn envelopes(&self) -> impl Iterator<Item = Result<Bytes, MalformedBatch>> + '_ {
        let mut rest = match self.0.split_first() {
            Some((&FORMAT, _)) => Some(self.0.slice(FORMAT_BYTES..)),
            _ => None,
        };
        let mut failed = rest.is_none();
        std::iter::from_fn(move || {
            if std::mem::take(&mut failed) {
                return Some(Err(MalformedBatch));
            }
            let left = rest.as_mut().filter(|left| !left.is_empty())?;
            let taken = take(left);
            if taken.is_none() {
                rest = None;
            }
            Some(taken.ok_or(MalformedBatch))
        })
    }
}

fn take(left: &mut Bytes) -> Option<Bytes> {
    let (length, _) = left.split_first_chunk::<LENGTH_BYTES>()?;
    let end = LENGTH_BYTES.checked_add(u32::from_le_bytes(*length) as usize)?;
    (end <= left.len()).then(|| left.split_to(end).slice(LENGTH_BYTES..))
}

/// Bytes that are no batch of a format that this build reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a log entry of a format that this build does not read")]
pub(crate) struct MalformedBatch;

/// Builds a [`Batch`].
pub(crate) struct BatchBuilder(BytesMut);

impl BatchBuilder {
    pub(crate) fn new() -> Self {
        let mut bytes = BytesMut::with_capacity(4 << 10);
        bytes.put_u8(FORMAT);
        Self(bytes)
    }

    /// Adds an envelope; false when it does not fit any more.
    pub(crate) fn push(&mut self, envelope: &[u8]) -> bool {
        if self.0.len() + LENGTH_BYTES + envelope.len() > BATCH_BYTES_MAX {
            return false;
        }
        self.0.put_u32_le(envelope.len() as u32);
        self.0.put_slice(envelope);
        true
    }

    pub(crate) fn build(self) -> Batch {
        Batch(self.0.freeze())
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch of {} bytes", self.0.len())
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BatchVisitor;
        impl Visitor<'_> for BatchVisitor {
            type Value = Batch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a batch")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Batch, E> {
                Ok(Batch(Bytes::copy_from_slice(bytes)))
            }
        }
        deserializer.deserialize_bytes(BatchVisitor)
    }
}

/// What applying an entry answered, a reply for each envelope of its batch. Lives only in the memory of the process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Replies {
    /// The entry carried no batch.
    #[default]
    None,
    /// Of an index group.
    Index(Vec<IndexReply>),
    /// Of group 0, each with the number of the fence that it is held back for (0: none).
    Cluster(Vec<(ClusterReply, u64)>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_survive(envelopes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut builder = BatchBuilder::new();
            for envelope in &envelopes {
                prop_assert!(builder.push(envelope));
            }
            let batch = builder.build();
            let bytes = postcard::to_stdvec(&batch).unwrap();
            let read: Batch = postcard::from_bytes(&bytes).unwrap();
            let read: Result<Vec<Bytes>, _> = read.envelopes().collect();
            prop_assert_eq!(read.unwrap(), envelopes);
        }

        #[test]
        fn no_bytes_make_a_batch_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Batch(Bytes::from(bytes)).envelopes().count();
        }
    }

    #[test]
    fn a_full_batch_takes_no_more_and_stays_below_the_largest_entry() {
        let mut builder = BatchBuilder::new();
        assert!(builder.push(&vec![0; ENVELOPE_BYTES_MAX]));
        assert!(!builder.push(&[]));
        assert!(builder.build().bytes() < RAFT_ENTRY_BYTES_MAX);
    }
}
