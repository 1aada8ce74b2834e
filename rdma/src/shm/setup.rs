//! Making a connection: a unix socket, the handshake, and three file descriptors each way.

use super::bell::{Bell, Doorbell};
use super::control::{OwnControl, PeerControl};
use super::peer::PeerMapping;
use super::{ShmLink, UnixStream};
use crate::connection::Link;
use crate::domain::Domain;
use crate::setup::{Kind, Role, SETUP_BYTES, Setup};
use crate::{ClusterKey, ConnectError, Connection, Provider};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use tokio::io::Interest;
use tokio::net::UnixListener;

/// Control block, pool, bell.
const EXPORTS: usize = 3;
/// Room for more than we expect, so that more can be told from none.
const EXPORTS_MAX: usize = 8;

/// What a peer passed to us, not yet believed.
pub(crate) struct Exports(Vec<OwnedFd>);

/// What a peer passed to us, checked and mapped.
pub(super) struct Peer {
    pub(super) control: PeerControl,
    pub(super) pool: PeerMapping,
    pub(super) doorbell: Doorbell,
}

/// Listens at a path, taking over the socket of a process that is gone.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub(crate) async fn connect(
    domain: &Domain,
    path: &Path,
    private_data: Vec<u8>,
) -> Result<Connection, ConnectError> {
    let place = domain.reserve_connection()?;
    let mut socket = UnixStream::connect(path).await?;
    let session = domain.prove(&mut socket).await?;
    let (own, bell) = (OwnControl::create()?, Bell::new()?);
    let request = domain.setup(Kind::Request, Provider::Shm, private_data);
    let request = request.encode(&session.key, Role::Initiator).ok_or(ConnectError::PrivateDataTooLong)?;
    send_exports(&socket, &request, &[own.file(), domain.pool().mapping().file(), bell.file()]).await?;
    let (answer, exports) = receive(&socket, &session.key, Role::Acceptor).await?;
    match answer.kind {
        Kind::Accept => {
            let peer = believe(&answer, exports)?;
            let pair = domain.queue_pair(answer.private_data);
            Ok(place.fill(Link::Shm(ShmLink::start(pair, own, bell, peer, socket))))
        }
        Kind::Reject => Err(ConnectError::Rejected),
        Kind::Request => Err(ConnectError::Setup("a request in answer to a request")),
    }
}

pub(crate) async fn accept(
    domain: &Domain,
    socket: UnixStream,
    exports: Exports,
    key: &ClusterKey,
    request: Setup,
    private_data: Vec<u8>,
) -> Result<Connection, ConnectError> {
    let prepared = domain.reserve_connection().and_then(|place| Ok((place, believe(&request, exports)?)));
    let (place, peer) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            write_reject(&socket, &domain.setup(Kind::Reject, Provider::Shm, Vec::new()), key).await?;
            return Err(error);
        }
    };
    let (own, bell) = (OwnControl::create()?, Bell::new()?);
    let answer = domain.setup(Kind::Accept, Provider::Shm, private_data);
    let answer = answer.encode(key, Role::Acceptor).ok_or(ConnectError::PrivateDataTooLong)?;
    send_exports(&socket, &answer, &[own.file(), domain.pool().mapping().file(), bell.file()]).await?;
    let pair = domain.queue_pair(request.private_data);
    Ok(place.fill(Link::Shm(ShmLink::start(pair, own, bell, peer, socket))))
}

pub(crate) async fn read_request(
    socket: &UnixStream,
    key: &ClusterKey,
) -> Result<(Setup, Exports), ConnectError> {
    receive(socket, key, Role::Initiator).await
}

pub(crate) async fn write_reject(
    socket: &UnixStream,
    setup: &Setup,
    key: &ClusterKey,
) -> Result<(), ConnectError> {
    let bytes = setup.encode(key, Role::Acceptor).ok_or(ConnectError::PrivateDataTooLong)?;
    Ok(send_exports(socket, &bytes, &[]).await?)
}

fn believe(setup: &Setup, exports: Exports) -> Result<Peer, ConnectError> {
    let Ok([control, pool, bell]) = <[OwnedFd; EXPORTS]>::try_from(exports.0) else {
        return Err(ConnectError::Setup("not three file descriptors"));
    };
    let pool_bytes = usize::try_from(setup.pool_bytes).map_err(|_| ConnectError::Setup("pool too large"))?;
    Ok(Peer {
        control: PeerControl::map(control.as_fd())?,
        pool: PeerMapping::map(pool.as_fd(), pool_bytes)?,
        doorbell: Doorbell::new(bell),
    })
}

/// The first byte carries the descriptors. A fresh socket takes the whole message at once.
async fn send_exports(
    socket: &UnixStream,
    bytes: &[u8; SETUP_BYTES],
    exports: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let sent = socket
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(EXPORTS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !exports.is_empty() && !control.push(SendAncillaryMessage::ScmRights(exports)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

async fn receive(
    socket: &UnixStream,
    key: &ClusterKey,
    role: Role,
) -> Result<(Setup, Exports), ConnectError> {
    let mut bytes = [0; SETUP_BYTES];
    let mut exports = Vec::new();
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let received = socket
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(EXPORTS_MAX))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let received =
                    recvmsg(socket, &mut [IoSliceMut::new(rest)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(files) = message {
                        exports.extend(files);
                    }
                }
                Ok(received.bytes)
            })
            .await?;
        if received == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        filled += received;
        if exports.len() > EXPORTS {
            return Err(ConnectError::Setup("too many file descriptors"));
        }
    }
    let setup = Setup::decode(&bytes, key, role).ok_or(ConnectError::Setup("malformed set-up"))?;
    Ok((setup, Exports(exports)))
}
