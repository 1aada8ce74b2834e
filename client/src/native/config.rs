//! What a client is made with, and what a call may say.

use std::time::Duration;
use tenfour_rdma::{Endpoint, Tunables};
use tenfour_types::native::{Conditions, From, IfRange, Precondition, Range};
use tenfour_types::{Checksum, ChecksumKind, Headers};

/// What a client is made with.
#[derive(Clone)]
pub struct ClientConfig {
    /// Gateways, in the order in which they are tried.
    pub endpoints: Vec<Endpoint>,
    /// The user.
    pub access_key: String,
    /// The user's secret. It never travels.
    pub secret_key: String,
    /// The region of the cluster; `us-east-1` by default.
    pub region: String,
    /// Where the same calls go when no gateway can be reached by RDMA, such as `http://127.0.0.1:9000`; nowhere by default: a
    /// client that asked for RDMA is not served by something else in silence. Over HTTP nobody proves to the client who answers, nothing
    /// is encrypted, and only whole objects are compared with their checksums: whoever can keep RDMA from a client brings it there.
    pub fallback_http: Option<String>,
    /// Registered memory, bytes: all buffers together. 64 MiB by default.
    pub pool_bytes: usize,
    /// A connection stands, login included, after so long. 10 s by default.
    pub connect_deadline: Duration,
    /// A call that was not answered for so long ends its connection; each message of a call counts as an answer. One that moves bytes
    /// before it is answered has a second more for every 256 KiB. 120 s by default.
    pub answer_deadline: Duration,
    /// What is sent again.
    pub retry: RetryPolicy,
    /// Times of the fabric.
    pub tunables: Tunables,
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("ClientConfig");
        out.field("endpoints", &self.endpoints).field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

impl ClientConfig {
    /// Of a user, with defaults for the rest and no endpoint yet.
    pub fn new(access_key: &str, secret_key: &str) -> Self {
        Self {
            endpoints: Vec::new(),
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            region: "us-east-1".to_owned(),
            fallback_http: None,
            pool_bytes: 64 << 20,
            connect_deadline: Duration::from_secs(10),
            answer_deadline: Duration::from_secs(120),
            retry: RetryPolicy::default(),
            tunables: Tunables::default(),
        }
    }
}

/// What is sent again, and how often; [`super::retry`] tells why.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Tries of one call, the first included. 5 by default.
    pub attempts_max: u32,
    /// The pause before the second; doubled each time, up to a second. 50 ms by default.
    pub pause: Duration,
    /// Send unconditional PUTs and DELETEs again though the outcome of the first is unknown. Off by default: the second could
    /// undo what somebody else wrote in between.
    pub overwrite: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 5, pause: Duration::from_millis(50), overwrite: false }
    }
}

/// How the bytes of a PUT travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PutMode {
    /// Small objects in a slot, one round trip; others by pull.
    #[default]
    Auto,
    /// The client writes into memory that the gateway grants: small objects in a slot, others chunk by chunk.
    Push,
    /// The gateway reads the client's memory; memory of the caller that it cannot read goes by push.
    Pull,
}

/// What a PUT or a part may say.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Standard headers and `x-amz-meta-*`, lower-case names. Not of parts.
    pub headers: Headers,
    /// What must hold of the object there. Not of parts.
    pub precondition: Precondition,
    /// A checksum of the bytes, verified and kept by the gateway.
    pub checksum: Option<Checksum>,
    /// The kind to compute and keep when none is given; CRC-64/NVME by default.
    pub keep: Option<ChecksumKind>,
    /// MD5 of the bytes, verified by the gateway.
    pub md5: Option<[u8; 16]>,
    /// How the bytes travel.
    pub mode: PutMode,
}

/// What a GET or HEAD may say.
#[derive(Clone, Debug, Default)]
pub struct GetOptions {
    /// Which bytes.
    pub range: Range,
    /// What must hold of the object.
    pub conditions: Conditions,
    /// Of another object than this, all is wanted.
    pub if_range: Option<IfRange>,
}

/// What a listing may say.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// Keys that begin with this.
    pub prefix: String,
    /// Rolled up at this; empty: not.
    pub delimiter: String,
    /// Where to begin.
    pub from: From,
    /// At most so many keys and common prefixes; 1,000 by default, `u64::MAX` for all.
    pub most: u64,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self { prefix: String::new(), delimiter: String::new(), from: From::Start, most: 1000 }
    }
}
