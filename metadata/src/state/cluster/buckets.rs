//! Buckets: names are unique in the cluster, and a bucket that is created anew is another incarnation.
//!
//! A bucket is removed in two steps: it closes, and every index group learns it; then whoever closed it asks every group whether
//! it is empty, and ends the closing with what it found. While a bucket is closed nothing is committed into it, so what was found stays
//! true for that round of closing, and for that one only: an end that comes late, in another round, is refused.

use super::{Cluster, each};
use crate::api::cluster::{Bucket, BucketState, ClusterDone, ClusterRefusal, ClusterReply};
use crate::api::index::Fence;
use crate::state::keys::{self, tag};
use crate::state::rows;
use crate::table::{Space, Table, TableError, TableMut};
use serde::{Deserialize, Serialize};
use tenfour_types::limits::BUCKETS_PER_USER_MAX;
use tenfour_types::{BucketId, BucketName};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct BucketRow {
    pub(super) bucket: Bucket,
    /// The round of its closing, or of the last one.
    round: u64,
}

pub(super) fn create(
    cluster: &mut Cluster<'_>,
    name: &BucketName,
    owner: &str,
    created_ms: u64,
) -> Result<ClusterReply, TableError> {
    if cluster.table.get(Space::State, &keys::state_text(tag::USER, owner))?.is_none() {
        return Ok(Err(ClusterRefusal::NoSuchUser));
    }
    let key = keys::state_text(tag::BUCKET_NAME, name.as_str());
    if let Some(row) = rows::get::<BucketRow>(cluster.table, Space::State, &key)? {
        let yours = row.bucket.owner == owner;
        return Ok(Err(if yours { ClusterRefusal::BucketOwnedByYou } else { ClusterRefusal::BucketExists }));
    }
    let mut owned = 0;
    each(cluster.table, tag::BUCKET_NAME, |_, row: BucketRow| {
        owned += usize::from(row.bucket.owner == owner);
        Ok(())
    })?;
    if owned >= BUCKETS_PER_USER_MAX {
        return Ok(Err(ClusterRefusal::TooManyBuckets));
    }
    cluster.counters.bucket += 1;
    let id = BucketId(cluster.counters.bucket);
    let bucket =
        Bucket { id, name: name.clone(), owner: owner.to_owned(), created_ms, state: BucketState::Open };
    rows::put(cluster.table, Space::State, key, &BucketRow { bucket: bucket.clone(), round: 0 })?;
    cluster.config_changed()?;
    Ok(Ok(ClusterDone::Bucket(bucket)))
}

pub(super) fn close(cluster: &mut Cluster<'_>, bucket: BucketId) -> Result<ClusterReply, TableError> {
    let Some(mut row) = find(cluster.table, bucket)? else {
        return Ok(Err(ClusterRefusal::NoSuchBucket));
    };
    if row.bucket.state == BucketState::Closing {
        cluster.wait_for_all();
        return Ok(Ok(ClusterDone::Closing { round: row.round }));
    }
    cluster.counters.round += 1;
    row.round = cluster.counters.round;
    row.bucket.state = BucketState::Closing;
    save(cluster, &row)?;
    cluster.fence(&Fence::BucketClosed(bucket))?;
    cluster.config_changed()?;
    Ok(Ok(ClusterDone::Closing { round: row.round }))
}

pub(super) fn finish(
    cluster: &mut Cluster<'_>,
    bucket: BucketId,
    round: u64,
    empty: bool,
) -> Result<ClusterReply, TableError> {
    let Some(mut row) = find(cluster.table, bucket)? else {
        return Ok(Err(ClusterRefusal::NoSuchBucket));
    };
    if row.bucket.state != BucketState::Closing || row.round != round {
        return Ok(Err(ClusterRefusal::NotClosing));
    }
    if empty {
        cluster.table.remove(Space::State, &keys::state_text(tag::BUCKET_NAME, row.bucket.name.as_str()));
        cluster.fence(&Fence::BucketRemoved(bucket))?;
    } else {
        row.bucket.state = BucketState::Open;
        save(cluster, &row)?;
        cluster.fence(&Fence::BucketReopened(bucket))?;
    }
    cluster.config_changed()?;
    Ok(Ok(ClusterDone::Done))
}

/// The buckets of a user who is removed become another's: who gets the same access key later must not inherit them.
pub(super) fn hand_over(table: &mut dyn TableMut, from: &str, to: &str) -> Result<(), TableError> {
    let mut rows_of_from = Vec::new();
    each(table, tag::BUCKET_NAME, |_, row: BucketRow| {
        if row.bucket.owner == from {
            rows_of_from.push(row);
        }
        Ok(())
    })?;
    for mut row in rows_of_from {
        to.clone_into(&mut row.bucket.owner);
        rows::put(table, Space::State, keys::state_text(tag::BUCKET_NAME, row.bucket.name.as_str()), &row)?;
    }
    Ok(())
}

fn find(table: &dyn Table, bucket: BucketId) -> Result<Option<BucketRow>, TableError> {
    let mut found = None;
    each(table, tag::BUCKET_NAME, |_, row: BucketRow| {
        if row.bucket.id == bucket {
            found = Some(row);
        }
        Ok(())
    })?;
    Ok(found)
}

fn save(cluster: &mut Cluster<'_>, row: &BucketRow) -> Result<(), TableError> {
    let key = keys::state_text(tag::BUCKET_NAME, row.bucket.name.as_str());
    rows::put(cluster.table, Space::State, key, row)
}
