//! The state machine: what commands do to the tables, and what queries read in them.
//!
//! Pure: no clock, no chance, no I/O but through the table. The same commands in the same order give the same rows, byte for
//! byte, on every replica. A command either happens wholly or is refused and leaves nothing but its recorded reply; a
//! [`TableError`](crate::table::TableError) means that the store is broken, and whatever the overlay holds must be thrown away.

mod cluster;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod index;
mod keys;
mod rows;
#[cfg(test)]
mod tests;

pub use cluster::{
    ClusterApplied, ClusterOverview, apply_cluster, cluster_config, cluster_map, pending_fences,
    query_cluster,
};
pub use index::{apply_index, fenced_config, fenced_number, init_index, query_index};
