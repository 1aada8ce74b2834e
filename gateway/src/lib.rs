//! The gateway: S3 over HTTP, the PUT and GET pipelines, and the fan-out to fourteen nodes.

pub mod http;
pub mod ops;
pub mod transfer;
