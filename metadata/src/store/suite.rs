//! openraft's own suite for stores, run over the log store and the state machine with both kinds of tables.

use crate::raft::{Machine, StorageError, Tables, TypeConfig};
use crate::store::{Database, LogStore, Writer};
use crate::table::{FjallStore, SledStore};
use openraft::testing::{StoreBuilder, Suite};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tenfour_types::MetaGroupId;

struct Builder {
    group: u16,
}

pub(super) fn open(folder: &Path, group: u16) -> (LogStore, Machine) {
    let database = Arc::new(Database::open(&folder.join("log")).unwrap());
    let loaded = database.load().unwrap().remove(&group).unwrap_or_default();
    let writer = Writer::start(Arc::clone(&database)).unwrap();
    let tables = if group == 0 {
        let (sled, sync) = database.shared();
        Tables::Cluster(SledStore::open(sled, "cluster", sync).unwrap())
    } else {
        Tables::Index(FjallStore::open(&folder.join("tables")).unwrap())
    };
    let machine = Machine::open(MetaGroupId(group), tables, folder).unwrap();
    (LogStore::new(group, database, writer, loaded), machine)
}

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        // In memory where there is such a place: the suite opens a hundred stores, and what they sync is another test's business.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (log, machine) = open(folder.path(), self.group);
        Ok((folder, log, machine))
    }
}

#[test]
fn openrafts_suite_passes_with_the_tables_of_an_index_group() {
    Suite::test_all(Builder { group: 1 }).unwrap();
}

#[test]
fn openrafts_suite_passes_with_the_tables_of_group_0() {
    Suite::test_all(Builder { group: 0 }).unwrap();
}

mod reopened {
    use super::open;
    use crate::raft::{BatchBuilder, Entry, LogId, Vote};
    use crate::store::{Database, StoreError};
    use openraft::RaftLogReader;
    use openraft::entry::EntryPayload;
    use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
    use std::path::Path;

    fn id(index: u64) -> LogId {
        LogId::new(openraft::CommittedLeaderId::new(3, 1), index)
    }

    fn entry(index: u64, bytes: usize) -> Entry {
        let mut batch = BatchBuilder::new();
        assert!(batch.push(&vec![index as u8; bytes]));
        Entry { log_id: id(index), payload: EntryPayload::Normal(batch.build()) }
    }

    /// Votes, appends 0 to 19, cuts off from 15 on, purges up to 4.
    async fn fill(folder: &Path) {
        let (mut log, _machine) = open(folder, 1);
        log.save_vote(&Vote::new(3, 1)).await.unwrap();
        log.blocking_append((0..20).map(|index| entry(index, 40_000))).await.unwrap();
        log.truncate(id(15)).await.unwrap();
        log.purge(id(4)).await.unwrap();
    }

    #[tokio::test]
    async fn a_leader_that_starts_again_has_voted_and_leads_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, machine) = open(folder.path(), 1);
        log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 1)));
        drop((log, machine));
        released(folder.path()).await;
        let (mut log, _machine) = open(folder.path(), 1);
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
    }

    #[tokio::test]
    async fn a_log_is_as_it_was_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path()).await;
        released(folder.path()).await;
        let (mut log, _machine) = open(folder.path(), 1);
        let state = log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(4)), Some(id(14))));
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
        let entries = log.try_get_log_entries(0..100).await.unwrap();
        assert_eq!(entries, (5..15).map(|index| entry(index, 40_000)).collect::<Vec<_>>());
        let some = log.limited_get_log_entries(5, 15).await.unwrap();
        assert!(!some.is_empty() && some.len() <= 10);
    }

    #[tokio::test]
    async fn entries_that_are_gone_from_the_end_are_missed() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path()).await;
        released(folder.path()).await;
        let database = Database::open(&folder.path().join("log")).unwrap();
        database.remove_entries(1, 14, u64::MAX).unwrap();
        let error = database.load().err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }

    /// The writer's thread lets go of the database a moment after the last handle is gone.
    async fn released(folder: &Path) {
        for _ in 0..200 {
            if Database::open(&folder.join("log")).is_ok() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the database is still held");
    }
}
