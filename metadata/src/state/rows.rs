//! What rows hold, and how it becomes bytes: one byte of format version, then postcard, as everything that is stored.

use super::keys;
use crate::table::{Scan, Space, Table, TableError, TableMut, Visit};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use tenfour_types::{
    BucketId, Checksum, ChecksumKind, CommandId, ConfigVersion, ETag, Epoch, Extent, Headers, LeaseId,
    Manifest, MetaGroupId, UploadId,
};

use crate::api::index::Watermark;

/// Version of all rows (*stored*). `Manifest` and `StripeRow` rows have the same form as their own codec gives them.
const ROW_VERSION: u8 = 1;

/// What an index group knows of itself: read by every command, so it is small.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Head {
    /// Which group this is.
    pub(super) group: MetaGroupId,
    /// Buckets and users, fenced.
    pub(super) config: ConfigVersion,
    /// The last fence.
    pub(super) fence: u64,
    /// The map, fenced.
    pub(super) epoch: Epoch,
    /// Moves of epochs above this one are known.
    pub(super) moves_since: Epoch,
    /// The newest epoch with moves.
    pub(super) moves_until: Epoch,
    /// Everything replaced at a log index up to this may be let go: no reader can still be reading it.
    pub(super) floor: u64,
    /// Everything released at a log index below this has been let go.
    pub(super) released_from: u64,
}

/// A lease as an index group sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct LeaseRow {
    /// The number of the fence that ended it.
    pub(super) ended: Option<u64>,
    /// How far its gateway is.
    pub(super) watermark: Watermark,
    /// Replies below this sequence have been removed.
    pub(super) forgotten_below: u64,
}

/// Why a bucket takes no commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum BucketFence {
    Closed,
    Removed,
}

/// An upload in progress.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct UploadRow {
    pub(super) created_ms: u64,
    pub(super) checksum: Option<(ChecksumKind, bool)>,
    pub(super) headers: Headers,
}

/// What an upload became.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct CompletedRow {
    pub(super) version: CommandId,
    pub(super) etag: ETag,
}

/// A version that was replaced or deleted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct PastRow {
    /// The log index at which: once the floor has passed it, the row counts as gone, for it is being let go piece by piece.
    pub(super) replaced_at: u64,
    pub(super) bucket: BucketId,
    pub(super) key: String,
    pub(super) manifest: Manifest,
}

/// Something to be let go, and how much of it is gone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ReleasedRow {
    pub(super) what: Released,
    /// Extents or parts of it that are gone.
    pub(super) done: u32,
}

/// What is to be let go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Released {
    /// A version in `Space::Past`.
    Version(CommandId),
    /// A part that was sent again: where it was.
    Extents(Vec<Extent>),
    /// All parts of an aborted upload.
    Upload(UploadId),
    /// Parts that Complete did not name.
    Parts { upload: UploadId, numbers: Vec<u32> },
    /// The replies of a lease that ended long ago, and its row.
    Lease(LeaseId),
    /// The moves of an epoch so old that nobody writes by the map before it.
    Moves(Epoch),
}

/// The beginning of a manifest's row: what a listing and a precondition need, read without decoding the rest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ManifestHead {
    pub(super) version: CommandId,
    pub(super) size: u64,
    pub(super) etag: ETag,
    pub(super) modified_ms: u64,
    pub(super) checksums: Vec<Checksum>,
}

/// The beginning of a part's row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct PartHead {
    pub(super) number: u32,
    pub(super) version: CommandId,
    pub(super) size: u64,
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, TableError> {
    let mut out = Vec::with_capacity(64);
    out.push(ROW_VERSION);
    postcard::to_extend(value, out)
        .map_err(|error| TableError::Corrupt(format!("a row does not encode: {error}")))
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, TableError> {
    match bytes.split_first() {
        Some((&ROW_VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            _ => Err(corrupt::<T>()),
        },
        _ => Err(corrupt::<T>()),
    }
}

/// Decodes only what a row begins with.
pub(super) fn decode_head<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, TableError> {
    match bytes.split_first() {
        Some((&ROW_VERSION, body)) => {
            postcard::take_from_bytes(body).map(|(value, _)| value).map_err(|_| corrupt::<T>())
        }
        _ => Err(corrupt::<T>()),
    }
}

fn corrupt<T>() -> TableError {
    TableError::Corrupt(format!("a row is no {}", std::any::type_name::<T>()))
}

pub(super) fn get<T: DeserializeOwned>(
    table: &dyn Table,
    space: Space,
    key: &[u8],
) -> Result<Option<T>, TableError> {
    table.get(space, key)?.map(|bytes| decode(&bytes)).transpose()
}

pub(super) fn put<T: Serialize>(
    table: &mut dyn TableMut,
    space: Space,
    key: Vec<u8>,
    value: &T,
) -> Result<(), TableError> {
    table.put(space, key, encode(value)?);
    Ok(())
}

/// Visits the rows whose key begins with `prefix`, from `start` on.
pub(super) fn scan_prefix(
    table: &dyn Table,
    space: Space,
    prefix: &[u8],
    start: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), TableError> {
    table.scan(space, start, &mut |key, value| {
        if key.starts_with(prefix) { visit(key, value) } else { Ok(Scan::Stop) }
    })
}

impl Head {
    pub(super) fn load(table: &dyn Table) -> Result<Self, TableError> {
        Ok(get(table, Space::State, &keys::state(keys::tag::HEAD))?.unwrap_or_default())
    }
    pub(super) fn save(&self, table: &mut dyn TableMut) -> Result<(), TableError> {
        put(table, Space::State, keys::state(keys::tag::HEAD), self)
    }
}

/// All leases of an index group.
pub(super) fn leases(table: &dyn Table) -> Result<BTreeMap<LeaseId, LeaseRow>, TableError> {
    let prefix = keys::state(keys::tag::LEASE);
    let mut found = BTreeMap::new();
    scan_prefix(table, Space::State, &prefix, &prefix, &mut |key, value| {
        let number = key.get(1..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        found.insert(
            LeaseId(number.ok_or_else(|| TableError::Corrupt("a lease's key".into()))?),
            decode(value)?,
        );
        Ok(Scan::On)
    })?;
    Ok(found)
}
