//! Where a process tells others that it listens: its endpoint, and for `shm` on which host.
//!
//! ```text
//! shm@41d6a3c8b2f0917e:/run/tenfour/node.sock     tcp:10.0.0.4:9201     verbs:10.0.0.4:9201
//! ```
//!
//! The path of a socket means something on one host only. The host's identity keeps others from trying it: a socket may exist at
//! the same path there, by accident. It is a hint, not a proof: what proves that the right process was reached is the key in the
//! handshake, and what its service asks before it lets a peer in.

use crate::{Endpoint, EndpointError};
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// One running kernel: processes that share it can share memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HostId(u64);

/// An endpoint as others are told of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advertised {
    /// Where.
    pub endpoint: Endpoint,
    /// On which host; `None` for endpoints that do not depend on it, or when it is not known.
    pub host: Option<HostId>,
}

impl HostId {
    /// This host, as long as it is up: made from the kernel's boot id. `None` where the kernel tells none.
    pub fn of_this_host() -> Option<Self> {
        static THIS_HOST: OnceLock<Option<HostId>> = OnceLock::new();
        *THIS_HOST.get_or_init(|| {
            let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
            let hash = blake3::derive_key("tenfour host identity v1", boot.trim().as_bytes());
            Some(Self(u64::from_le_bytes(*hash.first_chunk()?)))
        })
    }
}

impl Advertised {
    /// What this process tells of an endpoint that it listens at.
    pub fn by_this_process(endpoint: Endpoint) -> Self {
        let host = match endpoint {
            Endpoint::Shm(_) => HostId::of_this_host(),
            Endpoint::Tcp(_) | Endpoint::Verbs(_) => None,
        };
        Self { endpoint, host }
    }

    /// Whether it makes sense to try it from this host.
    pub fn is_reachable_from_here(&self) -> bool {
        self.host.is_none() || self.host == HostId::of_this_host()
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.endpoint, self.host) {
            (Endpoint::Shm(path), Some(host)) => write!(out, "shm@{host}:{}", path.display()),
            (endpoint, _) => endpoint.fmt(out),
        }
    }
}

impl FromStr for Advertised {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let Some(rest) = text.strip_prefix("shm@") else {
            return Ok(Self { endpoint: text.parse()?, host: None });
        };
        let (host, path) = rest.split_once(':').unwrap_or_default();
        let endpoint = format!("shm:{path}").parse()?;
        let digits = host.len() == 16 && host.bytes().all(|byte| byte.is_ascii_hexdigit());
        let host = u64::from_str_radix(host, 16).ok().filter(|_| digits);
        let host = host.map(HostId).ok_or_else(|| EndpointError::new(text))?;
        Ok(Self { endpoint, host: Some(host) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_tried_on_its_own_host_only() {
        let here = Advertised::by_this_process("shm:/run/a.sock".parse().unwrap());
        let again: Advertised = here.to_string().parse().unwrap();
        assert_eq!(again, here);
        assert!(here.host.is_some() && here.is_reachable_from_here());
        let elsewhere: Advertised = "shm@0123456789abcdef:/run/a.sock".parse().unwrap();
        assert!(!elsewhere.is_reachable_from_here());
        assert_eq!(elsewhere.to_string(), "shm@0123456789abcdef:/run/a.sock");
    }

    #[test]
    fn other_endpoints_are_as_they_are() {
        for text in ["tcp:127.0.0.1:7001", "verbs:10.77.0.1:7001", "shm:/run/a.sock"] {
            let advertised: Advertised = text.parse().unwrap();
            assert_eq!((advertised.to_string().as_str(), advertised.is_reachable_from_here()), (text, true));
        }
        for text in [
            "shm@:/run/a",
            "shm@12:/run/a",
            "shm@0123456789abcdef",
            "shm@0123456789abcdef:",
            "shm@+123456789abcdef:/a",
        ] {
            assert!(text.parse::<Advertised>().is_err(), "{text}");
        }
    }
}
