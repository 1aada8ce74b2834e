//! Multipart uploads.

use super::config::PutOptions;
use super::error::{Error, Failure};
use super::link::Held;
use super::objects::{Served, Stored, request, unexpected};
use super::put::Target;
use super::retry::{Again, Tries};
use super::{Client, Route};
use tenfour_rdma::Frozen;
use tenfour_types::native::{Answer, NamedPart, Operation, PARTS_PER_MESSAGE_MAX, Precondition, ToGateway};
use tenfour_types::{Checksum, ChecksumKind, ETag, Headers};

/// An upload became an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completed {
    /// Its ETag.
    pub etag: ETag,
    /// Its checksum; not told when it had been completed before.
    pub checksum: Option<Checksum>,
    /// What carried it.
    pub served: Served,
}

/// What completing an upload may say.
#[derive(Clone, Debug, Default)]
pub struct CompleteOptions {
    /// What must hold of the object there.
    pub precondition: Precondition,
    /// The checksum of the whole, verified by the gateway.
    pub checksum: Option<Checksum>,
    /// Whether that is one of all bytes.
    pub full_object: Option<bool>,
    /// The size of the whole, verified by the gateway.
    pub size: Option<u64>,
}

impl Client {
    /// Begins an upload; returns its id. `checksum` says which kind the object is to have, and whether it is one of all its bytes.
    pub async fn create_upload(
        &self,
        bucket: &str,
        key: &str,
        headers: &Headers,
        checksum: Option<(ChecksumKind, bool)>,
    ) -> Result<String, Error> {
        let mut tries = Tries::new(self, Again::Safe);
        let call = async |route: Route<'_>| match route {
            Route::Http(http) => http.create_upload(bucket, key, headers, checksum).await,
            Route::Rdma(link) => {
                let operation = Operation::CreateUpload { headers: headers.clone(), checksum };
                match self.ask(&link, request(bucket, key, operation), true).await?.0 {
                    Answer::UploadCreated { upload } => Ok(upload),
                    _ => Err(unexpected()),
                }
            }
        };
        self.again(&mut tries, call).await
    }

    /// Stores all bytes of `body` as a part, 1 to 10,000.
    pub async fn upload_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: u32,
        body: &Frozen,
        options: &PutOptions,
    ) -> Result<Stored, Error> {
        let mut tries = Tries::new(self, Again::Safe);
        self.put(&mut tries, Target::Part(upload, number), bucket, key, body, options).await
    }

    /// Makes the parts the object, in ascending order.
    pub async fn complete_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        parts: &[NamedPart],
        options: &CompleteOptions,
    ) -> Result<Completed, Error> {
        let mut tries = Tries::new(self, Again::Safe);
        let call = async |route: Route<'_>| match route {
            Route::Http(http) => http.complete_upload(bucket, key, upload, parts, options).await,
            Route::Rdma(link) => {
                let mut lists = parts.chunks(PARTS_PER_MESSAGE_MAX);
                let operation = Operation::CompleteUpload {
                    upload: upload.to_owned(),
                    count: u32::try_from(parts.len()).unwrap_or(u32::MAX),
                    parts: lists.next().unwrap_or_default().to_vec(),
                    precondition: options.precondition.clone(),
                    checksum: options.checksum.clone(),
                    full_object: options.full_object,
                    size: options.size,
                };
                let mut call = link.begin(Held::default()).await?;
                call.send(request(bucket, key, operation)).await?;
                for parts in lists {
                    let more = ToGateway::MoreParts { id: call.id, parts: parts.to_vec() };
                    call.follow(&more).await.map_err(|_| Failure::broken(false))?;
                }
                let reply = call.reply(self.config().answer_deadline).await;
                let reply = reply.map_err(|_| Failure::broken(true))?;
                let served = Served { carrier: link.carrier().to_owned(), fabric: reply.fabric };
                match reply.result? {
                    Answer::Completed { etag, checksum } => Ok(Completed { etag, checksum, served }),
                    _ => Err(unexpected()),
                }
            }
        };
        self.again(&mut tries, call).await
    }

    /// Lets an upload and its parts go.
    pub async fn abort_upload(&self, bucket: &str, key: &str, upload: &str) -> Result<(), Error> {
        let mut tries = Tries::new(self, Again::Safe);
        let call = async |route: Route<'_>| match route {
            Route::Http(http) => http.abort_upload(bucket, key, upload).await,
            Route::Rdma(link) => {
                let operation = Operation::AbortUpload { upload: upload.to_owned() };
                self.ask(&link, request(bucket, key, operation), true).await.map(drop)
            }
        };
        match self.again(&mut tries, call).await {
            Err(Error::OutcomeUnknown) if tries.found("NoSuchUpload") => Ok(()),
            done => done,
        }
    }
}
