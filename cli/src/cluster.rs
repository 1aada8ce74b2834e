//! A whole cluster of processes on this machine: metadata replicas, nodes, gateways.

use crate::config::{ClusterSection, Credentials};
use crate::layout::{Layout, Wishes};
use crate::rdma_places::RdmaPlace;
use crate::supervisor::{Process, Spec, State};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tenfour_metadata::api::cluster::ClusterDone;
use tenfour_metadata::api::{ClusterCommand, ClusterRefusal};
use tenfour_metadata::{Metadata, MetadataConfig};
use tenfour_types::Scaled;
use tokio::time::{Instant, sleep};

/// How long the processes may take to serve.
pub const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(50);

/// The processes of a cluster, all children of this one.
pub struct LocalCluster {
    /// Its folder.
    pub layout: Layout,
    /// The metadata replicas.
    pub metas: Vec<Process>,
    /// The nodes.
    pub nodes: Vec<Process>,
    /// The gateways.
    pub gateways: Vec<Process>,
    metadata: Metadata,
}

impl LocalCluster {
    /// Starts the cluster in `root`, created there when there is none, and waits until S3 is served at full width.
    pub async fn start(root: &Path, wishes: Wishes, restart: bool) -> Result<Self> {
        let layout = Layout::open_or_create(root, wishes)?;
        free_to_listen(
            &layout.s3_addresses(),
            "S3 cannot be served",
            "choose another address with --s3 ADDRESS:PORT",
        )?;
        free_to_listen(
            &layout.rdma()?.iter().map(|place| place.address).collect::<Vec<_>>(),
            "S3 cannot be served over RDMA",
            "choose another address with --rdma ADDRESS:PORT",
        )?;
        let edit = format!("choose other ports in {}", layout.root.join("cluster.toml").display());
        free_to_listen(&layout.plan.metadata, "a metadata replica cannot listen", &edit)?;
        let spawn = |kind: &str, name: String| {
            Process::spawn(Spec {
                arguments: [
                    kind,
                    "--config",
                    &layout.config_file(&name).display().to_string(),
                    "--end-with-stdin",
                ]
                .map(str::to_owned)
                .to_vec(),
                log: layout.log_file(&name),
                restart,
                name,
            })
        };
        let metas: Vec<Process> = layout.metas().into_iter().map(|name| spawn("meta", name)).collect();
        all_ready(&metas).await?;
        let metadata = connect_within(&layout.cluster_section(), READY_DEADLINE.scaled()).await?;
        let nodes: Vec<Process> = layout.nodes().into_iter().map(|name| spawn("node", name)).collect();
        all_ready(&nodes).await?;
        match metadata.cluster(ClusterCommand::BuildGroups { count: None }).await? {
            Ok(ClusterDone::Epoch(_) | _) | Err(ClusterRefusal::GroupsExist) => {}
            Err(refusal) => bail!("the placement groups cannot be laid: {refusal}"),
        }
        let gateways: Vec<Process> =
            layout.gateways().into_iter().map(|name| spawn("gateway", name)).collect();
        all_ready(&gateways).await?;
        Ok(Self { layout, metas, nodes, gateways, metadata })
    }

    /// The handle of the metadata service.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The root user's keys.
    pub fn credentials(&self) -> &Credentials {
        &self.layout.credentials
    }

    /// Where S3 is served.
    pub fn endpoints(&self) -> Vec<String> {
        self.layout.s3_addresses().iter().map(|address| format!("http://{address}")).collect()
    }

    /// Where S3 is served over RDMA.
    pub fn rdma_endpoints(&self) -> Vec<String> {
        self.layout.rdma().unwrap_or_default().iter().map(RdmaPlace::endpoints).collect()
    }

    /// The process ids of all that serve.
    pub fn pids(&self) -> Vec<u32> {
        self.metas.iter().chain(&self.nodes).chain(&self.gateways).filter_map(Process::pid).collect()
    }

    /// Waits until every placement group has its 14 targets in service.
    pub async fn wait_for_full_width(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let map = self.metadata.refresh_map().await?;
            let (full, all) = (map.groups_at_full_width(), map.groups.len());
            if full == all {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{full} of {all} placement groups are at full width after {} s", deadline.as_secs());
            }
            sleep(POLL).await;
        }
    }

    /// Stops everything in order: gateways finish their requests, nodes flush, metadata last.
    pub async fn stop(self) {
        for tier in [&self.gateways, &self.nodes, &self.metas] {
            futures::future::join_all(tier.iter().map(Process::stop)).await;
        }
    }

    /// The first process that died and is not started again, with the reason.
    pub fn first_death(&self) -> Option<(String, String)> {
        self.metas.iter().chain(&self.nodes).chain(&self.gateways).find_map(|process| match process.state() {
            State::Died { reason } => Some((process.name.clone(), reason)),
            _ => None,
        })
    }
}

/// A handle of the metadata service of a cluster.
pub async fn connect(section: &ClusterSection) -> Result<Metadata> {
    let config = MetadataConfig {
        cluster: section.cluster_id()?,
        cluster_key: section.cluster_key()?,
        peers: section.metadata.clone(),
        deadline: Duration::from_secs(10),
    };
    let peers: Vec<String> = section.metadata.iter().map(ToString::to_string).collect();
    Metadata::connect(config).await.with_context(|| {
        format!("no metadata replica answers at {}; is the cluster running (`tenfour up`)?", peers.join(", "))
    })
}

/// As [`connect`], for a process that starts together with the replicas: tries until one of them answers.
pub async fn connect_within(section: &ClusterSection, deadline: Duration) -> Result<Metadata> {
    let end = Instant::now() + deadline;
    loop {
        match connect(section).await {
            Err(error) if Instant::now() < end => tracing::warn!("{error:#}"),
            outcome => return outcome,
        }
        sleep(POLL).await;
    }
}

async fn all_ready(processes: &[Process]) -> Result<()> {
    for process in processes {
        process.ready(READY_DEADLINE.scaled()).await?;
    }
    Ok(())
}

/// A port in use is found before 18 processes are started.
fn free_to_listen(addresses: &[SocketAddr], what: &str, help: &str) -> Result<()> {
    for address in addresses {
        std::net::TcpListener::bind(address)
            .with_context(|| format!("{what} on {address}; stop what uses it, or {help}"))?;
    }
    Ok(())
}
