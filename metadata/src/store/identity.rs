//! Who a replica is, for ever: a small file beside its stores, and the same in the log store.
//!
//! The file is written once, before the replica speaks to anyone, and never again. The log store repeats the incarnation,
//! so that a folder whose log was taken away, or swapped for another's, is noticed. A folder without the file is a new
//! replica with a new incarnation; that its id is not in use already is for its peers to say.

use crate::store::{Database, StoreError, database::PROCESS};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tenfour_types::{ClusterId, Wire};
use thiserror::Error;

const FILE: &str = "identity";
const NAME: u8 = b'i';

/// The identity of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) replica: u64,
    /// Random; another one for each life of the store.
    pub(crate) incarnation: u128,
    /// How many index groups there are.
    pub(crate) index_groups: u16,
}

impl Wire for Identity {
    const NAME: &'static str = "replica identity";
}

/// Why a folder is not this replica's.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// It belongs to something else.
    #[error("{} belongs to replica {found_replica} of cluster {found_cluster}; it is not replica {replica} of cluster {cluster}: give the right folder", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        found_replica: u64,
        /// Whose it is.
        found_cluster: ClusterId,
        /// Who asked.
        replica: u64,
        /// Who asked.
        cluster: ClusterId,
    },
    /// The number of index groups cannot change.
    #[error("the cluster has {found} index groups, not {wanted}: set it back")]
    IndexGroups {
        /// As it was begun.
        found: u16,
        /// As configured.
        wanted: u16,
    },
    /// The identity is there and the log is not.
    #[error(
        "{} has lost its log store. This replica must not come back under its id: remove it from the cluster, move the folder aside, \
         and let it join with an empty folder under a new id", folder.display()
    )]
    LostStore {
        /// The folder.
        folder: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("the identity in {}: {error}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The log store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Identity {
    /// The identity in the folder, checked against what is configured; `None` in a new folder.
    pub(crate) fn read(folder: &Path, wanted: &Self) -> Result<Option<Self>, IdentityError> {
        let failed = |error| IdentityError::Io { folder: folder.to_owned(), error };
        let bytes = match fs::read(folder.join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let found = Self::from_bytes(&bytes).map_err(|error| failed(io::Error::other(error)))?;
        if (found.cluster, found.replica) != (wanted.cluster, wanted.replica) {
            return Err(IdentityError::Foreign {
                folder: folder.to_owned(),
                found_replica: found.replica,
                found_cluster: found.cluster,
                replica: wanted.replica,
                cluster: wanted.cluster,
            });
        }
        if found.index_groups != wanted.index_groups {
            return Err(IdentityError::IndexGroups {
                found: found.index_groups,
                wanted: wanted.index_groups,
            });
        }
        Ok(Some(found))
    }

    /// Makes a new folder this replica's, durably: the log store first, so that an identity without its store never arises. A
    /// start that was cut off between the two is taken up where it was; a log store in use without its identity is refused.
    pub(crate) fn create(self, folder: &Path, database: &Database) -> Result<Self, IdentityError> {
        let failed = |error| IdentityError::Io { folder: folder.to_owned(), error };
        let identity = match database.note::<Self>(PROCESS, NAME)? {
            None => self,
            Some(begun)
                if database.is_unused()? && Self { incarnation: self.incarnation, ..begun } == self =>
            {
                begun
            }
            Some(_) => {
                return Err(failed(io::Error::other(
                    "the log store has an owner, but the identity file is gone: put it back",
                )));
            }
        };
        database.put_note(PROCESS, NAME, &identity)?;
        database.persist()?;
        let new = folder.join("identity.new");
        let mut file = File::create(&new).map_err(failed)?;
        file.write_all(&identity.to_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&new, folder.join(FILE)).map_err(failed)?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(identity)
    }

    /// Whether the log store is the one that this identity was made with.
    pub(crate) fn check_store(self, folder: &Path, database: &Database) -> Result<(), IdentityError> {
        match database.note::<Self>(PROCESS, NAME)? {
            Some(found) if found == self => Ok(()),
            _ => Err(IdentityError::LostStore { folder: folder.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(incarnation: u128) -> Identity {
        Identity { cluster: ClusterId([1; 16]), replica: 2, incarnation, index_groups: 3 }
    }

    #[test]
    fn a_first_start_that_was_cut_off_is_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("log")).unwrap();
        identity(7).create(folder.path(), &database).unwrap();
        fs::remove_file(folder.path().join(FILE)).unwrap();
        assert_eq!(Identity::read(folder.path(), &identity(8)).unwrap(), None);
        assert_eq!(identity(8).create(folder.path(), &database).unwrap(), identity(7));
        assert_eq!(Identity::read(folder.path(), &identity(9)).unwrap(), Some(identity(7)));
        identity(7).check_store(folder.path(), &database).unwrap();
    }

    #[test]
    fn a_log_in_use_is_not_taken_over_without_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("log")).unwrap();
        identity(7).create(folder.path(), &database).unwrap();
        database.put_vote(1, &openraft::Vote::new(1, 2)).unwrap();
        fs::remove_file(folder.path().join(FILE)).unwrap();
        assert!(identity(8).create(folder.path(), &database).is_err());
    }

    #[test]
    fn the_folder_of_another_and_another_log_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("log")).unwrap();
        identity(7).create(folder.path(), &database).unwrap();
        let other = Identity { replica: 3, ..identity(8) };
        assert!(matches!(Identity::read(folder.path(), &other), Err(IdentityError::Foreign { .. })));
        let more = Identity { index_groups: 4, ..identity(8) };
        assert!(matches!(Identity::read(folder.path(), &more), Err(IdentityError::IndexGroups { .. })));
        assert!(matches!(
            identity(8).check_store(folder.path(), &database),
            Err(IdentityError::LostStore { .. })
        ));
    }
}
