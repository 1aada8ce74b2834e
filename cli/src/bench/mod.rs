//! `tenfour bench`: measured, never asserted.

mod encode;
mod fabric;
mod list;
mod load;
mod processes;
mod rdma;
mod s3;

use anyhow::{Context, Result};
use tenfour_client::S3;

/// Subcommands of `tenfour bench`.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum BenchCommand {
    /// Load any S3 endpoint in a closed loop: PUT and GET, contents verified.
    S3(s3::S3Arguments),
    /// Every encoder that this machine can run, beside reed-solomon-erasure, ISA-L and the memory bus.
    Encode(encode::EncodeArguments),
    /// The fabric alone between two processes: latency and rate of WRITE, READ, SEND and grants, by size and transport.
    Fabric(fabric::FabricArguments),
    /// The other process of `fabric`.
    #[command(hide = true)]
    FabricPeer(fabric::PeerArguments),
    /// S3 over RDMA beside HTTP: GET and PUT over every transport that a gateway serves, in turns, contents verified.
    Rdma(rdma::RdmaArguments),
    /// List many keys under few common prefixes: the time must not grow with the keys skipped.
    List(list::ListArguments),
}

impl BenchCommand {
    /// How many threads it is to run on: the two ends of the fabric have one core each.
    pub fn workers(&self, cores: usize) -> usize {
        match self {
            Self::Fabric(_) | Self::FabricPeer(_) => 1,
            Self::S3(_) | Self::Rdma(_) | Self::Encode(_) | Self::List(_) => cores,
        }
    }
}

/// Measures.
pub async fn run(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::S3(arguments) => s3::run(arguments).await,
        BenchCommand::Encode(arguments) => encode::run(&arguments),
        BenchCommand::Fabric(arguments) => fabric::run(arguments).await,
        BenchCommand::FabricPeer(arguments) => fabric::run_peer(arguments).await,
        BenchCommand::Rdma(arguments) => rdma::run(arguments).await,
        BenchCommand::List(arguments) => list::run(arguments).await,
    }
}

/// Where to load, and as whom.
#[derive(clap::Args, Clone, Debug)]
pub struct Endpoint {
    /// The S3 endpoint.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9000")]
    pub endpoint: String,
    /// The region to sign for.
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    pub region: String,
    /// A bucket for the load; created when it is not there.
    #[arg(long, value_name = "NAME", default_value = "tenfour-bench")]
    pub bucket: String,
    /// The access key.
    #[arg(long, value_name = "KEY", env = "AWS_ACCESS_KEY_ID", hide_env_values = true)]
    pub access_key: String,
    /// The secret key.
    #[arg(long, value_name = "SECRET", env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    pub secret_key: String,
}

impl Endpoint {
    async fn client(&self) -> Result<S3> {
        let client = S3::new(&self.endpoint, &self.region, &self.bucket, &self.access_key, &self.secret_key)?;
        client
            .create_bucket()
            .await
            .with_context(|| format!("bucket {} at {}", self.bucket, self.endpoint))?;
        Ok(client)
    }
}
