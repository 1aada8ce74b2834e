//! Where a domain listens: `shm:/path/fabric.sock` or `tcp:127.0.0.1:7001`.

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
}

impl fmt::Display for Provider {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
        })
    }
}

impl FromStr for Provider {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        match text {
            "shm" => Ok(Self::Shm),
            "tcp" => Ok(Self::Tcp),
            _ => Err(EndpointError { text: text.to_owned() }),
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
}

/// Text that is neither `shm:PATH` nor `tcp:ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a fabric endpoint: expected shm:PATH or tcp:ADDRESS:PORT")]
pub struct EndpointError {
    text: String,
}

impl Endpoint {
    /// The provider that serves it.
    pub fn provider(&self) -> Provider {
        match self {
            Self::Shm(_) => Provider::Shm,
            Self::Tcp(_) => Provider::Tcp,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shm(path) => write!(out, "shm:{}", path.display()),
            Self::Tcp(address) => write!(out, "tcp:{address}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError { text: text.to_owned() };
        match text.split_once(':').ok_or_else(error)? {
            ("shm", path) if !path.is_empty() => Ok(Self::Shm(path.into())),
            ("tcp", address) => address.parse().map(Self::Tcp).map_err(|_| error()),
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_survive_their_text() {
        for text in ["shm:/run/tenfour/fabric.sock", "tcp:127.0.0.1:7001", "tcp:[::1]:7001"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "shm:", "tcp:", "tcp:localhost:1", "udp:127.0.0.1:1", "/run/x"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
