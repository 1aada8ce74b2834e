//! Objects: get and head.
//!
//! Conditions are judged before the range, as RFC 9110 (section 13.2.2) has it: what was not modified is 304, whatever
//! range is asked for.

use super::super::errors::s3;
use super::super::handler::Partial;
use super::super::headers::{Answer, transport};
use super::super::text::Query;
use super::super::translate;
use super::{Front, header, wants};
use crate::ops::conditions::{Conditions, IfRange, Verdict, resolve};
use crate::ops::requester::Wants;
use crate::ops::{Backend, OpError};
use crate::transfer::{ReadError, Reading, Sink, Wanted};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::Uri;
use hyper::body::Frame;
use s3s::dto::{GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Range, StreamingBlob};
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use tenfour_types::{Manifest, ObjectKey};

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
struct Asked {
    wanted: Wanted,
    conditions: Conditions,
    if_range: Option<IfRange>,
}

impl Asked {
    fn new<T>(
        request: &S3Request<T>,
        range: Option<Range>,
        part: Option<i32>,
        conditions: Conditions,
    ) -> S3Result<Self> {
        let wanted = translate::wanted(range, part).map_err(s3)?;
        let if_range = range.and_then(|_| header(request, "if-range")).map(translate::if_range);
        Ok(Self { wanted, conditions, if_range })
    }

    /// The range is as asked for: `If-Range`, if it is there, names this object.
    fn has_range(&self, manifest: &Manifest) -> bool {
        self.if_range.as_ref().is_none_or(|known| known.holds(manifest))
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
        let asked = Asked::new(&request, input.range, input.part_number, conditions)?;
        let (wanted, reading) = self.read(&wants, &key, &asked, (asked.wanted, Wanted::All)).await?;
        let Reading { manifest, parts, range, transports, body } = reading;
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
        let blob = if range.0 == range.1 { StreamingBlob::from(Body::empty()) } else { begun(body).await? };
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
        let asked = Asked::new(&request, input.range, input.part_number, conditions)?;
        // Only a part's place must be asked of the pipeline.
        let ask = if matches!(asked.wanted, Wanted::Part(_)) { asked.wanted } else { Wanted::Head };
        let (wanted, reading) = self.read(&wants, &key, &asked, (ask, Wanted::Head)).await?;
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

    /// Opens an object, asking the pipeline for the first of `ask`, or, when the range does not count, for the second.
    /// Says what of it is wanted then.
    async fn read(
        &self,
        wants: &Wants,
        key: &ObjectKey,
        asked: &Asked,
        ask: (Wanted, Wanted),
    ) -> S3Result<(Wanted, Reading<B::Body>)> {
        match self.backend.get(wants, key, ask.0).await {
            Ok(reading) => {
                judged(asked.conditions.judge(&reading.manifest), &reading.manifest)?;
                if asked.has_range(&reading.manifest) {
                    return Ok((asked.wanted, reading));
                }
            }
            Err(error @ (ReadError::Range { .. } | ReadError::NoSuchPart)) => {
                let known = self.backend.get(wants, key, Wanted::Head).await.map_err(s3)?;
                judged(asked.conditions.judge(&known.manifest), &known.manifest)?;
                if asked.has_range(&known.manifest) {
                    return Err(s3(error));
                }
            }
            Err(error) => return Err(s3(error)),
        }
        let reading = self.backend.get(wants, key, ask.1).await.map_err(s3)?;
        judged(asked.conditions.judge(&reading.manifest), &reading.manifest)?;
        Ok((Wanted::All, reading))
    }
}

fn judged(verdict: Verdict, manifest: &Manifest) -> S3Result<()> {
    match verdict {
        Verdict::Holds => Ok(()),
        Verdict::Failed => Err(s3(OpError::PreconditionFailed)),
        Verdict::NotModified => {
            let mut error = S3Error::new(S3ErrorCode::NotModified);
            let answer = Answer { manifest, parts: None, range: None, checksums: false, replaced: &[] };
            let mut headers = answer.headers();
            headers.remove("content-length");
            headers.remove("content-type");
            error.set_headers(headers);
            Err(error)
        }
    }
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
