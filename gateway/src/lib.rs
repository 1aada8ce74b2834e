//! The gateway: S3 over HTTP and over RDMA, the PUT and GET pipelines, and the fan-out to fourteen nodes.

pub mod commit;
pub mod counters;
pub mod doors;
mod etag;
mod fanout;
mod gateway;
mod gather;
mod get;
pub mod http;
mod latency;
mod memory;
mod nodes;
pub mod ops;
pub mod points;
mod put;
pub mod rdma;
mod stripe;
pub mod transfer;
pub mod transport;
mod verify;

pub use etag::EtagKind;
pub use gateway::{Gateway, GatewayConfig, POOL_BYTES_DEFAULT, POOL_BYTES_MIN, StartError};
pub use get::ObjectReader;
