//! Three replicas in one process over loopback TCP, used through the public handle only.

mod beginnings;
mod faults;
mod harness;
mod members;
mod service;
