//! Three replicas in one process over loopback TCP, used through the public handle only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod beginnings;
mod faults;
mod harness;
mod members;
mod service;
