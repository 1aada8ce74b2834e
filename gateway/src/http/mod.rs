//! S3 over HTTP: the server, our guards, the S3 library behind them, and the mapping of its types to ours and back.
//!
//! The library's types stay in this folder. A request passes: [`connection`] (socket, limits) → [`handler`] → [`guard`]
//! (what the library would let through) → the library (signature, routing, XML) → [`auth`] (who, which bucket) →
//! [`service`] (the operations) → [`crate::ops`] and the pipelines. The bytes of objects go round the library:
//! [`payload`] reads them off the socket straight into the pipeline's buffers. Bodies that go by RDMA are agreed on by the requests of
//! [`control`].

mod auth;
mod body;
mod chunk_signer;
mod chunked;
mod connection;
mod control;
mod errors;
mod expect;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod guard;
mod handler;
mod headers;
mod payload;
mod proof;
mod requests;
mod room;
mod service;
mod socket;
mod text;
mod translate;
mod unranged;

pub use connection::{ServeError, Server};
pub use handler::HEALTH_PATH;
pub use proof::SigV2;

use crate::ops::Backend;
use crate::rdma::token::TokenConfig;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How S3 is served.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Where to listen; 127.0.0.1:9000 by default.
    pub listen: SocketAddr,
    /// The region that signatures must name; `us-east-1` by default.
    pub region: String,
    /// The domain (with its port, unless that is 80 or 443) below which a bucket's name may stand in `Host`. Without it,
    /// buckets are named in the path only.
    pub domain: Option<String>,
    /// Where signatures of version 2 are taken; in presigned URLs only, by default.
    pub sigv2: SigV2,
    /// Connections at once; 1,024 by default.
    pub connections_max: usize,
    /// How long running requests may take to finish after a stop; 20 s by default.
    pub stop_within: Duration,
    /// Bodies that go by RDMA; none by default.
    pub tokens: TokenConfig,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9000)),
            region: "us-east-1".to_owned(),
            domain: None,
            sigv2: SigV2::default(),
            connections_max: 1024,
            stop_within: Duration::from_secs(20),
            tokens: TokenConfig::default(),
        }
    }
}

/// Serves S3 until `shutdown` resolves, and then lets the requests that run finish.
pub async fn serve<B: Backend>(
    backend: B,
    config: HttpConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    Server::bind(backend, config).await?.run(shutdown).await;
    Ok(())
}
