//! What a gateway (or a repairing node) and a node say to each other over the fabric.
//!
//! **Storing a shard** takes one round trip and no request message. The node grants staging slots; the client RDMA-WRITEs a
//! record ([`crate::record`], without the padding at its end) to the beginning of one, with immediate data = the slot's number.
//! The node revokes the grant, verifies, persists, and only then answers [`FromNode::Stored`] with the slot's next grant.
//!
//! **Fetching** is one message: the node RDMA-WRITEs the blocks asked for into the range that the request grants, then
//! answers [`FromNode::Fetched`] with the shard's block table, so that the client verifies against the digest it knows.
//!
//! The connection's private data is [`Hello`]; both directions are bounded by the fabric's largest SEND
//! (16 KiB) and by the slots granted.

use crate::{ClusterId, Digest, Epoch, NodeId, Remote, ShardIndex, StripeId, TargetId, Wire};
use serde::{Deserialize, Serialize};

/// First words of a client, as the connection's private data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster it belongs to; another one is refused.
    pub cluster: ClusterId,
    /// The node it wants to speak to; a wrong one is refused, so that a reused address is noticed.
    pub node: NodeId,
    /// Whether it will store shards. Who only fetches, as a repairing node does, is granted no slots and takes no staging memory.
    pub stores: bool,
}

impl Wire for Hello {
    const NAME: &'static str = "shard service hello";
    const VERSION: u8 = 2;

    /// Version 1 is the hello of those who store, version 2 the same of those who do not.
    fn to_bytes(&self) -> Vec<u8> {
        let version = if self.stores { 1 } else { 2 };
        postcard::to_extend(&(self.cluster, self.node), vec![version]).unwrap_or_default()
    }

    fn from_body(version: u8, body: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(body) {
            Ok(((cluster, node), [])) => Some(Self { cluster, node, stores: version == 1 }),
            _ => None,
        }
    }
}

/// One shard, wherever it lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ShardRef {
    /// The stripe.
    pub stripe: StripeId,
    /// Which of the 14.
    pub index: ShardIndex,
    /// The target that should hold it.
    pub target: TargetId,
    /// Its digest: another shard under the same name is not it.
    pub digest: Digest,
}

/// A message to a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToNode {
    /// Send me blocks of a shard.
    Fetch {
        /// Echoed in the answer.
        request: u32,
        /// Which shard.
        shard: ShardRef,
        /// First payload byte wanted, a multiple of `CRC_BLOCK_BYTES`.
        offset: u32,
        /// Bytes wanted; up to the end of a block or of the payload.
        bytes: u32,
        /// Where to WRITE them: exactly `bytes` long.
        into: Remote,
    },
    /// Do you hold these shards whole? Reads and verifies each from the disk.
    Verify {
        /// Echoed in the answer.
        request: u32,
        /// At most 256.
        shards: Vec<ShardRef>,
    },
    /// How are you?
    Status {
        /// Echoed in the answer.
        request: u32,
    },
}

impl Wire for ToNode {
    const NAME: &'static str = "message to a node";
}

/// A message from a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromNode {
    /// The slots that this connection may write to, sent once, first.
    Slots {
        /// Slot *i* is `slots[i]`.
        slots: Vec<Remote>,
        /// The node's epoch.
        epoch: Epoch,
    },
    /// The record that was written to a slot is durable, or why it is not.
    Stored {
        /// The slot.
        slot: u16,
        /// Durable, or refused; a refused record left nothing behind.
        result: Result<(), ShardError>,
        /// The slot's next grant: a credit. The old one is dead.
        next: Remote,
    },
    /// The blocks are in the client's memory, or why not.
    Fetched {
        /// Of the request.
        request: u32,
        /// The shard's payload length and block table, or what went wrong.
        result: Result<ShardTable, ShardError>,
    },
    /// For each shard asked about: there, whole, and with the right digest, or what is wrong.
    Verified {
        /// Of the request.
        request: u32,
        /// In the order asked.
        results: Vec<Result<(), ShardError>>,
    },
    /// How the node is.
    Status {
        /// Of the request.
        request: u32,
        /// Its targets.
        targets: Vec<TargetStatus>,
    },
}

impl Wire for FromNode {
    const NAME: &'static str = "message from a node";
}

/// What a fetched range is verified against.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardTable {
    /// The shard's whole payload.
    pub payload_bytes: u32,
    /// CRC-64/NVME of every block of it.
    pub block_sums: Vec<u64>,
}

/// Why a shard could not be stored or fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum ShardError {
    /// The record or request does not obey the protocol.
    #[error("malformed request")]
    Malformed,
    /// What arrived is not what its header says.
    #[error("checksum mismatch on arrival")]
    ChecksumMismatch,
    /// The target is not on this node.
    #[error("no such target here")]
    UnknownTarget,
    /// The target was poisoned (failed flush, lost folder) or is being closed.
    #[error("the target is out of service")]
    TargetOut,
    /// No space on the target.
    #[error("the target is full")]
    TargetFull,
    /// No shard of that name and digest here.
    #[error("not found")]
    NotFound,
    /// Found, but what the disk returned is damaged.
    #[error("damaged on disk")]
    Damaged,
    /// The disk returned an error.
    #[error("disk error")]
    Disk,
    /// Too much at once; try again or elsewhere.
    #[error("overloaded")]
    Overloaded,
    /// The sender's map is older than what the node follows.
    #[error("stale epoch")]
    StaleEpoch,
}

/// One target as `tenfour status` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Which.
    pub target: TargetId,
    /// In service, not poisoned.
    pub healthy: bool,
    /// Shards stored.
    pub shards: u64,
    /// Bytes in records.
    pub used_bytes: u64,
    /// Bytes it may hold.
    pub capacity_bytes: u64,
    /// Flushes (`fdatasync`) since the start; a group commit counts once.
    pub flushes: u64,
}
