//! `tenfour meta`: one replica of the metadata service.

use super::{ProcessArguments, announce_ready, asked_to_end};
use crate::config::{self, Credentials, MetaFile};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::time::Duration;
use tenfour_metadata::api::User;
use tenfour_metadata::{MetadataServer, MetadataServerConfig};

/// Runs the replica until it is asked to end, or until its Raft core or store died.
pub async fn run(arguments: ProcessArguments) -> Result<()> {
    let file: MetaFile = config::read(&arguments.config)?;
    file.cluster.timeout_scale.set_for_process();
    let server =
        MetadataServer::start(server_config(&file)?).await.context("the metadata replica cannot start")?;
    announce_ready();
    let fatal = tokio::select! {
        asked = asked_to_end(arguments.end_with_stdin) => { asked?; None }
        reason = server.fatal() => Some(reason),
    };
    server.shutdown().await;
    fatal.map_or(Ok(()), |reason| bail!("the replica must be started again: {reason}"))
}

fn server_config(file: &MetaFile) -> Result<MetadataServerConfig> {
    let number = |(number, address): (&String, &std::net::SocketAddr)| {
        let number =
            number.parse::<u64>().with_context(|| format!("peers: {number:?} is not a replica's number"))?;
        Ok((number, *address))
    };
    if file.node_out_after_ms > 0 && file.node_out_after_ms < file.node_down_after_ms {
        bail!(
            "node_out_after_ms = {} is less than node_down_after_ms = {}: a node is down before it is out; raise it, or set 0 for never",
            file.node_out_after_ms,
            file.node_down_after_ms
        );
    }
    let root_user =
        file.credentials_file.as_ref().map(|path| config::read::<Credentials>(path)).transpose()?;
    let peers = file.peers.iter().map(number).collect::<Result<BTreeMap<_, _>>>()?;
    let (cluster, key) = (file.cluster.cluster_id()?, file.cluster.cluster_key()?);
    Ok(MetadataServerConfig {
        index_groups: file.index_groups,
        bootstrap: file.bootstrap,
        root_user: root_user.map(|keys| User {
            access_key: keys.access_key,
            secret_key: keys.secret_key,
            display_name: "root".to_owned(),
            enabled: true,
            root: true,
        }),
        node_suspect_after: suspect_after(file),
        node_down_after: Duration::from_millis(file.node_down_after_ms),
        node_out_after: (file.node_out_after_ms > 0).then(|| Duration::from_millis(file.node_out_after_ms)),
        ..MetadataServerConfig::new(file.id, cluster, key, peers, file.listen, file.folder.clone())
    })
}

/// Half the time until it is down, unless said otherwise.
fn suspect_after(file: &MetaFile) -> Duration {
    Duration::from_millis(file.node_suspect_after_ms.unwrap_or(file.node_down_after_ms / 2))
}
