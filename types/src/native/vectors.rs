//! The test vectors of the native protocol in docs/PROTOCOL.md, made by the code from the inputs that the document names.
#![cfg(test)]

use super::document::is_documented;
use super::login::{Secrets, SigningKey};
use super::*;
use crate::{Checksum, ChecksumKind, ETag, Headers, Remote, Wire};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const NAMES: (&str, &str, &str) = ("alice", "20261128", "us-east-1");
const TCP: u8 = 2;
const OBJECT: &[u8] = b"tenfour";
const MD5: [u8; 16] = 0x7167_6e07_0789_efdd_519f_8e30_b534_b34b_u128.to_be_bytes();
const CRC64: [u8; 8] = 0x4bb2_40fd_7722_0188_u64.to_be_bytes();

fn secrets() -> (Greeting, Greeting, Secrets) {
    let (client, gateway) = (Greeting::new([3; 32]), Greeting::new([4; 32]));
    let key = SigningKey::derive(SECRET, NAMES.1, NAMES.2);
    (client, gateway, Secrets::new(key, &client, &gateway, TCP, NAMES))
}

fn slot(index: u16) -> Slot {
    let remote =
        Remote { address: (1 << 32) + u64::from(index) * 65_536, bytes: 65_536, key: 0x0123_4567_89ab_cdef };
    Slot { index, remote }
}

fn put() -> ToGateway {
    let content = Content {
        size: OBJECT.len() as u64,
        digest: *blake3::hash(OBJECT).as_bytes(),
        md5: None,
        checksum: None,
        keep: Some(ChecksumKind::Crc64Nvme),
        how: How::Here,
    };
    let operation = Operation::Put {
        headers: Headers(vec![("content-type".to_owned(), "text/csv".to_owned())]),
        precondition: Precondition::Absent,
        content,
    };
    request(1, operation)
}

fn get() -> ToGateway {
    let conditions = Conditions {
        matches: Some(Tag::OneOf(vec![ETag { md5: MD5, parts: None }])),
        none_matches: None,
        modified_since: Some(-1),
        unmodified_since: Some(1_800_000_000),
    };
    let read = Read { range: Range::From(2, Some(6)), conditions, if_range: None };
    let into = Some(Remote { address: (1 << 32) + 4096, bytes: 4, key: 0xfeed });
    request(2, Operation::Get { read, into })
}

fn request(id: u32, operation: Operation) -> ToGateway {
    let (bucket, key) = ("bucket".to_owned(), "key".to_owned());
    ToGateway::Request { id, request: Request { bucket, key, expected_owner: None, operation } }
}

fn stored() -> ToClient {
    let checksum = Checksum { kind: ChecksumKind::Crc64Nvme, value: CRC64.to_vec(), parts: None };
    let answer = Answer::Stored { etag: ETag { md5: MD5, parts: None }, checksums: vec![checksum] };
    ToClient::Reply { id: 1, slot: Some(slot(1)), fabric: "shm".to_owned(), result: Ok(answer) }
}

fn refused() -> ToClient {
    let refusal = Refusal { code: "SlowDown".to_owned(), message: "Later.".to_owned(), retry: Retry::Later };
    ToClient::Reply { id: 2, slot: None, fabric: String::new(), result: Err(refusal) }
}

/// Frames of one direction, in order.
fn frames(key: [u8; 32], messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut sealer = Sealer::new(key);
    let seal = |message: &Vec<u8>| {
        let head = sealer.head(message).unwrap();
        sealer.sent();
        [&head[..], message].concat()
    };
    messages.iter().map(seal).collect()
}

#[test]
fn the_login_is_the_documented_one() {
    let (client, gateway, secrets) = secrets();
    let (access_key, date, region) = NAMES;
    let (access_key, date, region) = (access_key.to_owned(), date.to_owned(), region.to_owned());
    let login = Login { access_key, date, region, proof: secrets.client_proof() };
    let keys = secrets.session_keys();
    is_documented(&[
        ("client's greeting", &client.encode()),
        ("gateway's greeting", &gateway.encode()),
        ("signing key", &SigningKey::derive(SECRET, NAMES.1, NAMES.2).expose()),
        ("login transcript", &secrets.transcript()),
        ("client proof", &secrets.client_proof()),
        ("gateway proof", &secrets.gateway_proof()),
        ("client to gateway", &keys.to_gateway),
        ("gateway to client", &keys.to_client),
        ("Login", &login.to_bytes()),
        ("LoginAnswer", &LoginAnswer::Proved(secrets.gateway_proof()).to_bytes()),
    ]);
}

#[test]
fn messages_and_frames_are_the_documented_ones() {
    let keys = secrets().2.session_keys();
    let (put, get) = (put().to_bytes(), get().to_bytes());
    let to_gateway = frames(keys.to_gateway, &[put.clone(), get.clone()]);
    let mut in_slot = to_gateway[0].clone();
    in_slot.resize(slot_body_offset(put.len()), 0);
    in_slot.extend_from_slice(OBJECT);
    let welcome = ToClient::Welcome(Welcome {
        slots: vec![slot(0), slot(1)],
        requests_max: REQUESTS_MAX as u32,
        carrier: "tcp".to_owned(),
    });
    let to_client = frames(keys.to_client, &[welcome.to_bytes(), stored().to_bytes(), refused().to_bytes()]);
    is_documented(&[
        ("Put", &put),
        ("bytes of the slot", &in_slot),
        ("Get", &get),
        ("frame of Get", &to_gateway[1]),
        ("frame of Welcome", &to_client[0]),
        ("frame of Stored", &to_client[1]),
        ("frame of SlowDown", &to_client[2]),
    ]);
}
