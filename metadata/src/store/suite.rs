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
        let folder = tempfile::tempdir().unwrap();
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
