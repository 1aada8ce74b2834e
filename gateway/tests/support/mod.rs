//! What the tests of the HTTP front share.

pub mod client;
pub mod model;

use model::Model;
use std::net::SocketAddr;
use std::sync::Arc;
use tenfour_gateway::http::{HttpConfig, Server};
use tenfour_gateway::rdma::token::Tokens;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Users of the model: who owns what is theirs, and who owns nothing.
pub const ALICE: (&str, &str) = ("ALICE", "alice-secret-key");
pub const BOB: (&str, &str) = ("BOB", "bob-secret-key");

/// The front over the model, on a port of its own.
pub struct World {
    pub model: Model,
    pub address: SocketAddr,
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub tokens: Arc<Tokens>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl World {
    pub async fn start() -> Self {
        let model = Model::default();
        model.add_user(ALICE.0, ALICE.1, false);
        model.add_user(BOB.0, BOB.1, false);
        Self::over(model, HttpConfig::default()).await
    }

    pub async fn over(model: Model, config: HttpConfig) -> Self {
        let config = HttpConfig { listen: "127.0.0.1:0".parse().unwrap(), ..config };
        let server = Server::bind(model.clone(), config).await.unwrap();
        let (address, tokens) = (server.local_addr(), server.tokens());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Self { model, address, tokens, stop, running }
    }

    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.running.await.unwrap();
    }
}
