//! How far the log store was durable when it was last written: a note beside it, so that what sled loses does not go unseen.
//!
//! sled takes a message whose checksum is wrong for the end of its log and drops everything behind it without a word. A voter
//! that forgets what it acknowledged breaks Raft, so each flush is noted here, after it: the last index and the vote of each
//! group. Invariant: the note never says more than the log store holds. It is written without a sync of its own (a power cut
//! may leave an older one, which says less), except before entries are cut off, when it has to say less at once.

use crate::raft::Vote;
use crate::store::StoreError;
use crate::store::database::{Loaded, checksum};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const FILE: &str = "mark";
/// The file is one block, so that it is never torn over two.
const BLOCK_BYTES: usize = 4096;
const CRC_BYTES: usize = 4;

/// What a group has to have at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) vote: Option<Vote>,
    pub(crate) last: Option<u64>,
}

/// The file.
pub(super) struct Marks {
    file: File,
    pub(super) groups: BTreeMap<u16, Mark>,
}

impl Marks {
    /// Opens or begins it. A block that is not readable is as good as none: it protects nothing, and harms nothing.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(folder.join(FILE))?;
        let mut block = vec![0; BLOCK_BYTES];
        let groups = match file.read_exact_at(&mut block, 0) {
            Ok(()) => decode(&block),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        Ok(Self { file, groups: groups.unwrap_or_default() })
    }

    /// Writes what is in `groups`, all of which is durable in the log store.
    pub(super) fn write(&self) -> io::Result<()> {
        let mut block = vec![0; CRC_BYTES];
        block = postcard::to_extend(&self.groups, block).map_err(io::Error::other)?;
        if block.len() > BLOCK_BYTES {
            return Err(io::Error::other("the marks of all groups exceed a block"));
        }
        block.resize(BLOCK_BYTES, 0);
        self.file.write_all_at(&sealed(&block), 0)
    }

    /// Before entries from `from` on are cut off.
    pub(super) fn lower(&mut self, group: u16, from: u64) -> io::Result<()> {
        let mark = self.groups.entry(group).or_default();
        mark.last = mark.last.min(from.checked_sub(1));
        self.write()?;
        self.file.sync_data()
    }

    /// Whether what was found in the log store is all that was there.
    pub(super) fn check(&self, folder: &Path, loaded: &BTreeMap<u16, Loaded>) -> Result<(), StoreError> {
        for (group, mark) in &self.groups {
            let (vote, last) = loaded.get(group).map_or((None, None), |loaded| {
                let purged = loaded.purged.map(|purged| purged.index);
                (loaded.vote, loaded.last.map(|last| last.index).or(purged))
            });
            if last < mark.last || vote < mark.vote {
                let what = format!(
                    "group {group} had entries up to {:?} and the vote {:?}, and what is left reaches {last:?} and {vote:?}",
                    mark.last, mark.vote
                );
                return Err(StoreError::Damaged { folder: folder.to_owned(), what });
            }
        }
        Ok(())
    }
}

/// The block with its checksum in its first bytes.
pub(crate) fn sealed(block: &[u8]) -> Vec<u8> {
    let rest = block.get(CRC_BYTES..).unwrap_or_default();
    [&checksum(&[], rest)[..], rest].concat()
}

pub(crate) fn decode(block: &[u8]) -> Option<BTreeMap<u16, Mark>> {
    let (crc, rest) = block.split_first_chunk::<CRC_BYTES>()?;
    if *crc != checksum(&[], rest) {
        return None;
    }
    postcard::take_from_bytes(rest).ok().map(|(groups, _)| groups)
}
