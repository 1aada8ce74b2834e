//! The objects of libibverbs as owners: each is given back when it is dropped, and holds what it was made of.
//!
//! Nothing here decides anything; it turns return codes into `io::Error` and pointers into types that are `Send`.
//!
//! Invariant: an object outlives everything that was made of it (a CQ its queue pairs, a domain its regions and windows), by
//! `Arc` or by the order of fields.

use rdma_sys::{
    ibv_access_flags, ibv_ack_cq_events, ibv_alloc_mw, ibv_alloc_pd, ibv_comp_channel, ibv_context, ibv_cq,
    ibv_create_comp_channel, ibv_create_cq, ibv_dealloc_mw, ibv_dealloc_pd, ibv_dereg_mr,
    ibv_destroy_comp_channel, ibv_destroy_cq, ibv_device_attr, ibv_free_device_list, ibv_get_cq_event,
    ibv_get_device_list, ibv_get_device_name, ibv_mr, ibv_mw, ibv_mw_type, ibv_pd, ibv_poll_cq,
    ibv_query_device, ibv_reg_mr_iova, ibv_req_notify_cq, ibv_wc,
};
use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem::{ManuallyDrop, zeroed};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// The error that a function which returns it (as `ibv_*` do) or -1 and `errno` (as `rdma_*` do) has met.
pub(super) fn check(code: c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        code => Err(io::Error::from_raw_os_error(code.abs())),
    }
}

fn not_null<T>(pointer: *mut T) -> io::Result<NonNull<T>> {
    NonNull::new(pointer).ok_or_else(io::Error::last_os_error)
}

/// Makes a descriptor return at once when there is nothing to read.
pub(super) fn set_non_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// The names of the RDMA devices of this machine. The error is the reason why there are none to be seen.
pub(super) fn device_names() -> io::Result<Vec<String>> {
    let mut count = 0;
    // SAFETY: plain calls; the list is read up to its count and freed once, names are copied before.
    unsafe {
        let list = not_null(ibv_get_device_list(&raw mut count))?;
        let names = (0..count as usize)
            .map(|i| {
                CStr::from_ptr(ibv_get_device_name(*list.as_ptr().add(i))).to_string_lossy().into_owned()
            })
            .collect();
        ibv_free_device_list(list.as_ptr());
        Ok(names)
    }
}

/// An opened device. Connection management opens each device once and keeps it open until the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Context(pub(super) NonNull<ibv_context>);

// SAFETY: libibverbs locks its contexts itself, and this one is never closed.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn name(self) -> String {
        // SAFETY: the context is open for ever, its device and name belong to it.
        unsafe { CStr::from_ptr(ibv_get_device_name((*self.0.as_ptr()).device)) }
            .to_string_lossy()
            .into_owned()
    }

    pub(super) fn attributes(self) -> io::Result<ibv_device_attr> {
        // SAFETY: a plain structure of numbers, for the library to fill in.
        let mut attributes = unsafe { zeroed::<ibv_device_attr>() };
        // SAFETY: an open context and a structure of the right type.
        check(unsafe { ibv_query_device(self.0.as_ptr(), &raw mut attributes) })?;
        Ok(attributes)
    }

    /// Interrupt vectors that completion queues can be spread over.
    pub(super) fn vectors(self) -> u32 {
        // SAFETY: the context is open for ever.
        unsafe { (*self.0.as_ptr()).num_comp_vectors.max(1) as u32 }
    }
}

/// What memory and queue pairs must have in common.
pub(super) struct ProtectionDomain(NonNull<ibv_pd>);

// SAFETY: libibverbs may be called from every thread.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    pub(super) fn allocate(context: Context) -> io::Result<Self> {
        // SAFETY: an open context.
        Ok(Self(not_null(unsafe { ibv_alloc_pd(context.0.as_ptr()) })?))
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_pd {
        self.0.as_ptr()
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: allocated by us, and whatever was made of it holds it by `Arc`.
        report("deallocate a protection domain", check(unsafe { ibv_dealloc_pd(self.0.as_ptr()) }));
    }
}

fn report(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "cannot {what}");
    }
}

/// What a registration permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// The device may use it in our own operations, and windows may be bound to it.
    LocalAndWindows,
    /// The device may use it in our own operations, and nothing else.
    Local,
    /// As above, and any queue pair of the domain may write.
    RemoteWrite,
    /// As above, and any queue pair of the domain may read.
    RemoteRead,
    /// As `LocalAndWindows`, for memory that nobody may write to.
    LocalReadAndWindows,
    /// As `RemoteRead`, for memory that nobody may write to.
    RemoteReadOnly,
}

impl Access {
    fn flags(self) -> i32 {
        let local = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE;
        let flags = match self {
            Self::LocalAndWindows => local | ibv_access_flags::IBV_ACCESS_MW_BIND,
            Self::Local => local,
            Self::RemoteWrite => local | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE,
            Self::RemoteRead => local | ibv_access_flags::IBV_ACCESS_REMOTE_READ,
            Self::LocalReadAndWindows => ibv_access_flags::IBV_ACCESS_MW_BIND,
            Self::RemoteReadOnly => ibv_access_flags::IBV_ACCESS_REMOTE_READ,
        };
        flags.0 as i32
    }
}

/// Registered memory. The memory itself is the caller's to keep.
pub(super) struct Region {
    region: NonNull<ibv_mr>,
    domain: Arc<ProtectionDomain>,
}

// SAFETY: libibverbs may be called from every thread; the keys never change.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Registers `bytes` at `memory`, which the device and peers then see at `address`.
    ///
    /// # Safety
    /// The memory stays mapped until the region is dropped, and its owners expect the device to touch it.
    pub(super) unsafe fn register(
        domain: &Arc<ProtectionDomain>,
        memory: *mut u8,
        bytes: usize,
        address: u64,
        access: Access,
    ) -> io::Result<Self> {
        // SAFETY: a live domain, and memory that the caller vouches for.
        let region = unsafe {
            ibv_reg_mr_iova(domain.as_ptr(), memory.cast::<c_void>(), bytes, address, access.flags())
        };
        Ok(Self { region: not_null(region)?, domain: domain.clone() })
    }

    pub(super) fn local_key(&self) -> u32 {
        // SAFETY: a live region.
        unsafe { (*self.region.as_ptr()).lkey }
    }

    pub(super) fn remote_key(&self) -> u32 {
        // SAFETY: a live region.
        unsafe { (*self.region.as_ptr()).rkey }
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_mr {
        self.region.as_ptr()
    }

    pub(super) fn is_of(&self, domain: &Arc<ProtectionDomain>) -> bool {
        Arc::ptr_eq(&self.domain, domain)
    }

    /// When it succeeds, no access to the memory is in progress or succeeds any more.
    pub(super) fn deregister(self) -> Result<(), (Self, io::Error)> {
        let this = ManuallyDrop::new(self);
        // SAFETY: registered by us, and deregistered once: this value is not dropped if that succeeds.
        match check(unsafe { ibv_dereg_mr(this.region.as_ptr()) }) {
            Ok(()) => {
                // SAFETY: the field is read once, and the value it came from is never used again.
                drop(unsafe { std::ptr::read(&raw const this.domain) });
                Ok(())
            }
            Err(error) => Err((ManuallyDrop::into_inner(this), error)),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: registered by us; windows bound to it are dropped before (the order of fields of those who hold both).
        report("deregister memory", check(unsafe { ibv_dereg_mr(self.region.as_ptr()) }));
    }
}

/// A window of type 2: opened onto a part of a region by a work request, for one queue pair.
pub(super) struct MemoryWindow {
    window: NonNull<ibv_mw>,
    _domain: Arc<ProtectionDomain>,
}

// SAFETY: libibverbs may be called from every thread.
unsafe impl Send for MemoryWindow {}
// SAFETY: as above; the key is written by the one thread that binds it, before anyone else knows of it.
unsafe impl Sync for MemoryWindow {}

impl MemoryWindow {
    pub(super) fn allocate(domain: &Arc<ProtectionDomain>) -> io::Result<Self> {
        // SAFETY: a live domain.
        let window = unsafe { ibv_alloc_mw(domain.as_ptr(), ibv_mw_type::IBV_MW_TYPE_2) };
        let window = window.ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self { window: not_null(window)?, _domain: domain.clone() })
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_mw {
        self.window.as_ptr()
    }

    /// The key that it was born with.
    pub(super) fn key(&self) -> u32 {
        // SAFETY: a live window.
        unsafe { (*self.window.as_ptr()).rkey }
    }
}

impl Drop for MemoryWindow {
    fn drop(&mut self) {
        // SAFETY: allocated by us. If it was open, no access through it succeeds or is in progress when this returns.
        report("deallocate a memory window", check(unsafe { ibv_dealloc_mw(self.window.as_ptr()) }));
    }
}

/// Where completion queues ring.
pub(super) struct CompletionChannel(NonNull<ibv_comp_channel>);

// SAFETY: libibverbs may be called from every thread.
unsafe impl Send for CompletionChannel {}
// SAFETY: as above.
unsafe impl Sync for CompletionChannel {}

impl CompletionChannel {
    pub(super) fn create(context: Context) -> io::Result<Self> {
        // SAFETY: an open context.
        let channel = Self(not_null(unsafe { ibv_create_comp_channel(context.0.as_ptr()) })?);
        set_non_blocking(channel.as_fd())?;
        Ok(channel)
    }

    /// Takes one event, and tells the number that its queue was created with; `None` when there is no event.
    pub(super) fn take(&self) -> Option<usize> {
        let (mut queue, mut number) = (null_mut(), null_mut());
        // SAFETY: a live channel; the queue of an event lives until its events are acknowledged, which is done at once.
        unsafe {
            if ibv_get_cq_event(self.0.as_ptr(), &raw mut queue, &raw mut number) != 0 {
                return None;
            }
            ibv_ack_cq_events(queue, 1);
        }
        Some(number as usize)
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: a live channel, which owns its descriptor.
        unsafe { BorrowedFd::borrow_raw((*self.0.as_ptr()).fd) }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: created by us; its queues hold it by `Arc`.
        report("destroy a completion channel", check(unsafe { ibv_destroy_comp_channel(self.0.as_ptr()) }));
    }
}

/// A queue of completions.
pub(super) struct CompletionQueue {
    queue: NonNull<ibv_cq>,
    _channel: Arc<CompletionChannel>,
}

// SAFETY: libibverbs locks its queues itself.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// `number` is what the channel tells of its events.
    pub(super) fn create(
        context: Context,
        entries: u32,
        channel: &Arc<CompletionChannel>,
        number: usize,
        vector: u32,
    ) -> io::Result<Self> {
        // SAFETY: an open context and a live channel; the number is never used as a pointer.
        let queue = unsafe {
            ibv_create_cq(
                context.0.as_ptr(),
                entries as c_int,
                number as *mut c_void,
                channel.0.as_ptr(),
                vector as c_int,
            )
        };
        Ok(Self { queue: not_null(queue)?, _channel: channel.clone() })
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_cq {
        self.queue.as_ptr()
    }

    /// The next completion rings the channel.
    pub(super) fn arm(&self) -> io::Result<()> {
        // SAFETY: a live queue.
        check(unsafe { ibv_req_notify_cq(self.queue.as_ptr(), 0) })
    }

    /// Takes completions that are there; how many.
    pub(super) fn poll(&self, into: &mut [ibv_wc]) -> usize {
        // SAFETY: a live queue, and room for as many as are asked for.
        let taken = unsafe { ibv_poll_cq(self.queue.as_ptr(), into.len() as i32, into.as_mut_ptr()) };
        usize::try_from(taken).unwrap_or(0)
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: created by us; its queue pairs hold it by `Arc`, and every event was acknowledged when it was taken.
        report("destroy a completion queue", check(unsafe { ibv_destroy_cq(self.queue.as_ptr()) }));
    }
}
