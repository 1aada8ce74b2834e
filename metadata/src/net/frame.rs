//! Frames: length (4 bytes, of what follows), request id (8), kind (1), metadata group (2), body; numbers little-endian.
//!
//! A body is postcard, or raw bytes where a stage only passes them on. Any bytes are taken without a panic, and no length
//! above `MESSAGE_BYTES_MAX` is ever allocated for.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use tenfour_types::limits::MESSAGE_BYTES_MAX;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;

const LENGTH_BYTES: usize = 4;
const HEAD_BYTES: usize = 11;
/// The read buffer grows by this at least, bytes.
const READ_BYTES: usize = 32 << 10;

/// What a frame asks or answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Peer: entries or a heartbeat of a group's leader.
    Append = 1,
    /// Peer: a candidate asks for a vote.
    Vote = 2,
    /// Peer: a snapshot begins.
    SnapshotBegin = 3,
    /// Peer: the next bytes of it.
    SnapshotChunk = 4,
    /// Peer: it is complete.
    SnapshotEnd = 5,
    /// Peer: begin a group of a new cluster.
    Initialise = 6,
    /// An envelope for an index group.
    Commit = 16,
    /// A read of an index group.
    Query = 17,
    /// A command for group 0.
    Cluster = 18,
    /// A read of group 0.
    ClusterQuery = 19,
    /// A node lives.
    Heartbeat = 20,
    /// Tell when the map or the config changes.
    Watch = 21,
    /// How this replica fares.
    Status = 22,
    /// Who this replica is and what it knows.
    Greet = 23,
    /// A change of the replicas.
    Members = 24,
    /// The answer; its body depends on the question.
    Done = 64,
    /// Nothing happened: this replica does not lead the group.
    NotLeader = 65,
    /// It may have happened, or may still.
    Undecided = 66,
    /// Nothing happened, and asking again does not help; a text says why.
    Refused = 67,
    /// Nothing happened: too much is waiting.
    Busy = 68,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Kind; 20] = [
            Kind::Append,
            Kind::Vote,
            Kind::SnapshotBegin,
            Kind::SnapshotChunk,
            Kind::SnapshotEnd,
            Kind::Initialise,
            Kind::Commit,
            Kind::Query,
            Kind::Cluster,
            Kind::ClusterQuery,
            Kind::Heartbeat,
            Kind::Watch,
            Kind::Status,
            Kind::Greet,
            Kind::Members,
            Kind::Done,
            Kind::NotLeader,
            Kind::Undecided,
            Kind::Refused,
            Kind::Busy,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One message.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) group: u16,
    pub(crate) body: Bytes,
}

impl Frame {
    /// Appends a frame whose body is `value` in postcard.
    pub(crate) fn write<T: Serialize>(
        out: &mut Vec<u8>,
        id: u64,
        kind: Kind,
        group: u16,
        value: &T,
    ) -> io::Result<()> {
        Self::write_with(out, id, kind, group, |out| {
            postcard::to_io(value, out).map(drop).map_err(|_| io::ErrorKind::InvalidInput.into())
        })
    }

    /// Appends a frame whose body `fill` appends; on error `out` is as it was.
    pub(crate) fn write_with(
        out: &mut Vec<u8>,
        id: u64,
        kind: Kind,
        group: u16,
        fill: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        out.extend_from_slice(&id.to_le_bytes());
        out.push(kind as u8);
        out.extend_from_slice(&group.to_le_bytes());
        let filled = fill(out).and_then(|()| {
            let bytes = out.len() - start - LENGTH_BYTES;
            u32::try_from(bytes).ok().filter(|_| bytes <= MESSAGE_BYTES_MAX).ok_or_else(too_long)
        });
        match filled {
            Ok(bytes) => {
                if let Some(head) = out.get_mut(start..start + LENGTH_BYTES) {
                    head.copy_from_slice(&bytes.to_le_bytes());
                }
                Ok(())
            }
            Err(error) => {
                out.truncate(start);
                Err(error)
            }
        }
    }

    /// The body as a value; `None` when it is not one.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Option<T> {
        match postcard::take_from_bytes(&self.body) {
            Ok((value, [])) => Some(value),
            _ => None,
        }
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message above MESSAGE_BYTES_MAX")
}

/// Takes frames off a connection.
pub(crate) struct FrameReader {
    half: OwnedReadHalf,
    buffer: BytesMut,
}

impl FrameReader {
    pub(crate) fn new(half: OwnedReadHalf) -> Self {
        Self { half, buffer: BytesMut::with_capacity(READ_BYTES) }
    }

    /// The next frame; `None` at the orderly end. Safe to drop while it waits.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_BYTES);
            if self.half.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }
}

pub(crate) fn take_frame(buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
    let Some((length, _)) = buffer.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let bytes = u32::from_le_bytes(*length) as usize;
    if !(HEAD_BYTES..=MESSAGE_BYTES_MAX).contains(&bytes) {
        return Err(too_long());
    }
    if buffer.len() < LENGTH_BYTES + bytes {
        buffer.reserve(LENGTH_BYTES + bytes - buffer.len());
        return Ok(None);
    }
    let mut frame = buffer.split_to(LENGTH_BYTES + bytes).freeze();
    frame.advance(LENGTH_BYTES);
    let (id, kind, group) = (frame.get_u64_le(), frame.get_u8(), frame.get_u16_le());
    let kind = Kind::from_byte(kind)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an unknown kind of message"))?;
    Ok(Some(Frame { id, kind, group, body: frame }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut(id: u64, group: u16, body in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..230) {
            let mut bytes = Vec::new();
            Frame::write_with(&mut bytes, id, Kind::Commit, group, |out| { out.extend_from_slice(&body); Ok(()) }).unwrap();
            let cut = cut.min(bytes.len());
            let mut buffer = BytesMut::from(&bytes[..cut]);
            if cut < bytes.len() {
                prop_assert!(take_frame(&mut buffer).unwrap().is_none());
            }
            buffer.extend_from_slice(&bytes[cut..]);
            let frame = take_frame(&mut buffer).unwrap().unwrap();
            prop_assert_eq!((frame.id, frame.kind, frame.group, frame.body.as_ref()), (id, Kind::Commit, group, &body[..]));
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = take_frame(&mut BytesMut::from(&bytes[..]));
        }
    }

    #[test]
    fn a_message_above_the_bound_is_not_written() {
        let mut out = vec![7];
        let body = vec![0; MESSAGE_BYTES_MAX];
        assert!(
            Frame::write_with(&mut out, 1, Kind::Commit, 0, |out| {
                out.extend_from_slice(&body);
                Ok(())
            })
            .is_err()
        );
        assert_eq!(out, [7]);
    }
}
