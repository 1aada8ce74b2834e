//! Listings: one page of keys and common prefixes, and the tokens by which the next page is asked for.

use super::requester::Wants;
use super::{Backend, OpError};
use crate::transfer::Authorise as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tenfour_metadata::api::{ListPage, ListRequest};
use tenfour_types::limits::LIST_KEYS_MAX;

/// How often a listing is authorised again because buckets or users changed meanwhile.
const ATTEMPTS_MAX: usize = 4;
/// The first byte of what a token encodes.
const TOKEN_VERSION: u8 = 1;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Keys that begin with this.
    pub prefix: String,
    /// Rolled up at this.
    pub delimiter: Option<String>,
    /// After this key or common prefix.
    pub after: Option<String>,
    /// At most; cut to 1,000.
    pub most: u32,
}

/// Lists one page. It shows every PUT that was acknowledged before it began.
pub async fn page<B: Backend>(backend: &B, wants: &Wants, page: &Page) -> Result<ListPage, OpError> {
    let most = page.most.min(u32::try_from(LIST_KEYS_MAX).unwrap_or(u32::MAX));
    if most == 0 {
        super::buckets::find(backend, wants).await?;
        return Ok(ListPage::default());
    }
    wants.bucket_now(backend).await?;
    for _ in 0..ATTEMPTS_MAX {
        let config = backend.config();
        let bucket = wants.check(&config)?;
        let request = ListRequest {
            bucket: bucket.id,
            prefix: page.prefix.clone(),
            delimiter: page.delimiter.clone(),
            after: page.after.clone(),
            most,
        };
        let (version, found) = backend.list(request).await?;
        if version <= config.version {
            return Ok(found);
        }
        let newest = backend.refresh_config().await?;
        if wants.check(&newest)?.id == bucket.id && version <= newest.version {
            return Ok(found);
        }
    }
    Err(OpError::Metadata("buckets and users change faster than a listing can be authorised".into()))
}

/// The token after which the next page begins.
pub fn token(after: &str) -> String {
    let mut bytes = vec![TOKEN_VERSION];
    bytes.extend_from_slice(after.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What a token says; `None` when it is none of ours.
pub fn read_token(token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    match bytes.split_first() {
        Some((&TOKEN_VERSION, after)) => String::from_utf8(after.to_vec()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_survive(after in ".*") {
            prop_assert_eq!(read_token(&token(&after)), Some(after));
        }

        #[test]
        fn no_text_makes_the_token_reader_panic(text in ".*") {
            let _ = read_token(&text);
        }
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for bad in ["", "abc", "1ueGcxLPRx1Tr", &URL_SAFE_NO_PAD.encode([9, 65])] {
            assert_eq!(read_token(bad), None, "{bad}");
        }
    }
}
