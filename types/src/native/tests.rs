//! The native protocol's codecs: what goes in comes out, and nothing else gets through.
#![cfg(test)]

use super::login::{Secrets, SigningKey, carrier_code, date_of, day_number};
use super::*;
use crate::{Checksum, ChecksumKind, ETag, Headers, Remote, Wire};
use proptest::collection::vec;
use proptest::prelude::*;

fn remotes() -> impl Strategy<Value = Remote> {
    (any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(address, bytes, key)| Remote {
        address,
        bytes,
        key,
    })
}

fn etags() -> impl Strategy<Value = ETag> {
    (any::<[u8; 16]>(), any::<Option<u32>>()).prop_map(|(md5, parts)| ETag { md5, parts })
}

fn checksums() -> impl Strategy<Value = Checksum> {
    (vec(any::<u8>(), 0..40), any::<Option<u32>>()).prop_map(|(value, parts)| Checksum {
        kind: ChecksumKind::Crc32c,
        value,
        parts,
    })
}

fn headers() -> impl Strategy<Value = Headers> {
    vec((".{0,20}", ".{0,20}"), 0..4).prop_map(Headers)
}

fn reads() -> impl Strategy<Value = Read> {
    let range = prop_oneof![
        Just(Range::All),
        (any::<u64>(), any::<Option<u64>>()).prop_map(|(first, end)| Range::From(first, end)),
        any::<u64>().prop_map(Range::Last),
        any::<u32>().prop_map(Range::Part),
    ];
    let tag = || proptest::option::of(prop_oneof![Just(Tag::Any), vec(etags(), 0..3).prop_map(Tag::OneOf)]);
    let if_range = proptest::option::of(prop_oneof![
        etags().prop_map(IfRange::Is),
        any::<i64>().prop_map(IfRange::Date)
    ]);
    (range, tag(), tag(), any::<Option<i64>>(), any::<Option<i64>>(), if_range).prop_map(
        |(range, matches, none_matches, modified_since, unmodified_since, if_range)| Read {
            range,
            conditions: Conditions { matches, none_matches, modified_since, unmodified_since },
            if_range,
        },
    )
}

fn contents() -> impl Strategy<Value = Content> {
    let how = prop_oneof![Just(How::Here), Just(How::Push), vec(remotes(), 0..4).prop_map(How::Pull)];
    (any::<u64>(), any::<[u8; 32]>(), any::<Option<[u8; 16]>>(), proptest::option::of(checksums()), how)
        .prop_map(|(size, digest, md5, checksum, how)| Content {
            size,
            digest,
            md5,
            checksum,
            keep: Some(ChecksumKind::Sha1),
            how,
        })
}

fn preconditions() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        Just(Precondition::None),
        Just(Precondition::Absent),
        Just(Precondition::Present),
        vec(etags(), 0..3).prop_map(Precondition::Match),
    ]
}

fn parts() -> impl Strategy<Value = Vec<NamedPart>> {
    let part = (any::<u32>(), etags(), proptest::option::of(checksums()))
        .prop_map(|(number, etag, checksum)| NamedPart { number, etag, checksum });
    vec(part, 0..5)
}

fn operations() -> impl Strategy<Value = Operation> {
    let from =
        prop_oneof![Just(From::Start), ".{0,20}".prop_map(From::After), ".{0,20}".prop_map(From::Token)];
    prop_oneof![
        reads().prop_map(Operation::Head),
        (reads(), proptest::option::of(remotes())).prop_map(|(read, into)| Operation::Get { read, into }),
        (headers(), preconditions(), contents()).prop_map(|(headers, precondition, content)| {
            Operation::Put { headers, precondition, content }
        }),
        preconditions().prop_map(|precondition| Operation::Delete { precondition }),
        (".{0,9}", ".{0,3}", from, any::<u64>(), any::<u32>()).prop_map(
            |(prefix, delimiter, from, most, window)| Operation::List {
                prefix,
                delimiter,
                from,
                most,
                window
            }
        ),
        headers().prop_map(|headers| Operation::CreateUpload {
            headers,
            checksum: Some((ChecksumKind::Crc32, true))
        }),
        (".{0,30}", any::<u32>(), contents()).prop_map(|(upload, number, content)| Operation::UploadPart {
            upload,
            number,
            content
        }),
        (".{0,30}", any::<u32>(), parts(), preconditions(), any::<Option<bool>>(), any::<Option<u64>>())
            .prop_map(|(upload, count, parts, precondition, full_object, size)| {
                Operation::CompleteUpload {
                    upload,
                    count,
                    parts,
                    precondition,
                    checksum: None,
                    full_object,
                    size,
                }
            }),
        ".{0,30}".prop_map(|upload| Operation::AbortUpload { upload }),
    ]
}

fn to_gateway() -> impl Strategy<Value = ToGateway> {
    prop_oneof![
        (any::<u32>(), ".{0,20}", ".{0,20}", proptest::option::of(".{0,9}"), operations()).prop_map(
            |(id, bucket, key, expected_owner, operation)| ToGateway::Request {
                id,
                request: Request { bucket, key, expected_owner, operation },
            }
        ),
        (any::<u32>(), any::<u32>()).prop_map(|(id, chunk)| ToGateway::Written { id, chunk }),
        (any::<u32>(), parts()).prop_map(|(id, parts)| ToGateway::MoreParts { id, parts }),
        (any::<u32>(), any::<u32>()).prop_map(|(id, messages)| ToGateway::MoreEntries { id, messages }),
    ]
}

fn to_client() -> impl Strategy<Value = ToClient> {
    let refusal = (".{0,20}", ".{0,40}").prop_map(|(code, message)| Refusal {
        code,
        message,
        retry: Retry::OutcomeUnknown,
    });
    let refusal = refusal.boxed();
    let object = (any::<u64>(), etags(), any::<u64>(), headers(), vec(checksums(), 0..3)).prop_map(
        |(size, etag, modified_ms, headers, checksums)| ObjectInfo {
            size,
            etag,
            modified_ms,
            headers,
            checksums,
            parts: None,
        },
    );
    let object = object.boxed();
    let answer = prop_oneof![
        (object.clone(), any::<(u64, u64)>()).prop_map(|(object, range)| Answer::Object { object, range }),
        (object.clone(), any::<(u64, u64)>(), any::<[u8; 32]>())
            .prop_map(|(object, range, digest)| { Answer::Read { object, range, digest } }),
        object.prop_map(|object| Answer::NotModified { object }),
        (etags(), vec(checksums(), 0..3)).prop_map(|(etag, checksums)| Answer::Stored { etag, checksums }),
        Just(Answer::Deleted),
        (any::<u64>(), proptest::option::of(".{0,20}"))
            .prop_map(|(entries, next)| Answer::Listed { entries, next }),
        ".{0,30}".prop_map(|upload| Answer::UploadCreated { upload }),
        (etags(), proptest::option::of(checksums()))
            .prop_map(|(etag, checksum)| Answer::Completed { etag, checksum }),
    ];
    let result = prop_oneof![answer.prop_map(Ok), refusal.clone().prop_map(Err)];
    let slot = (any::<u16>(), remotes()).prop_map(|(index, remote)| Slot { index, remote }).boxed();
    prop_oneof![
        (vec(slot.clone(), 0..5), any::<u32>(), ".{0,5}").prop_map(|(slots, requests_max, carrier)| {
            ToClient::Welcome(Welcome { slots, requests_max, carrier })
        }),
        (any::<u32>(), any::<u32>(), remotes()).prop_map(|(id, chunk, remote)| ToClient::WriteHere {
            id,
            chunk,
            remote
        }),
        (any::<u32>(), ".{0,20}")
            .prop_map(|(id, prefix)| ToClient::Entries { id, entries: vec![Entry::CommonPrefix(prefix)] }),
        (any::<u32>(), proptest::option::of(slot), ".{0,5}", result)
            .prop_map(|(id, slot, fabric, result)| ToClient::Reply { id, slot, fabric, result }),
        refusal.prop_map(ToClient::Closing),
    ]
}

fn framed(key: [u8; 32], number: u64, message: &[u8]) -> Vec<u8> {
    let mut sealer = Sealer::new(key);
    (0..number).for_each(|_| sealer.sent());
    [&sealer.head(message).unwrap()[..], message].concat()
}

proptest! {
    #[test]
    fn messages_survive(there in to_gateway(), back in to_client()) {
        prop_assert_eq!(request::decode(&there.to_bytes()).unwrap(), there);
        prop_assert_eq!(answer::decode(&back.to_bytes()).unwrap(), back);
    }

    #[test]
    fn a_cut_message_is_none(there in to_gateway(), back in to_client(), at in any::<proptest::sample::Index>()) {
        let bytes = there.to_bytes();
        prop_assert!(request::decode(&bytes[..at.index(bytes.len())]).is_err());
        let bytes = back.to_bytes();
        prop_assert!(answer::decode(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn nonsense_never_panics(bytes in vec(any::<u8>(), 0..300)) {
        let _ = request::decode(&bytes);
        let _ = answer::decode(&bytes);
        let _ = Login::from_bytes(&bytes);
        let _ = LoginAnswer::from_bytes(&bytes);
        let _ = Greeting::decode(&bytes);
        prop_assert!(frame::open(&[1; 32], 0, &bytes).is_err());
        let _ = day_number(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_frame_opens_once_in_its_order_and_whole(
        key in any::<[u8; 32]>(), message in vec(any::<u8>(), 0..200), after in vec(any::<u8>(), 0..50), number in 0u64..9,
        flip in any::<proptest::sample::Index>(), bit in 0u32..8,
    ) {
        let mut bytes = framed(key, number, &message);
        bytes.extend_from_slice(&after);
        prop_assert_eq!(frame::open(&key, number, &bytes), Ok((&message[..], &after[..])));
        prop_assert_eq!(
            frame::open(&key, number + 1, &bytes),
            Err(FrameError::Sequence { found: number, expected: number + 1 })
        );
        let other = [key[0] ^ 1; 32];
        prop_assert!(frame::open(&other, number, &bytes).is_err());
        let covered = HEAD_BYTES + message.len();
        prop_assert!(frame::open(&key, number, &bytes[..covered - 1]).is_err());
        bytes[flip.index(covered)] ^= 1 << bit;
        prop_assert!(frame::open(&key, number, &bytes).is_err());
    }

    #[test]
    fn days_and_dates_are_one_another(day in -700_000i64..2_000_000) {
        prop_assert_eq!(day_number(&date_of(day)), Some(day));
    }
}

#[test]
fn an_opener_takes_each_frame_once() {
    let mut opener = Opener::new([7; 32]);
    let frames: Vec<Vec<u8>> = (0..3).map(|number| framed([7; 32], number, b"hello")).collect();
    assert!(opener.open(&frames[0]).is_ok());
    assert_eq!(opener.open(&frames[0]), Err(FrameError::Sequence { found: 0, expected: 1 }), "a replay");
    assert_eq!(opener.open(&frames[2]), Err(FrameError::Sequence { found: 2, expected: 1 }), "a reordering");
    assert!(opener.open(&frames[1]).is_ok());
    assert!(
        opener.open(&framed([8; 32], 2, b"hello")).is_err(),
        "a reflection has the other direction's key"
    );
}

#[test]
fn dates_are_those_of_the_calendar() {
    for (date, day) in [("19700101", 0), ("20000229", 11_016), ("20261128", 20_785), ("20240301", 19_783)] {
        assert_eq!((day_number(date), date_of(day)), (Some(day), date.to_owned()));
    }
    for bad in ["", "2026112", "20261301", "20260132", "2026-1-1", "202611281"] {
        assert_eq!(day_number(bad), None, "{bad}");
    }
}

#[test]
fn the_signing_key_is_that_of_amazon() {
    // The secret and the date of the example in the AWS General Reference, for the service s3; computed with Python's hmac.
    let key = SigningKey::derive("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830", "us-east-1");
    let expected = [
        0x32, 0xf7, 0x80, 0x51, 0xdc, 0xde, 0x24, 0xc5, 0x52, 0x81, 0x1d, 0x65, 0x4f, 0x4a, 0x76, 0x91, 0x12,
        0xbb, 0x83, 0x4b, 0x03, 0x97, 0x5c, 0xdd, 0x6b, 0x1f, 0xd7, 0xd1, 0x62, 0x48, 0xc2, 0x69,
    ];
    assert_eq!(key.expose(), expected);
}

#[test]
fn both_ends_agree_and_nobody_else_does() {
    let names = ("alice", "20261128", "us-east-1");
    let (client, gateway) = (Greeting::new([1; 32]), Greeting::new([2; 32]));
    let of = |secret: &str, client: &Greeting, gateway: &Greeting, carrier: u8, names: (&str, &str, &str)| {
        Secrets::new(SigningKey::derive(secret, names.1, names.2), client, gateway, carrier, names)
    };
    let there = of("secret", &client, &gateway, 1, names);
    let back = of("secret", &client, &gateway, 1, names);
    assert!(back.is_client_proof(there.client_proof()) && there.is_gateway_proof(back.gateway_proof()));
    assert_eq!(there.session_keys().to_client, back.session_keys().to_client);
    assert_ne!(there.session_keys().to_client, there.session_keys().to_gateway);
    assert!(!back.is_client_proof(back.gateway_proof()), "a reflection");
    for other in [
        of("Secret", &client, &gateway, 1, names),
        of("secret", &gateway, &client, 1, names),
        of("secret", &client, &gateway, 2, names),
        of("secret", &client, &gateway, 1, ("alic", "e20261128", "us-east-1")),
        of("secret", &client, &gateway, 1, ("alice", "20261129", "us-east-1")),
        of("secret", &client, &Greeting::new([3; 32]), 1, names),
    ] {
        assert!(!back.is_client_proof(other.client_proof()));
    }
    assert_eq!(Greeting::decode(&client.encode()), Ok(client));
    assert_eq!(["shm", "tcp", "verbs", "x"].map(carrier_code), [1, 2, 3, 0]);
}
