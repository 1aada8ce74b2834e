//! The reference model: what the gateway's front must make of requests, kept in memory in the plainest way.

use bytes::Bytes;
use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tenfour_gateway::ops::{Backend, OpError, Place};
use tenfour_gateway::transfer::{
    Authorise, Destination, Digested, ReadError, Reading, Sink, Source, SourceError, Stored, Wanted,
    WriteError,
};
use tenfour_gateway::transport::Transports;
use tenfour_metadata::api::cluster::ClusterDone;
use tenfour_metadata::api::index::IndexDone;
use tenfour_metadata::api::{
    Bucket, BucketState, ClusterCommand, ClusterRefusal, Config, IndexAnswer, IndexCommand, IndexQuery,
    ListEntry, ListPage, ListRequest, Part, PartView, Precondition, UploadView, User,
};
use tenfour_types::{
    Body, BucketId, CommandId, ConfigVersion, ETag, LeaseId, Manifest, MetaGroupId, ObjectKey, UploadId,
};

/// Every object whose key ends so breaks off when it is read.
pub const BREAKS: &str = ".breaks";

#[derive(Clone, Default)]
pub struct Model {
    state: Arc<Mutex<State>>,
    /// What a gateway has cached.
    cached: Arc<Mutex<Arc<Config>>>,
    /// The next write or removal is done, and never answered.
    pub hangs_next: Arc<AtomicBool>,
    /// Objects that were stored, each time.
    pub puts: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    config: Arc<Config>,
    sequence: u64,
    objects: BTreeMap<(BucketId, String), Object>,
    uploads: BTreeMap<(BucketId, String, UploadId), Upload>,
    completed: BTreeMap<UploadId, ETag>,
}

#[derive(Clone)]
struct Object {
    manifest: Arc<Manifest>,
    bytes: Bytes,
    parts: Option<Vec<u64>>,
}

struct Upload {
    view: UploadView,
    parts: BTreeMap<u32, (Part, Bytes)>,
}

impl State {
    fn next(&mut self) -> CommandId {
        self.sequence += 1;
        CommandId { lease: LeaseId(1), sequence: self.sequence }
    }

    fn change(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = (*self.config).clone();
        config.version = ConfigVersion(config.version.0 + 1);
        change(&mut config);
        self.config = Arc::new(config);
    }

    fn check(&self, bucket: BucketId, key: &str, precondition: &Precondition) -> Result<(), OpError> {
        let there = self.objects.get(&(bucket, key.to_owned())).map(|object| &object.manifest);
        let holds = match (precondition, there) {
            (Precondition::None, _) | (Precondition::Absent, None) | (Precondition::Present, Some(_)) => true,
            (Precondition::Match(_) | Precondition::Present, None) => return Err(OpError::NoSuchKey),
            (Precondition::Match(tags), Some(manifest)) => tags.contains(&manifest.etag),
            (Precondition::Version(version), Some(manifest)) => manifest.version == *version,
            (Precondition::Version(_), None) | (Precondition::Absent, Some(_)) => false,
        };
        if holds { Ok(()) } else { Err(OpError::PreconditionFailed) }
    }

    fn complete(
        &mut self,
        at: (BucketId, String, UploadId),
        manifest: Manifest,
    ) -> Result<IndexDone, OpError> {
        if let Some(&etag) = self.completed.get(&at.2) {
            return Ok(IndexDone::Completed { version: manifest.version, etag });
        }
        let Some(upload) = self.uploads.get(&at) else { return Err(OpError::NoSuchUpload) };
        let Body::Parts { parts, .. } = &manifest.body else {
            return Err(OpError::Invalid("no parts".into()));
        };
        let (mut bytes, mut sizes) = (Vec::new(), Vec::new());
        for part in parts {
            let stored = upload.parts.get(&part.number).filter(|(stored, _)| stored.version == part.version);
            let (_, data) = stored.ok_or(OpError::InvalidPart(part.number))?;
            bytes.extend_from_slice(data);
            sizes.push(data.len() as u64);
        }
        self.uploads.remove(&at);
        self.completed.insert(at.2, manifest.etag);
        let done = IndexDone::Completed { version: manifest.version, etag: manifest.etag };
        let object = Object { manifest: Arc::new(manifest), bytes: bytes.into(), parts: Some(sizes) };
        self.objects.insert((at.0, at.1), object);
        Ok(done)
    }
}

impl Model {
    pub fn add_user(&self, access_key: &str, secret_key: &str, root: bool) {
        let user = User {
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            display_name: access_key.into(),
            enabled: true,
            root,
        };
        self.state.lock().change(|config| {
            config.users.insert(access_key.into(), user);
        });
    }

    /// Changes buckets and users, as an administrator would.
    #[allow(dead_code, reason = "not every front is told of changes")]
    pub fn change(&self, change: impl FnOnce(&mut Config)) {
        self.state.lock().change(change);
    }

    /// How many objects and uploads there are.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.objects.len(), state.uploads.len())
    }

    fn store(
        &self,
        bucket: Bucket,
        to: Destination,
        bytes: Vec<u8>,
        summary: tenfour_gateway::transfer::Summary,
    ) -> Result<Stored, WriteError> {
        let mut state = self.state.lock();
        let version = state.next();
        let modified_ms = tenfour_gateway::ops::now_ms();
        let (etag, checksums, size) = (summary.etag, summary.checksums.clone(), bytes.len() as u64);
        match to {
            Destination::Object { key, headers, precondition } => {
                state.check(bucket.id, key.as_str(), &precondition).map_err(|error| match error {
                    OpError::NoSuchKey => WriteError::NoSuchKey,
                    _ => WriteError::PreconditionFailed,
                })?;
                let body = Body::Extents(Vec::new());
                let manifest = Manifest { version, size, etag, modified_ms, checksums, headers, body };
                let object = Object { manifest: Arc::new(manifest), bytes: bytes.into(), parts: None };
                state.objects.insert((bucket.id, key.to_string()), object);
            }
            Destination::Part { key, upload, number } => {
                let at = (bucket.id, key.to_string(), upload);
                let upload = state.uploads.get_mut(&at).ok_or(WriteError::NoSuchUpload)?;
                let part = Part { number, version, size, etag, checksums, modified_ms, extents: Vec::new() };
                upload.parts.insert(number, (part, bytes.into()));
            }
        }
        Ok(Stored { version, summary, modified_ms, transports: Transports::default() })
    }

    fn apply<F>(&self, bucket: &Bucket, command: F) -> Result<IndexDone, OpError>
    where
        F: Fn(&Bucket, CommandId) -> IndexCommand,
    {
        let mut state = self.state.lock();
        let id = state.next();
        match command(bucket, id) {
            IndexCommand::DeleteObject { bucket, key, precondition } => {
                state.check(bucket, key.as_str(), &precondition)?;
                let existed = state.objects.remove(&(bucket, key.to_string())).is_some();
                Ok(IndexDone::Deleted { existed })
            }
            IndexCommand::CreateUpload { bucket, key, headers, checksum, created_ms } => {
                let upload = UploadId(id);
                let view = UploadView { key: key.to_string(), upload, created_ms, checksum, headers };
                state
                    .uploads
                    .insert((bucket, key.to_string(), upload), Upload { view, parts: BTreeMap::new() });
                Ok(IndexDone::Done)
            }
            IndexCommand::CompleteUpload { bucket, key, upload, precondition, manifest } => {
                if state.uploads.contains_key(&(bucket, key.to_string(), upload)) {
                    state.check(bucket, key.as_str(), &precondition)?;
                }
                state.complete((bucket, key.to_string(), upload), manifest)
            }
            IndexCommand::AbortUpload { bucket, key, upload } => {
                let gone = state.uploads.remove(&(bucket, key.to_string(), upload));
                gone.map(|_| IndexDone::Done).ok_or(OpError::NoSuchUpload)
            }
            other => Err(OpError::Invalid(format!("the front does not send {other:?}"))),
        }
    }

    async fn hang(&self) {
        if self.hangs_next.swap(false, Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    fn bucket(&self, who: &dyn Authorise) -> Result<Bucket, tenfour_gateway::transfer::AccessError> {
        let config = self.state.lock().config.clone();
        who.check(&config)
    }
}

/// The bytes of an object, in small pieces.
pub struct ModelBody {
    bytes: Bytes,
    breaks: bool,
}

impl Sink for ModelBody {
    async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        if self.bytes.is_empty() {
            return None;
        }
        let piece = self.bytes.split_to(self.bytes.len().min(100_000));
        if self.breaks && self.bytes.is_empty() {
            return Some(Err(ReadError::Unavailable("the model breaks off here".into())));
        }
        Some(Ok(piece))
    }
}

fn range(wanted: Wanted, object: &Object) -> Result<(u64, u64), ReadError> {
    let size = object.bytes.len() as u64;
    if let Wanted::Part(number) = wanted {
        let whole = [size];
        let sizes = object.parts.as_deref().unwrap_or(&whole);
        let index = (number - 1) as usize;
        let bytes = *sizes.get(index).ok_or(ReadError::NoSuchPart)?;
        let first = sizes[..index].iter().sum();
        return Ok((first, first + bytes));
    }
    tenfour_gateway::ops::conditions::resolve(wanted, size).ok_or(ReadError::Range { size })
}

impl Backend for Model {
    type Body = ModelBody;

    fn config(&self) -> Arc<Config> {
        self.cached.lock().clone()
    }

    async fn refresh_config(&self) -> Result<Arc<Config>, OpError> {
        let config = self.state.lock().config.clone();
        *self.cached.lock() = config.clone();
        Ok(config)
    }

    async fn put<S: Source>(
        &self,
        who: &dyn Authorise,
        to: Destination,
        source: &mut S,
    ) -> Result<Stored, WriteError> {
        let bucket = self.bucket(who)?;
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 300_000];
        while (bytes.len() as u64) < source.size() {
            match source.read(&mut buffer).await? {
                0 => return Err(SourceError::Truncated.into()),
                read => bytes.extend_from_slice(&buffer[..read]),
            }
        }
        let md5: [u8; 16] = Md5::digest(&bytes).into();
        let etag = ETag { md5, parts: None };
        let summary =
            source.finish(Digested { etag, md5: Some(md5), crc64: tenfour_erasure::crc64(&bytes) }).await?;
        let stored = self.store(bucket, to, bytes, summary)?;
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.hang().await;
        Ok(stored)
    }

    async fn get(
        &self,
        who: &dyn Authorise,
        key: &ObjectKey,
        wanted: Wanted,
    ) -> Result<Reading<ModelBody>, ReadError> {
        let bucket = self.bucket(who)?;
        let object = self.state.lock().objects.get(&(bucket.id, key.to_string())).cloned();
        let object = object.ok_or(ReadError::NoSuchKey)?;
        let range = range(wanted, &object)?;
        let bytes = object.bytes.slice(range.0 as usize..range.1 as usize);
        let body = ModelBody { bytes, breaks: key.as_str().ends_with(BREAKS) };
        let parts = object.parts.as_ref().map(|parts| parts.len() as u32);
        Ok(Reading { manifest: object.manifest, parts, range, transports: Transports::default(), body })
    }

    async fn commit<F>(&self, who: &dyn Authorise, _: &ObjectKey, command: F) -> Result<IndexDone, OpError>
    where
        F: Fn(&Bucket, CommandId) -> IndexCommand + Send + Sync,
    {
        let bucket = self.bucket(who)?;
        let done = self.apply(&bucket, command)?;
        if matches!(done, IndexDone::Deleted { .. }) {
            self.hang().await;
        }
        Ok(done)
    }

    async fn query<F>(&self, who: &dyn Authorise, _: Place<'_>, query: F) -> Result<IndexAnswer, OpError>
    where
        F: Fn(&Bucket) -> IndexQuery + Send + Sync,
    {
        let bucket = self.bucket(who)?;
        let state = self.state.lock();
        match query(&bucket) {
            IndexQuery::Uploads { bucket, prefix, after, most } => {
                let is_after = |upload: &&UploadView| match &after {
                    None => true,
                    Some((key, None)) => upload.key > *key,
                    Some((key, Some(id))) => (&upload.key, upload.upload) > (key, *id),
                };
                let all = state
                    .uploads
                    .iter()
                    .filter(|((known, ..), _)| *known == bucket)
                    .map(|(_, upload)| &upload.view);
                let found = all.filter(|upload| upload.key.starts_with(&prefix)).filter(is_after);
                Ok(IndexAnswer::Uploads(found.take(most as usize).cloned().collect()))
            }
            IndexQuery::Parts { bucket, key, upload, after, most } => {
                let found = state.uploads.get(&(bucket, key.to_string(), upload)).map(|upload| {
                    let all: Vec<Part> =
                        upload.parts.range(after + 1..).map(|(_, (part, _))| part.clone()).collect();
                    let more = all.len() > most as usize;
                    PartView {
                        upload: upload.view.clone(),
                        parts: all.into_iter().take(most as usize).collect(),
                        more,
                    }
                });
                Ok(IndexAnswer::Parts(found))
            }
            IndexQuery::IsEmpty { bucket } => {
                let objects = state.objects.keys().any(|(known, _)| *known == bucket);
                let uploads = state.uploads.keys().any(|(known, ..)| *known == bucket);
                Ok(IndexAnswer::IsEmpty(!objects && !uploads))
            }
            other => Err(OpError::Invalid(format!("the front does not ask {other:?}"))),
        }
    }

    async fn list(&self, request: ListRequest) -> Result<(ConfigVersion, ListPage), OpError> {
        let state = self.state.lock();
        let (mut page, mut seen) = (ListPage::default(), BTreeSet::new());
        for ((_, key), object) in state.objects.iter().filter(|((bucket, _), _)| *bucket == request.bucket) {
            let Some(rest) = key.strip_prefix(&request.prefix) else { continue };
            let cut = request
                .delimiter
                .as_ref()
                .and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()));
            let entry = match cut {
                Some(cut) => ListEntry::CommonPrefix(key[..request.prefix.len() + cut].to_owned()),
                None => ListEntry::Object {
                    key: key.clone(),
                    size: object.manifest.size,
                    etag: object.manifest.etag,
                    modified_ms: object.manifest.modified_ms,
                    checksums: object.manifest.checksums.iter().map(|checksum| checksum.kind).collect(),
                },
            };
            let is_after = request.after.as_deref().is_none_or(|after| entry.sort_key() > after);
            if !is_after || !seen.insert(entry.sort_key().to_owned()) {
                continue;
            }
            if page.entries.len() == request.most as usize {
                page.more = true;
                break;
            }
            page.entries.push(entry);
        }
        Ok((state.config.version, page))
    }

    async fn cluster(&self, command: ClusterCommand) -> Result<ClusterDone, OpError> {
        let mut state = self.state.lock();
        match command {
            ClusterCommand::CreateBucket { name, owner, created_ms } => {
                if let Some(bucket) = state.config.buckets.get(&name) {
                    let mine = bucket.owner == owner;
                    Err(if mine { ClusterRefusal::BucketOwnedByYou } else { ClusterRefusal::BucketExists })?;
                }
                let id = BucketId(state.next().sequence);
                let bucket = Bucket { id, name: name.clone(), owner, created_ms, state: BucketState::Open };
                state.change(|config| {
                    config.buckets.insert(name, bucket.clone());
                });
                Ok(ClusterDone::Bucket(bucket))
            }
            ClusterCommand::CloseBucket { .. } => Ok(ClusterDone::Closing { round: 1 }),
            ClusterCommand::FinishCloseBucket { bucket, empty, .. } => {
                if empty {
                    state.change(|config| config.buckets.retain(|_, known| known.id != bucket));
                }
                Ok(ClusterDone::Done)
            }
            other => Err(OpError::Invalid(format!("the front does not send {other:?}"))),
        }
    }

    fn index_groups(&self) -> Vec<MetaGroupId> {
        vec![MetaGroupId(1)]
    }
}
