//! One request: the health check, our guards, the S3 library, and what every answer carries.

use super::HttpConfig;
use super::auth::{Door, Users};
use super::body::{CheckedBody, Limits, Slot};
use super::connection::ServeError;
use super::control::{AnyName, Control};
use super::errors::{Refusal, s3};
use super::expect::Expected;
use super::guard::{self, Admitted, FORM_BYTES_MAX, XML_BYTES_MAX};
use super::headers::TRANSPORT;
use super::payload::{Drained, Parcel};
use super::proof::{CLOCK_SKEW_MAX_SECONDS, Proof, Rules};
use super::room::Room;
use super::service::Front;
use super::text::Query;
use super::unranged::{self, Unranged};
use crate::ops::Backend;
use crate::rdma::token::Tokens;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::host::SingleDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse, S3Error};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tracing::debug;

/// Where anybody may ask whether this process answers.
pub const HEALTH_PATH: &str = "/-/health";
/// Memory for all forms at once, bytes. Theirs alone: whoever sends one is known only when it was read.
const FORMS_BYTES: u64 = 4 * FORM_BYTES_MAX;
/// Memory for all other bodies at once that are not objects' bytes, bytes.
const DOCUMENTS_BYTES: u64 = 32 << 20;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
const SERVER: HeaderName = HeaderName::from_static("server");

/// Marks the answer to a HEAD with a range: the library has no place for its status.
#[derive(Clone, Copy)]
pub struct Partial;

/// Answers requests.
pub struct Handler<B> {
    service: S3Service,
    /// For control requests.
    control: S3Service,
    tokens: Arc<Tokens>,
    rules: Rules,
    forms: Room,
    documents: Room,
    ids: AtomicU64,
    backend: std::marker::PhantomData<fn() -> B>,
}

impl<B: Backend> Handler<B> {
    /// Over a backend.
    pub fn new(backend: B, config: &HttpConfig) -> Result<Self, ServeError> {
        let mut limits = S3Config::default();
        limits.xml_max_body_size = usize::try_from(XML_BYTES_MAX).unwrap_or(usize::MAX);
        limits.post_object_max_file_size = FORM_BYTES_MAX;
        limits.form_max_field_size = 64 << 10;
        limits.form_max_fields_size = 256 << 10;
        limits.form_max_parts = 100;
        limits.presigned_url_max_skew_time_secs = CLOCK_SKEW_MAX_SECONDS;
        let limits = Arc::new(limits);
        let rules =
            Rules { region: config.region.clone(), sigv2: config.sigv2, domain: config.domain.clone() };
        let tokens = Arc::new(Tokens::new(config.tokens.clone()));
        let again = builder(&backend, &limits, &rules, &tokens)?.build();
        let mut control = builder(&backend, &limits, &Rules { domain: None, ..rules.clone() }, &tokens)?;
        control.set_validation(AnyName);
        control.set_route(Control::new(backend.clone(), tokens.clone()));
        let mut builder = builder(&backend, &limits, &rules, &tokens)?;
        builder.set_route(Unranged(again));
        Ok(Self {
            service: builder.build(),
            control: control.build(),
            tokens,
            rules,
            forms: Room::new(FORMS_BYTES),
            documents: Room::new(DOCUMENTS_BYTES),
            ids: AtomicU64::new(rand::random()),
            backend: std::marker::PhantomData,
        })
    }

    /// What serves bodies that go by RDMA.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// Answers one request.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<HttpResponse, HttpError> {
        if request.uri().path() == HEALTH_PATH && matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(HttpResponse::new(Body::from("ok\n".to_owned())));
        }
        let begun = Instant::now();
        let id = self.request_id();
        let (parts, body) = request.into_parts();
        let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
        let drained = Drained::new(AtomicBool::new(body.is_end_stream()));
        let admitted = guard::admit(&parts, &self.rules);
        let admitted = admitted.and_then(|admitted| {
            if !guard::is_control(&parts, &self.rules) {
                guard::bucket_name(&parts, &self.rules)?;
            }
            Ok(admitted)
        });
        let mut response = match admitted {
            Ok(admitted) => self.pass_on(parts, body, admitted, &id, &drained).await?,
            Err(refusal) => refuse(refusal, &id)?,
        };
        if !drained.load(Ordering::Relaxed) {
            // Said, so that the client does not send its next request into a connection that is about to close.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if response.status() == StatusCode::NOT_MODIFIED {
            *response.body_mut() = Body::empty();
        }
        if response.extensions_mut().remove::<Partial>().is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        let status = response.status().as_u16();
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, id);
        }
        headers.insert(SERVER, HeaderValue::from_static("tenfour"));
        let transport = headers.entry(TRANSPORT).or_insert(HeaderValue::from_static("http")).to_str();
        let transport = transport.unwrap_or_default();
        debug!(
            target: "tenfour_gateway::access",
            %peer, %method, path, transport, status, id, first_byte_us = begun.elapsed().as_micros(),
        );
        Ok(response)
    }

    async fn pass_on(
        &self,
        mut parts: Parts,
        body: Incoming,
        admitted: Admitted,
        id: &str,
        drained: &Drained,
    ) -> Result<HttpResponse, HttpError> {
        let Admitted { proof, payload } = admitted;
        if let Some(payload) = payload {
            let header = if let Proof::Header(header) = proof { Some(header) } else { None };
            parts.extensions.insert(Parcel::new(body, payload, header, drained.clone()));
            return self.service.call(Request::from_parts(parts, Body::empty())).await;
        }
        unranged::mark(&mut parts);
        let is_form = proof == Proof::Form;
        let limits = if is_form {
            Limits { most: FORM_BYTES_MAX, room: &self.forms }
        } else {
            Limits { most: XML_BYTES_MAX, room: &self.documents }
        };
        match checked(&parts, body, is_form, &limits, drained) {
            Ok((body, slot)) => {
                let is_control = guard::is_control(&parts, &self.rules);
                let service = if is_control { &self.control } else { &self.service };
                let response = service.call(Request::from_parts(parts, body)).await?;
                match slot.and_then(|slot| slot.error().cloned()) {
                    Some(error) => refuse(error, id),
                    None => Ok(response),
                }
            }
            Err(refusal) => refuse(refusal, id),
        }
    }

    fn request_id(&self) -> String {
        // An odd factor permutes the numbers, so that neighbours do not look alike.
        let number = self.ids.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        format!("{number:016X}")
    }
}

fn builder<B: Backend>(
    backend: &B,
    limits: &Arc<S3Config>,
    rules: &Rules,
    tokens: &Arc<Tokens>,
) -> Result<S3ServiceBuilder, ServeError> {
    let mut builder = S3ServiceBuilder::new(Front::new(backend.clone(), rules, tokens.clone()));
    builder.set_config(Arc::new(StaticConfigProvider::new(limits.clone())));
    builder.set_auth(Users::new(backend.clone()));
    builder.set_access(Door(backend.clone()));
    if let Some(domain) = &rules.domain {
        let host = SingleDomain::new(domain).map_err(|_| ServeError::Domain(domain.clone()))?;
        builder.set_host(host);
    }
    Ok(builder)
}

/// The body as the library may read it.
fn checked(
    parts: &Parts,
    body: Incoming,
    is_form: bool,
    limits: &Limits<'_>,
    drained: &Drained,
) -> Result<(Body, Option<Arc<Slot>>), Refusal> {
    if body.is_end_stream() {
        return Ok((Body::empty(), None));
    }
    let mut expected = if is_form { Expected::default() } else { Expected::of(&parts.headers)? };
    if Query::parse(parts.uri.query()).is_some_and(|query| query.has("uploadId")) {
        // CompleteMultipartUpload: the checksum in its headers is the object's, not this body's.
        (expected.checksum, expected.named) = (None, None);
    }
    let streaming = |value: &HeaderValue| value.as_bytes().starts_with(b"STREAMING-");
    let is_framed = parts.headers.get("x-amz-content-sha256").is_some_and(streaming);
    let (body, slot) = CheckedBody::new(body, limits, expected, is_framed, drained.clone());
    Ok((Body::http_body_unsync(body), Some(slot)))
}

fn refuse(refusal: impl Into<Refusal>, id: &str) -> Result<HttpResponse, HttpError> {
    let mut error: S3Error = s3(refusal);
    error.set_request_id(id);
    error.to_http_response().map_err(|error| HttpError::new(Box::new(error)))
}
