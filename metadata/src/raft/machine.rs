//! A group's state machine as openraft sees it: entries go through the pure `apply` into a table, with their log id.
//!
//! The table is written without a flush; it is made durable by a checkpoint before openraft may purge the log up to it, and
//! what comes after is replayed from the log. So a "built snapshot" is a checkpoint and costs no copy; bytes are streamed
//! only when a replica needs them, from a frozen view. All of it runs on threads that may block.

use crate::api::{Envelope, IndexCommand};
use crate::raft::types::MalformedBatch;
use crate::raft::{
    Batch, ClusterEnvelope, Entry, LogId, Replies, SnapshotMeta, SnapshotStream, StorageError,
    StoredMembership, TypeConfig,
};
use crate::state::{apply_cluster, apply_index, init_index};
use crate::table::{
    Changes, FjallStore, Overlay, SledStore, SnapshotSummary, Space, Store, Table, TableError, TableMut,
};
use openraft::entry::EntryPayload;
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError,
};
use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tenfour_types::MetaGroupId;
use tokio::sync::watch;

/// Entries that are applied in one commit of the table.
const ENTRIES_PER_COMMIT: usize = 128;
const APPLIED: &[u8] = b"applied";
const MEMBERSHIP: &[u8] = b"membership";

/// The tables of a group.
pub(crate) enum Tables {
    Cluster(SledStore),
    Index(FjallStore),
}

impl Tables {
    pub(crate) fn read<R>(
        &self,
        read: impl FnOnce(&dyn Table) -> Result<R, TableError>,
    ) -> Result<R, TableError> {
        match self {
            Self::Cluster(store) => store.read(read),
            Self::Index(store) => store.read(read),
        }
    }
    fn commit(&self, changes: Changes) -> Result<(), TableError> {
        match self {
            Self::Cluster(store) => store.commit(changes),
            Self::Index(store) => store.commit(changes),
        }
    }
    fn checkpoint(&self) -> Result<(), TableError> {
        match self {
            Self::Cluster(store) => store.checkpoint(),
            Self::Index(store) => store.checkpoint(),
        }
    }
    fn freeze(&self) -> Result<Box<dyn Table + Send>, TableError> {
        match self {
            Self::Cluster(store) => store.freeze(),
            Self::Index(store) => store.freeze(),
        }
    }
    fn install(&self, snapshot: &mut dyn Read) -> Result<SnapshotSummary, TableError> {
        match self {
            Self::Cluster(store) => store.install(snapshot),
            Self::Index(store) => store.install(snapshot),
        }
    }
}

/// A group's state machine. A clone is the same machine.
#[derive(Clone)]
pub(crate) struct Machine {
    group: MetaGroupId,
    tables: Arc<Tables>,
    /// Where an arriving snapshot is put.
    incoming: PathBuf,
    /// The index of the last applied entry.
    applied: Arc<watch::Sender<u64>>,
}

impl Machine {
    /// Over tables just opened. Blocks; what they hold is durable when this returns, for openraft purges the log by it.
    pub(crate) fn open(group: MetaGroupId, tables: Tables, folder: &Path) -> Result<Self, TableError> {
        if let Tables::Index(store) = &tables
            && read_applied(store)?.is_none()
        {
            let changes = store.read(|table| {
                let mut overlay = Overlay::new(table);
                init_index(&mut overlay, group)?;
                Ok(overlay.into_changes())
            })?;
            store.commit(changes)?;
        }
        tables.checkpoint()?;
        let applied = tables.read(|table| row::<LogId>(table, APPLIED))?;
        let applied = watch::Sender::new(applied.map_or(0, |log_id| log_id.index));
        let incoming = folder.join(format!("incoming-{}.snapshot", group.0));
        Ok(Self { group, tables: Arc::new(tables), incoming, applied: Arc::new(applied) })
    }

    /// Reads a consistent view, together with the index of the last entry applied to it. Blocks.
    pub(crate) fn read<R>(
        &self,
        read: impl FnOnce(&dyn Table, u64) -> Result<R, TableError>,
    ) -> Result<R, TableError> {
        self.tables.read(|table| {
            let applied = row::<LogId>(table, APPLIED)?;
            read(table, applied.map_or(0, |log_id| log_id.index))
        })
    }

    /// Tells the index of the last applied entry, whenever it changes.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// A file for an arriving snapshot. Blocks.
    pub(crate) fn receive(&self) -> std::io::Result<SnapshotStream> {
        SnapshotStream::incoming(&self.incoming)
    }

    fn apply_all(&self, entries: Vec<Entry>) -> Result<Vec<Replies>, TableError> {
        let mut replies = Vec::with_capacity(entries.len());
        let mut last = None;
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let changes = self.tables.read(|table| {
                let mut overlay = Overlay::new(table);
                for entry in entries.by_ref().take(ENTRIES_PER_COMMIT) {
                    replies.push(self.apply_entry(&mut overlay, &entry)?);
                    last = Some(entry.log_id);
                }
                overlay.put(Space::Raft, APPLIED.to_vec(), encode(&last)?);
                Ok(overlay.into_changes())
            })?;
            self.tables.commit(changes)?;
        }
        if let Some(last) = last {
            self.applied.send_replace(last.index);
        }
        Ok(replies)
    }

    fn apply_entry(&self, table: &mut impl TableMut, entry: &Entry) -> Result<Replies, TableError> {
        match &entry.payload {
            EntryPayload::Blank => Ok(Replies::None),
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                table.put(Space::Raft, MEMBERSHIP.to_vec(), encode(&Some(stored))?);
                Ok(Replies::None)
            }
            EntryPayload::Normal(batch) => match *self.tables {
                Tables::Index(_) => each(batch, |envelope: Envelope<IndexCommand>| {
                    apply_index(table, entry.log_id.index, &envelope)
                })
                .map(Replies::Index),
                Tables::Cluster(_) => each(batch, |envelope: ClusterEnvelope| {
                    let applied = apply_cluster(table, entry.log_id.index, envelope.id, &envelope.command)?;
                    Ok((applied.reply, applied.fence))
                })
                .map(Replies::Cluster),
            },
        }
    }

    /// A frozen view of the tables as a snapshot, not read yet.
    fn frozen(&self) -> Result<Snapshot<TypeConfig>, TableError> {
        let table = self.tables.freeze()?;
        let last_log_id: Option<LogId> = row(&*table, APPLIED)?;
        let last_membership: StoredMembership = row(&*table, MEMBERSHIP)?.unwrap_or_default();
        let last = last_log_id.map_or_else(String::new, |last| last.to_string());
        let meta =
            SnapshotMeta { last_log_id, last_membership, snapshot_id: format!("{}-{last}", self.group.0) };
        Ok(Snapshot { meta, snapshot: Box::new(SnapshotStream::outgoing(table)) })
    }

    fn current(&self) -> Result<Option<Snapshot<TypeConfig>>, TableError> {
        Ok(Some(self.frozen()?).filter(|snapshot| snapshot.meta.last_log_id.is_some()))
    }

    /// Openraft purges the log up to what this returns, so it is durable then.
    fn build(&self) -> Result<Snapshot<TypeConfig>, TableError> {
        let frozen = self.frozen()?;
        self.tables.checkpoint()?;
        Ok(frozen)
    }

    fn install(&self, snapshot: SnapshotStream) -> Result<(), TableError> {
        let mut reader = snapshot.into_reader()?;
        self.tables.install(&mut *reader)?;
        self.tables.checkpoint()?;
        drop(reader);
        match std::fs::remove_file(&self.incoming) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let applied = self.tables.read(|table| row::<LogId>(table, APPLIED))?;
        self.applied.send_replace(applied.map_or(0, |log_id| log_id.index));
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        verb: ErrorVerb,
        work: impl FnOnce(Self) -> Result<T, TableError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let this = self.clone();
        let failed = |what: String| {
            let error = AnyError::error(format!("tables of group {}: {what}", self.group.0));
            StorageIOError::new(ErrorSubject::StateMachine, verb, error).into()
        };
        match tokio::task::spawn_blocking(move || work(this)).await {
            Ok(result) => result.map_err(|error| failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

fn each<C: DeserializeOwned, R>(
    batch: &Batch,
    mut apply: impl FnMut(C) -> Result<R, TableError>,
) -> Result<Vec<R>, TableError> {
    let corrupt = |_| TableError::Corrupt(MalformedBatch.to_string());
    batch
        .envelopes()
        .map(|envelope| {
            apply(
                postcard::from_bytes(&envelope.map_err(|error| TableError::Corrupt(error.to_string()))?)
                    .map_err(corrupt)?,
            )
        })
        .collect()
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, TableError> {
    postcard::to_stdvec(value).map_err(|error| TableError::Corrupt(error.to_string()))
}

fn row<T: DeserializeOwned>(table: &(impl Table + ?Sized), key: &[u8]) -> Result<Option<T>, TableError> {
    let Some(bytes) = table.get(Space::Raft, key)? else { return Ok(None) };
    postcard::from_bytes::<Option<T>>(&bytes).map_err(|error| TableError::Corrupt(error.to_string()))
}

fn read_applied(store: &impl Store) -> Result<Option<LogId>, TableError> {
    store.read(|table| row(table, APPLIED))
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        self.blocking(ErrorVerb::Read, |this| {
            this.tables.read(|table| Ok((row(table, APPLIED)?, row(table, MEMBERSHIP)?.unwrap_or_default())))
        })
        .await
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.blocking(ErrorVerb::Write, move |this| this.apply_all(entries)).await
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotStream>, StorageError> {
        self.blocking(ErrorVerb::Write, |this| Ok(Box::new(this.receive()?))).await
    }

    async fn install_snapshot(
        &mut self,
        _: &SnapshotMeta,
        snapshot: Box<SnapshotStream>,
    ) -> Result<(), StorageError> {
        self.blocking(ErrorVerb::Write, move |this| this.install(*snapshot)).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        self.blocking(ErrorVerb::Read, |this| this.current()).await
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        self.blocking(ErrorVerb::Write, |this| this.build()).await
    }
}
