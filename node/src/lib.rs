//! tenfour: shards on disk and the shard service.
