//! What must hold of any bytes that a peer sends: the fuzz targets of the fabric, which plain tests replay over `fuzz/corpus`.
//!
//! Each function takes any bytes, panics where a promise is broken, and returns whether they were what it decodes. Where a MAC would
//! keep everything out, the bytes are also tried with a good one: a peer that has the key must not be able to do harm either.

use crate::handshake::{HELLO_BYTES_MAX, accept_session, initiate_session, read_opening};
use crate::setup::{Role, SETUP_BYTES, SIGNED_BYTES, Setup, mac};
use crate::shm::descriptor::{DESCRIPTOR_BYTES, Descriptor};
use crate::tcp::frame::{Frame, HEAD_BYTES};
use crate::{Advertised, ClusterKey, Endpoint};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// What ends of a verbs connection say: pure, so that it is fuzzed also where the provider is not built.
#[path = "verbs/message.rs"]
#[cfg_attr(feature = "verbs", allow(clippy::duplicate_mod))] // There it is a part of the provider, too.
#[allow(dead_code, reason = "only its codecs are wanted here")]
mod message;

/// SENDs and greetings of connections over RDMA devices: one form each.
pub fn message(bytes: &[u8]) -> bool {
    let head = message::Head::decode(bytes).is_some_and(|(head, payload)| {
        assert_eq!([&head.encode()[..], payload].concat(), bytes, "{head:?}");
        true
    });
    let greeting = message::Greeting::decode(bytes).is_some_and(|greeting| {
        assert!(bytes.starts_with(&greeting.encode()));
        true
    });
    head | greeting
}

/// Heads of TCP frames: one form each.
pub fn frame(bytes: &[u8]) -> bool {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return false };
    let Some(frame) = Frame::decode(head) else { return false };
    assert_eq!(frame.encode(), *head, "{frame:?}");
    true
}

/// Descriptors in the ring of a process on the same host: one form each, and none longer than what a ring position can count.
pub fn descriptor(bytes: &[u8]) -> bool {
    let Some(encoded) = bytes.first_chunk::<DESCRIPTOR_BYTES>() else { return false };
    let Some(descriptor) = Descriptor::decode(encoded) else { return false };
    assert_eq!(descriptor.encode(), *encoded, "{descriptor:?}");
    let taken = descriptor.ring_bytes();
    assert!(taken >= DESCRIPTOR_BYTES as u64 && taken.is_multiple_of(8) && taken <= (1 << 32) + 48);
    true
}

/// The words between the handshake and the first operation, as they are and with a good MAC.
pub fn setup(bytes: &[u8]) -> bool {
    let Some(signed) = bytes.first_chunk::<SIGNED_BYTES>() else { return false };
    let key = ClusterKey::from_bytes([3; 32]);
    let as_sent = bytes.first_chunk::<SETUP_BYTES>().is_some_and(|whole| understood(whole, &key));
    let mut sealed = [0; SETUP_BYTES];
    let mac = mac(&key, Role::Initiator, signed);
    sealed.iter_mut().zip(signed.iter().chain(mac.as_bytes())).for_each(|(place, byte)| *place = *byte);
    understood(&sealed, &key) | as_sent
}

fn understood(bytes: &[u8; SETUP_BYTES], key: &ClusterKey) -> bool {
    let heard = [Role::Initiator, Role::Acceptor].map(|role| (role, Setup::decode(bytes, key, role)));
    assert!(heard.iter().filter(|(_, setup)| setup.is_some()).count() <= 1, "one's words come back to it");
    heard.into_iter().any(|(role, setup)| {
        let Some(setup) = setup else { return false };
        let again = setup.encode(key, role).and_then(|bytes| Setup::decode(&bytes, key, role));
        assert_eq!(again.as_ref(), Some(&setup));
        true
    })
}

/// The first words on a connection. Nobody is believed who does not have the key.
pub fn opening(bytes: &[u8]) -> bool {
    let key = ClusterKey::from_bytes([3; 32]);
    let mut input = bytes;
    let opening = now(read_opening(&mut input)).is_some_and(|opened| match opened {
        Ok((opening, hello)) => {
            assert!(hello.len() <= HELLO_BYTES_MAX && opening.ends_with(&hello));
            assert_eq!([&opening, input].concat(), bytes, "an opening is read whole, and nothing behind it");
            true
        }
        Err(_) => false,
    });
    // Our nonce is new each time, so that no recorded proof fits.
    let mut stream = tokio::io::join(bytes, tokio::io::sink());
    assert!(now(accept_session(&mut stream, &key, b"ours")).is_some_and(|session| session.is_err()));
    let mut stream = tokio::io::join(bytes, tokio::io::sink());
    assert!(now(initiate_session(&mut stream, &key, b"ours")).is_some_and(|session| session.is_err()));
    opening
}

/// What becomes of a future that never has to wait.
fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Endpoints of the cluster map.
pub fn endpoint(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let endpoint = text.parse::<Endpoint>().is_ok_and(|endpoint| {
        assert_eq!(endpoint.to_string().parse().as_ref(), Ok(&endpoint));
        true
    });
    let advertised = text.parse::<Advertised>().is_ok_and(|advertised| {
        assert_eq!(advertised.to_string().parse().as_ref(), Ok(&advertised));
        true
    });
    endpoint | advertised
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;
    use super::*;
    use crate::Provider;
    use crate::setup::Kind;

    #[test]
    fn frames_have_one_form() {
        let (sequence, key, address, bytes) = (300, u64::MAX, 1 << 40, 1 << 20);
        let frames = [
            ("write", Frame::Write { sequence, key, address, bytes, immediate: None }),
            ("write-with-immediate", Frame::Write { sequence, key, address, bytes, immediate: Some(7) }),
            ("read", Frame::Read { sequence, key, address, bytes }),
            ("send", Frame::Send { sequence, bytes }),
            ("ack", Frame::Ack { sequence }),
            ("read-data", Frame::ReadData { sequence, bytes }),
            ("refuse", Frame::Refuse { sequence, code: 13 }),
            ("bye", Frame::Bye),
        ];
        replay("rdma_frame", frame, &frames.map(|(name, frame)| (name, frame.encode().to_vec())));
    }

    #[test]
    fn words_over_a_device_have_one_form() {
        use super::message::{Bye, Greeting, Head, Kind};
        let said = |kind, payload: &[u8]| [&Head { kind, credits: 300 }.encode()[..], payload].concat();
        let (mine, yours) = (crate::OperationError::RemoteAccess, crate::OperationError::ReceiverNotReady);
        let seeds = [
            ("fragment", said(Kind::Fragment { last: false }, b"part")),
            ("last-fragment", said(Kind::Fragment { last: true }, b"")),
            ("credits", said(Kind::Credits, b"")),
            ("closed", said(Kind::Bye(Bye::Closed), b"")),
            ("mine", said(Kind::Bye(Bye::Mine(mine)), b"")),
            ("yours", said(Kind::Bye(Bye::Yours(yours)), b"")),
            ("greeting", [&Greeting { receives: 64 }.encode()[..], &[0; 44]].concat()),
        ];
        replay("rdma_message", message, &seeds);
    }

    #[test]
    fn descriptors_have_one_form() {
        let (key, address, bytes, offset) = (u64::MAX, 1 << 40, 1 << 20, 4096);
        let descriptors = [
            ("write", Descriptor::Write { key, address, bytes, offset, immediate: None }),
            ("write-with-immediate", Descriptor::Write { key, address, bytes, offset, immediate: Some(7) }),
            ("read", Descriptor::Read { key, address, bytes }),
            ("send", Descriptor::Send { bytes: 100 }),
            ("longest-send", Descriptor::Send { bytes: u32::MAX }),
        ];
        replay("rdma_descriptor", descriptor, &descriptors.map(|(name, one)| (name, one.encode().to_vec())));
    }

    #[test]
    fn what_is_set_up_is_understood() {
        let setup_of = |kind, provider, private_data: &[u8], role| {
            let setup = Setup { kind, provider, private_data: private_data.to_vec(), pool_bytes: 1 << 30 };
            setup.encode(&ClusterKey::from_bytes([3; 32]), role).unwrap().to_vec()
        };
        let seeds = [
            ("request", setup_of(Kind::Request, Provider::Shm, b"hello", Role::Initiator)),
            ("accept", setup_of(Kind::Accept, Provider::Tcp, &[7; 56], Role::Acceptor)),
            ("request-over-a-device", setup_of(Kind::Request, Provider::Verbs, b"hello", Role::Initiator)),
            ("reject", setup_of(Kind::Reject, Provider::Tcp, b"", Role::Acceptor)),
        ];
        replay("rdma_setup", setup, &seeds);
    }

    #[test]
    fn openings_are_read_whole_and_believed_by_nobody() {
        // As `handshake::opening` writes it, with a nonce that is the same in each run.
        let said = |hello: &[u8], after: &[u8]| {
            let bytes = u16::try_from(hello.len()).unwrap().to_le_bytes();
            [b"10-4 v1\n", &[9; 32][..], &bytes, hello, after].concat()
        };
        let seeds = [
            ("no-hello", said(b"", b"")),
            ("hello-and-proof", said(b"hello", &[5; 32])),
            ("longest", said(&[7; HELLO_BYTES_MAX], &[5; 64])),
        ];
        replay("rdma_opening", opening, &seeds);
    }

    #[test]
    fn endpoints_survive() {
        let named = [
            ("shm", "shm:/run/tenfour/fabric.sock"),
            ("tcp", "tcp:127.0.0.1:7001"),
            ("tcp6", "tcp:[fe80::1%2]:7001"),
            ("verbs", "verbs:10.0.0.4:9201"),
            ("shm-on-a-host", "shm@41d6a3c8b2f0917e:/run/tenfour/node.sock"),
        ];
        let seeds = named.map(|(name, text)| (name, text.as_bytes().to_vec()));
        replay("rdma_endpoint", endpoint, &seeds);
    }
}
