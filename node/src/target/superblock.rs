//! The superblock: whose folder this is. Two copies in one file, written once, when the target is created.
//!
//! ```text
//!      0  magic "tenfour!" | 8 version u16 | 10 zero [6] | 16 cluster [16] | 32 target u32 | 36 node u32 |
//!     40  life of the target u64 | 48 segment bytes u32 | 52 zero u32 | 56 crc64, zeros up to 4096
//!   4096  the same again
//! ```
//!
//! Invariant: a folder without a superblock is never taken for a target that was there before; only [`create`] accepts it, and
//! whoever calls that vouches that the target's id was never in use.

use super::errors::OpenError;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, Engine, Identity, RealDisk, read_one};
use std::io::ErrorKind;
use std::path::Path;
use tenfour_erasure::crc64;
use tenfour_types::{ClusterId, NodeId, TargetId};

/// The superblock's file.
pub const SUPERBLOCK: &str = "superblock";
const MAGIC: [u8; 8] = *b"tenfour!";
const VERSION: u16 = 1;
const COPIES: usize = 2;
const CRC_AT: usize = 56;

/// What a superblock says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The cluster.
    pub cluster: ClusterId,
    /// The target.
    pub target: TargetId,
    /// The node that it was created on.
    pub node: NodeId,
    /// Random, made when the target is created: its segments and its index carry it too.
    pub life: u64,
    /// Length of every segment.
    pub segment_bytes: u32,
}

/// An open superblock: which file it is, and a lock on it.
pub(super) struct Held<F> {
    pub(super) superblock: Superblock,
    pub(super) identity: Identity,
    /// Keeps the inode from being used for another file, and the lock.
    _file: F,
}

impl Superblock {
    /// One copy, without the padding.
    pub fn to_bytes(self) -> [u8; 64] {
        let mut body = Vec::with_capacity(64);
        body.extend_from_slice(&MAGIC);
        body.extend_from_slice(&VERSION.to_le_bytes());
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&self.cluster.0);
        body.extend_from_slice(&self.target.0.to_le_bytes());
        body.extend_from_slice(&self.node.0.to_le_bytes());
        body.extend_from_slice(&self.life.to_le_bytes());
        body.extend_from_slice(&self.segment_bytes.to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&crc64(&body).to_le_bytes());
        body.try_into().unwrap_or([0; 64])
    }

    /// Reads one copy; `Ok(None)` when it is damaged or none.
    pub fn from_bytes(block: &[u8]) -> Result<Option<Self>, OpenError> {
        let Some((body, crc)) = block.get(..64).and_then(|copy| copy.split_at_checked(CRC_AT)) else {
            return Ok(None);
        };
        if crc64(body).to_le_bytes() != crc || !body.starts_with(&MAGIC) {
            return Ok(None);
        }
        let mut fields = Fields(body);
        let mut parse = || {
            fields.take::<8>()?;
            let version = u16::from_le_bytes(fields.take()?);
            fields.take::<6>()?;
            let superblock = Self {
                cluster: ClusterId(fields.take()?),
                target: TargetId(u32::from_le_bytes(fields.take()?)),
                node: NodeId(u32::from_le_bytes(fields.take()?)),
                life: u64::from_le_bytes(fields.take()?),
                segment_bytes: u32::from_le_bytes(fields.take()?),
            };
            Some((version, superblock))
        };
        match parse() {
            Some((VERSION, superblock)) => Ok(Some(superblock)),
            Some((found, _)) => Err(OpenError::Version { found, newest: VERSION }),
            None => Ok(None),
        }
    }
}

/// Fixed-layout fields, read off a slice and never past its end.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
}

/// What the superblock in a folder says, which need not be there. The target may be open meanwhile.
pub fn superblock_of(folder: &Path) -> Result<Option<Superblock>, OpenError> {
    let read = || {
        let disk = RealDisk::open_plain(folder)?;
        read(&disk, &disk.open(SUPERBLOCK)?)
    };
    match read() {
        Err(OpenError::Disk(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found,
    }
}

/// Makes an empty folder a target. What a crash here leaves behind is a folder without a whole superblock and without segments,
/// which may be created again.
pub(super) fn create<D: Disk>(disk: &D, superblock: Superblock) -> Result<Held<D::File>, OpenError> {
    let names = disk.list()?;
    let is_there = names.iter().any(|name| name == SUPERBLOCK);
    if is_there && let Some(found) = read(disk, &disk.open(SUPERBLOCK)?)? {
        return Err(OpenError::Exists { target: found.target });
    }
    if names.iter().any(|name| super::segment::is_segment(name)) {
        return Err(OpenError::NotEmpty);
    }
    if is_there {
        disk.remove(SUPERBLOCK)?;
    }
    let file = disk.create(SUPERBLOCK)?;
    disk.lock(&file).map_err(|_| OpenError::InUse)?;
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    for (place, byte) in block.iter_mut().zip(superblock.to_bytes()) {
        *place = byte;
    }
    let mut engine = disk.engine()?;
    engine.write(&file, 0, &[&*block; COPIES])?;
    engine.flush(&file)?;
    disk.flush_folder()?;
    Ok(Held { superblock, identity: disk.identity(SUPERBLOCK)?, _file: file })
}

/// Opens the superblock of a target that was there before, and refuses any other.
pub(super) fn open<D: Disk>(
    disk: &D,
    wanted: (ClusterId, NodeId, TargetId),
) -> Result<Held<D::File>, OpenError> {
    let file = match disk.open(SUPERBLOCK) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(OpenError::Missing),
        Err(error) => return Err(error.into()),
    };
    disk.lock(&file).map_err(|_| OpenError::InUse)?;
    let superblock = read(disk, &file)?.ok_or(OpenError::SuperblockDamaged)?;
    let (cluster, node, target) = wanted;
    if superblock.cluster != cluster {
        return Err(OpenError::WrongCluster { found: superblock.cluster, wanted: cluster });
    }
    if (superblock.node, superblock.target) != (node, target) {
        let found = (superblock.node, superblock.target);
        return Err(OpenError::WrongTarget { found, wanted: (node, target) });
    }
    Ok(Held { superblock, identity: disk.identity(SUPERBLOCK)?, _file: file })
}

/// The first good copy.
fn read<D: Disk>(disk: &D, file: &D::File) -> Result<Option<Superblock>, OpenError> {
    let mut engine = disk.engine()?;
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    for copy in 0..COPIES {
        match read_one(&mut engine, file, (copy * BLOCK_BYTES) as u64, &mut block) {
            Ok(()) => {
                if let Some(superblock) = Superblock::from_bytes(&block)? {
                    return Ok(Some(superblock));
                }
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) => tracing::warn!(copy, %error, "a copy of the superblock cannot be read"),
        }
    }
    Ok(None)
}
