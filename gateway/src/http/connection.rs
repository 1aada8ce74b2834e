//! The listening socket, its connections and their end.
//!
//! HTTP/1.1 with keep-alive. A connection beyond the limit waits in the kernel's backlog. A stop lets requests finish, for
//! a bounded time. When an answer was sent before the request's body was read, the connection is closed only after the
//! client had time to read the answer: closing at once would reset it.

use super::HttpConfig;
use super::handler::Handler;
use super::socket::Socket;
use crate::ops::Backend;
use crate::rdma::token::Tokens;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tenfour_types::Scaled;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// A request's headers must have come within this time; so long may a connection be idle, too.
const HEADERS_WITHIN: Duration = Duration::from_secs(60);
/// Most bytes that are read from a socket before they are handed on; so large may a request's headers be.
const READ_BUFFER_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 128;
/// After an answer to a request that was not read to its end, so long is the rest taken and thrown away.
const LINGER: Duration = Duration::from_secs(2);
/// Pause after the listener failed (too many open files, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why serving could not begin, or ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen for S3 clients on {address}: {source}{}", advice(source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The domain for bucket names in `Host` is none.
    #[error(
        "'{0}' is not a domain that buckets' names could stand before (give the port too, when it is not 80 or 443)"
    )]
    Domain(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ". Another process has the port: stop it, or choose another address",
        io::ErrorKind::PermissionDenied => {
            ". Ports below 1024 need the right to bind them: choose a higher one"
        }
        io::ErrorKind::AddrNotAvailable => ". This machine has no such address",
        _ => "",
    }
}

/// A socket that listens for S3 clients.
pub struct Server<B> {
    listener: TcpListener,
    address: SocketAddr,
    handler: Arc<Handler<B>>,
    config: HttpConfig,
}

impl<B: Backend> Server<B> {
    /// Listens; nobody is answered before [`Server::run`].
    pub async fn bind(backend: B, config: HttpConfig) -> Result<Self, ServeError> {
        let handler = Arc::new(Handler::new(backend, &config)?);
        let bind_error = |source| ServeError::Bind { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        Ok(Self { listener, address, handler, config })
    }

    /// What serves bodies that go by RDMA; also later.
    pub fn tokens(&self) -> Arc<Tokens> {
        self.handler.tokens().clone()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` resolves, and then lets the requests that run finish.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { listener, handler, config, .. } = self;
        let permits = Arc::new(Semaphore::new(config.connections_max));
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = async {
                let permit = permits.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            tokio::select! {
                () = &mut shutdown => break,
                (permit, accepted) = accepted => match accepted {
                    Ok((stream, peer)) => {
                        let (handler, stopped) = (handler.clone(), stopped.clone());
                        connections.spawn(async move {
                            let _permit = permit;
                            serve(stream, peer, handler, stopped).await;
                        });
                    }
                    Err(error) => {
                        warn!(%error, "accepting an S3 connection failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
            while connections.try_join_next().is_some() {}
        }
        drop(listener);
        let _ = stop.send(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(config.stop_within.scaled(), all).await.is_err() {
            warn!("requests that still ran were cut off");
        }
    }
}

async fn serve<B: Backend>(
    stream: TcpStream,
    peer: SocketAddr,
    handler: Arc<Handler<B>>,
    mut stopped: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = handler.clone();
        Box::pin(async move { handler.answer(request, peer).await })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN.scaled())
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Socket::new(stream)), service);
    let stop = async move { stopped.wait_for(|&stop| stop).await.is_ok() };
    let ended = {
        let mut stop = std::pin::pin!(stop);
        tokio::select! {
            ended = poll_fn(|context| connection.poll_without_shutdown(context)) => Some(ended),
            _ = &mut stop => None,
        }
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|context| connection.poll_without_shutdown(context)).await
        }
    };
    match ended {
        Ok(()) => linger(connection.into_parts().io.into_inner().into_inner()).await,
        Err(error) => debug!(%peer, %error, "an S3 connection broke"),
    }
}

/// Says that no more comes, and takes what the client still sends until it has seen that.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut discarded = [0; 16 << 10];
    let drain = async { while matches!(stream.read(&mut discarded).await, Ok(read) if read > 0) {} };
    let _ = tokio::time::timeout(LINGER.scaled(), drain).await;
}
