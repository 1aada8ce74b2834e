//! Buckets: create, list, find, remove.

use super::requester::{Requester, Wants};
use super::{Backend, OpError, Place, now_ms};
use crate::transfer::Authorise as _;
use tenfour_metadata::api::cluster::ClusterDone;
use tenfour_metadata::api::{Bucket, ClusterCommand, IndexAnswer, IndexQuery, User};
use tenfour_types::{BucketId, BucketName};

/// The user and its buckets (all buckets, for root), by name.
pub async fn list<B: Backend>(backend: &B, who: &Requester) -> Result<(User, Vec<Bucket>), OpError> {
    let config = backend.refresh_config().await?;
    let user = who.user(&config)?.clone();
    let mine = |bucket: &&Bucket| user.root || bucket.owner == user.access_key;
    let buckets = config.buckets.values().filter(mine).cloned().collect();
    Ok((user, buckets))
}

/// Creates a bucket of this user.
pub async fn create<B: Backend>(backend: &B, who: &Requester, name: BucketName) -> Result<Bucket, OpError> {
    let config = backend.refresh_config().await?;
    let owner = who.user(&config)?.access_key.clone();
    let command = ClusterCommand::CreateBucket { name, owner, created_ms: now_ms() };
    match backend.cluster(command).await? {
        ClusterDone::Bucket(bucket) => Ok(bucket),
        _ => Err(OpError::unexpected("CreateBucket")),
    }
}

/// The bucket as it is now.
pub async fn find<B: Backend>(backend: &B, wants: &Wants) -> Result<Bucket, OpError> {
    Ok(wants.check(&*backend.refresh_config().await?)?)
}

/// Removes an empty bucket: closes it (from the fence on nothing can be committed into it), looks into every index group,
/// and then removes it, or opens it again. When this gateway dies in between, the bucket stays closed until it is deleted
/// again.
pub async fn remove<B: Backend>(backend: &B, wants: &Wants) -> Result<(), OpError> {
    let bucket = find(backend, wants).await?.id;
    if !is_empty(backend, wants, bucket).await? {
        return Err(OpError::BucketNotEmpty);
    }
    let ClusterDone::Closing { round, .. } = backend.cluster(ClusterCommand::CloseBucket { bucket }).await?
    else {
        return Err(OpError::unexpected("CloseBucket"));
    };
    let empty = is_empty(backend, wants, bucket).await;
    let found_empty = matches!(empty, Ok(true));
    backend.cluster(ClusterCommand::FinishCloseBucket { bucket, round, empty: found_empty }).await?;
    if empty? { Ok(()) } else { Err(OpError::BucketNotEmpty) }
}

async fn is_empty<B: Backend>(backend: &B, wants: &Wants, bucket: BucketId) -> Result<bool, OpError> {
    for group in backend.index_groups() {
        let query = |_: &Bucket| IndexQuery::IsEmpty { bucket };
        match backend.query(wants, Place::Group(group), query).await? {
            IndexAnswer::IsEmpty(true) => {}
            IndexAnswer::IsEmpty(false) => return Ok(false),
            _ => return Err(OpError::unexpected("IsEmpty")),
        }
    }
    Ok(true)
}
