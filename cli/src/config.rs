//! The TOML files of single processes. Every option is documented in docs/OPERATIONS.md, and an unknown one is an error.

use crate::units::ByteSize;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use tenfour_rdma::ClusterKey;
use tenfour_types::{ClusterId, TimeScale};

/// Which cluster, and how it is found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// 32 hexadecimal digits.
    pub id: String,
    /// A file with the cluster key, 64 hexadecimal digits; readable by its owner alone.
    pub key_file: PathBuf,
    /// The metadata replicas.
    pub metadata: Vec<SocketAddr>,
    /// Multiplies every deadline, timeout, hedge and heartbeat: above 1 on slow machines, the same for the whole cluster.
    #[serde(default)]
    pub timeout_scale: TimeScale,
}

impl ClusterSection {
    /// The id.
    pub fn cluster_id(&self) -> Result<ClusterId> {
        let bytes = hex::decode(&self.id).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(ClusterId).with_context(|| format!("cluster.id {:?} is not 32 hexadecimal digits", self.id))
    }

    /// The key, from its file.
    pub fn cluster_key(&self) -> Result<ClusterKey> {
        let shown = self.key_file.display();
        let text = std::fs::read_to_string(&self.key_file)
            .with_context(|| format!("cannot read the cluster key {shown}"))?;
        ClusterKey::from_hex(text.trim())
            .ok()
            .with_context(|| format!("{shown} is not a cluster key (64 hexadecimal digits)"))
    }
}

/// What every process's file has.
#[derive(Clone, Debug, Deserialize)]
pub struct AnyFile {
    /// Which cluster.
    pub cluster: ClusterSection,
}

/// `tenfour node --config FILE`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Which cluster.
    pub cluster: ClusterSection,
    /// The node's number, unique in the cluster, from 1.
    pub id: u32,
    /// Its rack: what fails together.
    #[serde(default = "default_rack")]
    pub rack: String,
    /// `auto`, `verbs`, `shm` or `tcp`: which of the places below are listened at.
    #[serde(default = "default_fabric")]
    pub fabric: String,
    /// Addresses with a port (for verbs and tcp), absolute paths of sockets (for shm), or endpoints with their provider.
    pub listen: Vec<String>,
    /// Its disks.
    #[serde(rename = "target")]
    pub targets: Vec<TargetSection>,
    /// Registered memory for shards that arrive and leave.
    #[serde(default = "default_staging")]
    pub staging: ByteSize,
    /// Size of a segment file.
    #[serde(default = "default_segment")]
    pub segment: ByteSize,
    /// Registered memory for repair, while there is something to repair.
    #[serde(default = "default_repair_memory")]
    pub repair_memory: ByteSize,
    /// Bytes a second that repair reads from other nodes; 0 for as many as it can.
    #[serde(default = "default_repair_bandwidth")]
    pub repair_bandwidth: ByteSize,
}

/// One disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSection {
    /// Its number, unique in the cluster, never used again.
    pub id: u32,
    /// Its folder, on a file system of its own in production.
    pub folder: PathBuf,
    /// What it may fill.
    pub capacity: ByteSize,
    /// An empty folder means that the disk was lost: it becomes another target at once, under an id that metadata gives. Only for a
    /// folder that cannot be a mount point whose disk is not mounted.
    #[serde(default)]
    pub replace_lost: bool,
}

/// `tenfour meta --config FILE`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaFile {
    /// Which cluster; its `metadata` list is not used here.
    pub cluster: ClusterSection,
    /// The replica's number, from 1, never used again.
    pub id: u64,
    /// Where it listens, for peers and clients.
    pub listen: SocketAddr,
    /// All replicas, this one included, by number.
    pub peers: BTreeMap<String, SocketAddr>,
    /// Its folder.
    pub folder: PathBuf,
    /// Groups that index objects, beside group 0.
    #[serde(default = "default_index_groups")]
    pub index_groups: u16,
    /// Whether this replica may found the cluster: true on exactly one, and refused once a cluster exists.
    #[serde(default)]
    pub bootstrap: bool,
    /// A node that was silent for so long is suspected, milliseconds; half of `node_down_after_ms` by default.
    pub node_suspect_after_ms: Option<u64>,
    /// A node that was silent for so long is marked down, milliseconds.
    #[serde(default = "default_down_after")]
    pub node_down_after_ms: u64,
    /// A node that was silent for so long is taken out, and its shards are made anew on others, milliseconds; 0 for never.
    #[serde(default = "default_out_after")]
    pub node_out_after_ms: u64,
    /// A file with the root user's keys (`access_key`, `secret_key`), used when the cluster is founded.
    pub credentials_file: Option<PathBuf>,
}

/// `tenfour gateway --config FILE`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayFile {
    /// Which cluster.
    pub cluster: ClusterSection,
    /// Its name, of no other gateway of the cluster and the same at every start; by default its host's name and port.
    pub name: Option<String>,
    /// Where S3 is served.
    pub listen: SocketAddr,
    /// Where S3 is served over RDMA: addresses with their port (9100 is the custom), absolute paths of sockets for clients on this host,
    /// or endpoints such as `verbs:10.0.0.4:9100`. Nowhere by default.
    #[serde(default)]
    pub rdma_listen: Vec<String>,
    /// Registered memory for clients over RDMA, beside `pool`.
    #[serde(default = "default_pool")]
    pub rdma_memory: ByteSize,
    /// What of `rdma_memory` is for bodies that are moved by RDMA and steered by HTTP headers (`x-amz-rdma-token`); 0: none are.
    #[serde(default = "default_token_memory")]
    pub rdma_token_memory: ByteSize,
    /// The address of the RDMA device for those; by default the first one of `rdma_listen` that is a device's, else the first device.
    pub rdma_address: Option<IpAddr>,
    /// The region that clients sign for.
    #[serde(default = "default_region")]
    pub region: String,
    /// The domain whose subdomains are buckets; without it, buckets are the first part of the path.
    pub domain: Option<String>,
    /// `auto`, `verbs`, `shm` or `tcp`: what carries shards to and from the nodes.
    #[serde(default = "default_fabric")]
    pub fabric: String,
    /// Registered memory for stripes on their way.
    #[serde(default = "default_pool")]
    pub pool: ByteSize,
    /// Who encodes: `auto`, `cpu`, `gpu`, or the name of an encoder of the CPU (`tenfour bench encode` lists them).
    #[serde(default = "default_codec")]
    pub codec: String,
    /// `md5`, or `fast`: an ETag that costs nothing and is no MD5.
    #[serde(default = "default_etag")]
    pub etag: String,
    /// A node that leaves requests unanswered for so long is no longer asked, milliseconds.
    #[serde(default = "default_down_after")]
    pub node_down_after_ms: u64,
    /// A Unix socket that shows the gateway's counters to its owner; none by default.
    pub counters: Option<PathBuf>,
    /// `off`, `presigned` or `on`: where signatures of version 2 are taken.
    #[serde(default = "default_sigv2")]
    pub sigv2: String,
}

fn default_rack() -> String {
    "rack-1".to_owned()
}
fn default_staging() -> ByteSize {
    ByteSize::mib(96)
}
fn default_token_memory() -> ByteSize {
    ByteSize::mib(64)
}
fn default_segment() -> ByteSize {
    ByteSize::mib(64)
}
fn default_repair_memory() -> ByteSize {
    ByteSize::mib(32)
}
fn default_repair_bandwidth() -> ByteSize {
    ByteSize::mib(256)
}
fn default_out_after() -> u64 {
    tenfour_types::limits::NODE_OUT_AFTER_MS
}
fn default_index_groups() -> u16 {
    2
}
fn default_down_after() -> u64 {
    tenfour_types::limits::NODE_DOWN_AFTER_MS
}
fn default_region() -> String {
    "us-east-1".to_owned()
}
fn default_fabric() -> String {
    "auto".to_owned()
}
fn default_pool() -> ByteSize {
    ByteSize::mib(256)
}
fn default_codec() -> String {
    "auto".to_owned()
}
fn default_etag() -> String {
    "md5".to_owned()
}
fn default_sigv2() -> String {
    "presigned".to_owned()
}

/// A user's keys, as `credentials` holds them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// Reads a TOML file; what is wrong with it is said with its path and line.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not a valid configuration", path.display()))
}

/// Writes a TOML file that only its owner may read, whole or not at all.
pub fn write_private<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write_private_text(path, &toml::to_string_pretty(value)?)
}

/// Writes a file that only its owner may read, whole or not at all: new name, sync, rename, sync of the folder.
pub fn write_private_text(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let Some(folder) = path.parent() else { bail!("{} has no folder", path.display()) };
    let context = || format!("cannot write {}", path.display());
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)?;
    file.sync_all().with_context(context)?;
    std::fs::rename(&fresh, path).with_context(context)?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_option_is_an_error_that_names_it() {
        let text = "id = 1\nlisten = []\ntarget = []\nstagging = \"1MiB\"\n[cluster]\nid = \"\"\nkey_file = \"k\"\nmetadata = []\n";
        let error = toml::from_str::<NodeFile>(text).expect_err("stagging is no option").to_string();
        assert!(error.contains("stagging"), "{error}");
    }

    #[test]
    fn defaults_fill_what_is_left_out() {
        let text = "listen = \"127.0.0.1:9000\"\n[cluster]\nid = \"00\"\nkey_file = \"k\"\nmetadata = []\n";
        let file: GatewayFile = toml::from_str(text).expect("valid");
        assert_eq!((file.pool, file.codec.as_str()), (ByteSize::mib(256), "auto"));
        assert!(file.cluster.cluster_id().is_err(), "an id has 16 bytes");
        assert_eq!((file.fabric.as_str(), file.cluster.timeout_scale), ("auto", TimeScale::default()));
        let slow = text.replace("[cluster]\n", "[cluster]\ntimeout_scale = 20.0\n");
        assert_eq!(
            toml::from_str::<GatewayFile>(&slow).expect("valid").cluster.timeout_scale.to_string(),
            "20"
        );
        let error = toml::from_str::<GatewayFile>(&slow.replace("20.0", "0.0")).expect_err("no time at all");
        assert!(error.to_string().contains("timeout scale 0"), "{error}");
    }
}
