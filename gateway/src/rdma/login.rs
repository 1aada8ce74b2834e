//! The login: proof of who the client is, before anything else is served. See `tenfour_types::native::login`.
//!
//! Whoever is not believed learns one thing only: no. An unknown user costs the same work as a wrong proof, down to the question to
//! the metadata service whether the cached users are old.

use crate::ops::refusal::Refusal;
use crate::ops::requester::Requester;
use crate::ops::users::Refresher;
use crate::ops::{Backend, OpError, now_ms};
use bytes::Bytes;
use std::time::Duration;
use tenfour_metadata::api::Config;
use tenfour_rdma::{Connection, ConnectionError, OperationError, Received};
use tenfour_types::native::login::{Secrets, SigningKey, carrier_code, day_number};
use tenfour_types::native::{self, Greeting, LOGIN_DEADLINE_MS, Login, LoginAnswer, SessionKeys};
use tenfour_types::{DecodeError, Scaled, Wire as _};
use thiserror::Error;
use tokio::time::timeout;

/// How many days a login's date may be off.
const DAYS_OFF_MAX: i64 = 1;
const MS_PER_DAY: u64 = 24 * 3600 * 1000;

/// Why there is no session.
#[derive(Debug, Error)]
pub(super) enum LoginError {
    #[error("no login in time")]
    TimedOut,
    #[error("not a login: {0}")]
    Malformed(#[from] DecodeError),
    #[error("not a login")]
    Unexpected,
    #[error("refused")]
    Refused,
    #[error("the connection: {0}")]
    Connection(#[from] ConnectionError),
    #[error("an operation: {0}")]
    Operation(#[from] OperationError),
}

/// What a gateway asks logins for.
pub(super) struct Logins<B> {
    backend: B,
    refresher: Refresher<B>,
    region: String,
    /// Stands for the secret of users that are not there.
    nobodys_secret: String,
}

impl<B: Backend> Logins<B> {
    pub(super) fn new(backend: B, region: &str) -> Self {
        Self {
            refresher: Refresher::new(backend.clone()),
            backend,
            region: region.to_owned(),
            nobodys_secret: hex::encode(rand::random::<[u8; 20]>()),
        }
    }

    /// Who is at the other end, and the keys of what follows.
    pub(super) async fn admit(
        &self,
        connection: &Connection,
        greetings: (&Greeting, &Greeting),
    ) -> Result<(Requester, SessionKeys), LoginError> {
        let admitting = self.exchange(connection, greetings);
        timeout(Duration::from_millis(LOGIN_DEADLINE_MS).scaled(), admitting)
            .await
            .map_err(|_| LoginError::TimedOut)?
    }

    async fn exchange(
        &self,
        connection: &Connection,
        greetings: (&Greeting, &Greeting),
    ) -> Result<(Requester, SessionKeys), LoginError> {
        let Received::Message(message) = connection.recv().await? else { return Err(LoginError::Unexpected) };
        let login = Login::from_bytes(&message)?;
        let carrier = carrier_code(&connection.provider().to_string());
        match self.verify(&login, greetings, carrier).await {
            Ok((requester, secrets)) => {
                answer(connection, &LoginAnswer::Proved(secrets.gateway_proof())).await?;
                Ok((requester, secrets.session_keys()))
            }
            Err(refusal) => {
                answer(connection, &LoginAnswer::Refused(refusal)).await?;
                Err(LoginError::Refused)
            }
        }
    }

    async fn verify(
        &self,
        login: &Login,
        greetings: (&Greeting, &Greeting),
        carrier: u8,
    ) -> Result<(Requester, Secrets), native::Refusal> {
        let today = i64::try_from(now_ms() / MS_PER_DAY).unwrap_or(i64::MAX);
        let is_recent = day_number(&login.date).is_some_and(|day| (day - today).abs() <= DAYS_OFF_MAX);
        let may_be = login.is_plausible() && is_recent && login.region == self.region;
        if let Some(believed) = self.believe(&self.backend.config(), login, greetings, carrier, may_be) {
            return Ok(believed);
        }
        let newest = self.refresher.refreshed().await.map_err(|error: OpError| Refusal::from(error))?;
        let believed = self.believe(&newest, login, greetings, carrier, may_be);
        believed.ok_or_else(|| {
            let text = "The access key is not known here, or the proof is not that of its secret key, of today and of the \
                        region that this gateway serves.";
            Refusal::new("AccessDenied", text).into()
        })
    }

    fn believe(
        &self,
        config: &Config,
        login: &Login,
        greetings: (&Greeting, &Greeting),
        carrier: u8,
        may_be: bool,
    ) -> Option<(Requester, Secrets)> {
        let user = config.users.get(&login.access_key).filter(|user| user.enabled);
        let secret = user.map_or(self.nobodys_secret.as_str(), |user| &user.secret_key);
        let key = SigningKey::derive(secret, &login.date, &login.region);
        let names = (login.access_key.as_str(), login.date.as_str(), login.region.as_str());
        let secrets = Secrets::new(key, greetings.0, greetings.1, carrier, names);
        let is_proved = secrets.is_client_proof(login.proof);
        (is_proved && may_be && user.is_some()).then(|| (Requester::new(&login.access_key, secret), secrets))
    }
}

pub(super) async fn answer(connection: &Connection, answer: &LoginAnswer) -> Result<(), OperationError> {
    connection.send(Bytes::from(answer.to_bytes())).await
}
