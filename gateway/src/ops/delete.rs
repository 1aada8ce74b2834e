//! Removing objects.

use super::requester::Wants;
use super::{Backend, OpError};
use futures::StreamExt as _;
use tenfour_metadata::api::{Bucket, IndexCommand, Precondition};
use tenfour_types::{CommandId, ObjectKey};

/// Commands of one multi-delete that are on their way at once: metadata batches what arrives together.
const DELETES_AT_ONCE: usize = 64;

/// Removes an object; succeeds when there is none, unless the precondition wants one.
pub async fn one<B: Backend>(
    backend: &B,
    wants: &Wants,
    key: &ObjectKey,
    precondition: Precondition,
) -> Result<(), OpError> {
    let command = |bucket: &Bucket, _: CommandId| IndexCommand::DeleteObject {
        bucket: bucket.id,
        key: key.clone(),
        precondition: precondition.clone(),
    };
    backend.commit(wants, key, command).await.map(drop)
}

/// Removes many, and says of each how it went, in the order given.
pub async fn many<B: Backend>(
    backend: &B,
    wants: &Wants,
    keys: Vec<(ObjectKey, Precondition)>,
) -> Vec<Result<(), OpError>> {
    let deletes = keys.into_iter().map(|(key, precondition)| {
        let (backend, wants) = (backend.clone(), wants.clone());
        async move { one(&backend, &wants, &key, precondition).await }
    });
    futures::stream::iter(deletes).buffered(DELETES_AT_ONCE).collect().await
}
