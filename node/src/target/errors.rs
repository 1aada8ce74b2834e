//! Why a target cannot be opened.

use std::io::{self, ErrorKind};
use tenfour_types::{ClusterId, NodeId, TargetId};
use thiserror::Error;

/// Why a target cannot be opened or created.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The folder holds no superblock although the target was there before: the disk was wiped or is not mounted.
    #[error(
        "the folder holds no superblock, though this target is known to the cluster: is the disk mounted? \
         A wiped disk comes back under a new target id"
    )]
    Missing,
    /// To be created, and there is a target already.
    #[error("the folder already holds target {target}")]
    Exists {
        /// Which.
        target: TargetId,
    },
    /// To be created, and there are segments without a superblock.
    #[error("the folder holds segments but no superblock: it is not empty and is left alone")]
    NotEmpty,
    /// Both copies of the superblock are damaged.
    #[error(
        "both copies of the superblock are damaged: take the target out and give the disk a new target id"
    )]
    SuperblockDamaged,
    /// The folder of another cluster.
    #[error("the folder belongs to cluster {found}, this node to {wanted}")]
    WrongCluster {
        /// The folder's.
        found: ClusterId,
        /// The node's.
        wanted: ClusterId,
    },
    /// The folder of another target or node.
    #[error("the folder holds target {} of node {}, wanted was {} of {}", found.1, found.0, wanted.1, wanted.0)]
    WrongTarget {
        /// The folder's.
        found: (NodeId, TargetId),
        /// The node's.
        wanted: (NodeId, TargetId),
    },
    /// Another process has it open.
    #[error("another process has this target open")]
    InUse,
    /// Written by a newer version.
    #[error("format version {found} is not one that this build reads (1 to {newest})")]
    Version {
        /// The version found.
        found: u16,
        /// The newest that can be read.
        newest: u16,
    },
    /// The configuration makes no sense.
    #[error("{0}")]
    Settings(&'static str),
    /// The index, which a rebuild did not help.
    #[error("the index cannot be opened: {0}")]
    Index(#[from] fjall::Error),
    /// The disk.
    #[error("the disk: {0}")]
    Disk(#[from] io::Error),
}

impl OpenError {
    /// Whether the same call can succeed later without anyone's help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::InUse)
    }

    /// Whether what the folder of a target that was there before should hold is gone or damaged, so that its shards have to be made
    /// anew elsewhere. A folder of somebody else, or what help can mend, is no loss.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Missing | Self::SuperblockDamaged => true,
            Self::Disk(error) | Self::Index(fjall::Error::Io(error)) => {
                matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::StaleNetworkFileHandle
                ) || error.raw_os_error() == Some(libc::EIO)
            }
            _ => false,
        }
    }
}
