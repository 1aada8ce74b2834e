//! The signatures of signed chunks, each over the one before it, and of their trailers.
//!
//! Knows nothing of framing. A chunk's data is hashed as it passes; whether it was what was signed is known at its end.

use super::chunked::FramingError;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Verifies the chain of signatures of signed chunks, each over the one before it: `AWS4-HMAC-SHA256-PAYLOAD` of
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html>.
pub struct ChunkSigner {
    key: [u8; 32],
    /// `x-amz-date`, a line break, the credential's scope, a line break.
    date_and_scope: String,
    previous: String,
    expected: String,
    sha256: Sha256,
}

impl ChunkSigner {
    /// `scope` is `date/region/service/aws4_request`; `seed` the signature of the request's headers, which was verified.
    pub fn new(secret_key: &str, amz_date: &str, scope: &str, seed: &str) -> Self {
        let mut key = format!("AWS4{secret_key}").into_bytes();
        for part in scope.split('/') {
            key = hmac_sha256(&key, part.as_bytes()).to_vec();
        }
        let mut fixed = [0; 32];
        fixed.iter_mut().zip(key).for_each(|(to, from)| *to = from);
        Self {
            key: fixed,
            date_and_scope: format!("{amz_date}\n{scope}\n"),
            previous: seed.to_owned(),
            expected: String::new(),
            sha256: Sha256::new(),
        }
    }

    /// A chunk with this signature begins.
    pub fn begin_chunk(&mut self, signature: &str) {
        signature.clone_into(&mut self.expected);
    }

    /// The next bytes of its data.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
    }

    /// It ends: was it what was signed?
    pub fn end_chunk(&mut self) -> Result<(), FramingError> {
        let data = hex::encode(std::mem::take(&mut self.sha256).finalize());
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}{}\n{}\n{data}",
            self.date_and_scope,
            self.previous,
            hex::encode(Sha256::digest(b"")),
        );
        self.previous = self.verify(&text, &self.expected)?;
        Ok(())
    }

    /// Are these trailers, sorted by name, what was signed?
    pub fn verify_trailers(
        &self,
        trailers: &[(String, String)],
        signature: &str,
    ) -> Result<(), FramingError> {
        let canonical: String = trailers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let text = format!(
            "AWS4-HMAC-SHA256-TRAILER\n{}{}\n{}",
            self.date_and_scope,
            self.previous,
            hex::encode(Sha256::digest(canonical.as_bytes())),
        );
        self.verify(&text, signature).map(drop)
    }

    #[cfg(test)]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    fn verify(&self, text: &str, signature: &str) -> Result<String, FramingError> {
        let given = hex::decode(signature).map_err(|_| FramingError::Signature)?;
        mac(&self.key, text.as_bytes()).verify_slice(&given).map_err(|_| FramingError::Signature)?;
        Ok(signature.to_owned())
    }
}

/// HMAC-SHA256, ready for its text.
fn mac(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    let mut mac = match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        // HMAC takes keys of every length.
        Err(_) => Hmac::<Sha256>::new(&Default::default()),
    };
    mac.update(text);
    mac
}

/// HMAC-SHA256.
pub fn hmac_sha256(key: &[u8], text: &[u8]) -> [u8; 32] {
    mac(key, text).finalize().into_bytes().into()
}
