//! The control requests of S3 over RDMA by HTTP headers: connect and disconnect, prepare, ready and cancel.
//!
//! Their paths name no bucket, so they go to a service of their own, which takes any path and ends here; the signature is verified there as
//! everywhere, over every `x-amz-*` header, and sessions are the signer's. What each does is in `crate::rdma::token`.

use super::auth::bucket_name;
use super::errors::{self, Refusal, s3};
use super::service::tokens::{count_refusal, moved};
use super::text::{Query, percent_decode};
use super::translate;
use crate::ops::requester::{Requester, Wants};
use crate::ops::{Backend, upload};
use crate::rdma::token::{Agreed, Checks, TokenRefusal, Tokens};
use crate::transfer::{Destination, ReadError, Wanted};
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::http::Extensions;
use hyper::{HeaderMap, Method, StatusCode, Uri};
use s3s::route::S3Route;
use s3s::validation::NameValidation;
use s3s::{Body, S3ErrorCode, S3Request, S3Response, S3Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tenfour_metadata::api::Precondition;
use tenfour_types::rdma_token::HIPOBJ_RC_V2;
use tenfour_types::rdma_token::control::{
    Connect, ControlError, Lookup, Op, Prepare, Ready, Words, session, speaks_hipobj,
};
use tenfour_types::rdma_token::headers::{
    CANCEL_PATH, CONNECT_PATH, CONTROL_PREFIXES, COOKIE, DISCONNECT_PATH, ETAG, PREPARE_PATH, PROTOCOL,
    PROTOCOL_STATUS, READY_PATH, REPLY,
};
use tenfour_types::{ChecksumKind, Headers, ObjectKey, UploadId};

/// Whether a path is that of a control request, where buckets are named in the path.
pub fn is_control(path: &str) -> bool {
    CONTROL_PREFIXES.iter().any(|prefix| path.starts_with(prefix))
}

/// Takes paths that name no bucket.
pub struct AnyName;

impl NameValidation for AnyName {
    fn validate_bucket_name(&self, _: &str) -> bool {
        true
    }
}

/// Answers control requests.
pub struct Control<B> {
    backend: B,
    tokens: Arc<Tokens>,
}

/// An answer without a body.
struct Told {
    status: StatusCode,
    headers: HeaderMap,
}

impl Told {
    fn new(status: StatusCode, words: Words) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in words {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        Self { status, headers }
    }
}

/// A header that comes once.
struct Given<'a>(&'a HeaderMap);

impl Lookup for Given<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.0.get_all(name).iter();
        let value = values.next()?;
        value.to_str().ok().filter(|_| values.next().is_none())
    }
}

#[async_trait::async_trait]
impl<B: Backend> S3Route for Control<B> {
    fn is_match(&self, _: &Method, _: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        true
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let Some(known) = &request.credentials else {
            return Err(s3(errors::refusal(S3ErrorCode::AccessDenied, "Access Denied")));
        };
        let requester = Requester::new(&known.access_key, known.secret_key.expose());
        match self.answer(&request, &requester).await {
            Ok(told) => {
                let mut response = S3Response::with_headers(Body::empty(), told.headers);
                response.status = Some(told.status);
                Ok(response)
            }
            Err(refusal) => {
                count_refusal(self.tokens.counters(), &refusal);
                Err(s3(refusal))
            }
        }
    }
}

impl<B: Backend> Control<B> {
    /// Over a backend.
    pub fn new(backend: B, tokens: Arc<Tokens>) -> Self {
        Self { backend, tokens }
    }

    async fn answer(&self, request: &S3Request<Body>, requester: &Requester) -> Result<Told, Refusal> {
        let (headers, user) = (Given(&request.headers), &*requester.access_key);
        let path = request.uri.path();
        if ![CONNECT_PATH, DISCONNECT_PATH, PREPARE_PATH, READY_PATH, CANCEL_PATH].contains(&path) {
            return Err(errors::custom("NoSuchControl", 404, "There is no such control request."));
        }
        if request.method != Method::POST {
            return Err(errors::refusal(S3ErrorCode::MethodNotAllowed, "Control requests are POSTs."));
        }
        let length = headers.header(CONTENT_LENGTH.as_str()).unwrap_or("0");
        if length != "0" || request.headers.contains_key(TRANSFER_ENCODING) {
            return Err(errors::refusal(S3ErrorCode::InvalidRequest, "A control request has no body."));
        }
        match path {
            CONNECT_PATH => {
                let wanted = Connect::read(&headers).map_err(refused)?;
                let connected = self.tokens.connect(user, &wanted).await?;
                Ok(Told::new(StatusCode::OK, connected.words()))
            }
            DISCONNECT_PATH => {
                self.tokens.disconnect(user, session(&headers).map_err(refused)?);
                Ok(Told::new(StatusCode::NO_CONTENT, Vec::new()))
            }
            CANCEL_PATH => {
                speaks_hipobj(&headers).map_err(refused)?;
                self.tokens.cancel(user, session(&headers).map_err(refused)?);
                let words = vec![(PROTOCOL, HIPOBJ_RC_V2.to_owned())];
                Ok(Told::new(StatusCode::NO_CONTENT, words))
            }
            PREPARE_PATH => self.prepare(requester, &headers).await.map_err(marked),
            _ => self.ready(requester, &headers).await.map_err(marked),
        }
    }

    async fn prepare(&self, requester: &Requester, headers: &Given<'_>) -> Result<Told, Refusal> {
        let prepare = Prepare::read(headers).map_err(refused)?;
        let target = Target::of(&prepare)?;
        let wants = target.wants(requester)?;
        wants.bucket_now(&self.backend).await?;
        if let Some(reason) = self.tokens.unavailable() {
            return Err(TokenRefusal::NotSupported(reason).into());
        }
        match (prepare.op, target.part) {
            (Op::Get, _) => {
                let known = self.backend.get(&wants, &target.key, Wanted::Head).await?;
                let size = known.manifest.size;
                if prepare.offset + prepare.bytes > size {
                    return Err(ReadError::Range { size }.into());
                }
            }
            (Op::Put, Some((upload, _))) => {
                self.kept_kind(&wants, &target.key, upload).await?;
            }
            (Op::Put, None) => {}
        }
        let prepared = self.tokens.prepare(&requester.access_key, prepare).await?;
        Ok(Told::new(StatusCode::OK, prepared.prepared_words()))
    }

    async fn ready(&self, requester: &Requester, headers: &Given<'_>) -> Result<Told, Refusal> {
        let ready = Ready::read(headers).map_err(refused)?;
        let mut agreed = self.tokens.ready(&requester.access_key, &ready).await?;
        let target = Target::of(agreed.prepare())?;
        let wants = target.wants(requester)?;
        let (moved, etag) = match agreed.prepare().op {
            Op::Get => self.send(&wants, &target, &agreed).await?,
            Op::Put => self.store(&wants, target, &mut agreed).await?,
        };
        agreed.finish();
        let mut told = Told::new(
            StatusCode::OK,
            vec![
                (PROTOCOL, HIPOBJ_RC_V2.to_owned()),
                (COOKIE, format!("{:08x}", ready.cookie)),
                (ETAG, etag),
            ],
        );
        told.headers.extend(moved);
        Ok(told)
    }

    async fn send(
        &self,
        wants: &Wants,
        target: &Target,
        agreed: &Agreed,
    ) -> Result<(HeaderMap, String), Refusal> {
        let Prepare { bytes, offset, .. } = *agreed.prepare();
        let wanted = Wanted::From(offset, Some(offset + bytes));
        let mut reading = self.backend.get(wants, &target.key, wanted).await?;
        if reading.range != (offset, offset + bytes) {
            return Err(ReadError::Range { size: reading.manifest.size }.into());
        }
        agreed.deliver(&mut reading.body, bytes).await?;
        let counters = self.tokens.counters();
        counters.gets.fetch_add(1, Ordering::Relaxed);
        let etag = format!("\"{}\"", reading.manifest.etag);
        Ok((moved(counters, "200", bytes, reading.transports), etag))
    }

    async fn store(
        &self,
        wants: &Wants,
        target: Target,
        agreed: &mut Agreed,
    ) -> Result<(HeaderMap, String), Refusal> {
        let bytes = agreed.prepare().bytes;
        let (to, kind) = match target.part {
            Some((upload, number)) => {
                let kind = self.kept_kind(wants, &target.key, upload).await?;
                (Destination::Part { key: target.key, upload, number }, kind)
            }
            None => {
                let (headers, precondition) = (Headers::default(), Precondition::None);
                (Destination::Object { key: target.key, headers, precondition }, ChecksumKind::Crc64Nvme)
            }
        };
        let mut source = agreed.receive(Checks { kept: vec![kind], ..Checks::default() }).await?;
        let stored = self.backend.put(wants, to, &mut source).await;
        let stored = stored.map_err(|error| source.refusal(error))?;
        let counters = self.tokens.counters();
        counters.puts.fetch_add(1, Ordering::Relaxed);
        let etag = format!("\"{}\"", stored.summary.etag);
        Ok((moved(counters, "200", bytes, stored.transports), etag))
    }

    /// The kind of checksum that parts of an upload have.
    async fn kept_kind(&self, wants: &Wants, key: &ObjectKey, id: UploadId) -> Result<ChecksumKind, Refusal> {
        let view = upload::parts(&self.backend, wants, key, id, 0, 1).await?.upload;
        Ok(upload::kept_kind(&view, None)?)
    }
}

/// What a transfer is for.
struct Target {
    bucket: String,
    key: ObjectKey,
    part: Option<(UploadId, u32)>,
}

impl Target {
    fn of(prepare: &Prepare) -> Result<Self, Refusal> {
        let invalid = |text: &'static str| errors::refusal(S3ErrorCode::InvalidArgument, text);
        let malformed = || invalid("x-amz-rdma-target is not /BUCKET/KEY, percent-encoded.");
        let (path, query) = prepare.target.split_once('?').unwrap_or((&prepare.target, ""));
        let (bucket, key) =
            path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or_else(malformed)?;
        let decode = |text| percent_decode(text, false).filter(|text| !text.is_empty()).ok_or_else(malformed);
        let query = Query::parse(Some(query)).ok_or_else(malformed)?;
        let part = match (prepare.op, query.get("uploadId"), query.get("partNumber")) {
            (_, None, None) => None,
            (Op::Put, Some(upload), Some(number)) => {
                let number = number.parse().map_err(|_| invalid("partNumber is not a number."))?;
                Some((translate::upload(upload)?, translate::part_number(number)?))
            }
            _ => {
                return Err(invalid(
                    "x-amz-rdma-target names a part by uploadId and partNumber, of a PUT only.",
                ));
            }
        };
        if query.count() != if part.is_some() { 2 } else { 0 } {
            return Err(invalid("The query of x-amz-rdma-target has parameters that mean nothing here."));
        }
        if prepare.op == Op::Put && prepare.offset != 0 {
            return Err(invalid(
                "x-amz-rdma-offset of a PUT is 0: there is no writing into the middle of an object.",
            ));
        }
        Ok(Self { bucket: decode(bucket)?, key: translate::key(&decode(key)?)?, part })
    }

    fn wants(&self, requester: &Requester) -> Result<Wants, Refusal> {
        Ok(requester.wants(bucket_name(&self.bucket)?, None))
    }
}

/// What is wrong with the words of a control request.
fn refused(error: ControlError) -> Refusal {
    let text = format!("{error}.");
    match error {
        ControlError::Protocol => errors::custom("RDMANotSupported", 501, text)
            .header(PROTOCOL_STATUS, "unsupported")
            .header(REPLY, "501"),
        ControlError::NotReliable => TokenRefusal::NotSupported(text).into(),
        ControlError::Token(_) => TokenRefusal::Invalid(text).into(),
        ControlError::Missing(_) | ControlError::Malformed(..) => {
            errors::refusal(S3ErrorCode::InvalidArgument, text)
        }
    }
}

/// Clients of `hipobj-rc-v2` take a 501 for what it is by this mark.
fn marked(refusal: Refusal) -> Refusal {
    if refusal.status() == Some(501) { refusal.header(PROTOCOL_STATUS, "unsupported") } else { refusal }
}
