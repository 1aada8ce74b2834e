//! A way into the store: one gateway, over HTTP or over RDMA; each operation once, with what came of it.
//!
//! Nothing is sent again, so that an outcome is that of one request. Every version that is read is known by its ETag, and its bytes are
//! compared with those that follow from its number.

use crate::cluster::KEYS;
use crate::history::{Condition, Outcome};
use crate::value::Value;
use anyhow::Result;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tenfour_client::native::{
    Client, ClientConfig, CompleteOptions, ETag, Entry, Error, GetOptions, Headers, ListOptions, NamedPart,
    ObjectInfo, Precondition, PutOptions, Range, Retry, parse_etag,
};

/// The bucket of all operations.
pub const BUCKET: &str = "chaos";
/// The largest body, bytes: two stripes.
pub const BYTES_MAX: u64 = 11 << 20;
/// Bytes of a part that is not the last.
pub const PART_BYTES: usize = 5 << 20;

/// Every version that was sent: its key and number by its ETag, and its ETag by its number.
#[derive(Clone, Default)]
pub struct Versions(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    by_etag: HashMap<String, (String, Value)>,
    etags: HashMap<Value, String>,
}

impl Versions {
    fn add(&self, key: &str, value: Value, etag: String) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_etag.insert(etag.clone(), (key.to_owned(), value));
        known.etags.insert(value, etag);
    }

    fn etag(&self, value: Value) -> Option<ETag> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.etags.get(&value).and_then(|etag| parse_etag(etag))
    }

    /// The version of `key` with this ETag and size.
    fn find(&self, key: &str, etag: ETag, size: u64) -> Result<Value, String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.by_etag.get(&etag.to_string()) {
            Some((of, value)) if of == key && value.bytes() == size => Ok(*value),
            Some((of, value)) => {
                Err(format!("{etag} with {size} bytes on {key}, stored on {of} with {} bytes", value.bytes()))
            }
            None => Err(format!("{etag} with {size} bytes, which nobody stored")),
        }
    }
}

/// One gateway over one protocol.
#[derive(Clone)]
pub struct Door {
    /// For people.
    pub name: String,
    client: Client,
    versions: Versions,
}

impl Door {
    /// Opens one at an address: `http://…` or an endpoint of the fabric.
    pub async fn open(name: String, address: &str, versions: Versions) -> Result<Self> {
        let mut config = ClientConfig::new(KEYS.0, KEYS.1);
        config.retry.attempts_max = 1;
        config.connect_deadline = Duration::from_secs(5);
        config.answer_deadline = Duration::from_secs(15);
        if address.starts_with("http:") {
            config.fallback_http = Some(address.to_owned());
        } else {
            config.endpoints = vec![address.parse()?];
        }
        Ok(Self { name, client: Client::connect(config).await?, versions })
    }

    /// Stores a value.
    pub async fn put(&self, key: &str, value: Value, condition: Condition) -> Outcome {
        self.versions.add(key, value, value.etag());
        let mut buffer = match self.client.buffer(usize::try_from(value.bytes()).unwrap_or(0)).await {
            Ok(buffer) => buffer,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        value.pattern().copy_to(&mut buffer);
        let precondition = match condition {
            Condition::None => Precondition::None,
            Condition::Absent => Precondition::Absent,
            Condition::Is(expected) => match self.versions.etag(expected) {
                Some(etag) => Precondition::Match(vec![etag]),
                None => return Outcome::Failed("a condition on what nobody stored".to_owned()),
            },
        };
        let options = PutOptions { precondition, ..PutOptions::default() };
        match self.client.put_object(BUCKET, key, &buffer.freeze(), &options).await {
            Ok(stored) if stored.etag.to_string() != value.etag() => {
                Outcome::Wrong(format!("acknowledged with the ETag {}, not {}", stored.etag, value.etag()))
            }
            Ok(_) => Outcome::Done,
            Err(error) => write_failed(&error, condition != Condition::None),
        }
    }

    /// Uploads a value in two parts, and calls `completing` before it asks for the object to be made of them.
    pub async fn put_parts(&self, key: &str, value: Value, completing: impl FnOnce()) -> Outcome {
        let content = value.pattern().to_bytes();
        let ends = [PART_BYTES.min(content.len()), content.len()];
        self.versions.add(key, value, value.etag_of_parts(&ends));
        let upload = match self.client.create_upload(BUCKET, key, &Headers::default(), None).await {
            Ok(upload) => upload,
            Err(error) => return Outcome::Failed(format!("its upload was not created: {error}")),
        };
        let mut parts = Vec::new();
        for (number, (start, end)) in (1..).zip([(0, ends[0]), (ends[0], ends[1])]) {
            match self.put_part(key, &upload, number, content.get(start..end).unwrap_or_default()).await {
                Ok(etag) => parts.push(NamedPart { number, etag, checksum: None }),
                Err(error) => {
                    let _ = self.client.abort_upload(BUCKET, key, &upload).await;
                    return Outcome::Failed(format!("part {number}: {error}"));
                }
            }
        }
        completing();
        let options = CompleteOptions::default();
        let completed = self.client.complete_upload(BUCKET, key, &upload, &parts, &options);
        match completed.await {
            Ok(_) => Outcome::Done,
            Err(error) if error.code() == Some("NoSuchUpload") => {
                Outcome::Wrong("its upload, created and not ended, is gone".to_owned())
            }
            Err(error) => write_failed(&error, false),
        }
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, content: &[u8]) -> Result<ETag, Error> {
        let mut buffer = self.client.buffer(content.len()).await?;
        buffer.copy_from_slice(content);
        let body = buffer.freeze();
        let options = PutOptions::default();
        let stored = self.client.upload_part(BUCKET, key, upload, number, &body, &options).await?;
        Ok(stored.etag)
    }

    /// Removes the object.
    pub async fn delete(&self, key: &str) -> Outcome {
        match self.client.delete_object(BUCKET, key, &Precondition::None).await {
            Ok(()) => Outcome::Done,
            Err(error) => write_failed(&error, false),
        }
    }

    /// Reads the object, or a range of it, and compares what came with what its version is.
    pub async fn get(&self, key: &str, range: Range) -> Outcome {
        let buffer = match self.client.buffer(BYTES_MAX as usize).await {
            Ok(buffer) => buffer,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let options = GetOptions { range, ..GetOptions::default() };
        let (buffer, got) = self.client.get_object(BUCKET, key, buffer, &options).await;
        let got = match got {
            Ok(got) => got,
            Err(error) => return read_failed(&error),
        };
        let data = buffer.as_deref().and_then(|buffer| buffer.get(..got.bytes)).unwrap_or_default();
        let expected = |value: Value| match range {
            Range::From(first, end) => (first, end.unwrap_or(u64::MAX).min(value.bytes())),
            _ => (0, value.bytes()),
        };
        self.saw(key, &got.object, |value| {
            if got.range != expected(value) || data.len() as u64 != got.range.1 - got.range.0 {
                return Err(format!("{} bytes of {:?}, {range:?} was asked for", data.len(), got.range));
            }
            let is_it = value.pattern().matches(got.range.0, data);
            is_it.then_some(()).ok_or_else(|| format!("not the bytes of {value:?} in {:?}", got.range))
        })
    }

    /// Asks for its ETag and size.
    pub async fn head(&self, key: &str) -> Outcome {
        match self.client.head_object(BUCKET, key, &GetOptions::default()).await {
            Ok(head) => self.saw(key, &head.object, |_| Ok(())),
            Err(error) => read_failed(&error),
        }
    }

    fn saw(&self, key: &str, object: &ObjectInfo, same: impl Fn(Value) -> Result<(), String>) -> Outcome {
        let value = self.versions.find(key, object.etag, object.size);
        match value.and_then(|value| same(value).map(|()| value)) {
            Ok(value) => Outcome::Saw(Some(value)),
            Err(what) => Outcome::Wrong(what),
        }
    }

    /// Lists every key.
    pub async fn list(&self) -> Outcome {
        let options = ListOptions { most: u64::MAX, ..ListOptions::default() };
        let listed = match self.client.list(BUCKET, &options).await {
            Ok(listed) => listed,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let version = |entry: Entry| match entry {
            Entry::Object { key, size, etag, .. } => {
                self.versions.find(&key, etag, size).map(|value| (key, value))
            }
            Entry::CommonPrefix(prefix) => Err(format!("a common prefix, {prefix}, that nobody asked for")),
        };
        match listed.entries.into_iter().map(version).collect() {
            Ok(versions) => Outcome::Listed(versions),
            Err(what) => Outcome::Wrong(what),
        }
    }
}

/// What an error says of a write. Only what certainly did not happen has failed.
fn write_failed(error: &Error, has_condition: bool) -> Outcome {
    match error {
        Error::Refused(refusal) if has_condition && is_false(&refusal.code) => Outcome::Refused,
        Error::Refused(refusal) if refusal.retry != Retry::OutcomeUnknown => {
            Outcome::Failed(error.to_string())
        }
        Error::Broken | Error::Connect(_) | Error::Memory(_) | Error::Grant(_) => {
            Outcome::Failed(error.to_string())
        }
        _ => Outcome::Unknown(error.to_string()),
    }
}

/// Whether a code says that the condition did not hold: S3 answers `If-Match` on nothing with 404.
fn is_false(code: &str) -> bool {
    matches!(code, "PreconditionFailed" | "NoSuchKey")
}

fn read_failed(error: &Error) -> Outcome {
    match error.code() {
        Some("NoSuchKey") => Outcome::Saw(None),
        // The object has become shorter than the range begins.
        Some("InvalidRange") => Outcome::Refused,
        _ => Outcome::Failed(error.to_string()),
    }
}
