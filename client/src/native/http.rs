//! The same calls over HTTP, for where there is no RDMA. Bodies are copied once into or out of the caller's buffers.
//!
//! Every header is among what is signed, and of what is stored the SHA-256, so that a gateway stores the bytes that were sent. What is
//! read is compared with the object's checksum when it is all of the object, and the checksum one of all its bytes; of ranges, nothing
//! is known but their length.

use super::config::{ClientConfig, GetOptions, ListOptions, PutOptions};
use super::digest::{Arriving, sha256_of};
use super::error::{Error, Failure};
use super::http_words::{
    KINDS, Named, base64, checksum_header, checksum_name, checksums, conditions, etag, failed, iso_ms, kept,
    object, parse_checksum, parse_etag, precondition, refusal, type_name, unnameable,
};
use super::objects::{Got, Head, Served, Stored, too_long, unexpected};
use super::put::Target;
use super::uploads::{CompleteOptions, Completed};
use super::xml::{self, text_of};
use crate::signed::{Access, Call, Service, bucket_path, object_path};
use crate::{Body, all_of, next_frame};
use bytes::Bytes;
use http::{Method, Response};
use hyper::body::Incoming;
use rusty_s3::actions::{CreateMultipartUpload, ListObjectsV2};
use tenfour_rdma::{Buffer, Frozen};
use tenfour_types::native::{Entry, From, NamedPart, Precondition, Range};
use tenfour_types::{ChecksumKind, Headers};

/// Most keys of one page.
const PAGE_KEYS: u64 = 1000;

/// S3 over HTTP at one address.
pub(crate) struct HttpDoor(Service);

/// A call of an object.
fn call(method: Method, bucket: &str, key: &str) -> Result<Call<'static>, Failure> {
    Ok(Call::new(method, object_path(bucket, key).map_err(unnameable)?))
}

/// A call that reads one, or of it what is asked for.
fn reading(method: Method, bucket: &str, key: &str, options: &GetOptions) -> Result<Call<'static>, Failure> {
    let mut call = call(method, bucket, key)?;
    call.headers = conditions(options)?;
    if let Range::Part(number) = options.range {
        call.query.push(("partNumber", number.to_string()));
    }
    Ok(call)
}

impl HttpDoor {
    pub(super) fn new(url: &str, config: &ClientConfig) -> Result<Self, Error> {
        let ClientConfig { region, access_key, secret_key, .. } = config;
        let access = Access { endpoint: url, region, access_key, secret_key };
        let service = Service::new(&access, config.connect_deadline, config.answer_deadline);
        Ok(Self(service.map_err(|error| Error::Config(error.to_string()))?))
    }

    /// Sends a call, which changes something or does not.
    async fn send(&self, call: Call<'_>, changes: bool) -> Result<Response<Incoming>, Failure> {
        self.0.send(call).await.map_err(|error| failed(error, changes))
    }

    pub(super) async fn get(
        &self,
        bucket: &str,
        key: &str,
        mut into: Buffer,
        options: &GetOptions,
    ) -> (Option<Buffer>, Result<Got, Failure>) {
        let got = self.get_into(bucket, key, &mut into, options).await;
        (Some(into), got)
    }

    async fn get_into(
        &self,
        bucket: &str,
        key: &str,
        into: &mut [u8],
        options: &GetOptions,
    ) -> Result<Got, Failure> {
        let response = self.send(reading(Method::GET, bucket, key, options)?, false).await?;
        let (object, range) = object(response.headers())?;
        let bytes = usize::try_from(range.1 - range.0).map_err(|_| unexpected())?;
        let room = into.len();
        let mut rest = into.get_mut(..bytes).ok_or_else(|| too_long(range.1 - range.0, room))?;
        let is_all = range == (0, object.size);
        let mut arriving = Arriving::with(&object.checksums).filter(|_| is_all);
        let mut body = response.into_body();
        while let Some(frame) = next_frame(&mut body).await.map_err(|error| failed(error, false))? {
            let Ok(data) = frame.into_data() else { continue };
            let (now, later) = rest.split_at_mut_checked(data.len()).ok_or_else(unexpected)?;
            now.copy_from_slice(&data);
            if let Some(arriving) = &mut arriving {
                arriving.update(now);
            }
            rest = later;
        }
        if !rest.is_empty() {
            return Err(Failure::broken(false));
        }
        if !arriving.is_none_or(Arriving::agrees) {
            return Err(Failure::before(Error::Corrupt));
        }
        Ok(Got { object, range, bytes, served: served() })
    }

    pub(super) async fn head(&self, bucket: &str, key: &str, options: &GetOptions) -> Result<Head, Failure> {
        let response = self.send(reading(Method::HEAD, bucket, key, options)?, false).await?;
        let (object, range) = object(response.headers())?;
        Ok(Head { object, range, served: served() })
    }

    pub(super) async fn put(
        &self,
        target: Target<'_>,
        bucket: &str,
        key: &str,
        body: &Frozen,
        options: &PutOptions,
    ) -> Result<Stored, Failure> {
        let mut call = call(Method::PUT, bucket, key)?;
        if let Some(checksum) = &options.checksum {
            call.headers.push((checksum_header(checksum.kind), base64(&checksum.value)));
        } else if let Some(kind) = options.keep {
            call.headers
                .push(("x-amz-sdk-checksum-algorithm".to_owned(), checksum_name(kind).to_uppercase()));
        }
        call.headers.extend(options.md5.map(|md5| ("content-md5".to_owned(), base64(&md5))));
        match target {
            Target::Object => {
                call.headers.extend(kept(&options.headers)?);
                call.headers.extend(precondition(&options.precondition));
            }
            Target::Part(upload, number) => {
                call.query = vec![("partNumber", number.to_string()), ("uploadId", upload.to_owned())];
            }
        }
        call.sha256 = Some(sha256_of(body).await);
        call.body = Body::from(Bytes::from_owner(body.clone()));
        let response = self.send(call, true).await?;
        // Answered, and not by S3: what became of the object is not known.
        let etag = etag(response.headers()).ok_or_else(|| Failure::broken(true))?;
        Ok(Stored { etag, checksums: checksums(response.headers()), served: served() })
    }

    pub(super) async fn delete(&self, bucket: &str, key: &str, given: &Precondition) -> Result<(), Failure> {
        let mut call = call(Method::DELETE, bucket, key)?;
        call.headers.extend(precondition(given));
        self.send(call, true).await.map(drop)
    }

    pub(super) async fn list(
        &self,
        bucket: &str,
        options: &ListOptions,
        take: &mut (dyn FnMut(Vec<Entry>) + Send),
    ) -> Result<(Option<String>, Served), Failure> {
        let path = bucket_path(bucket).map_err(unnameable)?;
        let (mut from, mut left) = (options.from.clone(), options.most);
        loop {
            let mut call = Call::new(Method::GET, path.clone());
            call.query = vec![("list-type", "2".to_owned()), ("encoding-type", "url".to_owned())];
            call.query.push(("max-keys", left.min(PAGE_KEYS).to_string()));
            call.query.push(("prefix", options.prefix.clone()));
            if !options.delimiter.is_empty() {
                call.query.push(("delimiter", options.delimiter.clone()));
            }
            match &from {
                From::Start => {}
                From::After(key) => call.query.push(("start-after", key.clone())),
                From::Token(token) => call.query.push(("continuation-token", token.clone())),
            }
            let text = text(self.send(call, false).await?, false).await?;
            let page = ListObjectsV2::parse_response(&text).map_err(|_| unexpected())?;
            let mut entries: Vec<Entry> = Vec::new();
            for object in page.contents {
                entries.push(Entry::Object {
                    key: object.key,
                    size: object.size.unwrap_or_default(),
                    etag: object.etag.as_deref().and_then(parse_etag).ok_or_else(unexpected)?,
                    modified_ms: object.last_modified.as_deref().and_then(iso_ms).unwrap_or(0),
                    checksums: Vec::new(),
                });
            }
            entries.extend(page.common_prefixes.into_iter().map(|prefix| Entry::CommonPrefix(prefix.prefix)));
            entries.sort_by(|a, b| sort_key(a).cmp(sort_key(b)));
            left = left.saturating_sub(entries.len() as u64);
            take(entries);
            match page.next_continuation_token {
                Some(token) if left > 0 => from = From::Token(token),
                next => return Ok((next, served())),
            }
        }
    }

    pub(super) async fn create_upload(
        &self,
        bucket: &str,
        key: &str,
        headers: &Headers,
        checksum: Option<(ChecksumKind, bool)>,
    ) -> Result<String, Failure> {
        let mut call = call(Method::POST, bucket, key)?;
        call.query.push(("uploads", String::new()));
        call.headers = kept(headers)?;
        if let Some((kind, full_object)) = checksum {
            call.headers.push(("x-amz-checksum-algorithm".to_owned(), checksum_name(kind).to_uppercase()));
            call.headers.push(("x-amz-checksum-type".to_owned(), type_name(full_object).to_owned()));
        }
        let text = text(self.send(call, true).await?, true).await?;
        let created = CreateMultipartUpload::parse_response(&text).map_err(|_| unexpected())?;
        Ok(created.upload_id().to_owned())
    }

    pub(super) async fn complete_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        parts: &[NamedPart],
        options: &CompleteOptions,
    ) -> Result<Completed, Failure> {
        let mut call = call(Method::POST, bucket, key)?;
        call.query.push(("uploadId", upload.to_owned()));
        let mut headers: Named = precondition(&options.precondition).into_iter().collect();
        if let Some(checksum) = &options.checksum {
            headers.push((checksum_header(checksum.kind), base64(&checksum.value)));
        }
        headers.extend(
            options.full_object.map(|full| ("x-amz-checksum-type".to_owned(), type_name(full).to_owned())),
        );
        headers.extend(options.size.map(|size| ("x-amz-mp-object-size".to_owned(), size.to_string())));
        call.headers = headers;
        let body = xml::complete(parts);
        call.sha256 = Some(sha256_of(body.as_bytes()).await);
        call.body = Body::from(Bytes::from(body));
        let text = text(self.send(call, true).await?, true).await?;
        // A completion that takes long is answered 200, and its error stands in the body.
        if let Some(code) = text_of(&text, "Code") {
            return Err(refusal(code, text_of(&text, "Message").unwrap_or_default()).into());
        }
        let etag =
            text_of(&text, "ETag").as_deref().and_then(parse_etag).ok_or_else(|| Failure::broken(true))?;
        let of_kind = |kind: ChecksumKind| {
            let text = text_of(&text, &format!("Checksum{}", checksum_name(kind).to_uppercase()))?;
            parse_checksum(kind, &text)
        };
        Ok(Completed { etag, checksum: KINDS.into_iter().find_map(of_kind), served: served() })
    }

    pub(super) async fn abort_upload(&self, bucket: &str, key: &str, upload: &str) -> Result<(), Failure> {
        let mut call = call(Method::DELETE, bucket, key)?;
        call.query.push(("uploadId", upload.to_owned()));
        self.send(call, true).await.map(drop)
    }
}

fn served() -> Served {
    Served { carrier: "http".to_owned(), fabric: String::new() }
}

fn sort_key(entry: &Entry) -> &str {
    match entry {
        Entry::Object { key, .. } | Entry::CommonPrefix(key) => key,
    }
}

/// The text of an answer.
async fn text(response: Response<Incoming>, changes: bool) -> Result<String, Failure> {
    let bytes = all_of(response.into_body()).await.map_err(|error| failed(error, changes))?;
    String::from_utf8(bytes).map_err(|_| unexpected())
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
