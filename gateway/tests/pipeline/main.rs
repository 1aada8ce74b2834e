//! The PUT and GET pipelines against real nodes and real metadata replicas.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fabric;
mod faults;
mod harness;
mod whole;
