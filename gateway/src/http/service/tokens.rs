//! Bodies that do not come or go in HTTP: what a request with `x-amz-rdma-token` is served with.
//!
//! Three operations have a data path by RDMA: GetObject, PutObject and UploadPart. Every other one ignores the header.
//!
//! Invariant: a PUT or a part that names memory and has no body is stored from that memory, or not at all.

use super::super::errors::{self, s3};
use super::super::expect::Expected;
use super::super::guard::Framing;
use super::super::headers::{self, TRANSPORT, transport_over};
use super::super::payload::Parcel;
use super::{Front, open, requester, write_error};
use crate::ops::Backend;
use crate::ops::requester::Wants;
use crate::rdma::token::{Checks, DeliverError, TokenCounters, TokenRefusal};
use crate::transfer::{Destination, Sink, Stored};
use crate::transport::Transports;
use hyper::HeaderMap;
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use s3s::{S3ErrorCode, S3Request, S3Result};
use sha2::{Digest as _, Sha256};
use std::sync::atomic::Ordering;
use tenfour_types::ChecksumKind;
use tenfour_types::rdma_token::headers::{BYTES_TRANSFERRED, REPLY, TOKEN};
use tenfour_types::rdma_token::{RcToken, Token};

/// Says why a body went over HTTP though the client named memory for it.
const REASON: HeaderName = HeaderName::from_static("x-tenfour-rdma-reason");

/// What carries a body.
pub(super) enum Carrier {
    /// HTTP, as nothing else was asked for.
    Http,
    /// HTTP, though memory was named, and why.
    Declined(String),
    /// RDMA, to or from this memory.
    Rdma(RcToken),
}

/// What a request asks for.
pub(super) fn carrier(headers: &HeaderMap) -> S3Result<Carrier> {
    let Some(value) = headers.get(TOKEN) else { return Ok(Carrier::Http) };
    let invalid = |text: String| s3(TokenRefusal::Invalid(text));
    let text = value.to_str().map_err(|_| invalid("The descriptor is no text.".to_owned()))?;
    Ok(match text.parse().map_err(|error| invalid(format!("The RDMA token is not valid: {error}.")))? {
        Token::Rc(token) => Carrier::Rdma(token),
        Token::Dc(_) => Carrier::Declined(
            "The descriptor names a dynamically connected (DC) target; memory is reached here over reliable connections (RC) only: connect by \
             POST /.s3rdma-rc/connect, or send the body over HTTP."
                .to_owned(),
        ),
        Token::QueuePair(..) => Carrier::Declined(
            "The descriptor names a queue pair that is not connected: connect by POST /.s3rdma-rc/connect, agree on a transfer by \
             POST /.hipobj-rc/prepare, or send the body over HTTP."
                .to_owned(),
        ),
    })
}

/// Says so in the answer.
fn declined(headers: &mut HeaderMap, reason: &str) {
    headers.insert(REPLY, HeaderValue::from_static("501"));
    if let Ok(reason) = HeaderValue::from_str(reason) {
        headers.insert(REASON, reason);
    }
}

/// What an answer says of bytes that were moved.
pub(in super::super) fn moved(
    counters: &TokenCounters,
    status: &'static str,
    bytes: u64,
    fabric: Transports,
) -> HeaderMap {
    counters.bytes.fetch_add(bytes, Ordering::Relaxed);
    let mut headers = HeaderMap::new();
    headers.insert(REPLY, HeaderValue::from_static(status));
    headers.insert(BYTES_TRANSFERRED, bytes.into());
    headers.insert(TRANSPORT, transport_over("http+verbs", fabric));
    headers
}

/// Counts what is refused.
pub(in super::super) fn count_refusal(counters: &TokenCounters, refusal: &errors::Refusal) {
    let counter = match refusal.code() {
        "RDMANotSupported" => &counters.declined,
        "RDMATransferFailed" => &counters.failed,
        _ => return,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

impl<B: Backend> Front<B> {
    /// Stores the body of a request, wherever it is. `kept` are the kinds of checksums that are wanted when the client chose none. With it
    /// come the headers of the answer that say what carried it.
    pub(super) async fn store<T>(
        &self,
        request: &S3Request<T>,
        wants: &Wants,
        to: Destination,
        kept: &[ChecksumKind],
    ) -> S3Result<(Stored, HeaderMap)> {
        let carrier = carrier(&request.headers)?;
        let is_empty = request.extensions.get::<Parcel>().is_none_or(|parcel| parcel.payload().size == 0);
        let reason = match carrier {
            Carrier::Rdma(token) if is_empty => {
                return self.store_by_rdma(request, wants, to, (token, kept)).await;
            }
            Carrier::Declined(reason) if is_empty => {
                return Err(s3(self.counted(TokenRefusal::NotSupported(reason))));
            }
            Carrier::Rdma(_) => {
                let text = "The request has a body and names memory: send one of them.";
                return Err(s3(errors::refusal(S3ErrorCode::InvalidRequest, text)));
            }
            Carrier::Declined(reason) => Some(reason),
            Carrier::Http => None,
        };
        let (mut source, has_signed_chunks) = open(request, kept)?;
        let stored = self.backend.put(wants, to, &mut source).await;
        let stored = stored.map_err(|error| write_error(error, has_signed_chunks))?;
        let mut headers = headers::transport(stored.transports);
        if let Some(reason) = reason {
            self.tokens.counters().declined.fetch_add(1, Ordering::Relaxed);
            declined(&mut headers, &reason);
        }
        Ok((stored, headers))
    }

    async fn store_by_rdma<T>(
        &self,
        request: &S3Request<T>,
        wants: &Wants,
        to: Destination,
        (token, kept): (RcToken, &[ChecksumKind]),
    ) -> S3Result<(Stored, HeaderMap)> {
        has_no_body(request)?;
        let expected = Expected::of(&request.headers).map_err(s3)?;
        let mut kinds = kept.to_vec();
        kinds.extend(expected.named);
        let checks = Checks { md5: expected.md5, checksum: expected.checksum, kept: kinds };
        let owner = requester(request)?.access_key;
        let source = self.tokens.pull(&owner, &token, checks);
        let mut source = source.map_err(|refusal| s3(self.counted(refusal)))?;
        let stored = self.backend.put(wants, to, &mut source).await;
        let stored = stored.map_err(|error| s3(self.counted(source.refusal(error))))?;
        let counters = self.tokens.counters();
        counters.puts.fetch_add(1, Ordering::Relaxed);
        let headers = moved(counters, "200", token.bytes, stored.transports);
        Ok((stored, headers))
    }

    /// Writes an object, or a range of it, into the client's memory; the answer's headers become those of an answer without a body.
    pub(super) async fn deliver<T, S: Sink>(
        &self,
        request: &S3Request<T>,
        token: &RcToken,
        sink: &mut S,
        (headers, is_partial, bytes, fabric): (&mut HeaderMap, bool, u64, Transports),
    ) -> S3Result<()> {
        let owner = requester(request)?.access_key;
        let delivered = self.tokens.deliver(&owner, token, sink, bytes).await;
        delivered.map_err(|error: DeliverError| s3(self.counted(error)))?;
        let counters = self.tokens.counters();
        counters.gets.fetch_add(1, Ordering::Relaxed);
        headers.extend(moved(counters, if is_partial { "206" } else { "200" }, bytes, fabric));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        Ok(())
    }

    /// What carries the body of a GET; an answer over HTTP says why it is not RDMA.
    pub(super) fn outgoing_carrier(&self, headers: &HeaderMap) -> S3Result<Carrier> {
        Ok(match carrier(headers)? {
            // No connection can exist, so this is no mistake of the client's.
            Carrier::Rdma(token) => self.tokens.unavailable().map_or(Carrier::Rdma(token), Carrier::Declined),
            other => other,
        })
    }

    pub(super) fn declined(&self, headers: &mut HeaderMap, reason: &str) {
        self.tokens.counters().declined.fetch_add(1, Ordering::Relaxed);
        declined(headers, reason);
    }

    fn counted(&self, refusal: impl Into<errors::Refusal>) -> errors::Refusal {
        let refusal = refusal.into();
        count_refusal(self.tokens.counters(), &refusal);
        refusal
    }
}

/// The signature must not speak of other bytes than those that are stored, or of none but in truth.
fn has_no_body<T>(request: &S3Request<T>) -> S3Result<()> {
    let Some(parcel) = request.extensions.get::<Parcel>() else {
        return Err(s3(errors::refusal(S3ErrorCode::InvalidURI, "Couldn't parse the specified URI.")));
    };
    let payload = parcel.payload();
    let speaks_of_nothing =
        payload.sha256.is_none_or(|sha256| sha256 == <[u8; 32]>::from(Sha256::digest(b"")));
    if payload.framing != Framing::Plain || !speaks_of_nothing {
        let text = "A request with x-amz-rdma-token has no body: send Content-Length: 0 and x-amz-content-sha256: UNSIGNED-PAYLOAD.";
        return Err(s3(errors::refusal(S3ErrorCode::InvalidRequest, text)));
    }
    Ok(())
}
