//! What must hold of any bytes that are decoded here: the fuzz targets of this crate, which plain tests replay over `fuzz/corpus`.
//!
//! Each function takes any bytes, panics where a promise is broken, and returns whether they were what it decodes. The shard record
//! is not here: what its checksums are computed with is `node`'s to know, and so is its target.

use crate::native::frame::{self, Opener, Sealer};
use crate::native::login::{date_of, day_number};
use crate::native::{Greeting, HEAD_BYTES, Login, LoginAnswer, ToClient, ToGateway};
use crate::rdma_token::Token;
use crate::rdma_token::control::{Connect, Connected, Prepare, Ready};
use crate::shard_service::{FromNode, Hello, ToNode};
use crate::{BucketName, Manifest, ObjectKey, StripeId, StripeRow, UploadId, Wire};
use std::fmt::Debug;

/// Messages between a gateway and a node.
pub fn messages(bytes: &[u8]) -> bool {
    survives::<Hello>(bytes) | survives::<ToNode>(bytes) | survives::<FromNode>(bytes)
}

/// S3 over RDMA: greetings, logins, frames (as they are, and with a good MAC around any message), requests and answers.
pub fn native(bytes: &[u8]) -> bool {
    let greeting = Greeting::decode(bytes).is_ok_and(|greeting| greeting.encode() == bytes);
    let login = Login::from_bytes(bytes).is_ok_and(|login| {
        let day = day_number(&login.date).filter(|_| login.is_plausible());
        assert!(day.is_none_or(|day| day_number(&date_of(day)) == Some(day)));
        survives::<Login>(bytes)
    });
    let answer = survives::<LoginAnswer>(bytes);
    greeting | login | answer | framed(bytes) | survives::<ToGateway>(bytes) | survives::<ToClient>(bytes)
}

/// A frame opens once, with its own number, and under its own key.
fn framed(bytes: &[u8]) -> bool {
    const KEYS: [[u8; 32]; 2] = [[3; 32], [4; 32]];
    let [key, other] = KEYS;
    let (mut sealer, mut opener) = (Sealer::new(key), Opener::new(key));
    sealer.sent();
    assert!(opener.open(&sealed(&sealer, bytes)).is_err(), "a frame out of order");
    let sealed = sealed(&Sealer::new(key), bytes);
    assert_eq!(opener.open(&sealed), Ok((bytes, &[][..])));
    assert!(opener.open(&sealed).is_err() && frame::open(&other, 0, &sealed).is_err());
    frame::open(&key, 0, bytes).is_ok_and(|(message, after)| {
        assert_eq!(bytes.len(), HEAD_BYTES + message.len() + after.len());
        true
    })
}

fn sealed(sealer: &Sealer, message: &[u8]) -> Vec<u8> {
    sealer.head(message).map(|head| [&head[..], message].concat()).unwrap_or_default()
}

/// Descriptors of clients' memory, and the words of control requests: lines of `name: value`.
pub fn rdma_token(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let is_token = text.parse::<Token>().is_ok_and(|token| {
        assert_eq!(token.to_string().parse(), Ok(token), "a descriptor survives");
        true
    });
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let words: Vec<(&str, String)> = lines.map(|(name, value)| (name, value.to_owned())).collect();
    let connect = Connect::read(&words[..]).is_ok_and(|read| {
        assert_eq!(Connect::read(&read.words()[..]), Ok(read));
        true
    });
    let connected = Connected::read(&words[..]).is_ok_and(|read| {
        assert_eq!(Connected::read(&read.prepared_words()[..]), Ok(read));
        true
    });
    let prepare = Prepare::read(&words[..]).is_ok_and(|read| {
        assert_eq!(Prepare::read(&read.words()[..]), Ok(read));
        true
    });
    let ready = Ready::read(&words[..]).is_ok_and(|read| {
        assert_eq!(Ready::read(&read.words()[..]), Ok(read));
        true
    });
    is_token | connect | connected | prepare | ready
}

/// What metadata stores of objects.
pub fn rows(bytes: &[u8]) -> bool {
    survives::<Manifest>(bytes) | survives::<StripeRow>(bytes)
}

/// Names and ids that come as text, and stripe ids that come as bytes.
pub fn names(bytes: &[u8]) -> bool {
    if let Some(id) = bytes.first_chunk() {
        assert_eq!(StripeId::from_bytes(*id).to_bytes(), *id);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let upload = text.parse::<UploadId>().is_ok_and(|id| {
        assert_eq!(id.to_string(), text, "an upload has one name only");
        true
    });
    let bucket = BucketName::new(text).is_ok_and(|name| name.as_str() == text);
    let key = ObjectKey::new(text).is_ok_and(|key| key.as_str() == text);
    upload | bucket | key
}

/// What decodes encodes, in no more bytes, and decodes to the same again. (Postcard also reads numbers that are written longer
/// than they need be, so the bytes may differ.)
fn survives<T: Wire + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(value) = T::from_bytes(bytes) else { return false };
    let encoded = value.to_bytes();
    assert!(encoded.len() <= bytes.len(), "{} grew: {value:?}", T::NAME);
    assert_eq!(T::from_bytes(&encoded).as_ref(), Ok(&value));
    true
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;
    use super::*;
    use crate::shard_service::{ShardError, ShardRef, ShardTable, TargetStatus};
    use crate::{
        Body, Checksum, ChecksumKind, ClusterId, CommandId, Digest, ETag, Epoch, Extent, GroupId, Headers,
        LeaseId, MetaGroupId, NodeId, Override, PartRef, Remote, ShardIndex, TargetId,
    };

    fn stripe() -> StripeId {
        StripeId { meta_group: MetaGroupId(3), lease: LeaseId(70_000), counter: 9 }
    }

    fn shard(index: usize) -> ShardRef {
        let index = ShardIndex::new(index).unwrap();
        ShardRef { stripe: stripe(), index, target: TargetId(7), digest: Digest([5; 16]) }
    }

    #[test]
    fn messages_survive() {
        let remote = Remote { address: 0x7f00_0000_1000, bytes: 1 << 20, key: u64::MAX };
        let status = TargetStatus {
            target: TargetId(7),
            healthy: true,
            shards: 300,
            used_bytes: 1 << 33,
            capacity_bytes: 1 << 40,
            flushes: 12,
        };
        let table = ShardTable { payload_bytes: 32 << 10, block_sums: vec![1, u64::MAX] };
        let hello = Hello { cluster: ClusterId([9; 16]), node: NodeId(3), stores: true };
        let fetcher = Hello { stores: false, ..hello.clone() };
        let (request, shards) = (4, vec![shard(0), shard(13)]);
        let fetch = ToNode::Fetch { request, shard: shard(2), offset: 16 << 10, bytes: 5000, into: remote };
        let refused = Err(ShardError::StaleEpoch);
        let seeds = [
            ("hello", hello.to_bytes()),
            ("hello-of-a-fetcher", fetcher.to_bytes()),
            ("fetch", fetch.to_bytes()),
            ("verify", ToNode::Verify { request, shards }.to_bytes()),
            ("ask-status", ToNode::Status { request }.to_bytes()),
            ("slots", FromNode::Slots { slots: vec![remote; 3], epoch: Epoch(8) }.to_bytes()),
            ("stored", FromNode::Stored { slot: 2, result: Ok(()), next: remote }.to_bytes()),
            ("refused", FromNode::Stored { slot: 300, result: refused, next: remote }.to_bytes()),
            ("fetched", FromNode::Fetched { request, result: Ok(table) }.to_bytes()),
            ("not-fetched", FromNode::Fetched { request, result: Err(ShardError::NotFound) }.to_bytes()),
            ("verified", FromNode::Verified { request, results: vec![Ok(()), refused] }.to_bytes()),
            ("status", FromNode::Status { request, targets: vec![status] }.to_bytes()),
        ];
        replay("types_messages", messages, &seeds);
    }

    #[test]
    fn the_native_protocol_survives() {
        use crate::native::{
            Answer, Content, Entry, How, Operation, Precondition, Read, Refusal, Request, Retry, Slot,
            Welcome,
        };
        let remote = Remote { address: 0x7f00_0000_1000, bytes: 1 << 20, key: u64::MAX };
        let checksum = Checksum { kind: ChecksumKind::Crc32c, value: vec![1; 4], parts: None };
        let ask = |operation| {
            let request =
                Request { bucket: "b".into(), key: "photos/ä".into(), expected_owner: None, operation };
            ToGateway::Request { id: 7, request }.to_bytes()
        };
        let content = Content {
            size: 5,
            digest: [9; 32],
            md5: Some([1; 16]),
            checksum: Some(checksum),
            keep: Some(ChecksumKind::Sha256),
            how: How::Pull(vec![remote; 2]),
        };
        let headers = Headers(vec![("content-type".into(), "text/plain".into())]);
        let put = Operation::Put { headers, precondition: Precondition::Absent, content };
        let (access_key, region, proof) = ("AK".to_owned(), "us-east-1".to_owned(), [5; 32]);
        let login = Login { access_key, date: "20261123".into(), region, proof };
        let refusal = || Refusal { code: "SlowDown".into(), message: "later".into(), retry: Retry::Later };
        let slots = vec![Slot { index: 1, remote }];
        let entries = vec![Entry::CommonPrefix("photos/".into())];
        let sealer = Sealer::new([3; 32]);
        let reply =
            ToClient::Reply { id: 7, slot: None, fabric: "shm".into(), result: Err::<Answer, _>(refusal()) };
        let seeds = [
            ("greeting", Greeting::new([7; 32]).encode().to_vec()),
            ("login", login.to_bytes()),
            ("proved", LoginAnswer::Proved([5; 32]).to_bytes()),
            ("not-believed", LoginAnswer::Refused(refusal()).to_bytes()),
            ("frame", sealed(&sealer, &ask(Operation::Head(Read::default())))),
            ("get", ask(Operation::Get { read: Read::default(), into: Some(remote) })),
            ("put", ask(put)),
            ("written", ToGateway::Written { id: 7, chunk: 300 }.to_bytes()),
            (
                "welcome",
                ToClient::Welcome(Welcome { slots, requests_max: 64, carrier: "tcp".into() }).to_bytes(),
            ),
            ("write-here", ToClient::WriteHere { id: 7, chunk: 1, remote }.to_bytes()),
            ("entries", ToClient::Entries { id: 7, entries }.to_bytes()),
            ("reply", reply.to_bytes()),
            ("closing", ToClient::Closing(refusal()).to_bytes()),
        ];
        replay("types_native", native, &seeds);
    }

    #[test]
    fn rdma_tokens_survive() {
        use crate::rdma_token::control::{Op, Words};
        use crate::rdma_token::{DcDescriptor, Psn, QueuePairToken, RcToken, SessionId};
        let (session, psn) = (SessionId([0xab; 16]), Psn::of(0xa1_b2c3));
        let mut gid = [0; 16];
        gid[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 7]);
        let pair = QueuePairToken::of(0x3344, gid, 1, 0);
        let staging = QueuePairToken { key: 77, address: 1 << 40, bytes: 4096, ..pair };
        let (address, bytes, key) = (0x7f12_a400_0000, 1 << 20, 77);
        let dc = DcDescriptor { address, bytes, key, lid: 0, target: 0x12ab, gid: Some(gid), appended: None };
        let longer = DcDescriptor { appended: Some((address, 1 << 20)), ..dc };
        let rc = RcToken { session, address, bytes: 1 << 20, key };
        let lines = |words: Words| {
            let lines = words.iter().map(|(name, value)| format!("{name}: {value}\n"));
            lines.collect::<String>().into_bytes()
        };
        let (cookie, op, target) = (0xdead_beef, Op::Put, "/bucket/a%20key".to_owned());
        let prepare = Prepare { pair, psn, cookie, op, target, bytes: 4096, offset: 0 };
        let seeds = [
            ("dc", dc.to_string().into_bytes()),
            ("dc-with-buffer", format!("{longer};").into_bytes()),
            ("rc", rc.to_string().into_bytes()),
            ("queue-pair", pair.to_string().into_bytes()),
            ("queue-pair-with-buffer", format!("{pair}:7f12a4000000:100000").into_bytes()),
            ("connect", lines(Connect { pair, psn }.words())),
            ("connected", lines(Connected { session, pair, psn }.words())),
            ("prepare", lines(prepare.words())),
            ("prepared", lines(Connected { session, pair: staging, psn }.prepared_words())),
            ("ready", lines(Ready { session, cookie, pair: Some(0x3344), address, key }.words())),
        ];
        replay("types_rdma_token", rdma_token, &seeds);
    }

    #[test]
    fn rows_survive() {
        let version = CommandId { lease: LeaseId(70_000), sequence: 12 };
        let manifest = |body| Manifest {
            version,
            size: 20 << 20,
            etag: ETag { md5: [0xab; 16], parts: Some(2) },
            modified_ms: 1_900_000_000_000,
            checksums: vec![Checksum { kind: ChecksumKind::Crc64Nvme, value: vec![1; 8], parts: None }],
            headers: Headers(vec![
                ("content-type".into(), "text/plain".into()),
                ("x-amz-meta-a".into(), "ä".into()),
            ]),
            body,
        };
        let extents = vec![Extent { stripe: stripe(), offset: 64, bytes: 10 << 20 }; 2];
        let parts = vec![PartRef { number: 1, version, bytes: 20 << 20 }];
        let row = StripeRow {
            id: stripe(),
            group: GroupId(77),
            epoch: Epoch(8),
            data_bytes: 10 << 20,
            live_bytes: 5000,
            digests: std::array::from_fn(|index| Digest([index as u8; 16])),
            overrides: vec![Override { index: ShardIndex::new(13).unwrap(), target: TargetId(1 << 30) }],
        };
        let seeds = [
            ("manifest", manifest(Body::Extents(extents)).to_bytes()),
            ("empty-object", manifest(Body::Extents(Vec::new())).to_bytes()),
            ("manifest-of-parts", manifest(Body::Parts { upload: UploadId(version), parts }).to_bytes()),
            ("stripe-row", row.to_bytes()),
        ];
        replay("types_rows", rows, &seeds);
    }

    #[test]
    fn names_have_one_form() {
        let upload = UploadId(CommandId { lease: LeaseId(70_000), sequence: 0xfeed });
        let seeds = [
            ("upload", upload.to_string().into_bytes()),
            ("bucket", b"my-bucket.v2".to_vec()),
            ("key", "photos/2026/ä ö.jpg".into()),
            ("address", b"192.168.0.1".to_vec()),
        ];
        replay("types_names", names, &seeds);
    }
}
