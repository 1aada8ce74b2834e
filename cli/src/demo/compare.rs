//! The demo's second opinion: a process of its own that reads objects over S3 and compares every byte with what was stored.
//!
//! It shares nothing with the process that wrote them but a list: key, and the file or the seed that the content came from.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::PathBuf;
use tenfour_client::{Pattern, S3};
use tenfour_types::TimeScale;

/// Objects read at the same time.
const CONCURRENCY: usize = 16;

/// Options of the hidden command `demo-compare`.
#[derive(clap::Args, Clone, Debug)]
pub struct CompareArguments {
    /// The list (JSON).
    #[arg(long)]
    pub list: PathBuf,
    /// As of the cluster.
    #[arg(long, default_value_t = TimeScale::default())]
    pub timeout_scale: TimeScale,
}

/// What was stored, and where it can be read.
#[derive(Serialize, Deserialize, Clone)]
pub struct List {
    /// Where S3 is served.
    pub endpoint: String,
    /// The region to sign for.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// The reader's access key.
    pub access_key: String,
    /// The reader's secret key.
    pub secret_key: String,
    /// The objects.
    pub objects: Vec<Stored>,
}

/// One object.
#[derive(Serialize, Deserialize, Clone)]
pub struct Stored {
    /// Its key.
    pub key: String,
    /// Where its content came from.
    pub content: Content,
}

/// Where an object's content came from.
#[derive(Serialize, Deserialize, Clone)]
pub enum Content {
    /// A file.
    File(PathBuf),
    /// Made up.
    Pattern {
        /// From this.
        seed: u64,
        /// So long, bytes.
        len: u64,
    },
}

impl Content {
    /// Its length, bytes.
    pub fn bytes(&self) -> Result<u64> {
        match self {
            Self::File(path) => Ok(std::fs::metadata(path)?.len()),
            Self::Pattern { len, .. } => Ok(*len),
        }
    }
}

impl List {
    /// A client of the bucket.
    pub fn client(&self) -> Result<S3> {
        Ok(S3::new(&self.endpoint, &self.region, &self.bucket, &self.access_key, &self.secret_key)?)
    }
}

/// Reads and compares all of them; an error names the first that differs.
pub async fn run(arguments: CompareArguments) -> Result<()> {
    arguments.timeout_scale.set_for_process();
    let list: List = serde_json::from_slice(&std::fs::read(&arguments.list)?).context("the list")?;
    let client = list.client()?;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let worker = async || -> Result<()> {
        loop {
            let position = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(object) = list.objects.get(position) else { return Ok(()) };
            compare(&client, object).await.with_context(|| format!("object {:?}", object.key))?;
        }
    };
    futures::future::try_join_all((0..CONCURRENCY).map(|_| worker())).await?;
    println!("{} objects equal", list.objects.len());
    Ok(())
}

async fn compare(client: &S3, object: &Stored) -> Result<()> {
    match &object.content {
        Content::Pattern { seed, len } => {
            client.get_compare(&object.key, &Pattern::new(*seed, *len)).await?;
        }
        Content::File(path) => compare_file(client, &object.key, path).await?,
    }
    Ok(())
}

async fn compare_file(client: &S3, key: &str, path: &std::path::Path) -> Result<()> {
    let mut file = std::fs::File::open(path)?;
    let mut body = client.get(key, None).await?.into_body();
    let mut expected = Vec::new();
    let mut position = 0u64;
    while let Some(frame) = tenfour_client::next_frame(&mut body).await? {
        let Ok(data) = frame.into_data() else { continue };
        expected.resize(data.len(), 0);
        file.read_exact(&mut expected).with_context(|| format!("longer than {}", path.display()))?;
        if expected != data {
            bail!("differs from {} within {} bytes at {position}", path.display(), data.len());
        }
        position += data.len() as u64;
    }
    if file.read(&mut [0])? != 0 {
        bail!("ends after {position} bytes, {} does not", path.display());
    }
    Ok(())
}
