//! Connection management: an id with an event channel of its own, so that each connection waits for its own events and
//! nobody routes them.
//!
//! An event is copied and acknowledged at once; nothing that the library owns outlives a call, so that no pointer crosses an
//! `.await`.
//!
//! Invariant: an id has no queue pair when it is destroyed (`link` sees to the order), and is destroyed before its channel.

use super::ffi::{Context, check, set_non_blocking};
use super::message::{GREETING_BYTES, Greeting};
use rdma_sys::{
    rdma_accept, rdma_ack_cm_event, rdma_bind_addr, rdma_cm_event, rdma_cm_event_type as event_type,
    rdma_cm_id, rdma_conn_param, rdma_connect, rdma_create_event_channel, rdma_create_id,
    rdma_destroy_event_channel, rdma_destroy_id, rdma_disconnect, rdma_event_channel, rdma_get_cm_event,
    rdma_get_src_port, rdma_listen, rdma_migrate_id, rdma_port_space, rdma_reject, rdma_resolve_addr,
    rdma_resolve_route, rdma_set_option,
};
use std::ffi::c_int;
use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::io::unix::AsyncFd;

/// Local ACK timeout on an ordinary machine: 4.096 µs × 2^16, 0.27 s a try.
const ACK_TIMEOUT: u8 = 16;
/// On a slow one at most 2^20: 4.3 s a try.
const ACK_TIMEOUT_MAX: u8 = 20;
/// Tries after the first. Never 7, which Soft-RoCE takes for infinity.
pub(super) const RETRIES: u8 = 6;
/// Receiver-not-ready tries. Credits keep a receiver ready; a receive that is posted a moment late is waited for.
pub(super) const NOT_READY_RETRIES: u8 = 6;
/// `RDMA_OPTION_ID` and its `ACK_TIMEOUT`.
const OPTION_LEVEL_ID: c_int = 0;
const OPTION_ACK_TIMEOUT: c_int = 3;
/// Address and route resolution, each.
const RESOLVE: Duration = Duration::from_secs(10);

struct Channel(NonNull<rdma_event_channel>);

// SAFETY: librdmacm may be called from every thread.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    fn create() -> io::Result<AsyncFd<Self>> {
        // SAFETY: a plain call.
        let channel = unsafe { rdma_create_event_channel() };
        let channel = Self(NonNull::new(channel).ok_or_else(io::Error::last_os_error)?);
        set_non_blocking(channel.as_fd())?;
        // SAFETY: the descriptor is open for as long as the channel, which the result owns.
        Ok(unsafe { AsyncFd::register(channel)? })
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: a live channel, which owns its descriptor.
        unsafe { BorrowedFd::borrow_raw((*self.0.as_ptr()).fd) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: created by us, and its id is gone.
        unsafe { rdma_destroy_event_channel(self.0.as_ptr()) }
    }
}

/// What connection management tells.
#[derive(Debug)]
pub(super) enum Event {
    AddressResolved,
    RouteResolved,
    /// A peer wants a connection; its id lives on the listener's channel until it is moved.
    Request(Id, Option<Greeting>),
    /// The other end's greeting, where this end connected.
    Established(Option<Greeting>),
    /// No connection: what the peer, or the way to it, said.
    Refused(io::Error),
    Disconnected,
    /// The device is being taken away.
    DeviceRemoved,
    Other,
}

/// One end of a connection, or a listener. Not yet on a channel of its own if it came with a request.
#[derive(Debug)]
pub(super) struct Id(NonNull<rdma_cm_id>);

// SAFETY: librdmacm may be called from every thread.
unsafe impl Send for Id {}
// SAFETY: as above; fields that change are written by the library before the event that tells of them.
unsafe impl Sync for Id {}

impl Id {
    pub(super) fn as_ptr(&self) -> *mut rdma_cm_id {
        self.0.as_ptr()
    }

    /// The device that the address belongs to, once it is known.
    pub(super) fn context(&self) -> Option<Context> {
        // SAFETY: a live id.
        NonNull::new(unsafe { (*self.as_ptr()).verbs }).map(Context)
    }

    /// Says no; the peer is told.
    pub(super) fn reject(self) {
        // SAFETY: a live id with a request that was not answered.
        if let Err(error) = check(unsafe { rdma_reject(self.as_ptr(), std::ptr::null(), 0) }) {
            tracing::debug!(%error, "cannot reject a connection");
        }
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: ours, without a queue pair, and all of its events were acknowledged when they were taken.
        if let Err(error) = check(unsafe { rdma_destroy_id(self.as_ptr()) }) {
            tracing::error!(%error, "cannot destroy a connection id");
        }
    }
}

/// An id on a channel of its own.
pub(super) struct Cm {
    pub(super) id: Id,
    /// After `id`, which is destroyed first.
    channel: AsyncFd<Channel>,
}

impl Cm {
    /// Needs a runtime, as everything that waits.
    pub(super) fn create() -> io::Result<Self> {
        let channel = Channel::create()?;
        let mut id = null_mut();
        // SAFETY: a live channel and a place for the id.
        check(unsafe {
            rdma_create_id(
                channel.get_ref().0.as_ptr(),
                &raw mut id,
                null_mut(),
                rdma_port_space::RDMA_PS_TCP,
            )
        })?;
        let id = Id(NonNull::new(id).ok_or(io::ErrorKind::OutOfMemory)?);
        Ok(Self { id, channel })
    }

    /// Moves a requesting id to a channel of its own.
    pub(super) fn of_request(id: Id) -> io::Result<Self> {
        let channel = Channel::create()?;
        // SAFETY: both live; the request's event was acknowledged, so that this does not wait.
        check(unsafe { rdma_migrate_id(id.as_ptr(), channel.get_ref().0.as_ptr()) })?;
        Ok(Self { id, channel })
    }

    pub(super) fn bind(&self, at: SocketAddr) -> io::Result<()> {
        let mut address = socket_address(at);
        // SAFETY: a live id; the address is copied.
        check(unsafe { rdma_bind_addr(self.id.as_ptr(), (&raw mut address).cast()) })
    }

    pub(super) fn listen(&self, backlog: usize) -> io::Result<()> {
        // SAFETY: a live, bound id.
        check(unsafe { rdma_listen(self.id.as_ptr(), backlog as c_int) })
    }

    pub(super) fn local_port(&self) -> u16 {
        // SAFETY: a live, bound id.
        u16::from_be(unsafe { rdma_get_src_port(self.id.as_ptr()) })
    }

    /// Finds the device and the way to a peer.
    pub(super) async fn resolve(&self, to: SocketAddr) -> io::Result<()> {
        {
            let mut address = socket_address(to);
            // SAFETY: a live id; the address is copied.
            check(unsafe {
                rdma_resolve_addr(
                    self.id.as_ptr(),
                    null_mut(),
                    (&raw mut address).cast(),
                    RESOLVE.scaled().as_millis() as c_int,
                )
            })?;
        }
        self.expect(|event| matches!(event, Event::AddressResolved)).await?;
        self.set_ack_timeout();
        // SAFETY: a live id with a resolved address.
        check(unsafe { rdma_resolve_route(self.id.as_ptr(), RESOLVE.scaled().as_millis() as c_int) })?;
        self.expect(|event| matches!(event, Event::RouteResolved)).await
    }

    /// Best effort: an old kernel keeps its own, longer, default.
    pub(super) fn set_ack_timeout(&self) {
        let mut timeout = ack_timeout();
        // SAFETY: a live id and one byte that is copied.
        let set = check(unsafe {
            rdma_set_option(
                self.id.as_ptr(),
                OPTION_LEVEL_ID,
                OPTION_ACK_TIMEOUT,
                (&raw mut timeout).cast(),
                size_of::<u8>(),
            )
        });
        if let Err(error) = set {
            tracing::debug!(%error, "cannot set the acknowledgement timeout");
        }
    }

    async fn expect(&self, is_it: impl Fn(&Event) -> bool) -> io::Result<()> {
        match self.next().await? {
            Event::Refused(error) => Err(error),
            event if is_it(&event) => Ok(()),
            event => Err(io::Error::other(format!("connection management said {event:?}"))),
        }
    }

    /// Asks for the connection of the id's queue pair; `reads` outstanding READs each way. `Established` or `Refused` answers.
    pub(super) fn connect(&self, greeting: Greeting, reads: u8) -> io::Result<()> {
        let greeting = greeting.encode();
        let mut parameters = parameters(&greeting, reads);
        // SAFETY: a live id with a route and a queue pair; the private data is copied.
        check(unsafe { rdma_connect(self.id.as_ptr(), &raw mut parameters) })
    }

    /// Takes the connection of the id's queue pair. `Established` follows.
    pub(super) fn accept(&self, greeting: Greeting, reads: u8) -> io::Result<()> {
        let greeting = greeting.encode();
        let mut parameters = parameters(&greeting, reads);
        // SAFETY: a live id with a request and a queue pair; the private data is copied.
        check(unsafe { rdma_accept(self.id.as_ptr(), &raw mut parameters) })
    }

    /// Moves the queue pair to its error state, and tells the peer.
    pub(super) fn disconnect(&self) {
        // SAFETY: a live id with a queue pair.
        if let Err(error) = check(unsafe { rdma_disconnect(self.id.as_ptr()) }) {
            tracing::debug!(%error, "cannot disconnect in order");
        }
    }

    /// The next event.
    pub(super) async fn next(&self) -> io::Result<Event> {
        loop {
            let mut ready = self.channel.readable().await?;
            match ready.try_io(|channel| take(channel.get_ref())) {
                Ok(event) => return event,
                Err(_would_block) => {}
            }
        }
    }
}

/// The local ACK timeout on this machine, as verbs write it: times are powers of two.
pub(super) fn ack_timeout() -> u8 {
    let slowness = Duration::from_secs(1).scaled().as_secs().max(1).ilog2() as u8;
    ACK_TIMEOUT.saturating_add(slowness).min(ACK_TIMEOUT_MAX)
}

fn take(channel: &Channel) -> io::Result<Event> {
    let mut event: *mut rdma_cm_event = null_mut();
    // SAFETY: a live channel; the event is valid until it is acknowledged, which happens once, after it was copied.
    unsafe {
        check(rdma_get_cm_event(channel.0.as_ptr(), &raw mut event))?;
        let copied = copy(&*event);
        check(rdma_ack_cm_event(event))?;
        Ok(copied)
    }
}

/// # Safety
/// The event has just come from the library.
unsafe fn copy(event: &rdma_cm_event) -> Event {
    // SAFETY: for the events of this port space, `conn` is the member that is set, its private data as long as it says.
    let greeting = || unsafe {
        let conn = &event.param.conn;
        let length = usize::from(conn.private_data_len).min(GREETING_BYTES);
        let data = NonNull::new(conn.private_data.cast_mut().cast::<u8>())?;
        Greeting::decode(std::slice::from_raw_parts(data.as_ptr(), length))
    };
    let refused = |otherwise: io::ErrorKind| match event.status {
        status if status < 0 => Event::Refused(io::Error::from_raw_os_error(-status)),
        _ => Event::Refused(otherwise.into()),
    };
    match event.event {
        event_type::RDMA_CM_EVENT_ADDR_RESOLVED => Event::AddressResolved,
        event_type::RDMA_CM_EVENT_ROUTE_RESOLVED => Event::RouteResolved,
        event_type::RDMA_CM_EVENT_CONNECT_REQUEST => match NonNull::new(event.id) {
            Some(id) => Event::Request(Id(id), greeting()),
            None => Event::Other,
        },
        event_type::RDMA_CM_EVENT_ESTABLISHED => Event::Established(greeting()),
        event_type::RDMA_CM_EVENT_REJECTED => refused(io::ErrorKind::ConnectionRefused),
        event_type::RDMA_CM_EVENT_ADDR_ERROR
        | event_type::RDMA_CM_EVENT_ROUTE_ERROR
        | event_type::RDMA_CM_EVENT_UNREACHABLE
        | event_type::RDMA_CM_EVENT_CONNECT_ERROR => refused(io::ErrorKind::HostUnreachable),
        event_type::RDMA_CM_EVENT_DISCONNECTED => Event::Disconnected,
        event_type::RDMA_CM_EVENT_DEVICE_REMOVAL => Event::DeviceRemoved,
        _ => Event::Other,
    }
}

fn parameters(greeting: &[u8; GREETING_BYTES], reads: u8) -> rdma_conn_param {
    // SAFETY: a plain structure of numbers and a pointer; zero is a valid value of each.
    let mut parameters = unsafe { zeroed::<rdma_conn_param>() };
    parameters.private_data = greeting.as_ptr().cast();
    parameters.private_data_len = GREETING_BYTES as u8;
    parameters.initiator_depth = reads;
    parameters.responder_resources = reads;
    parameters.retry_count = RETRIES;
    parameters.rnr_retry_count = NOT_READY_RETRIES;
    parameters
}

fn socket_address(address: SocketAddr) -> libc::sockaddr_storage {
    // SAFETY: plain bytes; zero is a valid value of each field.
    let mut storage = unsafe { zeroed::<libc::sockaddr_storage>() };
    match address {
        SocketAddr::V4(v4) => {
            let to = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is large enough and aligned for every kind of address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(to) };
        }
        SocketAddr::V6(v6) => {
            let to = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(to) };
        }
    }
    storage
}
