//! Free ports for the internal listeners of a cluster on this machine.
//!
//! They are free when they are looked for; who is faster afterwards may still take one, which its listener then says.

use anyhow::{Context, Result};
use rand::RngExt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// Where ports for internal listeners are looked for: below the range that outgoing connections are given.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports tried for one listener.
const TRIES: usize = 200;

/// Free addresses on the loopback interface, all different, none of them in `taken`.
pub fn free_addresses(count: usize, taken: &[SocketAddr]) -> Result<Vec<SocketAddr>> {
    free_addresses_on(&vec![IpAddr::from(Ipv4Addr::LOCALHOST); count], taken)
}

/// A free address for each of these, all different, none of them in `taken`.
pub fn free_addresses_on(hosts: &[IpAddr], taken: &[SocketAddr]) -> Result<Vec<SocketAddr>> {
    let mut random = rand::rng();
    // Held until all are drawn, so that none is drawn twice.
    let mut listeners = Vec::new();
    for host in hosts {
        let listener = (0..TRIES)
            .map(|_| SocketAddr::new(*host, random.random_range(PORTS)))
            .filter(|address| !taken.contains(address))
            .find_map(|address| TcpListener::bind(address).ok());
        let (first, last) = (PORTS.start, PORTS.end);
        listeners.push(listener.with_context(|| {
            format!(
                "{host} is no address of this machine, or has no free TCP port between {first} and {last}"
            )
        })?);
    }
    listeners.iter().map(|listener| Ok(listener.local_addr()?)).collect()
}
