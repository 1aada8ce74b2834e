//! `tenfour gateway`: S3 over HTTP for clients, the fabric towards the nodes.

use super::{ProcessArguments, announce_ready, asked_to_end};
use crate::config::{self, GatewayFile};
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::time::Duration;
use tenfour_erasure::Codec;
use tenfour_gateway::http::{HttpConfig, Server, SigV2};
use tenfour_gateway::{Gateway, GatewayConfig};

/// Serves until it is asked to end.
pub async fn run(arguments: ProcessArguments) -> Result<()> {
    let file: GatewayFile = config::read(&arguments.config)?;
    file.cluster.timeout_scale.set_for_process();
    let gateway = Gateway::start(gateway_config(&file)?).await.context("the gateway cannot start")?;
    let server = Server::bind(gateway.clone(), http_config(&file)?).await?;
    announce_ready();
    let asked_to_end = async {
        if let Err(error) = asked_to_end(arguments.end_with_stdin).await {
            tracing::error!(%error, "signals cannot be waited for");
        }
    };
    server.run(asked_to_end).await;
    gateway.shutdown().await;
    Ok(())
}

fn gateway_config(file: &GatewayFile) -> Result<GatewayConfig> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(GatewayConfig {
        name: file.name.clone().unwrap_or_else(|| format!("{host}:{}", file.listen.port())),
        pool_bytes: file.pool.as_usize(),
        codec: codec(&file.codec)?,
        fabric: file.fabric.parse()?,
        node_down_after: Duration::from_millis(file.node_down_after_ms),
        ..GatewayConfig::new(
            file.cluster.cluster_id()?,
            file.cluster.cluster_key()?,
            file.cluster.metadata.clone(),
        )
    })
}

fn http_config(file: &GatewayFile) -> Result<HttpConfig> {
    Ok(HttpConfig {
        listen: file.listen,
        region: file.region.clone(),
        domain: file.domain.clone(),
        sigv2: match file.sigv2.as_str() {
            "off" => SigV2::Off,
            "presigned" => SigV2::Presigned,
            "on" => SigV2::On,
            other => bail!("sigv2 = {other:?}: it is off, presigned or on"),
        },
        ..HttpConfig::default()
    })
}

fn codec(name: &str) -> Result<Arc<dyn Codec>> {
    if name == "auto" {
        return Ok(tenfour_erasure::best());
    }
    tenfour_erasure::by_name(name).with_context(|| {
        let names: Vec<_> = tenfour_erasure::all().iter().map(|codec| codec.name()).collect();
        format!("codec = {name:?}: this machine can run auto, {}", names.join(", "))
    })
}
