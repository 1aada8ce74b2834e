//! Descriptors and control words: what goes in comes out, what clients send is understood, and nothing else gets through.
#![cfg(test)]

use super::control::{Connect, Connected, ControlError, Op, Prepare, Ready, Words};
use super::headers::{COOKIE, MR_ADDR, OFFSET, OP, PROTOCOL, PSN, QPN, REPLY, SIZE, TARGET, TOKEN};
use super::*;
use proptest::prelude::*;

/// 81 characters, as cuObject prints it: RoCE v2 over 10.0.0.7.
const DC: &str = "00007f12a4000000:00100000:0001a2b3:0000:0012ab:1:00000000000000000000ffff0a000007";

fn dc() -> impl Strategy<Value = DcDescriptor> {
    let gid = any::<Option<[u8; 16]>>();
    let appended = any::<Option<(u64, u64)>>();
    (any::<u64>(), any::<u32>(), any::<u32>(), any::<u16>(), 0..1u32 << 24, gid, appended).prop_map(
        |(address, bytes, key, lid, target, gid, appended)| DcDescriptor {
            address,
            bytes,
            key,
            lid,
            target,
            gid,
            appended,
        },
    )
}

fn rc() -> impl Strategy<Value = RcToken> {
    (any::<[u8; 16]>(), any::<u64>(), 1..u64::MAX, any::<u32>())
        .prop_filter("inside the address space", |(_, address, bytes, _)| {
            address.checked_add(bytes - 1).is_some()
        })
        .prop_map(|(session, address, bytes, key)| RcToken {
            session: SessionId(session),
            address,
            bytes,
            key,
        })
}

fn pairs() -> impl Strategy<Value = QueuePairToken> {
    let places = (any::<[u8; 16]>(), any::<u8>(), any::<u16>());
    (any::<u32>(), places, any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
        |(number, (gid, port, lid), key, address, bytes)| QueuePairToken {
            key,
            address,
            bytes,
            ..QueuePairToken::of(number, gid, port, lid)
        },
    )
}

fn psns() -> impl Strategy<Value = Psn> {
    any::<u32>().prop_map(Psn::of)
}

proptest! {
    #[test]
    fn descriptors_survive(dc in dc(), rc in rc(), pair in pairs(), buffer in any::<Option<(u64, u64)>>()) {
        let whole = dc.to_string();
        prop_assert_eq!(whole.len(), if dc.appended.is_some() { 115 } else { 81 });
        prop_assert_eq!((whole.clone() + ";").parse(), Ok(Token::Dc(dc)));
        for token in [Token::Dc(dc), Token::Rc(rc), Token::QueuePair(pair, buffer)] {
            let text = token.to_string();
            prop_assert_eq!(text.parse::<Token>(), Ok(token.clone()));
            prop_assert_eq!(text.to_ascii_uppercase().replace("RC:", "rc:").parse::<Token>(), Ok(token));
        }
    }

    #[test]
    fn any_text_is_read_without_harm(text in "[rc:0-9a-fA-F;é]{0,140}") {
        if let Ok(token) = text.parse::<Token>() {
            prop_assert_eq!(token.to_string().parse::<Token>(), Ok(token));
        }
    }

    #[test]
    fn control_words_survive(
        pair in pairs(),
        psn in psns(),
        cookie in any::<u32>(),
        (session, number, address, key) in (any::<[u8; 16]>(), any::<u32>(), any::<u64>(), any::<u32>()),
        (bytes, offset) in (1..=control::HIPOBJ_BYTES_MAX, 0..u64::MAX >> 1),
        is_put in any::<bool>(),
    ) {
        let connect = Connect { pair, psn };
        prop_assert_eq!(Connect::read(&connect.words()[..]), Ok(connect));
        let session = SessionId(session);
        let connected = Connected { session, pair, psn };
        prop_assert_eq!(Connected::read(&connected.words()[..]), Ok(connected));
        prop_assert_eq!(Connected::read(&connected.prepared_words()[..]), Ok(connected));
        let op = if is_put { Op::Put } else { Op::Get };
        let prepare = Prepare { pair, psn, cookie, op, target: "/b/k%20".to_owned(), bytes, offset };
        prop_assert_eq!(Prepare::read(&prepare.words()[..]), Ok(prepare));
        let ready = Ready { session, cookie, pair: Some(number).filter(|number| *number != 0), address, key };
        prop_assert_eq!(Ready::read(&ready.words()[..]), Ok(ready));
    }
}

#[test]
fn descriptors_of_the_public_clients_are_understood() {
    let Ok(Token::Dc(descriptor)) = DC.parse() else { panic!("{:?}", DC.parse::<Token>()) };
    assert_eq!((descriptor.address, descriptor.bytes, descriptor.key), (0x7f12_a400_0000, 1 << 20, 0x1a2b3));
    assert_eq!((descriptor.lid, descriptor.target, descriptor.appended), (0, 0x12ab, None));
    assert_eq!(descriptor.gid.map(|gid| gid[10..].to_vec()), Some(vec![0xff, 0xff, 10, 0, 0, 7]));
    let longer = format!("{DC}:00007f12a4000000:0000000000100000");
    assert_eq!(longer.len(), 115);
    for text in [longer.clone(), longer + ";", format!("{DC};")] {
        assert!(matches!(text.parse(), Ok(Token::Dc(_))), "{text}");
    }
    let rc = "rc:000102030405060708090a0b0c0d0e0f:00007f12a4000000:00100000:0001a2b3";
    assert!(
        matches!(rc.parse(), Ok(Token::Rc(token)) if token.bytes == 1 << 20 && token.session.0[15] == 15)
    );
    // transport, number, GID, rkey, address, length, port, LID; integers little-endian.
    let pair = [
        "01",
        "44330000",
        "00000000000000000000ffff0a000007",
        "b3a20100",
        "000000a4127f0000",
        "0000100000000000",
        "01",
        "0000",
    ]
    .concat();
    assert_eq!(pair.len(), QueuePairToken::DIGITS);
    let Ok(Token::QueuePair(token, None)) = pair.parse() else { panic!("{:?}", pair.parse::<Token>()) };
    assert_eq!((token.transport, token.number, token.key), (Transport::Rc, 0x3344, 0x1a2b3));
    assert_eq!((token.address, token.bytes, token.port), (0x7f12_a400_0000, 1 << 20, 1));
    assert!(matches!(
        format!("{pair}:7f12a4000000:100000").parse(),
        Ok(Token::QueuePair(_, Some((_, 0x10_0000))))
    ));
}

#[test]
fn what_is_no_descriptor_is_refused_and_says_why() {
    let session = "00".repeat(16);
    for (text, expected) in [
        (String::new(), "0 characters"),
        ("hello".to_owned(), "5 characters"),
        ("a".repeat(10_000), "10000 characters"),
        (DC.replace("0000:0012ab", "0000:0012aZ"), "DC target"),
        (DC.replace("00100000", "0010000"), "size"),
        (DC.replace(":1:", ":2:"), "GID flag"),
        (format!("{DC}0"), "GID"),
        (format!("{DC};;"), "GID"),
        (format!("{DC}:1:2"), "appended"),
        ("rc:12:0:1:2".to_owned(), "session"),
        (format!("rc:{session}:0:0:2"), "empty"),
        (format!("rc:{session}:ffffffffffffffff:2:2"), "address space"),
        (format!("rc:{session}:0:1:123456789"), "rkey"),
        (format!("rc:{session}:0:1"), "rkey"),
        (format!("rc:{session}:0:1:2:3"), "fields"),
        (format!("rc:{session}:-1:1:2"), "address"),
        (format!("rc:{session}:+1:1:2"), "address"),
        ("2".repeat(88), "transport"),
        ("g".repeat(88), "queue pair"),
        (format!("{}:1", "01".repeat(44)), "2 fields"),
        (format!("{}::1", "01".repeat(44)), "address"),
    ] {
        let error = text.parse::<Token>().expect_err(&text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn control_requests_say_what_is_wrong() {
    let prepare = Prepare {
        pair: QueuePairToken::of(7, [1; 16], 1, 0),
        psn: Psn::of(9),
        cookie: 0xdead_beef,
        op: Op::Put,
        target: "/bucket/key".to_owned(),
        bytes: 5,
        offset: 0,
    };
    let with = |name: &'static str, value: Option<&str>| {
        let mut words: Words = prepare.words();
        words.retain(|(known, _)| *known != name);
        words.extend(value.map(|value| (name, value.to_owned())));
        Prepare::read(&words[..])
    };
    assert_eq!(with(PROTOCOL, Some("hipobj-rc-v1")), Err(ControlError::Protocol));
    assert_eq!(with(PROTOCOL, None), Err(ControlError::Protocol));
    assert_eq!(with(COOKIE, None), Err(ControlError::Missing(COOKIE)));
    assert!(with(OFFSET, None).is_ok());
    for (name, value) in [
        (OP, "DELETE"),
        (TARGET, "bucket/key"),
        (SIZE, "0"),
        (SIZE, "2147483648"),
        (SIZE, "+5"),
        (SIZE, ""),
        (OFFSET, "18446744073709551615"),
        (COOKIE, "deadbee"),
    ] {
        assert!(matches!(with(name, Some(value)), Err(ControlError::Malformed(..))), "{name} {value}");
    }
    for psn in ["0", "1000000", "", "xyz"] {
        assert!(matches!(with(PSN, Some(psn)), Err(ControlError::Token(_))), "{psn}");
    }
    assert_eq!(with(TOKEN, Some(DC)), Err(ControlError::NotReliable));
    let dc_pair = format!("00{}", &prepare.pair.to_string()[2..]);
    assert_eq!(with(TOKEN, Some(&dc_pair)), Err(ControlError::NotReliable));
    // All zeros: the gateway's own device.
    assert!(with(TOKEN, Some(&"0".repeat(88))).is_ok_and(|prepare| prepare.pair.is_blank()));
    let reply = [(REPLY, "501".to_owned())];
    assert!(matches!(Connected::read(&reply[..]), Err(ControlError::Malformed(REPLY, _))));
    let ready = [
        (PROTOCOL, HIPOBJ_RC_V2.to_owned()),
        (COOKIE, "00000001".to_owned()),
        (super::headers::SESSION, "00".repeat(16)),
        (QPN, "0".to_owned()),
        (MR_ADDR, "xyz".to_owned()),
    ];
    assert!(matches!(Ready::read(&ready[..]), Err(ControlError::Malformed(MR_ADDR, _))));
    assert!(Ready::read(&ready[..4]).is_ok_and(|ready| ready.pair.is_none()));
}
