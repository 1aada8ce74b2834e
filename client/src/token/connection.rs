//! A connection for many requests: the gateway reads and writes memory that each request names.

use super::{
    Answer, TokenCallError, TokenClient, TokenRead, TokenStored, moved, pair_address, pair_token, unquoted,
};
use crate::signed::object_path;
use http::{HeaderMap, Method};
use std::ops::Range;
use tenfour_rdma::{Admits, Buffer, ForeignPair, Frozen, Place};
use tenfour_types::rdma_token::control::{Connect, Connected};
use tenfour_types::rdma_token::headers::{CONNECT_PATH, DISCONNECT_PATH, REPLY, SESSION, TOKEN};
use tenfour_types::rdma_token::{Psn, RcToken, SessionId};

/// A queue pair that is connected to one of the gateway's.
pub struct TokenConnection<'a> {
    client: &'a TokenClient,
    pair: ForeignPair,
    session: SessionId,
}

impl TokenClient {
    /// Connects a queue pair.
    pub async fn connect(&self) -> Result<TokenConnection<'_>, TokenCallError> {
        let pair = self.domain.queue_pair(Admits::Everything, None)?;
        let local = pair.local();
        let asked = Connect { pair: pair_token(&local), psn: Psn::of(local.psn) };
        let answer = self.control(CONNECT_PATH, &asked.words()).await?;
        let connected = Connected::read(&Answer(&answer))?;
        pair.connect(pair_address(&connected.pair, connected.psn)).await?;
        Ok(TokenConnection { client: self, pair, session: connected.session })
    }
}

impl TokenConnection<'_> {
    /// The queue pair.
    pub fn pair(&self) -> &ForeignPair {
        &self.pair
    }

    /// The descriptor of memory that is exposed to the gateway over this connection.
    pub fn token(&self, place: Place, bytes: u64) -> RcToken {
        RcToken { session: self.session, address: place.address, bytes, key: place.key }
    }

    /// Stores memory as an object. `headers` are lower-case names of what goes with it.
    pub async fn put_object(
        &self,
        bucket: &str,
        key: &str,
        body: &Frozen,
        headers: &[(&str, &str)],
    ) -> Result<TokenStored, TokenCallError> {
        self.put(object_path(bucket, key)?, Vec::new(), body, headers).await
    }

    /// Stores memory as a part of an upload.
    pub async fn upload_part(
        &self,
        (bucket, key): (&str, &str),
        (upload, number): (&str, u32),
        body: &Frozen,
    ) -> Result<TokenStored, TokenCallError> {
        let query = vec![("partNumber", number.to_string()), ("uploadId", upload.to_owned())];
        self.put(object_path(bucket, key)?, query, body, &[]).await
    }

    async fn put(
        &self,
        path: String,
        query: Vec<(&str, String)>,
        body: &Frozen,
        headers: &[(&str, &str)],
    ) -> Result<TokenStored, TokenCallError> {
        let exposed = self.pair.expose_to_read(body.clone())?;
        let wanted = body.len() as u64;
        let mut words: Vec<(&str, String)> =
            headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        words.push((TOKEN, self.token(exposed.place(), wanted).to_string()));
        let answer = self.client.call(Method::PUT, path, query, &words).await;
        exposed.end();
        let headers = served(answer?)?;
        let moved = moved(&headers)?;
        if moved != wanted {
            return Err(TokenCallError::Length { moved, wanted });
        }
        Ok(TokenStored { etag: unquoted(&headers, "etag")?, headers })
    }

    /// Reads an object, or a range of it, into memory. The memory comes back with the error, too, unless the device did not let go of it.
    pub async fn get_object(
        &self,
        bucket: &str,
        key: &str,
        into: Buffer,
        range: Option<Range<u64>>,
    ) -> Result<TokenRead, (Option<Buffer>, TokenCallError)> {
        let room = into.len() as u64;
        let path = match object_path(bucket, key) {
            Ok(path) => path,
            Err(error) => return Err((Some(into), error.into())),
        };
        let exposed = match self.pair.expose_to_write(into) {
            Ok(exposed) => exposed,
            Err(error) => return Err((None, error.into())),
        };
        let mut words = vec![(TOKEN, self.token(exposed.place(), room).to_string())];
        words.extend(
            range.map(|range| ("range", format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))),
        );
        let answer = self.client.call(Method::GET, path, Vec::new(), &words).await;
        // What was written after this is refused: only now are the bytes what the answer says.
        let buffer = exposed.end();
        let read = answer.and_then(served).and_then(|headers| Ok((moved(&headers)?, headers)));
        match (read, buffer) {
            (Ok((moved, headers)), Some(buffer)) if moved <= room => {
                let bytes = usize::try_from(moved).unwrap_or(usize::MAX);
                Ok(TokenRead { buffer, bytes, headers })
            }
            (Ok((moved, _)), buffer) => Err((buffer, TokenCallError::Length { moved, wanted: room })),
            (Err(error), buffer) => Err((buffer, error)),
        }
    }

    /// Ends the connection.
    pub async fn disconnect(self) -> Result<(), TokenCallError> {
        let words = vec![(SESSION, self.session.to_string())];
        self.client.control(DISCONNECT_PATH, &words).await.map(drop)
    }
}

/// An answer whose body did go by RDMA.
fn served(headers: HeaderMap) -> Result<HeaderMap, TokenCallError> {
    match headers.get(REPLY).and_then(|reply| reply.to_str().ok()) {
        Some("200" | "206") => Ok(headers),
        Some("501") => {
            let reason = headers.get("x-tenfour-rdma-reason").and_then(|reason| reason.to_str().ok());
            Err(TokenCallError::Declined(reason.unwrap_or("the gateway gives no reason").to_owned()))
        }
        _ => Err(TokenCallError::Malformed(format!("{REPLY} is missing: is this a gateway with RDMA?"))),
    }
}
