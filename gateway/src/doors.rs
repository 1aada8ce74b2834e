//! A gateway's doors, S3 over HTTP and over RDMA, opened and ready to serve.
//!
//! The servers take any [`crate::ops::Backend`]; here they are put before a [`Gateway`]. Their futures are boxed, so that the
//! pipelines behind them are compiled once, with this crate, and not again with every program that opens a door.

use crate::Gateway;
use crate::http::{HttpConfig, ServeError, Server};
use crate::rdma::{DoorError, DoorStatus, RdmaConfig, RdmaServer};
use futures::future::BoxFuture;
use std::future::Future;
use std::net::SocketAddr;
use tenfour_rdma::Endpoint;

type Serve = Box<dyn FnOnce(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send>;

/// A door that listens; nobody is answered before [`OpenDoor::serve`].
pub struct OpenDoor<At> {
    /// Where it is.
    pub at: At,
    serve: Serve,
}

impl<At> OpenDoor<At> {
    /// Answers until `shutdown` resolves, and then lets the requests that run finish.
    pub fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> BoxFuture<'static, ()> {
        (self.serve)(Box::pin(shutdown))
    }
}

/// Where S3 over RDMA is served.
pub struct RdmaDoor {
    /// With the ports that were chosen.
    pub endpoints: Vec<Endpoint>,
    /// What it holds, also later.
    pub status: DoorStatus,
}

/// Listens for S3 over HTTP.
pub fn open_http(
    gateway: Gateway,
    config: HttpConfig,
) -> BoxFuture<'static, Result<OpenDoor<SocketAddr>, ServeError>> {
    Box::pin(async move {
        let server = Server::bind(gateway, config).await?;
        let at = server.local_addr();
        Ok(OpenDoor { at, serve: Box::new(|shutdown| Box::pin(server.run(shutdown))) })
    })
}

/// Listens for S3 over RDMA.
pub fn open_rdma(
    gateway: Gateway,
    config: RdmaConfig,
) -> BoxFuture<'static, Result<OpenDoor<RdmaDoor>, DoorError>> {
    Box::pin(async move {
        let server = RdmaServer::bind(gateway, config).await?;
        let at = RdmaDoor { endpoints: server.endpoints(), status: server.status() };
        Ok(OpenDoor { at, serve: Box::new(|shutdown| Box::pin(server.run(shutdown))) })
    })
}
