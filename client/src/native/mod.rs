//! The SDK: S3 over RDMA by the native protocol, and the same calls over HTTP where there is no RDMA.
//!
//! A [`Client`] owns registered memory of the size that its user chose, keeps one connection to one gateway, on which any number of calls
//! may run at once, and makes a new one when it breaks. Object bytes move by one-sided operations between buffers of that memory and
//! the gateway's; they can also be the caller's own ([`Client::adopt`]). [`retry`] says what is sent again, and why that is safe.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tenfour_client::native::{Client, ClientConfig, GetOptions, PutOptions};
//!
//! let mut config = ClientConfig::new("access-key", "secret-key");
//! config.endpoints = vec!["tcp:127.0.0.1:9100".parse()?];
//! config.fallback_http = Some("http://127.0.0.1:9000".to_owned());
//! let client = Client::connect(config).await?;
//!
//! let mut buffer = client.buffer(4096).await?;
//! buffer.fill(7);
//! client.put_object("photos", "seven", &buffer.freeze(), &PutOptions::default()).await?;
//!
//! let into = client.buffer(4096).await?;
//! let (buffer, got) = client.get_object("photos", "seven", into, &GetOptions::default()).await;
//! assert_eq!(got?.bytes, 4096);
//! # drop(buffer);
//! # Ok(())
//! # }
//! ```

mod config;
mod digest;
mod error;
mod host;
mod http;
mod http_words;
mod link;
mod listing;
mod objects;
mod put;
mod receive;
pub mod retry;
mod uploads;
mod xml;

pub use config::{ClientConfig, GetOptions, ListOptions, PutMode, PutOptions, RetryPolicy};
pub use error::Error;
pub use host::HostMemoryCounters;
pub use http_words::parse_etag;
pub use listing::Listed;
pub use objects::{Got, Head, Served, Stored};
pub use tenfour_rdma::{Buffer, Endpoint, Frozen, HostMemory, HostRegion};
pub use tenfour_types::native::{
    Conditions, Entry, From, IfRange, NamedPart, ObjectInfo, Precondition, Range, Read, Refusal, Retry, Tag,
};
pub use tenfour_types::{Checksum, ChecksumKind, ETag, Headers};
pub use uploads::{CompleteOptions, Completed};

use error::Failure;
use http::HttpDoor;
use link::Link;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tenfour_rdma::{ClusterKey, Domain, DomainConfig, Provider};
use tenfour_types::native::OPEN_DOOR_KEY_IS_PUBLIC;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// After no gateway could be reached, calls go over HTTP for so long before RDMA is tried again.
const RDMA_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A client of one cluster, for one user. A clone is the same client.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    domain: Domain,
    http: Option<HttpDoor>,
    place: Mutex<Place>,
    /// Out of and into memory of the caller.
    copied_bytes: AtomicU64,
}

/// The connection, and where the next one is made.
#[derive(Default)]
struct Place {
    link: Option<Arc<Link>>,
    next_endpoint: usize,
    failed: Option<Instant>,
}

/// How a call travels.
pub(crate) enum Route<'a> {
    Rdma(Arc<Link>),
    Http(&'a HttpDoor),
}

impl Client {
    /// Registers memory and connects to the first gateway that can be reached; over HTTP alone when there is none and the
    /// configuration allows it.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        let mut providers: Vec<Provider> = Vec::new();
        for provider in config.endpoints.iter().map(Endpoint::provider) {
            if provider.available().is_ok() && !providers.contains(&provider) {
                providers.push(provider);
            }
        }
        if providers.is_empty() || (config.fallback_http.is_some() && !providers.contains(&Provider::Tcp)) {
            // For memory alone.
            providers.push(Provider::Tcp);
        }
        let key = ClusterKey::from_bytes(OPEN_DOOR_KEY_IS_PUBLIC);
        let mut domain = DomainConfig::carrying(providers, "client", key, config.pool_bytes);
        domain.tunables = config.tunables.clone();
        // A device that does not take the memory is as good as one that is not there.
        let domain = Domain::open_without(domain, &[Provider::Verbs]);
        let domain = domain.map_err(|error| Error::Config(error.to_string()))?;
        let http = config.fallback_http.as_ref().map(|url| HttpDoor::new(url, &config)).transpose()?;
        if config.endpoints.is_empty() && http.is_none() {
            return Err(Error::Config("give an endpoint, or an address for HTTP".to_owned()));
        }
        let (place, copied_bytes) = (Mutex::default(), AtomicU64::new(0));
        let client = Self { inner: Arc::new(Inner { config, domain, http, place, copied_bytes }) };
        client.route().await.map_err(Error::from)?;
        Ok(client)
    }

    /// Registered memory of `bytes`, as soon as there is so much.
    pub async fn buffer(&self, bytes: usize) -> Result<Buffer, Error> {
        Ok(self.inner.domain.pool().lease(bytes).await?)
    }

    /// Registered memory that nobody holds now, bytes.
    pub fn free_bytes(&self) -> usize {
        self.inner.domain.pool().free_bytes()
    }

    /// What carries calls now: `shm`, `tcp` or `verbs`, or `http`.
    pub async fn transport(&self) -> Result<String, Error> {
        match self.route().await? {
            Route::Rdma(link) => Ok(link.carrier().to_owned()),
            Route::Http(_) => Ok("http".to_owned()),
        }
    }

    /// Ends the connection; calls that run fail, later ones make a new one.
    pub async fn disconnect(&self) {
        let link = self.inner.place.lock().await.link.take();
        if let Some(link) = link {
            link.close().await;
        }
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    /// How long an answer is waited for that so many bytes are moved for.
    pub(crate) fn answer_within(&self, bytes: usize) -> Duration {
        crate::answer_within(self.config().answer_deadline, bytes as u64)
    }

    /// The way that a call takes: the connection, made anew when it is broken, or HTTP.
    pub(crate) async fn route(&self) -> Result<Route<'_>, Failure> {
        let Inner { config, domain, http, place, .. } = &*self.inner;
        let mut place = place.lock().await;
        if let Some(link) = place.link.as_ref().filter(|link| link.is_alive()) {
            return Ok(Route::Rdma(link.clone()));
        }
        place.link = None;
        let is_too_soon = place.failed.is_some_and(|at| at.elapsed() < RDMA_AGAIN_AFTER);
        if let Some(http) = http.as_ref().filter(|_| is_too_soon || config.endpoints.is_empty()) {
            return Ok(Route::Http(http));
        }
        let mut last = Failure::before(Error::Config("no endpoint can be used by this build".to_owned()));
        for _ in 0..config.endpoints.len() {
            let count = config.endpoints.len();
            let Some(endpoint) = config.endpoints.get(place.next_endpoint % count) else { break };
            match Link::connect(domain, endpoint, config).await {
                Ok(link) => {
                    (place.link, place.failed) = (Some(link.clone()), None);
                    return Ok(Route::Rdma(link));
                }
                // The gateway does not know this user: no other will, and HTTP neither.
                Err(failure @ Failure { error: Error::Refused(_), .. }) if !failure.error.is_retryable() => {
                    return Err(failure);
                }
                Err(failure) => last = failure,
            }
            place.next_endpoint = place.next_endpoint.wrapping_add(1);
        }
        place.failed = Some(Instant::now());
        match http {
            Some(http) => Ok(Route::Http(http)),
            None => Err(last),
        }
    }
}
