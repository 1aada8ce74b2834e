//! Both ends of a stream prove that they have the cluster key, before the first request. The key never travels.
//!
//! ```text
//! initiator → acceptor   magic, nonce, hello
//! acceptor  → initiator  magic, nonce, hello, MAC("acceptor", transcript)
//! initiator → acceptor   MAC("initiator", transcript)
//! ```
//!
//! The MAC is BLAKE3 keyed with the cluster key, over a label of the role and everything that was said before: both nonces
//! and both hellos. A replay meets a fresh nonce, a reflection the wrong label. Hellos are authenticated, not secret: whoever
//! can reach the port sees the acceptor's.
//!
//! On purpose it neither encrypts nor authenticates what follows (the network inside a cluster is trusted not to rewrite
//! streams; see SECURITY), and sets no deadline: that is the caller's, 5 s is what the fabric uses.

use crate::ClusterKey;
use std::io;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest hello, bytes.
pub const HELLO_BYTES_MAX: usize = 256;

const MAGIC: [u8; 8] = *b"10-4 v1\n";
const NONCE_BYTES: usize = 32;
const OPENING_BYTES: usize = MAGIC.len() + NONCE_BYTES + 2;
const CONTEXT: &str = "tenfour handshake v1";

/// Why a peer was not believed.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The stream broke; a peer that does not believe us hangs up.
    #[error("the connection ended during the handshake: {0}")]
    Io(#[from] io::Error),
    /// Something else speaks there, or another version.
    #[error("the peer does not speak this protocol")]
    Protocol,
    /// The peer has another cluster key.
    #[error("the peer does not have this cluster's key")]
    WrongKey,
    /// The hello to send is longer than [`HELLO_BYTES_MAX`].
    #[error("hello longer than 256 bytes")]
    HelloTooLong,
}

impl HandshakeError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io(_))
    }
}

/// Proves the key as the side that connected; returns the acceptor's hello.
pub async fn initiate<S>(stream: &mut S, key: &ClusterKey, hello: &[u8]) -> Result<Vec<u8>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Ok(initiate_session(stream, key, hello).await?.peer_hello)
}

/// Proves the key as the side that was connected to; returns the initiator's hello.
pub async fn accept<S>(stream: &mut S, key: &ClusterKey, hello: &[u8]) -> Result<Vec<u8>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Ok(accept_session(stream, key, hello).await?.peer_hello)
}

/// What a handshake leaves: the peer's hello, and a key that only these two ends have and only this once.
pub(crate) struct Session {
    pub(crate) peer_hello: Vec<u8>,
    pub(crate) key: ClusterKey,
}

pub(crate) async fn initiate_session<S>(
    stream: &mut S,
    key: &ClusterKey,
    hello: &[u8],
) -> Result<Session, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ours = opening(hello)?;
    stream.write_all(&ours).await?;
    let (theirs, peer_hello) = read_opening(stream).await?;
    let proofs = Proofs::new(key, &ours, &theirs);
    let mut proof = [0; 32];
    stream.read_exact(&mut proof).await?;
    if blake3::Hash::from_bytes(proof) != proofs.of("acceptor") {
        return Err(HandshakeError::WrongKey);
    }
    stream.write_all(proofs.of("initiator").as_bytes()).await?;
    Ok(Session { peer_hello, key: proofs.session_key() })
}

pub(crate) async fn accept_session<S>(
    stream: &mut S,
    key: &ClusterKey,
    hello: &[u8],
) -> Result<Session, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ours = opening(hello)?;
    let (theirs, peer_hello) = read_opening(stream).await?;
    let proofs = Proofs::new(key, &theirs, &ours);
    ours.extend_from_slice(proofs.of("acceptor").as_bytes());
    stream.write_all(&ours).await?;
    let mut proof = [0; 32];
    stream.read_exact(&mut proof).await?;
    if blake3::Hash::from_bytes(proof) != proofs.of("initiator") {
        return Err(HandshakeError::WrongKey);
    }
    Ok(Session { peer_hello, key: proofs.session_key() })
}

fn opening(hello: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    if hello.len() > HELLO_BYTES_MAX {
        return Err(HandshakeError::HelloTooLong);
    }
    let mut bytes = Vec::with_capacity(OPENING_BYTES + hello.len() + 32);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&rand::random::<[u8; NONCE_BYTES]>());
    bytes.extend_from_slice(&(hello.len() as u16).to_le_bytes());
    bytes.extend_from_slice(hello);
    Ok(bytes)
}

/// All bytes of the peer's opening, and the hello in it.
pub(crate) async fn read_opening<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<(Vec<u8>, Vec<u8>), HandshakeError> {
    let mut head = [0; OPENING_BYTES];
    stream.read_exact(&mut head).await?;
    if !head.starts_with(&MAGIC) {
        return Err(HandshakeError::Protocol);
    }
    let [.., low, high] = head;
    let hello_bytes = usize::from(u16::from_le_bytes([low, high]));
    if hello_bytes > HELLO_BYTES_MAX {
        return Err(HandshakeError::Protocol);
    }
    let mut hello = vec![0; hello_bytes];
    stream.read_exact(&mut hello).await?;
    Ok(([&head[..], &hello].concat(), hello))
}

struct Proofs {
    key: ClusterKey,
    transcript: blake3::Hash,
}

impl Proofs {
    fn new(key: &ClusterKey, initiator_opening: &[u8], acceptor_opening: &[u8]) -> Self {
        // An opening contains its own length, so that the two cannot be cut elsewhere.
        let transcript = blake3::Hasher::new_derive_key(CONTEXT)
            .update(initiator_opening)
            .update(acceptor_opening)
            .finalize();
        Self { key: key.clone(), transcript }
    }

    fn of(&self, label: &str) -> blake3::Hash {
        blake3::Hasher::new_keyed(self.key.expose())
            .update(self.transcript.as_bytes())
            .update(label.as_bytes())
            .finalize()
    }

    fn session_key(&self) -> ClusterKey {
        ClusterKey::from_bytes(*self.of("session").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::is_documented;
    use tokio::io::duplex;

    /// As at the door for clients from outside.
    #[test]
    fn the_handshake_is_the_documented_one() {
        let opening = |nonce: u8| {
            let mut opening = opening(b"fabric").unwrap();
            opening[MAGIC.len()..MAGIC.len() + NONCE_BYTES].fill(nonce);
            opening
        };
        let (initiator, acceptor) = (opening(1), opening(2));
        let key = ClusterKey::from_bytes(tenfour_types::native::OPEN_DOOR_KEY_IS_PUBLIC);
        let proofs = Proofs::new(&key, &initiator, &acceptor);
        is_documented(&[
            ("initiator's opening", &initiator),
            ("acceptor's opening", &acceptor),
            ("transcript", proofs.transcript.as_bytes()),
            ("acceptor", proofs.of("acceptor").as_bytes()),
            ("initiator", proofs.of("initiator").as_bytes()),
            ("session", proofs.session_key().expose()),
        ]);
    }

    #[tokio::test]
    async fn both_ends_learn_the_hello_and_one_session_key() {
        let key = ClusterKey::generate();
        let (mut left, mut right) = duplex(4096);
        let (initiator, acceptor) = tokio::join!(
            initiate_session(&mut left, &key, b"from the left"),
            accept_session(&mut right, &key, &[9; HELLO_BYTES_MAX]),
        );
        let (initiator, acceptor) = (initiator.unwrap(), acceptor.unwrap());
        assert_eq!(initiator.peer_hello, [9; HELLO_BYTES_MAX]);
        assert_eq!(acceptor.peer_hello, b"from the left");
        assert_eq!(initiator.key.expose(), acceptor.key.expose());
        assert_ne!(initiator.key.expose(), key.expose());
    }

    #[tokio::test]
    async fn another_key_is_noticed_on_both_ends() {
        let (mut left, mut right) = duplex(4096);
        let initiator = async {
            let result = initiate(&mut left, &ClusterKey::generate(), b"").await;
            drop(left);
            result
        };
        let acceptor = ClusterKey::generate();
        let (initiator, acceptor) = tokio::join!(initiator, accept(&mut right, &acceptor, b""));
        assert!(matches!(initiator, Err(HandshakeError::WrongKey)));
        assert!(acceptor.is_err());
    }

    #[tokio::test]
    async fn a_changed_hello_or_a_reflected_proof_is_noticed() {
        let key = ClusterKey::generate();
        let (mut left, mut wire) = duplex(4096);
        let attack = async {
            // Returns the initiator's own opening as the acceptor's, with a proof of the wrong length of thought.
            let mut opening = [0; OPENING_BYTES];
            wire.read_exact(&mut opening).await.unwrap();
            wire.write_all(&opening).await.unwrap();
            wire.write_all(&[0; 32]).await.unwrap();
        };
        let (result, ()) = tokio::join!(initiate(&mut left, &key, b""), attack);
        assert!(matches!(result, Err(HandshakeError::WrongKey)));
        let proofs = Proofs::new(&key, b"a", b"b");
        assert_ne!(proofs.of("initiator"), proofs.of("acceptor"));
        assert_ne!(proofs.of("initiator"), Proofs::new(&key, b"a", b"c").of("initiator"));
    }

    #[tokio::test]
    async fn a_stranger_is_told_apart_and_bounds_hold() {
        let key = ClusterKey::generate();
        let (mut left, mut right) = duplex(4096);
        left.write_all(b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: none\r\n").await.unwrap();
        assert!(matches!(accept(&mut right, &key, b"").await, Err(HandshakeError::Protocol)));
        let too_long = [0; HELLO_BYTES_MAX + 1];
        assert!(matches!(initiate(&mut left, &key, &too_long).await, Err(HandshakeError::HelloTooLong)));
        let mut opening = opening(b"").unwrap();
        opening.truncate(OPENING_BYTES - 2);
        opening.extend_from_slice(&u16::MAX.to_le_bytes());
        let (mut left, mut right) = duplex(4096);
        left.write_all(&opening).await.unwrap();
        assert!(matches!(accept(&mut right, &key, b"").await, Err(HandshakeError::Protocol)));
    }
}
