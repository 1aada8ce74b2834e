//! Memory that somebody else owns, as a device knows it.
//!
//! It is registered whole when it is first needed on a device, in the protection domain of the pool, for local use and for windows:
//! no peer gets in by that. Where a window needs a registration of exactly its range ([`super::window`]), that one alone is made.
//!
//! Invariant: a registration ends before its memory does: [`Host`] drops it first, and whoever uses it holds the `Host`.

use super::device::Device;
use super::ffi::{Access, Region};
use super::link::VerbsLink;
use crate::OperationError;
use crate::engine::grants::ADDRESS_BASE;
use crate::memory::Host;
use std::io;
use std::sync::Arc;

/// All memory of one owner, with one device.
pub(crate) struct HostRegistration(Region);

impl HostRegistration {
    pub(super) fn region(&self) -> &Region {
        &self.0
    }
}

impl Device {
    /// The registration of such memory here, made when there is none yet.
    pub(super) fn host_registration(&self, host: &Host) -> io::Result<Arc<HostRegistration>> {
        let mut registered = host.registered.lock();
        if let Some(found) = registered.iter().find(|each| each.0.is_of(&self.domain)) {
            return Ok(found.clone());
        }
        let access = if host.is_writable() { Access::LocalAndWindows } else { Access::LocalReadAndWindows };
        let address = ADDRESS_BASE + host.offset() as u64;
        // SAFETY: the owner keeps the memory until `host` is dropped, which drops its registrations before.
        let region =
            unsafe { Region::register(&self.domain, host.start().as_ptr(), host.bytes(), address, access)? };
        let registration = Arc::new(HostRegistration(region));
        host.counts().registered();
        registered.push(registration.clone());
        Ok(registration)
    }

    /// The local key of memory that was prepared.
    pub(super) fn host_key(&self, host: &Host) -> Option<u32> {
        let registered = host.registered.lock();
        registered.iter().find(|each| each.0.is_of(&self.domain)).map(|each| each.0.local_key())
    }
}

impl VerbsLink {
    /// Makes such memory known to the device, for an operation that is about to be posted.
    pub(crate) fn prepare(&self, host: &Arc<Host>) -> Result<(), OperationError> {
        self.device.host_registration(host).map(drop).map_err(|error| {
            tracing::warn!(%error, bytes = host.bytes(), "the device does not take memory of the caller");
            OperationError::LocalProtection
        })
    }
}
