//! Transfers that are agreed on one by one (`hipobj-rc-v2`): prepare, connect, ready, and the bytes meanwhile.
//!
//! A PUT writes into memory that the gateway opened for it, and says so with the immediate data of that WRITE; a GET's bytes are written into memory
//! that is opened to the gateway, the last of them with immediate data.

use super::{
    Answer, TokenCallError, TokenClient, TokenRead, TokenStored, moved, pair_address, pair_token, unquoted,
};
use crate::signed::object_path;
use http::HeaderMap;
use std::time::Duration;
use tenfour_rdma::{Admits, Buffer, ForeignPair, Frozen, Place};
use tenfour_types::Scaled;
use tenfour_types::rdma_token::Psn;
use tenfour_types::rdma_token::control::{Connected, Op, Prepare, Ready};
use tenfour_types::rdma_token::headers::{ETAG, PREPARE_PATH, READY_PATH};
use tokio::time::{sleep, timeout};

/// A gateway that hears that it may begin needs a moment to connect its queue pair; what comes before is lost, and sent again.
const GRACE: Duration = Duration::from_millis(100);
/// Between the gateway's word that all is written and the news of it from the device.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

impl TokenClient {
    /// Stores memory as an object, or, with an upload and a number, as a part.
    pub async fn put_agreed(
        &self,
        (bucket, key): (&str, &str),
        part: Option<(&str, u32)>,
        body: &Frozen,
    ) -> Result<TokenStored, TokenCallError> {
        let mut target = object_path(bucket, key)?;
        if let Some((upload, number)) = part {
            target.push_str(&format!("?partNumber={number}&uploadId={upload}"));
        }
        let (pair, cookie) = (self.domain.queue_pair(Admits::Everything, None)?, rand::random());
        let wanted = body.len() as u64;
        let connected = self.prepare(&pair, (Op::Put, target, wanted, 0), cookie).await?;
        let to = Place { address: connected.pair.address, key: connected.pair.key };
        let ready =
            Ready { session: connected.session, cookie, pair: Some(pair.local().number), address: 0, key: 0 };
        let writing = async {
            sleep(GRACE.scaled()).await;
            let written = pair.post_write(body.clone(), to, Some(cookie)).await?;
            written.done().await
        };
        let words = ready.words();
        let (answer, written) = tokio::join!(self.control(READY_PATH, &words), writing);
        let headers = answer?;
        written?;
        let moved = moved(&headers)?;
        if moved != wanted {
            return Err(TokenCallError::Length { moved, wanted });
        }
        Ok(TokenStored { etag: unquoted(&headers, ETAG)?, headers })
    }

    /// Reads so many bytes of an object, as long as the memory is, from `offset` on.
    pub async fn get_agreed(
        &self,
        (bucket, key): (&str, &str),
        into: Buffer,
        offset: u64,
    ) -> Result<TokenRead, (Option<Buffer>, TokenCallError)> {
        let wanted = into.len() as u64;
        let target = match object_path(bucket, key) {
            Ok(target) => target,
            Err(error) => return Err((Some(into), error.into())),
        };
        let pair = match self.domain.queue_pair(Admits::Everything, None) {
            Ok(pair) => pair,
            Err(error) => return Err((Some(into), error.into())),
        };
        let exposed = match pair.expose_to_write(into) {
            Ok(exposed) => exposed,
            Err(error) => return Err((None, error.into())),
        };
        let read = self.receive(&pair, exposed.place(), (target, wanted, offset)).await;
        // Only now are the bytes what the answer says.
        let buffer = exposed.end();
        match (read, buffer) {
            (Ok(headers), Some(buffer)) => {
                let bytes = buffer.len();
                Ok(TokenRead { buffer, bytes, headers })
            }
            (Ok(_), None) => Err((None, TokenCallError::Transfer(tenfour_rdma::OperationError::Flushed))),
            (Err(error), buffer) => Err((buffer, error)),
        }
    }

    async fn receive(
        &self,
        pair: &ForeignPair,
        place: Place,
        (target, wanted, offset): (String, u64, u64),
    ) -> Result<HeaderMap, TokenCallError> {
        let cookie = rand::random();
        pair.post_receive()?;
        let connected = self.prepare(pair, (Op::Get, target, wanted, offset), cookie).await?;
        let Place { address, key } = place;
        let ready =
            Ready { session: connected.session, cookie, pair: Some(pair.local().number), address, key };
        let headers = self.control(READY_PATH, &ready.words()).await?;
        let moved = moved(&headers)?;
        let arrival = timeout(ARRIVES_WITHIN.scaled(), pair.arrival()).await;
        let arrival = arrival.map_err(|_| tenfour_rdma::OperationError::RetryExceeded)??;
        if moved != wanted || arrival.value != cookie {
            return Err(TokenCallError::Length { moved, wanted });
        }
        Ok(headers)
    }

    /// Announces a transfer, and connects this end of it.
    async fn prepare(
        &self,
        pair: &ForeignPair,
        (op, target, bytes, offset): (Op, String, u64, u64),
        cookie: u32,
    ) -> Result<Connected, TokenCallError> {
        let local = pair.local();
        let (token, psn) = (pair_token(&local), Psn::of(local.psn));
        let prepare = Prepare { pair: token, psn, cookie, op, target, bytes, offset };
        let answer = self.control(PREPARE_PATH, &prepare.words()).await?;
        let connected = Connected::read(&Answer(&answer))?;
        pair.connect(pair_address(&connected.pair, connected.psn)).await?;
        Ok(connected)
    }
}
