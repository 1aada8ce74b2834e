//! Where the gateways of a cluster on one machine serve S3 over RDMA: each at an address, the ports rising, and at a socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where one gateway does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaPlace {
    /// For `tcp` and, where it is a device's, `verbs`.
    pub address: SocketAddr,
    /// For clients on this host.
    pub socket: PathBuf,
}

impl RdmaPlace {
    /// As a gateway's configuration lists it.
    pub fn listed(&self) -> Vec<String> {
        vec![self.address.to_string(), self.socket.display().to_string()]
    }

    /// As clients name it.
    pub fn endpoints(&self) -> String {
        format!("tcp:{}  shm:{}", self.address, self.socket.display())
    }
}

/// The places of gateways with these names, if any is wanted.
pub fn rdma_places(first: Option<SocketAddr>, gateways: &[String], sockets: &Path) -> Vec<RdmaPlace> {
    let Some(first) = first else { return Vec::new() };
    let place = |(offset, name): (u16, &String)| RdmaPlace {
        address: SocketAddr::new(first.ip(), first.port().saturating_add(offset)),
        socket: sockets.join(name).with_extension("s3"),
    };
    (0..).zip(gateways).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_rise_and_sockets_have_the_gateways_names() {
        let names = ["gateway-1".to_owned(), "gateway-2".to_owned()];
        let first = "127.0.0.1:9100".parse().unwrap();
        assert_eq!(rdma_places(None, &names, Path::new("/run")), []);
        let places = rdma_places(Some(first), &names, Path::new("/run"));
        assert_eq!(places[1].listed(), ["127.0.0.1:9101", "/run/gateway-2.s3"]);
        assert_eq!(places[0].endpoints(), "tcp:127.0.0.1:9100  shm:/run/gateway-1.s3");
    }
}
