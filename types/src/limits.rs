//! Every bound of the system in one place: sizes, counts, depths and times.
//!
//! A queue, a buffer, a retry or a wait that has no line here (or at the head of its own file, when it is nobody else's
//! business) is a bug. Changing a number marked *stored* changes what is on disks and needs a new format version.

/// Data shards of a stripe (*stored*).
pub const DATA_SHARDS: usize = 10;
/// Parity shards of a stripe (*stored*).
pub const PARITY_SHARDS: usize = 4;
/// All shards of a stripe (*stored*).
pub const TOTAL_SHARDS: usize = DATA_SHARDS + PARITY_SHARDS;

/// Largest payload of one shard, bytes (*stored*).
pub const SHARD_BYTES_MAX: usize = 1 << 20;
/// Smallest payload of one shard, bytes (*stored*): with its header it fills exactly one disk block, so that a small object
/// touches one or two shards when it is read, and takes no more disk than it would in ten slivers.
pub const SHARD_BYTES_MIN: usize = 3904;
/// Shard payloads are a multiple of this, bytes (*stored*): one cache line, one AVX-512 vector.
pub const SHARD_ALIGN_BYTES: usize = 64;
/// Largest number of object bytes in one stripe.
pub const STRIPE_DATA_BYTES_MAX: usize = DATA_SHARDS * SHARD_BYTES_MAX;
/// A shard's payload carries one CRC per block of this many bytes (*stored*); the last block may be shorter.
pub const CRC_BLOCK_BYTES: usize = 16 << 10;
/// Most CRC blocks of one shard.
pub const CRC_BLOCKS_MAX: usize = SHARD_BYTES_MAX / CRC_BLOCK_BYTES;
/// Length of a digest (BLAKE3 cut to its first bytes) of a shard, a manifest or a message, bytes (*stored*).
pub const DIGEST_BYTES: usize = 16;

/// A shard's record on disk begins and ends on a multiple of this, bytes (*stored*): what `O_DIRECT` asks of every device.
pub const RECORD_ALIGN_BYTES: usize = 4096;

/// Longest object key, bytes of UTF-8 (the S3 limit).
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest bucket name, bytes (the S3 limit).
pub const BUCKET_NAME_BYTES_MAX: usize = 63;
/// User metadata and standard headers of an object together, bytes (S3: 2 KiB of user metadata, 8 KiB of headers).
pub const HEADERS_BYTES_MAX: usize = 8 << 10;
/// Largest object of a single PUT and largest part of a multipart upload, bytes (the S3 limit).
pub const PUT_BYTES_MAX: u64 = 5 << 30;
/// Largest object, bytes.
pub const OBJECT_BYTES_MAX: u64 = 50 << 40;
/// Most parts of a multipart upload (the S3 limit).
pub const PARTS_MAX: u32 = 10_000;
/// Smallest part of a multipart upload but its last, bytes (the S3 limit).
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// Most keys of one LIST page or one multi-delete (the S3 limit).
pub const LIST_KEYS_MAX: usize = 1000;
/// Longest access key of a user, bytes: what a login over RDMA can name.
pub const ACCESS_KEY_BYTES_MAX: usize = 128;
/// Most buckets of one user.
pub const BUCKETS_PER_USER_MAX: usize = 1000;

/// Largest Raft entry, bytes.
pub const RAFT_ENTRY_BYTES_MAX: usize = 1 << 20;
/// Largest value in sled, bytes: above a quarter of its segment it would leave the log for files that nothing syncs.
pub const SLED_VALUE_BYTES_MAX: usize = 16 << 10;
/// Fixed key slots that map to metadata groups (*stored*).
pub const KEY_SLOTS: u16 = 1024;
/// Largest message of the metadata service, bytes. One of the shard service is a SEND of the fabric, which carries 16 KiB.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A node that was silent for so long is suspected, milliseconds.
pub const NODE_SUSPECT_AFTER_MS: u64 = 1500;
/// A node that was silent for so long is marked down, milliseconds.
pub const NODE_DOWN_AFTER_MS: u64 = 3000;
/// A node that was silent for so long is taken out, milliseconds: its shards are made anew on others.
pub const NODE_OUT_AFTER_MS: u64 = 600_000;
/// A node tells metadata that it lives every so often, milliseconds.
pub const NODE_HEARTBEAT_MS: u64 = 500;
