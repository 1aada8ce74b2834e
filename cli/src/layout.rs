//! The folder of a whole cluster on one machine: what `tenfour up` creates once and finds again.
//!
//! ```text
//! tenfour-data/
//!   cluster.toml      the plan: addresses, number of nodes, region
//!   cluster.key       the key that every internal connection proves      (0600)
//!   credentials       the root user's access and secret key              (0600)
//!   lock              held while a cluster runs here
//!   meta-1 .. meta-3  configuration and data of each metadata replica
//!   node-01 .. 14     configuration and target folder of each node
//!   gateway-1 ..      configuration of each gateway
//!   run               sockets of the fabric
//!   logs              one file a process
//! ```

use crate::addresses::{free_addresses, free_addresses_on};
use crate::config::{self, ClusterSection, Credentials, GatewayFile, MetaFile, NodeFile, TargetSection};
use crate::rdma_places::{RdmaPlace, rdma_places};
use crate::units::ByteSize;
use crate::up::FabricArguments;
use anyhow::{Context, Result, bail};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tenfour_rdma::{Fabric, Provider};
use tenfour_types::TimeScale;

/// Replicas of the metadata service: one may be lost.
const METADATA_REPLICAS: usize = 3;
/// Longest path that a Unix socket can have, bytes.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// Share of the free space that the targets may fill together.
const CAPACITY_SHARE: f64 = 0.9;

/// What to create.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Where S3 is served (the first gateway; the others on the ports after it).
    pub s3: SocketAddr,
    /// Where S3 is served over RDMA, if it is (the first gateway; the others on the ports after it).
    pub rdma: Option<SocketAddr>,
    /// Number of nodes, when a cluster is created (14 when `None`).
    pub nodes: Option<u32>,
    /// Number of gateways.
    pub gateways: u16,
    /// The region, when a cluster is created.
    pub region: Option<String>,
    /// What carries shards, where the nodes listen, and how patient the processes are.
    pub fabric: FabricArguments,
    /// What ETags are: `md5` or `fast`.
    pub etag: String,
    /// Who encodes in the gateways: `auto`, `cpu`, `gpu`, or the name of an encoder.
    pub codec: String,
    /// The root user's keys, when a cluster is created.
    pub credentials: Option<Credentials>,
    /// Size of a segment file.
    pub segment: ByteSize,
}

/// What stays the same for the life of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// 1.
    pub format: u32,
    /// The cluster's id, 32 hexadecimal digits.
    pub cluster: String,
    /// The region that clients sign for.
    pub region: String,
    /// Number of nodes.
    pub nodes: u32,
    /// Where the metadata replicas listen.
    pub metadata: Vec<SocketAddr>,
    /// What each node may fill.
    pub node_capacity: ByteSize,
}

/// A cluster's folder, locked for this process.
pub struct Layout {
    /// The folder.
    pub root: PathBuf,
    /// What stays.
    pub plan: Plan,
    /// The root user's keys.
    pub credentials: Credentials,
    wishes: Wishes,
    _lock: File,
}

impl Layout {
    /// Finds the cluster in `root`, or creates one there; writes the configuration of every process.
    pub fn open_or_create(root: &Path, wishes: Wishes) -> Result<Self> {
        if wishes.s3.port() == 0 || wishes.s3.port().checked_add(wishes.gateways.saturating_sub(1)).is_none()
        {
            bail!("--s3 {}: name a port, with room for {} gateways above it", wishes.s3, wishes.gateways);
        }
        fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        let root = root.canonicalize()?;
        let lock = lock(&root)?;
        let plan_file = root.join("cluster.toml");
        let plan = if plan_file.exists() {
            let plan: Plan = config::read(&plan_file)?;
            check_wishes(&plan, &wishes, &root)?;
            plan
        } else {
            found(&root, &wishes)?
        };
        let credentials = config::read(&root.join("credentials"))?;
        let layout = Self { root, plan, credentials, wishes, _lock: lock };
        layout.write_configurations()?;
        Ok(layout)
    }

    /// Names of all metadata replicas, in order.
    pub fn metas(&self) -> Vec<String> {
        (1..=self.plan.metadata.len()).map(|number| format!("meta-{number}")).collect()
    }
    /// Names of all nodes, in order.
    pub fn nodes(&self) -> Vec<String> {
        (1..=self.plan.nodes).map(|number| format!("node-{number:02}")).collect()
    }
    /// Names of all gateways, in order.
    pub fn gateways(&self) -> Vec<String> {
        (1..=self.wishes.gateways).map(|number| format!("gateway-{number}")).collect()
    }
    /// The S3 addresses, in the order of the gateways.
    pub fn s3_addresses(&self) -> Vec<SocketAddr> {
        let first = self.wishes.s3;
        (0..self.wishes.gateways)
            .map(|offset| SocketAddr::new(first.ip(), first.port().saturating_add(offset)))
            .collect()
    }
    /// Where S3 is served over RDMA, in the order of the gateways; nowhere when that is not wanted.
    pub fn rdma(&self) -> Result<Vec<RdmaPlace>> {
        Ok(rdma_places(self.wishes.rdma, &self.gateways(), &socket_folder(&self.root, &self.plan)?))
    }
    /// The configuration file of a process.
    pub fn config_file(&self, process: &str) -> PathBuf {
        self.root.join(process).join("config.toml")
    }
    /// The log file of a process.
    pub fn log_file(&self, process: &str) -> PathBuf {
        self.root.join("logs").join(format!("{process}.log"))
    }
    /// How processes find the cluster.
    pub fn cluster_section(&self) -> ClusterSection {
        cluster_section(&self.root, &self.plan, self.wishes.fabric.timeout_scale)
    }

    fn write_configurations(&self) -> Result<()> {
        let sockets = socket_folder(&self.root, &self.plan)?;
        fs::create_dir_all(self.root.join("logs"))?;
        for (number, name) in (1u64..).zip(self.metas()) {
            self.write(&name, &self.meta_file(number))?;
        }
        let places = self.node_places(&sockets)?;
        for ((number, name), listen) in (1u32..).zip(self.nodes()).zip(places) {
            self.write(&name, &self.node_file(number, listen))?;
        }
        let mut rdma = self.rdma()?.into_iter();
        for (address, name) in self.s3_addresses().into_iter().zip(self.gateways()) {
            let places = rdma.next().map(|place| place.listed()).unwrap_or_default();
            let mut file = self.gateway_file(&name, address, &sockets);
            file.rdma_listen = places;
            self.write(&name, &file)?;
        }
        Ok(())
    }

    fn write<T: Serialize>(&self, process: &str, file: &T) -> Result<()> {
        fs::create_dir_all(self.root.join(process))?;
        config::write_private(&self.config_file(process), file)
    }

    fn meta_file(&self, number: u64) -> MetaFile {
        let addresses = (1u64..).zip(self.plan.metadata.iter().copied());
        let peers: BTreeMap<u64, SocketAddr> = addresses.collect();
        MetaFile {
            cluster: self.cluster_section(),
            id: number,
            listen: peers.get(&number).copied().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            peers: peers.into_iter().map(|(number, address)| (number.to_string(), address)).collect(),
            folder: self.root.join(format!("meta-{number}")).join("data"),
            index_groups: 2,
            bootstrap: number == 1,
            node_suspect_after_ms: None,
            node_down_after_ms: tenfour_types::limits::NODE_DOWN_AFTER_MS,
            node_out_after_ms: tenfour_types::limits::NODE_OUT_AFTER_MS,
            credentials_file: Some(self.root.join("credentials")),
        }
    }

    /// Where each node's shard service listens: a socket's path, an address, or both.
    fn node_places(&self, sockets: &Path) -> Result<Vec<Vec<String>>> {
        let (nodes, fabric) = (self.nodes(), self.wishes.fabric.fabric);
        let mut places = vec![Vec::new(); nodes.len()];
        if matches!(fabric, Fabric::Auto | Fabric::Only(Provider::Shm)) {
            for (places, name) in places.iter_mut().zip(&nodes) {
                places.push(sockets.join(name).with_extension("sock").display().to_string());
            }
        }
        if fabric != Fabric::Only(Provider::Shm) {
            let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST)];
            let named = &self.wishes.fabric.node_addresses[..];
            let hosts = if named.is_empty() { &loopback[..] } else { named };
            let hosts: Vec<IpAddr> = hosts.iter().copied().cycle().take(nodes.len()).collect();
            let taken = [&self.plan.metadata[..], &self.s3_addresses()].concat();
            for (places, address) in places.iter_mut().zip(free_addresses_on(&hosts, &taken)?) {
                places.push(address.to_string());
            }
        }
        Ok(places)
    }

    fn node_file(&self, number: u32, listen: Vec<String>) -> NodeFile {
        NodeFile {
            cluster: self.cluster_section(),
            id: number,
            rack: "rack-1".to_owned(),
            fabric: self.wishes.fabric.fabric.to_string(),
            listen,
            targets: vec![TargetSection {
                id: number,
                folder: self.root.join(format!("node-{number:02}")).join("target"),
                capacity: self.plan.node_capacity,
                replace_lost: true,
            }],
            staging: ByteSize::mib(96),
            segment: self.wishes.segment,
            repair_memory: ByteSize::mib(32),
            repair_bandwidth: ByteSize::mib(256),
        }
    }

    fn gateway_file(&self, name: &str, listen: SocketAddr, sockets: &Path) -> GatewayFile {
        GatewayFile {
            cluster: self.cluster_section(),
            name: Some(name.to_owned()),
            listen,
            rdma_listen: Vec::new(),
            rdma_memory: ByteSize::mib(256),
            rdma_token_memory: ByteSize::mib(64),
            rdma_address: None,
            region: self.plan.region.clone(),
            domain: None,
            fabric: self.wishes.fabric.fabric.to_string(),
            etag: self.wishes.etag.clone(),
            pool: ByteSize::mib(256),
            codec: self.wishes.codec.clone(),
            node_down_after_ms: tenfour_types::limits::NODE_DOWN_AFTER_MS,
            counters: Some(sockets.join(name).with_extension("counters")),
            sigv2: "presigned".to_owned(),
        }
    }
}

/// How to reach the cluster whose folder this is, also while another process runs it.
pub fn cluster_section_of(root: &Path) -> Result<ClusterSection> {
    let plan_file = root.join("cluster.toml");
    if !plan_file.exists() {
        bail!(
            "{} holds no cluster (no cluster.toml); name its folder with --data, or start one with `tenfour up`",
            root.display()
        );
    }
    // The patience is that of the last start.
    let last_start = root.join("meta-1").join("config.toml");
    let timeout_scale = match last_start.exists() {
        true => config::read::<config::AnyFile>(&last_start)?.cluster.timeout_scale,
        false => TimeScale::default(),
    };
    Ok(cluster_section(&root.canonicalize()?, &config::read(&plan_file)?, timeout_scale))
}

/// Where the gateways of the cluster in this folder show their counters.
pub fn counter_sockets(root: &Path) -> Result<Vec<PathBuf>> {
    let plan = config::read(&root.join("cluster.toml"))?;
    let entries = fs::read_dir(socket_folder(&root.canonicalize()?, &plan)?)?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "counters")).collect())
}

fn cluster_section(root: &Path, plan: &Plan, timeout_scale: TimeScale) -> ClusterSection {
    ClusterSection {
        id: plan.cluster.clone(),
        key_file: root.join("cluster.key"),
        metadata: plan.metadata.clone(),
        timeout_scale,
    }
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    if file.try_lock().is_err() {
        bail!(
            "a cluster is running in {} already; stop it first, or name another folder with --data",
            root.display()
        );
    }
    Ok(file)
}

fn check_wishes(plan: &Plan, wishes: &Wishes, root: &Path) -> Result<()> {
    let shown = root.display();
    if plan.format != 1 {
        bail!("{shown}: format {} was written by a newer tenfour; use that one", plan.format);
    }
    if let Some(nodes) = wishes.nodes.filter(|nodes| *nodes != plan.nodes) {
        bail!(
            "{shown} holds a cluster of {} nodes; leave out --nodes {nodes}, or name another folder with --data",
            plan.nodes
        );
    }
    if let Some(region) = wishes.region.as_ref().filter(|region| **region != plan.region) {
        bail!(
            "{shown} holds a cluster of region {}; leave out --region {region}, or name another folder with --data",
            plan.region
        );
    }
    let credentials: Credentials = config::read(&root.join("credentials"))?;
    if wishes.credentials.as_ref().is_some_and(|wished| {
        wished.access_key != credentials.access_key || wished.secret_key != credentials.secret_key
    }) {
        bail!(
            "{shown} holds a cluster with other root credentials than TENFOUR_ACCESS_KEY and TENFOUR_SECRET_KEY; \
             unset them, or name another folder with --data"
        );
    }
    Ok(())
}

/// Creates a cluster: the plan is written last, so that what a crash leaves behind is created anew.
fn found(root: &Path, wishes: &Wishes) -> Result<Plan> {
    let strangers: Vec<String> = fs::read_dir(root)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            !matches!(
                name.as_str(),
                "lock" | "cluster.key" | "credentials" | "cluster.new" | "credentials.new"
            )
        })
        .take(3)
        .collect();
    if !strangers.is_empty() {
        bail!(
            "{} is not empty ({}, …) and holds no cluster; name a new folder with --data",
            root.display(),
            strangers.join(", ")
        );
    }
    let nodes = wishes.nodes.unwrap_or(14);
    if !(1..=64).contains(&nodes) {
        bail!("--nodes {nodes}: between 1 and 64 node processes can share one machine");
    }
    let mut random = rand::rng();
    let credentials = wishes.credentials.clone().unwrap_or_else(|| Credentials {
        access_key: format!("TF{}", random_text(&mut random, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 18)),
        secret_key: random_text(
            &mut random,
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            40,
        ),
    });
    config::write_private(&root.join("credentials"), &credentials)?;
    config::write_private_text(
        &root.join("cluster.key"),
        &format!("{}\n", hex::encode(random.random::<[u8; 32]>())),
    )?;
    let metadata = free_addresses(METADATA_REPLICAS, &[])?;
    let plan = Plan {
        format: 1,
        cluster: hex::encode(random.random::<[u8; 16]>()),
        region: wishes.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
        nodes,
        metadata,
        node_capacity: node_capacity(root, nodes)?,
    };
    config::write_private(&root.join("cluster.toml"), &plan)?;
    Ok(plan)
}

fn node_capacity(root: &Path, nodes: u32) -> Result<ByteSize> {
    let free = free_bytes(root)?;
    let share = (free as f64 * CAPACITY_SHARE / f64::from(nodes)) as u64;
    if share < 128 << 20 {
        bail!(
            "{} has {} free: too little for {nodes} nodes (128MiB each at least); free some space or name another folder with --data",
            root.display(),
            ByteSize(free)
        );
    }
    Ok(ByteSize(share >> 20 << 20))
}

/// Free bytes of the file system that holds `path`.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let status = rustix::fs::statvfs(path)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

fn random_text(random: &mut impl RngExt, alphabet: &[u8], length: usize) -> String {
    (0..length)
        .filter_map(|_| alphabet.get(random.random_range(0..alphabet.len())).map(|byte| char::from(*byte)))
        .collect()
}

/// Where the fabric's sockets lie: in the cluster's folder, or under the system's temporary folder when its path is too long.
fn socket_folder(root: &Path, plan: &Plan) -> Result<PathBuf> {
    let inside = root.join("run");
    let folder = if inside.join("node-00.sock").as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        inside
    } else {
        std::env::temp_dir().join(format!("tenfour-{}", plan.cluster))
    };
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&folder, private)?;
    Ok(folder)
}
