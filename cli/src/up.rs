//! `tenfour up`: a whole cluster on this machine, supervised until Ctrl-C.

use crate::cluster::LocalCluster;
use crate::config::Credentials;
use crate::layout::Wishes;
use crate::process::{asked_to_end, codec};
use crate::units::ByteSize;
use anyhow::{Result, bail};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tenfour_rdma::{Fabric, Provider};
use tenfour_types::TimeScale;

/// Options of `tenfour up`.
#[derive(clap::Args, Clone, Debug)]
pub struct UpArguments {
    /// Folder of the cluster: created when there is none.
    #[arg(long, value_name = "DIR", default_value = "tenfour-data")]
    pub data: PathBuf,
    /// Where S3 is served; further gateways take the ports after it.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9000")]
    pub s3: SocketAddr,
    /// Serve S3 over RDMA too, there and on a socket of this host; further gateways take the ports after it.
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:9100")]
    pub rdma: Option<SocketAddr>,
    /// Number of node processes of a new cluster [default: 14].
    #[arg(long, value_name = "N")]
    pub nodes: Option<u32>,
    /// Number of gateway processes.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub gateways: u16,
    /// Region of a new cluster [default: us-east-1].
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// The fabric.
    #[command(flatten)]
    pub fabric: FabricArguments,
    /// What ETags are: md5, or fast, which costs nothing and is no MD5.
    #[arg(long, value_name = "KIND", default_value = "md5", value_parser = ["md5", "fast"])]
    pub etag: String,
    /// Who encodes: auto, cpu, gpu, or the name of an encoder of the CPU.
    #[arg(long, value_name = "CODEC", default_value = "auto")]
    pub codec: String,
    /// Access key of the root user of a new cluster; generated when absent.
    #[arg(long, value_name = "KEY", env = "TENFOUR_ACCESS_KEY", hide_env_values = true)]
    pub access_key: Option<String>,
    /// Secret key of the root user of a new cluster; generated when absent.
    #[arg(long, value_name = "SECRET", env = "TENFOUR_SECRET_KEY", hide_env_values = true)]
    pub secret_key: Option<String>,
    /// Size of the nodes' segment files.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", hide = true)]
    pub segment: ByteSize,
    /// End when standard input is closed.
    #[arg(long, hide = true)]
    pub end_with_stdin: bool,
}

/// What carries shards between the processes of a machine, and how patient they are.
#[derive(clap::Args, Clone, Debug)]
pub struct FabricArguments {
    /// What carries shards between processes: auto, verbs, shm or tcp.
    #[arg(long, value_name = "FABRIC", default_value_t = Fabric::Auto)]
    pub fabric: Fabric,
    /// Addresses of this machine for the nodes to listen at, dealt out in turn [default: 127.0.0.1]; verbs needs those of an RDMA
    /// device.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', env = "TENFOUR_NODE_ADDRESSES")]
    pub node_addresses: Vec<IpAddr>,
    /// Multiplies every deadline, timeout, hedge and heartbeat: for machines that are slow, not broken.
    #[arg(long, value_name = "FACTOR", default_value_t = TimeScale::default())]
    pub timeout_scale: TimeScale,
}

impl FabricArguments {
    /// Says now, and not in a log, what cannot work; sets this process's own patience.
    pub fn check(&self) -> Result<()> {
        self.timeout_scale.set_for_process();
        self.fabric.providers()?;
        if self.fabric == Fabric::Only(Provider::Verbs) && self.node_addresses.is_empty() {
            bail!(
                "--fabric verbs: name addresses of the RDMA device with --node-addresses (or TENFOUR_NODE_ADDRESSES)"
            );
        }
        Ok(())
    }
}

impl UpArguments {
    fn wishes(&self) -> Result<Wishes> {
        Ok(Wishes {
            s3: self.s3,
            rdma: self.rdma,
            nodes: self.nodes,
            gateways: self.gateways,
            region: self.region.clone(),
            fabric: self.fabric.clone(),
            etag: self.etag.clone(),
            codec: self.codec.clone(),
            credentials: root_credentials(self.access_key.as_deref(), self.secret_key.as_deref())?,
            segment: self.segment,
        })
    }
}

/// Starts the cluster and keeps it up.
pub async fn run(arguments: UpArguments) -> Result<()> {
    arguments.fabric.check()?;
    codec::check(&arguments.codec)?;
    eprintln!("starting a cluster in {} …", arguments.data.display());
    let cluster = LocalCluster::start(&arguments.data, arguments.wishes()?, true).await?;
    print_welcome(&cluster);
    asked_to_end(arguments.end_with_stdin).await?;
    eprintln!("\nstopping …");
    cluster.stop().await;
    eprintln!("stopped; `tenfour up` starts the same cluster again");
    Ok(())
}

fn print_welcome(cluster: &LocalCluster) {
    let keys = cluster.credentials();
    let region = &cluster.layout.plan.region;
    let endpoints = cluster.endpoints();
    let first = endpoints.first().map_or("", String::as_str);
    let rdma = cluster.rdma_endpoints().join("  ");
    let rdma = if rdma.is_empty() { rdma } else { format!("  over RDMA   {rdma}\n") };
    // Whoever started it may have stopped reading: that is no reason to end.
    let _ = writeln!(
        std::io::stdout(),
        "\ntenfour is up: {} metadata replicas, {} nodes, {} gateway{}\n\n  S3          {}\n{rdma}  region      {region}\n  access key  {}\n  \
         secret key  {}\n  data        {}\n\nTry it:\n\n  export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} AWS_DEFAULT_REGION={region} \
         AWS_ENDPOINT_URL={first}\n  aws s3 mb s3://photos\n  aws s3 cp README.md s3://photos/\n  aws s3 ls --recursive s3://photos\n\n\
         `tenfour status --data {}` shows how it fares; Ctrl-C stops it.",
        cluster.metas.len(),
        cluster.nodes.len(),
        cluster.gateways.len(),
        if cluster.gateways.len() == 1 { "" } else { "s" },
        endpoints.join("  "),
        keys.access_key,
        keys.secret_key,
        cluster.layout.root.display(),
        keys.access_key,
        keys.secret_key,
        cluster.layout.root.display(),
    );
}

/// Both keys or neither, and none that SigV4 or a URL would trip over.
pub fn root_credentials(access_key: Option<&str>, secret_key: Option<&str>) -> Result<Option<Credentials>> {
    let (access_key, secret_key) = match (access_key, secret_key) {
        (None, None) => return Ok(None),
        (Some(access_key), Some(secret_key)) => (access_key, secret_key),
        _ => bail!(
            "give both --access-key and --secret-key (TENFOUR_ACCESS_KEY and TENFOUR_SECRET_KEY), or neither"
        ),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !(3..=128).contains(&access_key.len()) || !access_key.bytes().all(plain) {
        bail!("the access key has 3 to 128 letters, digits, '-', '_' or '.'");
    }
    if !(8..=128).contains(&secret_key.len()) || !secret_key.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("the secret key has 8 to 128 visible ASCII characters");
    }
    Ok(Some(Credentials { access_key: access_key.to_owned(), secret_key: secret_key.to_owned() }))
}
