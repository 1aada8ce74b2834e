//! tenfour: shards on disk and the shard service.

pub mod disk;
pub mod target;
