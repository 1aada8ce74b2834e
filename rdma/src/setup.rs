//! What the two ends say between the handshake and the first operation: request, then accept or reject. Fixed size, so that
//! file descriptors can ride on its first byte, and sealed with the session's key.
//!
//! ```text
//! 0 kind   1 provider   2 length of private data   3..59 private data   59..64 zero
//! 64..72 bytes of the pool (shm)   72..96 zero   96..128 MAC over label and 0..96
//! ```

use crate::config::PRIVATE_DATA_BYTES_MAX;
use crate::{ClusterKey, Provider};

/// Bytes of an encoded set-up.
pub(crate) const SETUP_BYTES: usize = 128;
pub(crate) const SIGNED_BYTES: usize = 96;

/// Which end speaks; keeps one's words from being returned to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Initiator,
    Acceptor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Request,
    Accept,
    Reject,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) provider: Provider,
    pub(crate) private_data: Vec<u8>,
    pub(crate) pool_bytes: u64,
}

impl Setup {
    /// `None` when the private data is too long.
    pub(crate) fn encode(&self, key: &ClusterKey, role: Role) -> Option<[u8; SETUP_BYTES]> {
        let mut bytes = [0; SETUP_BYTES];
        let length = self.private_data.len();
        if length > PRIVATE_DATA_BYTES_MAX {
            return None;
        }
        let kind = match self.kind {
            Kind::Request => 1,
            Kind::Accept => 2,
            Kind::Reject => 3,
        };
        let provider = match self.provider {
            Provider::Shm => 1,
            Provider::Tcp => 2,
            Provider::Verbs => 3,
        };
        bytes[..3].copy_from_slice(&[kind, provider, length as u8]);
        bytes[3..3 + length].copy_from_slice(&self.private_data);
        bytes[64..72].copy_from_slice(&self.pool_bytes.to_le_bytes());
        let mac = mac(key, role, bytes.first_chunk()?);
        bytes[SIGNED_BYTES..].copy_from_slice(mac.as_bytes());
        Some(bytes)
    }

    /// What the end with that role said; `None` when it is malformed, or not from there.
    pub(crate) fn decode(bytes: &[u8; SETUP_BYTES], key: &ClusterKey, role: Role) -> Option<Self> {
        let signed = bytes.first_chunk::<SIGNED_BYTES>()?;
        if mac(key, role, signed) != blake3::Hash::from_bytes(*bytes.last_chunk()?) {
            return None;
        }
        let [kind, provider, length, ..] = *signed;
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Accept,
            3 => Kind::Reject,
            _ => return None,
        };
        let provider = match provider {
            1 => Provider::Shm,
            2 => Provider::Tcp,
            3 => Provider::Verbs,
            _ => return None,
        };
        let private_data = signed.get(3..59)?.get(..usize::from(length))?.to_vec();
        let pool_bytes = u64::from_le_bytes(*signed.get(64..72)?.first_chunk()?);
        Some(Self { kind, provider, private_data, pool_bytes })
    }
}

pub(crate) fn mac(key: &ClusterKey, role: Role, signed: &[u8; SIGNED_BYTES]) -> blake3::Hash {
    let label: &[u8] = match role {
        Role::Initiator => b"fabric set-up, initiator",
        Role::Acceptor => b"fabric set-up, acceptor",
    };
    blake3::Hasher::new_keyed(key.expose()).update(label).update(signed).finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{is_documented, vector};
    use proptest::prelude::*;
    use tenfour_types::native::Greeting;

    #[test]
    fn the_set_up_is_the_documented_one() {
        let key = ClusterKey::from_hex(&vector("session")).unwrap();
        let encoded = |kind, nonce, pool_bytes, role| {
            let private_data = Greeting::new([nonce; 32]).encode().to_vec();
            Setup { kind, provider: Provider::Tcp, private_data, pool_bytes }.encode(&key, role).unwrap()
        };
        is_documented(&[
            ("request", &encoded(Kind::Request, 3, 1 << 20, Role::Initiator)),
            ("accept", &encoded(Kind::Accept, 4, 1 << 24, Role::Acceptor)),
        ]);
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood_and_nothing_else(
            private_data in prop::collection::vec(any::<u8>(), 0..=PRIVATE_DATA_BYTES_MAX),
            pool_bytes in any::<u64>(),
            flip in 0usize..SETUP_BYTES * 8,
        ) {
            let key = ClusterKey::from_bytes([3; 32]);
            let setup = Setup { kind: Kind::Accept, provider: Provider::Shm, private_data, pool_bytes };
            let mut bytes = setup.encode(&key, Role::Acceptor).unwrap();
            prop_assert_eq!(Setup::decode(&bytes, &key, Role::Acceptor), Some(setup));
            prop_assert_eq!(Setup::decode(&bytes, &key, Role::Initiator), None);
            bytes[flip / 8] ^= 1 << (flip % 8);
            prop_assert_eq!(Setup::decode(&bytes, &key, Role::Acceptor), None);
        }

        /// Even someone with the session's key cannot make the decoder panic.
        #[test]
        fn signed_nonsense_is_refused_or_harmless(mut body in prop::array::uniform32(any::<u8>()), kind in 0u8..6) {
            let key = ClusterKey::from_bytes([3; 32]);
            body[0] = kind;
            let mut bytes = [0; SETUP_BYTES];
            bytes[..32].copy_from_slice(&body);
            let mac = mac(&key, Role::Initiator, bytes.first_chunk().unwrap());
            bytes[SIGNED_BYTES..].copy_from_slice(mac.as_bytes());
            if let Some(setup) = Setup::decode(&bytes, &key, Role::Initiator) {
                prop_assert!(setup.private_data.len() <= PRIVATE_DATA_BYTES_MAX);
            }
        }
    }
}
