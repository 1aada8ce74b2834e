//! Names of the headers, and the places of the control requests.

/// A descriptor.
pub const TOKEN: &str = "x-amz-rdma-token";
/// What became of it: `200`, `206`, `501`, or `200:` and a queue pair.
pub const REPLY: &str = "x-amz-rdma-reply";
/// How many bytes were moved, decimal.
pub const BYTES_TRANSFERRED: &str = "x-amz-rdma-bytes-transferred";
/// Which protocol of agreeing on a transfer.
pub const PROTOCOL: &str = "x-amz-rdma-protocol";
/// `unsupported`, beside the status 501.
pub const PROTOCOL_STATUS: &str = "x-amz-rdma-protocol-status";
/// A first packet sequence number.
pub const PSN: &str = "x-amz-rdma-psn";
/// What the immediate data of a transfer must be.
pub const COOKIE: &str = "x-amz-rdma-cookie";
/// `GET` or `PUT`.
pub const OP: &str = "x-amz-rdma-op";
/// `/bucket/key`, percent-encoded, with a query for a part.
pub const TARGET: &str = "x-amz-rdma-target";
/// Bytes of a transfer, decimal.
pub const SIZE: &str = "x-amz-rdma-size";
/// Where in the object they begin, decimal.
pub const OFFSET: &str = "x-amz-rdma-offset";
/// A session.
pub const SESSION: &str = "x-amz-rdma-session";
/// A queue pair's number.
pub const QPN: &str = "x-amz-rdma-qpn";
/// An address of registered memory.
pub const MR_ADDR: &str = "x-amz-rdma-mr-addr";
/// The key of registered memory.
pub const MR_RKEY: &str = "x-amz-rdma-mr-rkey";
/// The ETag of what was stored.
pub const ETAG: &str = "x-amz-rdma-etag";

/// Connects a queue pair, for many transfers.
pub const CONNECT_PATH: &str = "/.s3rdma-rc/connect";
/// Ends such a connection.
pub const DISCONNECT_PATH: &str = "/.s3rdma-rc/disconnect";
/// Agrees on one transfer.
pub const PREPARE_PATH: &str = "/.hipobj-rc/prepare";
/// Lets it run.
pub const READY_PATH: &str = "/.hipobj-rc/ready";
/// Gives it up.
pub const CANCEL_PATH: &str = "/.hipobj-rc/cancel";
/// What the paths of control requests begin with. No bucket is named so.
pub const CONTROL_PREFIXES: [&str; 2] = ["/.s3rdma-rc/", "/.hipobj-rc/"];
/// The protocol of the last three.
pub const HIPOBJ_RC_V2: &str = "hipobj-rc-v2";
