//! Where a domain listens: `shm:/path/fabric.sock`, `tcp:127.0.0.1:7001` or `verbs:10.77.0.1:7001`. Every build knows all of
//! them; which of them it can serve is [`Provider::available`].

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// What carries the operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Provider {
    /// Shared memory between processes of one host.
    Shm,
    /// A TCP stream.
    Tcp,
    /// An RDMA device: InfiniBand, RoCE, iWARP, Soft-RoCE.
    Verbs,
}

/// Why this process cannot use a provider that it knows by name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct Unavailable {
    reason: String,
}

impl Unavailable {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl Provider {
    /// Whether this build has it and this machine can run it; else the reason, in one line. Looks at the devices anew each time.
    pub fn available(self) -> Result<(), Unavailable> {
        match self {
            Self::Shm | Self::Tcp => Ok(()),
            #[cfg(feature = "verbs")]
            Self::Verbs => crate::verbs::available(),
            #[cfg(not(feature = "verbs"))]
            Self::Verbs => Err(Unavailable::new(NO_VERBS)),
        }
    }
}

#[cfg(not(feature = "verbs"))]
const NO_VERBS: &str = "this build has no verbs: build with --features verbs (needs libibverbs-dev, librdmacm-dev, pkg-config and \
                        libclang)";

impl fmt::Display for Provider {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Verbs => "verbs",
        })
    }
}

impl FromStr for Provider {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        match text {
            "shm" => Ok(Self::Shm),
            "tcp" => Ok(Self::Tcp),
            "verbs" => Ok(Self::Verbs),
            _ => Err(EndpointError::new(text)),
        }
    }
}

/// Where to listen or connect to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// A unix socket, for setting up shared memory.
    Shm(PathBuf),
    /// An address and port.
    Tcp(SocketAddr),
    /// An address that belongs to an RDMA device, and a port of RDMA connection management.
    Verbs(SocketAddr),
}

/// Text that is none of `shm:PATH`, `tcp:ADDRESS:PORT`, `verbs:ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a fabric endpoint: expected shm:PATH, tcp:ADDRESS:PORT or verbs:ADDRESS:PORT")]
pub struct EndpointError {
    text: String,
}

impl EndpointError {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.to_owned() }
    }
}

impl Endpoint {
    /// The provider that serves it.
    pub fn provider(&self) -> Provider {
        match self {
            Self::Shm(_) => Provider::Shm,
            Self::Tcp(_) => Provider::Tcp,
            Self::Verbs(_) => Provider::Verbs,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shm(path) => write!(out, "shm:{}", path.display()),
            Self::Tcp(address) => write!(out, "tcp:{address}"),
            Self::Verbs(address) => write!(out, "verbs:{address}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError::new(text);
        match text.split_once(':').ok_or_else(error)? {
            ("shm", path) if !path.is_empty() => Ok(Self::Shm(path.into())),
            ("tcp", address) => address.parse().map(Self::Tcp).map_err(|_| error()),
            ("verbs", address) => address.parse().map(Self::Verbs).map_err(|_| error()),
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_verbs_says_what_it_needs() {
        if cfg!(feature = "verbs") {
            return;
        }
        let config =
            crate::DomainConfig::new(Provider::Verbs, "test", crate::ClusterKey::generate(), 1 << 20);
        let refused = crate::Domain::open(config).unwrap_err();
        assert!(refused.to_string().contains("build with --features verbs"), "{refused}");
    }

    #[test]
    fn endpoints_survive_their_text() {
        for text in
            ["shm:/run/tenfour/fabric.sock", "tcp:127.0.0.1:7001", "tcp:[::1]:7001", "verbs:10.77.0.1:7001"]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "shm:", "tcp:", "tcp:localhost:1", "verbs:rxe0", "udp:127.0.0.1:1", "/run/x"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
