//! Listings, streamed: entries in messages that the client pays for with its word, page by page from the index.

use super::following::Following;
use super::session::{Asked, Context};
use crate::ops::Backend;
use crate::ops::listing::{self, Page};
use crate::ops::refusal::Refusal;
use crate::ops::requester::Wants;
use crate::transfer::SourceError;
use tenfour_metadata::api::ListEntry;
use tenfour_types::Scaled;
use tenfour_types::limits::{KEY_BYTES_MAX, LIST_KEYS_MAX};
use tenfour_types::native::{Answer, BODY_BYTES_MAX, Entry, From, LIST_WINDOW_MAX, ToClient};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What an entry takes in a message at most, besides its key, bytes.
const ENTRY_BYTES: usize = 64;
/// Entries of one message together, bytes: the next one always fits.
const MESSAGE_BYTES: usize = BODY_BYTES_MAX - ENTRY_BYTES - KEY_BYTES_MAX - 64;

/// What is asked for.
pub(super) struct Listing {
    pub(super) prefix: String,
    pub(super) delimiter: String,
    pub(super) from: From,
    pub(super) most: u64,
    pub(super) window: u32,
}

impl<B: Backend> Context<B> {
    pub(super) async fn list(
        &self,
        wants: &Wants,
        listing: Listing,
        asked: &mut Asked,
    ) -> Result<Answer, Refusal> {
        let Some(following) = &mut asked.following else { return Err(SourceError::Truncated.into()) };
        let mut stream =
            Stream { context: self, id: asked.id, following, credit: 0, entries: Vec::new(), bytes: 0 };
        stream.add(listing.window);
        let mut after = match listing.from {
            From::Start => None,
            From::After(key) => Some(key).filter(|key| !key.is_empty()),
            From::Token(token) => Some(listing::read_token(&token).ok_or_else(|| {
                Refusal::new("InvalidArgument", "The continuation token provided is incorrect")
            })?),
        };
        let mut sent = 0;
        loop {
            let most = u32::try_from((listing.most - sent).min(LIST_KEYS_MAX as u64)).unwrap_or(u32::MAX);
            let page = Page {
                prefix: listing.prefix.clone(),
                delimiter: Some(listing.delimiter.clone()).filter(|delimiter| !delimiter.is_empty()),
                after: after.take(),
                most,
            };
            let found = listing::page(&self.shared.backend, wants, &page).await?;
            after = found.entries.last().map(|entry| entry.sort_key().to_owned());
            sent += found.entries.len() as u64;
            for entry in found.entries {
                stream.push(entry).await?;
            }
            if !found.more || sent >= listing.most {
                stream.flush().await?;
                let next = if found.more { after.as_deref().map(listing::token) } else { None };
                return Ok(Answer::Listed { entries: sent, next });
            }
        }
    }
}

struct Stream<'a, B> {
    context: &'a Context<B>,
    id: u32,
    following: &'a mut mpsc::Receiver<Following>,
    /// Messages that may be sent.
    credit: u32,
    entries: Vec<Entry>,
    bytes: usize,
}

impl<B: Backend> Stream<'_, B> {
    fn add(&mut self, messages: u32) {
        self.credit = self.credit.saturating_add(messages).min(LIST_WINDOW_MAX);
    }

    async fn push(&mut self, entry: ListEntry) -> Result<(), Refusal> {
        self.bytes += entry.sort_key().len() + ENTRY_BYTES;
        self.entries.push(match entry {
            ListEntry::Object { key, size, etag, modified_ms, checksums } => {
                Entry::Object { key, size, etag, modified_ms, checksums }
            }
            ListEntry::CommonPrefix(prefix) => Entry::CommonPrefix(prefix),
        });
        if self.bytes > MESSAGE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Refusal> {
        if self.entries.is_empty() {
            return Ok(());
        }
        while self.credit == 0 {
            match timeout(self.context.shared.silence_max.scaled(), self.following.recv()).await {
                Ok(Some(Following::Entries(messages))) => self.add(messages),
                Ok(Some(_)) => {
                    return Err(SourceError::Malformed("that does not follow a listing".into()).into());
                }
                Ok(None) => return Err(SourceError::Truncated.into()),
                Err(_) => return Err(SourceError::TimedOut.into()),
            }
        }
        self.credit -= 1;
        self.bytes = 0;
        let message = ToClient::Entries { id: self.id, entries: std::mem::take(&mut self.entries) };
        self.context.outgoing.send(&message).await.map_err(|_| SourceError::Truncated.into())
    }
}
