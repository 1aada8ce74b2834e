//! Multipart uploads.

use super::following::Following;
use super::objects::{kept, object_key, precondition};
use super::session::{Asked, Context};
use crate::ops::checksum::combines;
use crate::ops::refusal::{Refusal, slow_down};
use crate::ops::requester::Wants;
use crate::ops::upload::{self, Completion, Named};
use crate::ops::{Backend, OpError};
use crate::transfer::{Destination, SourceError};
use tenfour_types::limits::PARTS_MAX;
use tenfour_types::native::{self, Answer, Content, NamedPart, PARTS_PER_MESSAGE_MAX};
use tenfour_types::{Checksum, ChecksumKind, Headers, Scaled, UploadId};
use tokio::time::timeout;

/// Lists of parts of one connection that may be incomplete.
pub(super) const PART_LISTS_MAX: usize = 4;

/// What the client says of the whole.
pub(super) struct Whole {
    pub(super) count: u32,
    pub(super) precondition: native::Precondition,
    pub(super) checksum: Option<Checksum>,
    pub(super) full_object: Option<bool>,
    pub(super) size: Option<u64>,
}

/// An upload's id; one that none could be is one that is not there.
fn upload_id(text: &str) -> Result<UploadId, Refusal> {
    text.parse().map_err(|_| OpError::NoSuchUpload.into())
}

impl<B: Backend> Context<B> {
    pub(super) async fn create_upload(
        &self,
        wants: &Wants,
        key: &str,
        headers: Headers,
        checksum: Option<(ChecksumKind, bool)>,
    ) -> Result<Answer, Refusal> {
        match checksum {
            Some((kind, true)) if !combines(kind) => {
                let text = "A checksum of the whole object is possible for CRCs only.";
                return Err(Refusal::new("InvalidRequest", text));
            }
            Some((ChecksumKind::Crc64Nvme, false)) => {
                let text = "CRC64NVME is a checksum of the whole object.";
                return Err(Refusal::new("InvalidRequest", text));
            }
            _ => {}
        }
        let (key, headers) = (object_key(key)?, kept(headers)?);
        let id = upload::create(&self.shared.backend, wants, &key, headers, checksum).await?;
        Ok(Answer::UploadCreated { upload: id.to_string() })
    }

    pub(super) async fn upload_part(
        &self,
        wants: &Wants,
        key: &str,
        (upload, number): (&str, u32),
        content: Content,
        asked: &mut Asked,
    ) -> Result<Answer, Refusal> {
        let (key, upload) = (object_key(key)?, upload_id(upload)?);
        if !(1..=PARTS_MAX).contains(&number) {
            let text = "Part number must be an integer between 1 and 10000, inclusive";
            return Err(Refusal::new("InvalidArgument", text));
        }
        let view = upload::parts(&self.shared.backend, wants, &key, upload, 0, 1).await?.upload;
        let chosen = content.checksum.as_ref().map(|given| given.kind).or(content.keep);
        let kind = upload::kept_kind(&view, chosen)?;
        self.store(wants, Destination::Part { key, upload, number }, content, kind, asked).await
    }

    pub(super) async fn complete_upload(
        &self,
        wants: &Wants,
        key: &str,
        upload: &str,
        whole: Whole,
        parts: Vec<NamedPart>,
        asked: &mut Asked,
    ) -> Result<Answer, Refusal> {
        let (key, upload) = (object_key(key)?, upload_id(upload)?);
        if whole.count == 0 || whole.count > PARTS_MAX || parts.len() > whole.count as usize {
            let text = "You must specify at least one part, and at most 10,000.";
            return Err(Refusal::new("InvalidRequest", text));
        }
        let parts = self.all_parts(whole.count as usize, parts, asked).await?;
        let completion = Completion {
            parts: parts.into_iter().map(named).collect(),
            precondition: precondition(whole.precondition),
            checksum: whole.checksum,
            full_object: whole.full_object,
            size: whole.size,
        };
        let done = upload::complete(&self.shared.backend, wants, &key, upload, &completion).await?;
        Ok(Answer::Completed { etag: done.etag, checksum: done.checksum })
    }

    async fn all_parts(
        &self,
        count: usize,
        mut parts: Vec<NamedPart>,
        asked: &mut Asked,
    ) -> Result<Vec<NamedPart>, Refusal> {
        if parts.len() == count {
            return Ok(parts);
        }
        let Some(following) = &mut asked.following else { return Err(SourceError::Truncated.into()) };
        let _list = self.part_lists.try_acquire().map_err(|_| slow_down())?;
        while parts.len() < count {
            match timeout(self.shared.silence_max.scaled(), following.recv()).await {
                Ok(Some(Following::Parts(more)))
                    if !more.is_empty() && more.len() <= PARTS_PER_MESSAGE_MAX =>
                {
                    parts.extend(more);
                }
                Ok(Some(_)) => return Err(SourceError::Malformed("that is no list of parts".into()).into()),
                Ok(None) => return Err(SourceError::Truncated.into()),
                Err(_) => return Err(SourceError::TimedOut.into()),
            }
        }
        if parts.len() > count {
            return Err(SourceError::Malformed("more parts than announced".into()).into());
        }
        Ok(parts)
    }

    pub(super) async fn abort_upload(
        &self,
        wants: &Wants,
        key: &str,
        upload: &str,
    ) -> Result<Answer, Refusal> {
        upload::abort(&self.shared.backend, wants, &object_key(key)?, upload_id(upload)?).await?;
        Ok(Answer::Aborted)
    }
}

fn named(part: NamedPart) -> Named {
    Named { number: part.number, etag: Some(part.etag), checksums: part.checksum.into_iter().collect() }
}
