//! The metadata service's own TCP: framed, multiplexed, authenticated by the cluster key before the first request.
//!
//! It knows no Raft and no state: frames with a kind, a group and a body. One listener serves clients and peers; a process
//! keeps one connection to each replica, shared by all groups. Every connection proves the cluster key both ways and names
//! its cluster, and a replica names its incarnation, so that neither another cluster nor a replica that lost its store is
//! ever taken for ours.

pub(crate) mod frame;
mod hello;
mod link;
mod outbox;

pub(crate) use frame::{Frame, FrameReader, Kind};
pub(crate) use hello::{Hello, Role};
pub(crate) use link::{Expect, Identity, Link, LinkError};
pub(crate) use outbox::Outbox;
