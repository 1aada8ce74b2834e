//! Memory that somebody else owns, as a device knows it.
//!
//! It is registered whole when it is first needed on a device, in the protection domain of the pool, for local use and for windows:
//! no peer gets in by that. Where a window needs a registration of exactly its range ([`super::window`]), that one alone is made. A
//! device that refused it is not asked again at once: a transfer in many pieces would ask as often.
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
use std::time::{Duration, Instant};

/// A device that refused memory is not asked for it again for so long.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// All memory of one owner, with one device.
pub(crate) struct HostRegistration(Region);

/// What devices have said to some memory.
#[derive(Default)]
pub(crate) struct Registrations {
    made: Vec<Arc<HostRegistration>>,
    refused: Option<Instant>,
}

impl HostRegistration {
    pub(super) fn region(&self) -> &Region {
        &self.0
    }
}

impl Device {
    /// The registration of such memory here, made when there is none yet.
    pub(super) fn host_registration(&self, host: &Host) -> io::Result<Arc<HostRegistration>> {
        let mut registered = host.registered.lock();
        if let Some(found) = registered.made.iter().find(|each| each.0.is_of(&self.domain)) {
            return Ok(found.clone());
        }
        if registered.refused.is_some_and(|at| at.elapsed() < REFUSED_FOR) {
            return Err(io::Error::other("the device refused it a moment ago"));
        }
        let access = if host.is_writable() { Access::LocalAndWindows } else { Access::LocalReadAndWindows };
        let address = ADDRESS_BASE + host.offset() as u64;
        // SAFETY: the owner keeps the memory until `host` is dropped, which drops its registrations before.
        let region =
            unsafe { Region::register(&self.domain, host.start().as_ptr(), host.bytes(), address, access) };
        let region = region.inspect_err(|error| {
            tracing::warn!(%error, bytes = host.bytes(), "the device does not take memory of the caller");
            registered.refused = Some(Instant::now());
        })?;
        let registration = Arc::new(HostRegistration(region));
        host.counts().registered();
        registered.made.push(registration.clone());
        Ok(registration)
    }

    /// The local key of memory that was prepared.
    pub(super) fn host_key(&self, host: &Host) -> Option<u32> {
        let registered = host.registered.lock();
        registered.made.iter().find(|each| each.0.is_of(&self.domain)).map(|each| each.0.local_key())
    }
}

impl VerbsLink {
    /// Makes such memory known to the device, for an operation that is about to be posted.
    pub(crate) fn prepare(&self, host: &Arc<Host>) -> Result<(), OperationError> {
        self.device.host_registration(host).map(drop).map_err(|_| OperationError::LocalProtection)
    }
}
