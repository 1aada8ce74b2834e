//! `tenfour gateway`: S3 over HTTP and over RDMA for clients, the fabric towards the nodes.

use super::codec::{self, Encoder};
use super::{ProcessArguments, announce_ready, asked_to_end};
use crate::config::{self, GatewayFile};
use crate::counters::{self, Counters, Door};
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tenfour_gateway::doors::{open_http, open_rdma};
use tenfour_gateway::http::{HttpConfig, SigV2};
use tenfour_gateway::rdma::token::TokenConfig;
use tenfour_gateway::rdma::{DOOR_BYTES_MIN, RdmaConfig};
use tenfour_gateway::{EtagKind, Gateway, GatewayConfig};
use tenfour_rdma::{Endpoint, Fabric, Provider};
use tokio::sync::watch;

/// Serves until it is asked to end.
pub async fn run(arguments: ProcessArguments) -> Result<()> {
    let file: GatewayFile = config::read(&arguments.config)?;
    file.cluster.timeout_scale.set_for_process();
    let encoder = codec::open(&file.codec)?;
    let gateway =
        Gateway::start(gateway_config(&file, &encoder)?).await.context("the gateway cannot start")?;
    encoder.settle(&gateway);
    let http = open_http(gateway.clone(), http_config(&file)?).await?;
    let rdma = match rdma_config(&file)? {
        Some(config) => Some(open_rdma(gateway.clone(), config).await?),
        None => None,
    };
    let door = file.counters.as_deref().map(Door::open).transpose()?;
    let counted = &|| gateway.counters().all().into_iter().chain(encoder.counted()).collect();
    announce_ready();
    let (stop, stopped) = watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move { drop(stopped.wait_for(|stop| *stop).await) }
    };
    let (by_http, by_rdma) = (until_stopped(), until_stopped());
    let asked_to_end = async {
        tokio::select! {
            asked = asked_to_end(arguments.end_with_stdin) => {
                if let Err(error) = asked {
                    tracing::error!(%error, "signals cannot be waited for");
                }
            }
            () = counters::log(counted) => {}
            () = answer(door.as_ref(), counted) => {}
        }
        let _ = stop.send(true);
    };
    let serving_rdma = async {
        if let Some(rdma) = rdma {
            rdma.serve(by_rdma).await;
        }
    };
    tokio::join!(asked_to_end, http.serve(by_http), serving_rdma);
    drop(door);
    gateway.shutdown().await;
    Ok(())
}

/// Shows the counters to whoever asks, where that is wanted.
async fn answer(door: Option<&Door>, counted: impl Fn() -> Counters) {
    match door {
        Some(door) => door.serve(counted).await,
        None => std::future::pending().await,
    }
}

fn gateway_config(file: &GatewayFile, encoder: &Encoder) -> Result<GatewayConfig> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(GatewayConfig {
        name: file.name.clone().unwrap_or_else(|| format!("{host}:{}", file.listen.port())),
        pool_bytes: file.pool.as_usize(),
        codec: encoder.codec(),
        etag: etag(&file.etag)?,
        fabric: file.fabric.parse()?,
        node_down_after: Duration::from_millis(file.node_down_after_ms),
        ..GatewayConfig::new(
            file.cluster.cluster_id()?,
            file.cluster.cluster_key()?,
            file.cluster.metadata.clone(),
        )
    })
}

/// S3 over RDMA, where it is wanted.
fn rdma_config(file: &GatewayFile) -> Result<Option<RdmaConfig>> {
    if file.rdma_listen.is_empty() {
        return Ok(None);
    }
    Ok(Some(RdmaConfig {
        region: file.region.clone(),
        memory_bytes: file.rdma_memory.as_usize().saturating_sub(token_bytes(file)?),
        ..RdmaConfig::new(Fabric::Auto.endpoints(&file.rdma_listen).context("rdma_listen")?)
    }))
}

/// What of `rdma_memory` is for bodies that HTTP headers steer: nothing where there is no RDMA device to move them.
fn token_bytes(file: &GatewayFile) -> Result<usize> {
    let bytes = file.rdma_token_memory.as_usize();
    if file.rdma_listen.is_empty() || bytes == 0 || Provider::Verbs.available().is_err() {
        return Ok(0);
    }
    if bytes + DOOR_BYTES_MIN > file.rdma_memory.as_usize() {
        bail!(
            "rdma_token_memory is a part of rdma_memory, of which 16 MiB or more are left to the native protocol: raise rdma_memory, or lower \
             rdma_token_memory (0 turns it off)"
        );
    }
    Ok(bytes)
}

/// Bodies that go by RDMA, steered by HTTP headers: none, where S3 is not served over RDMA.
fn token_config(file: &GatewayFile) -> Result<TokenConfig> {
    if file.rdma_listen.is_empty() {
        return Ok(TokenConfig::default());
    }
    token_bytes(file)?;
    let places = Fabric::Auto.endpoints(&file.rdma_listen).context("rdma_listen")?;
    let listened = places.iter().find_map(|place| match place.endpoint {
        Endpoint::Verbs(address) if !address.ip().is_unspecified() => Some(address.ip()),
        _ => None,
    });
    // Also where there is no device: requests are told so then, instead of being told that nobody wants it.
    let memory_bytes = file.rdma_token_memory.as_usize();
    Ok(TokenConfig { memory_bytes, address: file.rdma_address.or(listened), ..TokenConfig::default() })
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
        tokens: token_config(file)?,
        ..HttpConfig::default()
    })
}

/// What ETags are, by that name.
pub fn etag(name: &str) -> Result<EtagKind> {
    match name {
        "md5" => Ok(EtagKind::Md5),
        "fast" => Ok(EtagKind::Fast),
        other => bail!("etag = {other:?}: it is md5 (what clients expect) or fast"),
    }
}
