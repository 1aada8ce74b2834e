//! Who the client is, and that the gateway knows it too. The secret never travels.
//!
//! ```text
//! client → gateway   greeting            private data of the fabric's request
//! gateway → client   greeting            private data of its accept
//! client → gateway   Login               access key, date, region, proof
//! gateway → client   LoginAnswer         proof, or why not
//!
//! signing key  = SigV4: HMAC(HMAC(HMAC(HMAC("AWS4" ‖ secret, date), region), "s3"), "aws4_request"), SHA-256
//! transcript   = BLAKE3 derive-key mode, context "tenfour S3 over RDMA login v1", over: client's greeting ‖ gateway's greeting ‖
//!                carrier u8 ‖ then for access key, date and region: length u16 ‖ bytes
//! secret(label) = BLAKE3 keyed with the signing key, over: transcript (32) ‖ label (ASCII)
//! ```
//!
//! Labels: `client proof`, `gateway proof`, and for the session `client to gateway`, `gateway to client`. A login that is replayed meets a
//! fresh nonce, one that is reflected the wrong label, one that is relayed over another kind of fabric the wrong carrier. Whoever
//! records a login can try secrets against it, as with any SigV4 signature: secrets are random and long.

use crate::codec::Fields;
use crate::{DecodeError, Wire};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fmt;
use std::hint::black_box;

use super::{NAME_BYTES_MAX, VERSION};

/// Length of a greeting.
pub const GREETING_BYTES: usize = 36;
const MAGIC: [u8; 3] = *b"S3R";
const CONTEXT: &str = "tenfour S3 over RDMA login v1";

/// What each side says first: 3 bytes of magic, the version, a nonce.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// The protocol's version.
    pub version: u8,
    /// 32 random bytes, never used again.
    pub nonce: [u8; 32],
}

impl Greeting {
    /// A greeting of this version.
    pub fn new(nonce: [u8; 32]) -> Self {
        Self { version: VERSION, nonce }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3] = self.version;
        bytes[4..].copy_from_slice(&self.nonce);
        bytes
    }

    /// The greeting of exactly these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const NAME: &str = "greeting";
        let mut fields = Fields(bytes);
        let mut read =
            || Some((fields.take::<3>()?, fields.u8()?, fields.take::<32>()?, fields.0.is_empty()));
        match read() {
            Some((MAGIC, VERSION, nonce, true)) => Ok(Self { version: VERSION, nonce }),
            Some((MAGIC, found, _, true)) => Err(DecodeError::Version { name: NAME, found, newest: VERSION }),
            _ => Err(DecodeError::Malformed { name: NAME }),
        }
    }
}

/// The client's first message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Login {
    /// Who.
    pub access_key: String,
    /// The day of the signing key, `YYYYMMDD` in UTC: today by the gateway's clock, or the day before or after.
    pub date: String,
    /// The region that the gateway serves.
    pub region: String,
    /// `client proof`.
    pub proof: [u8; 32],
}

impl Wire for Login {
    const NAME: &'static str = "login";
}

/// The gateway's answer to a login. It is the last message without a head.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LoginAnswer {
    /// Believed; here is `gateway proof`.
    Proved([u8; 32]),
    /// Not believed, or no room. Nothing proves that the gateway said so.
    Refused(super::Refusal),
}

impl Wire for LoginAnswer {
    const NAME: &'static str = "answer to a login";
}

impl Login {
    /// Whether every field can be what it should be.
    pub fn is_plausible(&self) -> bool {
        let name = |text: &str| (1..=NAME_BYTES_MAX).contains(&text.len());
        name(&self.access_key)
            && name(&self.region)
            && self.date.len() == 8
            && day_number(&self.date).is_some()
    }
}

/// A day, `YYYYMMDD`, as a number of days since 1970 (Gregorian; Howard Hinnant's `days_from_civil`).
pub fn day_number(date: &str) -> Option<i64> {
    if date.len() != 8 || !date.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| date.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// The day with a number, `YYYYMMDD` (`civil_from_days`).
pub fn date_of(day_number: i64) -> String {
    let shifted = day_number + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}")
}

/// A SigV4 signing key for the service `s3`, zeroed when dropped and hidden from `Debug`.
#[derive(Clone)]
pub struct SigningKey([u8; 32]);

impl SigningKey {
    /// Of a user, for a day (`YYYYMMDD`) and a region.
    pub fn derive(secret_key: &str, date: &str, region: &str) -> Self {
        let mut first = [b"AWS4", secret_key.as_bytes()].concat();
        let mut key = hmac(&first, date.as_bytes());
        first.fill(0);
        black_box(&first);
        for word in [region, "s3", "aws4_request"] {
            key = hmac(&key, word.as_bytes());
        }
        Self(key)
    }

    /// The HMAC of a text under it: SigV4's signature of a string to sign.
    pub fn sign(&self, text: &[u8]) -> [u8; 32] {
        hmac(&self.0, text)
    }

    #[cfg(test)]
    pub(super) fn expose(&self) -> [u8; 32] {
        self.0
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        self.0.fill(0);
        black_box(&self.0);
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(hidden)")
    }
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    // HMAC takes keys of every length.
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.chain_update(text).finalize().into_bytes().into()
}

/// What both ends of one login can compute from the signing key and from what was said.
pub struct Secrets {
    key: SigningKey,
    transcript: [u8; 32],
}

/// The key of each direction.
#[derive(Clone)]
pub struct SessionKeys {
    /// Of what the client sends.
    pub to_gateway: [u8; 32],
    /// Of what the gateway sends.
    pub to_client: [u8; 32],
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(hidden)")
    }
}

impl Secrets {
    /// Of the greetings, the carrier ([`carrier_code`]) and the names in the login.
    pub fn new(
        key: SigningKey,
        client: &Greeting,
        gateway: &Greeting,
        carrier: u8,
        names: (&str, &str, &str),
    ) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&client.encode()).update(&gateway.encode()).update(&[carrier]);
        for name in [names.0, names.1, names.2] {
            let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
            hasher.update(&length.to_le_bytes()).update(name.as_bytes());
        }
        Self { key, transcript: *hasher.finalize().as_bytes() }
    }

    #[cfg(test)]
    pub(super) fn transcript(&self) -> [u8; 32] {
        self.transcript
    }

    fn of(&self, label: &str) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.key.0).update(&self.transcript).update(label.as_bytes()).finalize()
    }

    /// What the client sends.
    pub fn client_proof(&self) -> [u8; 32] {
        *self.of("client proof").as_bytes()
    }

    /// Compares in constant time.
    pub fn is_client_proof(&self, proof: [u8; 32]) -> bool {
        self.of("client proof") == blake3::Hash::from_bytes(proof)
    }

    /// What the gateway answers.
    pub fn gateway_proof(&self) -> [u8; 32] {
        *self.of("gateway proof").as_bytes()
    }

    /// Compares in constant time.
    pub fn is_gateway_proof(&self, proof: [u8; 32]) -> bool {
        self.of("gateway proof") == blake3::Hash::from_bytes(proof)
    }

    /// The keys of what follows.
    pub fn session_keys(&self) -> SessionKeys {
        SessionKeys {
            to_gateway: *self.of("client to gateway").as_bytes(),
            to_client: *self.of("gateway to client").as_bytes(),
        }
    }
}

/// What carries a connection, as the transcript names it; 0 is none that this version knows.
pub fn carrier_code(name: &str) -> u8 {
    match name {
        "shm" => 1,
        "tcp" => 2,
        "verbs" => 3,
        _ => 0,
    }
}
