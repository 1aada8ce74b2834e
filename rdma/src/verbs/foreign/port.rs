//! The port of a device, and which of its GIDs a queue pair speaks from.
//!
//! RoCE wants both ends to use one family of addresses and one version, and the other end's GID tells only the family. Addresses of
//! IPv4 and global ones of IPv6 go by RoCE v2, as all clients that are known do; a link-local one goes by the port's first link-local
//! GID, of RoCE v1 where there is one, since that is what stands at index 0, which test clients of hipObject use.

use super::super::device::SYSFS;
use super::super::ffi::{Context, check};
use rdma_sys::{ibv_gid, ibv_mtu, ibv_port_attr, ibv_port_state, ibv_query_gid, ibv_query_port};
use std::io;
use std::mem::zeroed;
use std::net::IpAddr;
use std::path::Path;

/// GIDs of a port that are looked at.
const GIDS_MAX: i32 = 256;

/// A port that queue pairs can use.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u8,
    pub(super) lid: u16,
    /// As verbs count it.
    pub(super) mtu: ibv_mtu::Type,
    gids: Vec<Gid>,
    /// Which GID, unless the other end's family wants another.
    wanted: Option<[u8; 16]>,
}

/// An entry of a port's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gid {
    pub(super) index: u8,
    pub(super) bytes: [u8; 16],
    is_version_2: bool,
}

impl Port {
    /// The first active port of the device with this address; with any, when none is asked for.
    pub(super) fn find(context: Context, address: Option<IpAddr>) -> io::Result<Option<Self>> {
        let wanted = address.map(mapped);
        for number in 1..=context.attributes()?.phys_port_cnt {
            let attributes = attributes(context, number)?;
            if attributes.state != ibv_port_state::IBV_PORT_ACTIVE {
                continue;
            }
            let gids = table(context, number, attributes.gid_tbl_len);
            if wanted.is_none_or(|wanted| gids.iter().any(|gid| gid.bytes == wanted)) && !gids.is_empty() {
                let mtu = attributes.active_mtu.max(ibv_mtu::IBV_MTU_256);
                return Ok(Some(Self { number, lid: attributes.lid, mtu, gids, wanted }));
            }
        }
        Ok(None)
    }

    /// The GID to speak to another from; `None` says nothing of the other yet.
    pub(super) fn gid_for(&self, peer: Option<&[u8; 16]>) -> Option<Gid> {
        choose(&self.gids, self.wanted.as_ref(), peer.filter(|gid| **gid != [0; 16]))
    }
}

fn choose(gids: &[Gid], wanted: Option<&[u8; 16]>, peer: Option<&[u8; 16]>) -> Option<Gid> {
    let first = |is_it: &dyn Fn(&Gid) -> bool| gids.iter().find(|gid| is_it(gid)).copied();
    let of_family = |gid: &[u8; 16]| {
        let (family, version_2) = (Family::of(gid), Family::of(gid) != Family::LinkLocal);
        let found = first(&|gid| Family::of(&gid.bytes) == family && gid.is_version_2 == version_2);
        found.or_else(|| first(&|gid| Family::of(&gid.bytes) == family))
    };
    let ours = || {
        let wanted = wanted.and_then(|wanted| {
            let found = first(&|gid| gid.bytes == *wanted && gid.is_version_2);
            found.or_else(|| first(&|gid| gid.bytes == *wanted))
        });
        wanted.or_else(|| of_family(&mapped(IpAddr::from([0, 0, 0, 0]))))
    };
    let chosen = match peer.map(Family::of) {
        None => ours(),
        Some(family) => {
            ours().filter(|gid| Family::of(&gid.bytes) == family).or_else(|| peer.and_then(of_family))
        }
    };
    chosen.or_else(ours).or_else(|| first(&|gid| gid.is_version_2)).or_else(|| first(&|_| true))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Ipv4,
    LinkLocal,
    Global,
}

impl Family {
    fn of(gid: &[u8; 16]) -> Self {
        match gid {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..] => Self::Ipv4,
            [0xfe, second, ..] if second & 0xc0 == 0x80 => Self::LinkLocal,
            _ => Self::Global,
        }
    }
}

/// An address as a GID.
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn attributes(context: Context, port: u8) -> io::Result<ibv_port_attr> {
    // SAFETY: a plain structure of numbers.
    let mut attributes = unsafe { zeroed::<ibv_port_attr>() };
    // SAFETY: an open context. The function fills in the beginning of the structure, which is its older form; C's header calls it so.
    check(unsafe { ibv_query_port(context.0.as_ptr(), port, (&raw mut attributes).cast()) })?;
    Ok(attributes)
}

fn table(context: Context, port: u8, entries: i32) -> Vec<Gid> {
    let folder = Path::new(SYSFS).join(context.name()).join(format!("ports/{port}/gid_attrs/types"));
    let mut found = Vec::new();
    for index in 0..entries.min(GIDS_MAX) {
        let mut gid = ibv_gid { raw: [0; 16] };
        // SAFETY: an open context, and a place for one GID.
        if check(unsafe { ibv_query_gid(context.0.as_ptr(), port, index, &raw mut gid) }).is_err() {
            continue;
        }
        // SAFETY: every member is plain bytes.
        let bytes = unsafe { gid.raw };
        // An entry that is free reads as zeros.
        let Ok(index) = u8::try_from(index) else { break };
        if bytes.iter().any(|byte| *byte != 0) {
            let kind = std::fs::read_to_string(folder.join(index.to_string())).unwrap_or_default();
            found.push(Gid { index, bytes, is_version_2: !kind.contains("v1") });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(index: u8, address: &str, is_version_2: bool) -> Gid {
        Gid { index, bytes: mapped(address.parse().unwrap()), is_version_2 }
    }

    #[test]
    fn a_gid_is_of_the_others_family_and_of_the_version_that_clients_use() {
        let gids = [
            gid(0, "fe80::1", false),
            gid(1, "fe80::1", true),
            gid(2, "10.0.0.1", false),
            gid(3, "10.0.0.1", true),
            gid(4, "10.0.0.2", true),
            gid(5, "2001:db8::1", true),
        ];
        let index = |wanted: Option<&str>, peer: Option<&str>| {
            let bytes = |text: &str| mapped(text.parse().unwrap());
            let (wanted, peer) = (wanted.map(bytes), peer.map(bytes));
            choose(&gids, wanted.as_ref(), peer.as_ref()).unwrap().index
        };
        assert_eq!(index(None, None), 3);
        assert_eq!(index(None, Some("10.0.0.9")), 3);
        assert_eq!(index(Some("10.0.0.2"), Some("10.0.0.9")), 4);
        assert_eq!(index(Some("10.0.0.2"), None), 4);
        assert_eq!(index(Some("10.0.0.2"), Some("fe80::9")), 0);
        assert_eq!(index(None, Some("2001:db8::9")), 5);
        assert_eq!(index(Some("2001:db8::1"), Some("10.0.0.9")), 3);
        assert_eq!(choose(&gids[..1], None, None).unwrap().index, 0);
        assert_eq!(choose(&[], None, None), None);
    }
}
