//! The door of S3 over RDMA over some backend, honest clients of it, and clients that speak the protocol by hand, so that they can
//! also speak it wrongly.

use bytes::Bytes;
use futures::future::BoxFuture;
use std::time::{Duration, Instant};
use tenfour_client::native::{Client, ClientConfig};
use tenfour_gateway::Gateway;
use tenfour_gateway::doors::open_rdma;
use tenfour_gateway::ops::Backend;
use tenfour_gateway::rdma::{DoorStatus, RdmaConfig, RdmaServer};
use tenfour_rdma::{
    ClusterKey, ConnectError, ConnectOptions, Connection, Domain, DomainConfig, Endpoint, Frozen, Provider,
    Received,
};
use tenfour_types::native::login::{Secrets, SigningKey, carrier_code, date_of};
use tenfour_types::native::{
    Greeting, Login, LoginAnswer, OPEN_DOOR_KEY_IS_PUBLIC, Opener, Refusal, Request, Sealer, ToClient,
    ToGateway, Welcome,
};
use tenfour_types::{TimeScale, Wire as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct Door {
    pub shm: Endpoint,
    pub tcp: Endpoint,
    /// In the virtual machine.
    pub verbs: Option<Endpoint>,
    pub status: DoorStatus,
    _folder: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

/// A door on shm and on tcp, and in the virtual machine on its device.
fn somewhere() -> (tempfile::TempDir, RdmaConfig) {
    scale_times();
    let folder = tempfile::tempdir().unwrap();
    let shm = Endpoint::Shm(folder.path().join("s3.sock"));
    let tcp: Endpoint = "tcp:127.0.0.1:0".parse().unwrap();
    let listen = [Some(shm), Some(tcp), device()].into_iter().flatten();
    (folder, RdmaConfig::new(listen.map(Into::into).collect()))
}

impl Door {
    pub async fn open<B: Backend>(backend: B, change: impl FnOnce(&mut RdmaConfig)) -> Self {
        let (folder, mut config) = somewhere();
        change(&mut config);
        let server = RdmaServer::bind(backend, config).await.unwrap();
        let (endpoints, status) = (server.endpoints(), server.status());
        Self::run(folder, endpoints, status, |stop| tokio::spawn(server.run(stop)))
    }

    pub async fn at_gateway(gateway: Gateway) -> Self {
        let (folder, config) = somewhere();
        let door = open_rdma(gateway, config).await.unwrap();
        let (endpoints, status) = (door.at.endpoints.clone(), door.at.status.clone());
        Self::run(folder, endpoints, status, |stop| tokio::spawn(door.serve(stop)))
    }

    fn run(
        folder: tempfile::TempDir,
        endpoints: Vec<Endpoint>,
        status: DoorStatus,
        run: impl FnOnce(BoxFuture<'static, ()>) -> JoinHandle<()>,
    ) -> Self {
        let mut endpoints = endpoints.into_iter();
        let [shm, tcp] = [(); 2].map(|()| endpoints.next().unwrap());
        let verbs = endpoints.next();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = run(Box::pin(async move { drop(stopped.await) }));
        Self { shm, tcp, verbs, status, _folder: folder, stop, running }
    }

    pub fn at(&self, provider: Provider) -> Endpoint {
        match provider {
            Provider::Shm => self.shm.clone(),
            Provider::Tcp => self.tcp.clone(),
            Provider::Verbs => self.verbs.clone().expect("a device: run this in tools/with-rxe"),
        }
    }

    pub async fn client(&self, provider: Provider, user: (&str, &str)) -> Client {
        Client::connect(self.config(provider, user)).await.unwrap()
    }

    pub fn config(&self, provider: Provider, user: (&str, &str)) -> ClientConfig {
        let mut config = ClientConfig::new(user.0, user.1);
        config.endpoints = vec![self.at(provider)];
        config
    }

    /// Every client has gone, and nothing of any is left.
    pub async fn is_empty_again(&self) {
        eventually("the door is empty again", || {
            self.status.used_bytes() == 0 && self.status.connections() == 0
        })
        .await;
    }

    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.running.await.unwrap();
    }
}

/// Times are longer in the virtual machine, which is emulated.
pub fn scale_times() {
    if std::env::var_os("RXE_GUEST").is_some() {
        TimeScale::try_from(10.0).unwrap().set_for_process();
    }
}

/// Where the virtual machine has an address of its device.
fn device() -> Option<Endpoint> {
    let addresses = std::env::var("RXE_IPS").ok()?;
    Provider::Verbs.available().ok()?;
    Some(format!("verbs:{}:0", addresses.split(' ').next()?).parse().unwrap())
}

/// A time of the tests themselves, longer there too.
pub fn slow(time: Duration) -> Duration {
    if std::env::var_os("RXE_GUEST").is_some() { time * 10 } else { time }
}

pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < slow(Duration::from_secs(20)), "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A client by hand.
pub struct Raw {
    pub domain: Domain,
    pub connection: Connection,
    pub sealer: Sealer,
    pub opener: Opener,
    pub welcome: Welcome,
}

pub fn domain(provider: Provider) -> Domain {
    let key = ClusterKey::from_bytes(OPEN_DOOR_KEY_IS_PUBLIC);
    Domain::open(DomainConfig::new(provider, "raw", key, 4 << 20)).unwrap()
}

pub fn today() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    date_of((since.as_secs() / 86_400) as i64)
}

/// A connection that has not logged in, and the two greetings. Waits for a place: those who left may not have been let go yet.
pub async fn knock(domain: &Domain, at: &Endpoint) -> (Connection, Greeting, Greeting) {
    let begun = Instant::now();
    loop {
        let ours = Greeting::new(rand::random());
        let options = ConnectOptions { private_data: ours.encode().to_vec(), ..ConnectOptions::default() };
        match domain.connect(at, options).await {
            Ok(connection) => {
                let theirs = Greeting::decode(connection.peer_private_data()).unwrap();
                return (connection, ours, theirs);
            }
            Err(ConnectError::Rejected | ConnectError::TooMany)
                if begun.elapsed() < slow(Duration::from_secs(20)) =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn secrets(
    connection: &Connection,
    greetings: (&Greeting, &Greeting),
    user: (&str, &str),
    date: &str,
) -> Secrets {
    let key = SigningKey::derive(user.1, date, "us-east-1");
    let carrier = carrier_code(&connection.provider().to_string());
    Secrets::new(key, greetings.0, greetings.1, carrier, (user.0, date, "us-east-1"))
}

pub fn login(secrets: &Secrets, user: &str, date: &str) -> Login {
    Login {
        access_key: user.to_owned(),
        date: date.to_owned(),
        region: "us-east-1".to_owned(),
        proof: secrets.client_proof(),
    }
}

/// The answer to a login; `None` when the gateway hangs up.
pub async fn answer_to(connection: &Connection, login: &Login) -> Option<LoginAnswer> {
    connection.send(Bytes::from(login.to_bytes())).await.ok()?;
    match connection.recv().await.ok()? {
        Received::Message(message) => Some(LoginAnswer::from_bytes(&message).unwrap()),
        Received::Immediate { .. } => panic!("a gateway writes nothing here"),
    }
}

impl Raw {
    pub async fn enter(at: &Endpoint, user: (&str, &str)) -> Result<Self, Refusal> {
        Self::enter_with(domain(at.provider()), at, user).await
    }

    pub async fn enter_with(domain: Domain, at: &Endpoint, user: (&str, &str)) -> Result<Self, Refusal> {
        let (connection, ours, theirs) = knock(&domain, at).await;
        let date = today();
        let secrets = secrets(&connection, (&ours, &theirs), user, &date);
        match answer_to(&connection, &login(&secrets, user.0, &date)).await {
            Some(LoginAnswer::Proved(proof)) => assert!(secrets.is_gateway_proof(proof)),
            Some(LoginAnswer::Refused(refusal)) => return Err(refusal),
            None => panic!("the gateway hung up"),
        }
        let keys = secrets.session_keys();
        let (sealer, opener) = (Sealer::new(keys.to_gateway), Opener::new(keys.to_client));
        let welcome = Welcome { slots: Vec::new(), requests_max: 0, carrier: String::new() };
        let mut raw = Self { domain, connection, sealer, opener, welcome };
        match raw.receive().await {
            Some(ToClient::Welcome(welcome)) => raw.welcome = welcome,
            other => panic!("{other:?}"),
        }
        Ok(raw)
    }

    /// The next frame with a message; it counts as sent.
    pub fn frame(&mut self, message: &ToGateway) -> Vec<u8> {
        let message = message.to_bytes();
        let head = self.sealer.head(&message).unwrap();
        self.sealer.sent();
        [&head[..], &message].concat()
    }

    pub async fn send(&mut self, message: &ToGateway) {
        let frame = self.frame(message);
        self.connection.send(frame.into()).await.unwrap();
    }

    pub async fn ask(&mut self, id: u32, request: Request) {
        self.send(&ToGateway::Request { id, request }).await;
    }

    /// The next message; `None` when the gateway has hung up.
    pub async fn receive(&mut self) -> Option<ToClient> {
        match self.connection.recv().await.ok()? {
            Received::Message(frame) => {
                let (message, rest) = self.opener.open(&frame).unwrap();
                assert!(rest.is_empty());
                Some(ToClient::from_bytes(message).unwrap())
            }
            Received::Immediate { .. } => panic!("a gateway writes nothing without a word"),
        }
    }

    /// The gateway hangs up without another word to this session.
    pub async fn is_shown_out(&mut self) {
        let ended = tokio::time::timeout(slow(Duration::from_secs(5)), self.connection.closed()).await;
        assert!(ended.is_ok(), "the connection still stands");
    }

    pub async fn frozen(&self, bytes: &[u8]) -> Frozen {
        let mut buffer = self.domain.pool().lease(bytes.len()).await.unwrap();
        buffer.copy_from_slice(bytes);
        buffer.freeze()
    }
}
