//! Where `tenfour bench rdma` finds a gateway: in the folder of a cluster on this machine, or where its options say.

use super::RdmaArguments;
use crate::bench::processes::Processes;
use crate::config::{self, Credentials, GatewayFile};
use crate::layout::cluster_section_of;
use anyhow::{Context, Result, bail};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tenfour_client::S3;
use tenfour_rdma::{Endpoint, Fabric};

/// A gateway, and who loads it.
pub(super) struct Place {
    pub(super) http: String,
    pub(super) rdma: Vec<Endpoint>,
    pub(super) region: String,
    pub(super) keys: Credentials,
    pub(super) processes: Processes,
    /// Of a cluster on this machine.
    pub(super) folder: Option<PathBuf>,
    bucket: String,
}

impl Place {
    pub(super) fn find(arguments: &RdmaArguments) -> Result<Self> {
        let mut place = match &arguments.data {
            Some(folder) => Self::of_cluster(folder, arguments)?,
            None => Self::as_named(arguments)?,
        };
        if !arguments.fabric.is_empty() {
            for provider in &arguments.fabric {
                provider.available().with_context(|| format!("--fabric {provider}"))?;
                if !place.rdma.iter().any(|endpoint| endpoint.provider() == *provider) {
                    bail!("--fabric {provider}: the gateway does not serve S3 over it");
                }
            }
            place.rdma.retain(|endpoint| arguments.fabric.contains(&endpoint.provider()));
        }
        Ok(place)
    }

    /// The first gateway of a cluster on this machine.
    fn of_cluster(folder: &Path, arguments: &RdmaArguments) -> Result<Self> {
        cluster_section_of(folder)?.timeout_scale.set_for_process();
        let file: GatewayFile = config::read(&folder.join("gateway-1").join("config.toml"))?;
        if file.rdma_listen.is_empty() {
            bail!(
                "the cluster in {} does not serve S3 over RDMA: start it with `tenfour up --rdma`",
                folder.display()
            );
        }
        let served = Fabric::Auto.endpoints(&file.rdma_listen)?;
        let keys = config::read(&folder.join("credentials"))?;
        Ok(Self {
            http: format!("http://{}", reachable(file.listen)),
            rdma: served.into_iter().map(|at| at.endpoint).collect(),
            region: file.region,
            keys,
            processes: Processes::of_cluster(folder)?,
            folder: Some(folder.to_owned()),
            bucket: arguments.bucket.clone(),
        })
    }

    fn as_named(arguments: &RdmaArguments) -> Result<Self> {
        let (Some(http), Some(access_key), Some(secret_key)) =
            (arguments.endpoint.clone(), arguments.access_key.clone(), arguments.secret_key.clone())
        else {
            bail!(
                "where to? Give --data DIR for a cluster of this machine, or --at, --endpoint, --access-key and --secret-key"
            );
        };
        if arguments.at.is_empty() {
            bail!("--at says where the gateway serves S3 over RDMA, such as verbs:10.0.0.4:9100");
        }
        Ok(Self {
            http,
            rdma: arguments.at.clone(),
            region: arguments.region.clone(),
            keys: Credentials { access_key, secret_key },
            processes: Processes::of_pids(&arguments.pids)?,
            folder: None,
            bucket: arguments.bucket.clone(),
        })
    }

    /// The bucket over HTTP; it is there afterwards.
    pub(super) async fn bucket(&self) -> Result<S3> {
        let Credentials { access_key, secret_key } = &self.keys;
        let client = S3::new(&self.http, &self.region, &self.bucket, access_key, secret_key)?;
        client.create_bucket().await.with_context(|| format!("bucket {} at {}", self.bucket, self.http))?;
        Ok(client)
    }

    pub(super) fn bucket_name(&self) -> &str {
        &self.bucket
    }
}

/// An address to connect to, of one to listen at.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}
