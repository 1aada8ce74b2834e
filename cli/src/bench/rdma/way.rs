//! The ways that `tenfour bench rdma` compares: a plain S3 client over HTTP, and the SDK over one transport of the fabric.

use super::place::Place;
use crate::bench::load::Way;
use anyhow::{Context, Result, bail};
use tenfour_client::native::{Buffer, Client, ClientConfig, GetOptions, PutOptions};
use tenfour_client::{Pattern, S3};
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
        (0..count).map(|_| Worker { way: self.way.clone(), buffer: None }).collect()
    }
}

/// One worker, with the registered memory that it stores from and reads to, as a training job has it.
pub(super) struct Worker {
    way: Either,
    buffer: Option<Buffer>,
}

impl Worker {
    /// Memory of exactly this length.
    async fn buffer(&mut self, client: &Client, bytes: u64) -> Result<Buffer> {
        let bytes = usize::try_from(bytes)?;
        match self.buffer.take() {
            Some(buffer) if buffer.len() == bytes => Ok(buffer),
            other => {
                drop(other);
                Ok(client.buffer(bytes).await?)
            }
        }
    }
}

impl Way for Worker {
    async fn put(&mut self, key: &str, content: Pattern) -> Result<()> {
        let (client, bucket) = match &mut self.way {
            Either::Http(bucket) => return Way::put(&mut **bucket, key, content).await,
            Either::Native(client, bucket) => (client.clone(), bucket.clone()),
        };
        let mut buffer = self.buffer(&client, content.len()).await?;
        content.copy_to(&mut buffer);
        let body = buffer.freeze();
        let stored = client.put_object(&bucket, key, &body, &PutOptions::default()).await;
        self.buffer = body.try_unfreeze().ok();
        stored?;
        Ok(())
    }

    async fn get(&mut self, key: &str, content: Pattern) -> Result<()> {
        let (client, bucket) = match &mut self.way {
            Either::Http(bucket) => return Way::get(&mut **bucket, key, content).await,
            Either::Native(client, bucket) => (client.clone(), bucket.clone()),
        };
        let into = self.buffer(&client, content.len()).await?;
        let (buffer, got) = client.get_object(&bucket, key, into, &GetOptions::default()).await;
        self.buffer = buffer;
        let got = got?;
        let read = self.buffer.as_ref().and_then(|buffer| buffer.get(..got.bytes));
        let read = read.context("the buffer did not come back")?;
        if read.len() as u64 != content.len() || !content.matches(0, read) {
            bail!("{key}: {} bytes came that are not the {} stored", read.len(), content.len());
        }
        Ok(())
    }
}
