//! The ways that `tenfour bench rdma` compares: a plain S3 client over HTTP, and the SDK over one transport of the fabric.
//!
//! Invariant: both do the same work. A PUT finds the object's bytes in memory, as a training job has them; a GET brings them into
//! memory that the worker has, and then compares them.

use super::place::Place;
use crate::bench::load::Way;
use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use tenfour_client::native::{Buffer, Client, ClientConfig, GetOptions, PutOptions};
use tenfour_client::{Pattern, S3, next_frame};
use tenfour_rdma::Endpoint;

/// What the table calls HTTP.
pub(super) const HTTP: &str = "http";
/// Registered memory beside the workers' buffers: copies of small objects on their way, bytes.
const POOL_BYTES_MORE: usize = 16 << 20;

/// One way in, for as many workers as there are to be.
pub(super) struct Door {
    /// `http`, or the transport's name.
    pub(super) name: String,
    way: Either,
}

#[derive(Clone)]
enum Either {
    Http(Box<S3>),
    Native(Client, String),
}

impl Door {
    pub(super) fn http(bucket: S3) -> Self {
        Self { name: HTTP.to_owned(), way: Either::Http(Box::new(bucket)) }
    }

    /// Connects, with memory for so many workers.
    pub(super) async fn native(place: &Place, at: &Endpoint, workers: usize, bytes: usize) -> Result<Self> {
        let mut config = ClientConfig::new(&place.keys.access_key, &place.keys.secret_key);
        config.endpoints = vec![at.clone()];
        config.region = place.region.clone();
        config.pool_bytes = workers * bytes.next_multiple_of(4096).max(4096) + POOL_BYTES_MORE;
        // A failure is one: it is to be seen.
        config.retry.attempts_max = 1;
        let client = Client::connect(config).await?;
        let name = client.transport().await?;
        Ok(Self { name, way: Either::Native(client, place.bucket_name().to_owned()) })
    }

    pub(super) fn ways(&self, count: usize) -> Vec<Worker> {
        let worker = || match self.way.clone() {
            Either::Http(bucket) => Worker::Http(Plain { bucket, memory: BytesMut::new() }),
            Either::Native(client, bucket) => Worker::Native(Native { client, bucket, buffer: None }),
        };
        (0..count).map(|_| worker()).collect()
    }
}

/// One worker, with the memory that it stores from and reads to.
pub(super) enum Worker {
    Http(Plain),
    Native(Native),
}

impl Way for Worker {
    async fn prepare(&mut self, content: Pattern) -> Result<()> {
        match self {
            Self::Http(plain) => content.copy_to(plain.memory(content.len())?),
            Self::Native(native) => content.copy_to(native.buffer(content.len()).await?),
        }
        Ok(())
    }

    async fn put(&mut self, key: &str, _content: Pattern) -> Result<()> {
        match self {
            Self::Http(plain) => plain.put(key).await,
            Self::Native(native) => native.put(key).await,
        }
    }

    async fn get(&mut self, key: &str, content: Pattern) -> Result<()> {
        let read = match self {
            Self::Http(plain) => plain.get(key, content.len()).await?,
            Self::Native(native) => native.get(key, content.len()).await?,
        };
        if read.len() as u64 != content.len() || !content.matches(0, read) {
            bail!("{key}: {} bytes came that are not the {} stored", read.len(), content.len());
        }
        Ok(())
    }
}

/// Over HTTP.
pub(super) struct Plain {
    bucket: Box<S3>,
    memory: BytesMut,
}

impl Plain {
    /// Memory of exactly this length.
    fn memory(&mut self, bytes: u64) -> Result<&mut [u8]> {
        self.memory.resize(usize::try_from(bytes)?, 0);
        Ok(&mut self.memory)
    }

    /// Stores what is in memory.
    async fn put(&mut self, key: &str) -> Result<()> {
        let body = std::mem::take(&mut self.memory).freeze();
        let stored = self.bucket.put(key, body.clone()).await;
        self.memory = body.try_into_mut().unwrap_or_default();
        stored?;
        Ok(())
    }

    async fn get(&mut self, key: &str, bytes: u64) -> Result<&[u8]> {
        let mut body = self.bucket.get(key, None).await?.into_body();
        let memory = self.memory(bytes)?;
        let mut filled = 0;
        while let Some(frame) = next_frame(&mut body).await? {
            let data = frame.into_data().unwrap_or_else(|_| Bytes::new());
            let place = memory.get_mut(filled..filled + data.len());
            place.with_context(|| format!("{key}: more than {bytes} bytes came"))?.copy_from_slice(&data);
            filled += data.len();
        }
        Ok(memory.get(..filled).unwrap_or_default())
    }
}

/// Over one transport of the fabric.
pub(super) struct Native {
    client: Client,
    bucket: String,
    buffer: Option<Buffer>,
}

impl Native {
    /// Registered memory of exactly this length.
    async fn buffer(&mut self, bytes: u64) -> Result<&mut Buffer> {
        let bytes = usize::try_from(bytes)?;
        let buffer = match self.buffer.take() {
            Some(buffer) if buffer.len() == bytes => buffer,
            other => {
                drop(other);
                self.client.buffer(bytes).await?
            }
        };
        Ok(self.buffer.insert(buffer))
    }

    /// Stores what is in memory.
    async fn put(&mut self, key: &str) -> Result<()> {
        let body = self.buffer.take().context("nothing was prepared")?.freeze();
        let stored = self.client.put_object(&self.bucket, key, &body, &PutOptions::default()).await;
        self.buffer = body.try_unfreeze().ok();
        stored?;
        Ok(())
    }

    async fn get(&mut self, key: &str, bytes: u64) -> Result<&[u8]> {
        self.buffer(bytes).await?;
        let into = self.buffer.take().context("no buffer")?;
        let (buffer, got) = self.client.get_object(&self.bucket, key, into, &GetOptions::default()).await;
        self.buffer = buffer;
        let bytes = got?.bytes;
        self.buffer.as_ref().and_then(|buffer| buffer.get(..bytes)).context("the buffer did not come back")
    }
}
