//! Index groups.

use crate::api::Envelope;
use crate::api::index::{IndexAnswerAt, IndexCommand, IndexQuery, IndexReply};
use crate::table::{Table, TableError, TableMut};
use tenfour_types::{ConfigVersion, MetaGroupId};

/// Says which group the tables are of; once, before anything is applied. Every replica does it by itself, with the same result.
pub fn init_index(_table: &mut impl TableMut, _group: MetaGroupId) -> Result<(), TableError> {
    Ok(())
}

/// Applies one command of the entry at log index `at_index` (an entry may hold many commands: call it for each, in order,
/// on one overlay).
pub fn apply_index(
    _table: &mut impl TableMut,
    _at_index: u64,
    _envelope: &Envelope<IndexCommand>,
) -> Result<IndexReply, TableError> {
    Err(TableError::Store("not yet".into()))
}

/// Answers a query; `applied` is the log index of the view that is read.
pub fn query_index(
    _table: &(impl Table + ?Sized),
    _applied: u64,
    _query: &IndexQuery,
) -> Result<IndexAnswerAt, TableError> {
    Err(TableError::Store("not yet".into()))
}

/// The version of buckets and users that this group was fenced to.
pub fn fenced_config(_table: &(impl Table + ?Sized)) -> Result<ConfigVersion, TableError> {
    Ok(ConfigVersion(0))
}

/// The number of the last fence that this group has committed.
pub fn fenced_number(_table: &(impl Table + ?Sized)) -> Result<u64, TableError> {
    Ok(0)
}
