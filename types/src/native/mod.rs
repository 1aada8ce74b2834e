//! S3 over RDMA, the native protocol: what a client from outside and a gateway say to each other over a connection of the fabric.
//!
//! 1. **Greeting** ([`login::Greeting`]): a nonce of each side, as the private data of the fabric's request and of its accept.
//! 2. **Login** ([`login`]): the client proves with its SigV4 signing key who it is, the gateway proves that it knows the same key;
//!    the secret never travels. Both derive a key for each direction from it.
//! 3. **Frames** ([`frame`]): from then on every message has a head with a sequence number and a keyed-BLAKE3 MAC.
//! 4. **Requests** ([`request`]) and **answers** ([`answer`]). The bytes of objects move by one-sided operations; the messages
//!    that steer them carry a digest of the bytes, so that the MAC covers them too.
//!
//! `docs/PROTOCOL.md`, section "S3 over RDMA", tells the order in which all that happens. Nothing in here does I/O, and every decoder
//! is a pure function of the bytes that a peer sent.

pub mod answer;
pub mod frame;
pub mod login;
pub mod request;

mod document;
mod tests;
mod vectors;

pub use answer::{Answer, Entry, ObjectInfo, Refusal, Retry, Slot, ToClient, Welcome};
pub use frame::{FrameError, HEAD_BYTES, Opener, Sealer};
pub use login::{Greeting, Login, LoginAnswer, SessionKeys};
pub use request::{
    Conditions, Content, From, How, IfRange, NamedPart, Operation, Precondition, Range, Read, Request, Tag,
    ToGateway,
};

/// The fabric's handshake asks for a key. At the door for clients from outside it is this one, which everybody knows: it grants
/// nothing and proves nothing. The login that follows does.
pub const OPEN_DOOR_KEY_IS_PUBLIC: [u8; 32] = *b"tenfour S3 door: not a secret!!!";
/// Where gateways listen for it by default.
pub const PORT_DEFAULT: u16 = 9100;
/// The protocol's version, in both greetings.
pub const VERSION: u8 = 1;

/// Longest message with its head, bytes: what one SEND of the fabric carries.
pub const FRAME_BYTES_MAX: usize = 16 << 10;
/// Longest message without its head, bytes.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - HEAD_BYTES;
/// Length of a slot, bytes: head, message and object bytes of a small PUT together.
pub const SLOT_BYTES: usize = 64 << 10;
/// Where the object bytes of a PUT in a slot begin: after head and message, at the next multiple of this.
pub const SLOT_ALIGN_BYTES: usize = 64;
/// Slots of one connection, at most.
pub const SLOTS_MAX: usize = 4;
/// Requests of one connection that may be unanswered.
pub const REQUESTS_MAX: usize = 64;
/// Object bytes that one grant of the gateway takes, at most; all chunks of a PUT but the last are of the length granted.
pub const CHUNK_BYTES: usize = 512 << 10;
/// Grants of one PUT that may be open at once.
pub const CHUNKS_OPEN_MAX: usize = 4;
/// Ranges that a client may offer for one PUT to be read from.
pub const PULL_RANGES_MAX: usize = 16;
/// Parts named in one message.
pub const PARTS_PER_MESSAGE_MAX: usize = 128;
/// Messages with entries of a listing that the gateway may send ahead of the client's word.
pub const LIST_WINDOW_MAX: u32 = 16;
/// The client's proof comes within so long after the connection stands, milliseconds.
pub const LOGIN_DEADLINE_MS: u64 = 5000;
/// A session ends after so long, milliseconds: a signing key is one day's.
pub const SESSION_MS_MAX: u64 = 24 * 3600 * 1000;
/// Longest access key and region in a login, bytes.
pub const NAME_BYTES_MAX: usize = crate::limits::ACCESS_KEY_BYTES_MAX;

/// Length of head and message with the padding that makes object bytes begin aligned.
pub const fn slot_body_offset(message_bytes: usize) -> usize {
    (HEAD_BYTES + message_bytes).next_multiple_of(SLOT_ALIGN_BYTES)
}
