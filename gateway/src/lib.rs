//! The gateway: S3 over HTTP, the PUT and GET pipelines, and the fan-out to fourteen nodes.

pub mod transfer;
