//! Objects: get and head.

use super::super::errors::s3;
use super::super::handler::Partial;
use super::super::headers::{Answer, transport};
use super::super::text::Query;
use super::super::translate;
use super::tokens::Carrier;
use super::{Front, header, wants};
use crate::ops::Backend;
use crate::ops::conditions::{Conditions, resolve};
use crate::ops::reading::{Asked, Opened};
use crate::transfer::{ReadError, Reading, Sink, Wanted};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::Uri;
use hyper::body::Frame;
use s3s::dto::{GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Range, StreamingBlob};
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use tenfour_types::Manifest;

/// Headers of the answer that a query may replace.
const REPLACEABLE: [(&str, &str); 6] = [
    ("content-type", "response-content-type"),
    ("content-language", "response-content-language"),
    ("expires", "response-expires"),
    ("cache-control", "response-cache-control"),
    ("content-disposition", "response-content-disposition"),
    ("content-encoding", "response-content-encoding"),
];

/// What is asked for, and on which conditions.
fn asked<T>(
    request: &S3Request<T>,
    range: Option<Range>,
    part: Option<i32>,
    conditions: Conditions,
) -> S3Result<Asked> {
    let wanted = translate::wanted(range, part).map_err(s3)?;
    let if_range = range.and_then(|_| header(request, "if-range")).map(translate::if_range);
    Ok(Asked { wanted, conditions, if_range })
}

/// The object, or 304.
fn opened<B>(opened: Opened<B>) -> S3Result<(Wanted, Reading<B>)> {
    match opened {
        Opened::Reading(wanted, reading) => Ok((wanted, reading)),
        Opened::NotModified(manifest) => Err(not_modified(&manifest)),
    }
}

impl<B: Backend> Front<B> {
    pub(super) async fn on_get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = &request.input;
        let key = translate::key(&input.key).map_err(s3)?;
        let conditions = translate::conditions(
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.clone(),
            input.if_unmodified_since.clone(),
        );
        let asked = asked(&request, input.range, input.part_number, conditions)?;
        let carrier = self.outgoing_carrier(&request.headers)?;
        let (wanted, reading) = opened(asked.get(&self.backend, &wants, &key).await.map_err(s3)?)?;
        let Reading { manifest, parts, range, transports, mut body } = reading;
        let answer = Answer {
            manifest: &manifest,
            parts: input.part_number.and(parts),
            range: partial(wanted, range, manifest.size),
            checksums: input.checksum_mode.is_some(),
            replaced: &replaced(&request.uri),
        };
        let mut headers = answer.headers();
        headers.extend(transport(transports));
        // The library sets 206 by this field; its value is that of ours.
        let content_range =
            headers.get("content-range").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let blob = match carrier {
            Carrier::Rdma(token) => {
                let answer = (&mut headers, content_range.is_some(), range.1 - range.0, transports);
                self.deliver(&request, &token, &mut body, answer).await?;
                StreamingBlob::from(Body::empty())
            }
            Carrier::Http | Carrier::Declined(_) => {
                if let Carrier::Declined(reason) = carrier {
                    self.declined(&mut headers, &reason);
                }
                let is_empty = range.0 == range.1;
                if is_empty { StreamingBlob::from(Body::empty()) } else { begun(body).await? }
            }
        };
        let output = GetObjectOutput { body: Some(blob), content_range, ..GetObjectOutput::default() };
        Ok(S3Response::with_headers(output, headers))
    }

    pub(super) async fn on_head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let wants = wants(&request, &request.input.bucket)?;
        let input = &request.input;
        let key = translate::key(&input.key).map_err(s3)?;
        let conditions = translate::conditions(
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.clone(),
            input.if_unmodified_since.clone(),
        );
        let asked = asked(&request, input.range, input.part_number, conditions)?;
        let (wanted, reading) = opened(asked.head(&self.backend, &wants, &key).await.map_err(s3)?)?;
        let Reading { manifest, parts, range, body, .. } = reading;
        drop(body);
        let range = match wanted {
            Wanted::Part(_) => range,
            _ => {
                resolve(wanted, manifest.size).ok_or_else(|| s3(ReadError::Range { size: manifest.size }))?
            }
        };
        let range = partial(wanted, range, manifest.size);
        let answer = Answer {
            manifest: &manifest,
            parts: input.part_number.and(parts),
            range,
            checksums: input.checksum_mode.is_some(),
            replaced: &replaced(&request.uri),
        };
        let is_partial = range.is_some();
        let mut response = S3Response::with_headers(HeadObjectOutput::default(), answer.headers());
        if is_partial {
            response.extensions.insert(Partial);
        }
        Ok(response)
    }
}

fn not_modified(manifest: &Manifest) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    let answer = Answer { manifest, parts: None, range: None, checksums: false, replaced: &[] };
    let mut headers = answer.headers();
    headers.remove("content-length");
    headers.remove("content-type");
    error.set_headers(headers);
    error
}

/// The range to name in the answer: none when the whole object was asked for, or there is no byte to name.
fn partial(wanted: Wanted, range: (u64, u64), size: u64) -> Option<(u64, u64)> {
    match wanted {
        Wanted::Head | Wanted::All => None,
        Wanted::Part(_) if size == 0 => None,
        _ => Some(range),
    }
}

/// The headers that a query replaces.
fn replaced(uri: &Uri) -> Vec<(&'static str, String)> {
    let query = Query::parse(uri.query());
    let value = |parameter: &str| query.as_ref().and_then(|query| query.get(parameter)).map(str::to_owned);
    REPLACEABLE.into_iter().filter_map(|(name, parameter)| Some((name, value(parameter)?))).collect()
}

/// The bytes, the first of which are there before the head is sent: an object that cannot be read is answered with an error.
async fn begun<S: Sink + 'static>(mut sink: S) -> S3Result<StreamingBlob> {
    let first = sink.next().await.transpose().map_err(s3)?;
    Ok(stream(first, sink))
}

/// The bytes as they come; an error breaks the connection, since the length was announced.
fn stream<S: Sink + 'static>(first: Option<Bytes>, sink: S) -> StreamingBlob {
    let frames = futures::stream::unfold((first, Some(sink)), |(first, sink)| async move {
        let mut sink = sink?;
        let next = match first {
            Some(bytes) => Ok(bytes),
            None => sink.next().await?,
        };
        match next {
            Ok(bytes) => Some((Ok(Frame::data(bytes)), (None, Some(sink)))),
            Err(error) => {
                tracing::warn!(%error, "an answer breaks off");
                Some((Err(error), (None, None)))
            }
        }
    });
    StreamingBlob::from(Body::http_body_unsync(StreamBody::new(frames)))
}
