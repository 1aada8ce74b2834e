//! The gateway as a [`Backend`]: its pipelines and its metadata handle, and what their errors mean to the operations.

use super::{Backend, OpError, Place};
use crate::Gateway;
use crate::commit::{CommitError, QueryError};
use crate::get::ObjectReader;
use crate::transfer::{Authorise, Destination, ReadError, Reading, Source, Stored, Wanted, WriteError};
use std::sync::Arc;
use tenfour_metadata::MetadataError;
use tenfour_metadata::api::cluster::ClusterDone;
use tenfour_metadata::api::index::IndexDone;
use tenfour_metadata::api::{
    Bucket, ClusterCommand, Config, IndexAnswer, IndexCommand, IndexQuery, IndexRefusal, ListPage,
    ListRequest,
};
use tenfour_types::{CommandId, ConfigVersion, MetaGroupId, ObjectKey};

impl Backend for Gateway {
    type Body = ObjectReader;

    fn memory_bytes(&self) -> usize {
        self.free_bytes()
    }

    fn config(&self) -> Arc<Config> {
        self.metadata().config()
    }

    async fn refresh_config(&self) -> Result<Arc<Config>, OpError> {
        Ok(self.metadata().refresh_config().await?)
    }

    async fn put<S: Source>(
        &self,
        who: &dyn Authorise,
        to: Destination,
        source: &mut S,
    ) -> Result<Stored, WriteError> {
        Gateway::put(self, who, to, source).await
    }

    async fn get(
        &self,
        who: &dyn Authorise,
        key: &ObjectKey,
        wanted: Wanted,
    ) -> Result<Reading<ObjectReader>, ReadError> {
        Gateway::get(self, who, key, wanted).await
    }

    async fn commit<F>(&self, who: &dyn Authorise, key: &ObjectKey, command: F) -> Result<IndexDone, OpError>
    where
        F: Fn(&Bucket, CommandId) -> IndexCommand + Send + Sync,
    {
        Ok(Gateway::commit(self, who, key, command).await?)
    }

    async fn query<F>(&self, who: &dyn Authorise, place: Place<'_>, query: F) -> Result<IndexAnswer, OpError>
    where
        F: Fn(&Bucket) -> IndexQuery + Send + Sync,
    {
        let ask = |bucket: &Bucket| {
            let group = match place {
                Place::Key(key) => self.metadata().group_of(bucket.id, key),
                Place::Group(group) => group,
            };
            (group, query(bucket))
        };
        Ok(self.index_query(who, ask).await?)
    }

    async fn list(&self, request: ListRequest) -> Result<(ConfigVersion, ListPage), OpError> {
        Ok(self.metadata().list(request).await?)
    }

    async fn cluster(&self, command: ClusterCommand) -> Result<ClusterDone, OpError> {
        Ok(self.metadata().cluster(command).await??)
    }

    fn index_groups(&self) -> Vec<MetaGroupId> {
        self.metadata().index_groups()
    }
}

impl From<MetadataError> for OpError {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::OutcomeUnknown => Self::OutcomeUnknown,
            other => Self::Metadata(other.to_string()),
        }
    }
}

impl From<QueryError> for OpError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Access(error) => Self::Access(error),
            QueryError::Metadata(why) => Self::Metadata(why),
        }
    }
}

impl From<CommitError> for OpError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Access(error) => Self::Access(error),
            CommitError::Refused(refusal) => refusal.into(),
            CommitError::Metadata(why) => Self::Metadata(why),
            CommitError::OutcomeUnknown => Self::OutcomeUnknown,
        }
    }
}

impl From<IndexRefusal> for OpError {
    fn from(refusal: IndexRefusal) -> Self {
        match refusal {
            IndexRefusal::PreconditionFailed => Self::PreconditionFailed,
            IndexRefusal::NoSuchKey => Self::NoSuchKey,
            IndexRefusal::NoSuchUpload => Self::NoSuchUpload,
            IndexRefusal::InvalidPart(number) => Self::InvalidPart(number),
            IndexRefusal::InvalidPartOrder => Self::InvalidPartOrder,
            IndexRefusal::PartTooSmall(number) => Self::PartTooSmall(number),
            // It may open again, when it is found not to be empty.
            IndexRefusal::BucketClosed => Self::BucketClosing,
            // Its reply is no longer known.
            IndexRefusal::BelowWatermark => Self::OutcomeUnknown,
            other => Self::Metadata(other.to_string()),
        }
    }
}
