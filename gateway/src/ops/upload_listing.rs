//! Uploads in progress, over all index groups, in the order of keys and ids.

use super::requester::Wants;
use super::{Backend, OpError, Place};
use std::collections::BTreeSet;
use tenfour_metadata::api::{Bucket, IndexAnswer, IndexQuery, UploadView};
use tenfour_types::UploadId;
use tenfour_types::limits::LIST_KEYS_MAX;

/// Which uploads are asked for.
#[derive(Debug, Clone, Default)]
pub struct UploadsPage {
    /// Keys that begin with this.
    pub prefix: String,
    /// Rolled up at this.
    pub delimiter: Option<String>,
    /// After this key, and of this key after this upload (all of its uploads, when `None`).
    pub after: Option<(String, Option<UploadId>)>,
    /// At most; cut to 1,000.
    pub most: u32,
}

/// Uploads in progress.
#[derive(Debug, Clone, Default)]
pub struct Uploads {
    /// By key and id.
    pub uploads: Vec<UploadView>,
    /// What several keys have in common up to the delimiter.
    pub prefixes: BTreeSet<String>,
    /// Where the next page begins, when there is one.
    pub next: Option<(String, Option<UploadId>)>,
}

/// Lists uploads in progress, over all index groups.
pub async fn list<B: Backend>(backend: &B, wants: &Wants, page: &UploadsPage) -> Result<Uploads, OpError> {
    let most = page.most.min(LIST_KEYS_MAX as u32) as usize;
    let mut found = Uploads::default();
    // A marker below a prefix that is rolled up is one past that prefix: it was told on an earlier page.
    let told = page.after.as_ref().and_then(|(key, _)| common_prefix(key, page));
    let mut after = told.as_deref().map(past).or_else(|| page.after.clone());
    let mut last = page.after.clone();
    loop {
        let batch = batch(backend, wants, page, after.clone()).await?;
        if batch.is_empty() {
            return Ok(found);
        }
        for upload in batch {
            let prefix = common_prefix(&upload.key, page);
            let is_told = |prefix: &String| told.as_ref() == Some(prefix) || found.prefixes.contains(prefix);
            if prefix.as_ref().is_some_and(is_told) {
                if after.as_ref().is_none_or(|(key, _)| *key < upload.key) {
                    after = Some((upload.key, None));
                }
                continue;
            }
            if found.uploads.len() + found.prefixes.len() == most {
                found.next = last;
                return Ok(found);
            }
            match prefix {
                Some(prefix) => {
                    after = Some(past(&prefix));
                    last = Some((prefix.clone(), None));
                    found.prefixes.insert(prefix);
                }
                None => {
                    after = Some((upload.key.clone(), Some(upload.upload)));
                    last.clone_from(&after);
                    found.uploads.push(upload);
                }
            }
        }
    }
}

/// Past every key of the prefix that is likely; what is left of it is skipped one by one.
fn past(prefix: &str) -> (String, Option<UploadId>) {
    (format!("{prefix}\u{10ffff}"), None)
}

fn common_prefix(key: &str, page: &UploadsPage) -> Option<String> {
    let delimiter = page.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty())?;
    let at = key.strip_prefix(&page.prefix)?.find(delimiter)?;
    key.get(..page.prefix.len() + at + delimiter.len()).map(str::to_owned)
}

/// The next uploads of all groups, merged, at most 1,000, all of them in order.
async fn batch<B: Backend>(
    backend: &B,
    wants: &Wants,
    page: &UploadsPage,
    after: Option<(String, Option<UploadId>)>,
) -> Result<Vec<UploadView>, OpError> {
    let mut merged = Vec::new();
    for group in backend.index_groups() {
        let query = |bucket: &Bucket| IndexQuery::Uploads {
            bucket: bucket.id,
            prefix: page.prefix.clone(),
            after: after.clone(),
            most: LIST_KEYS_MAX as u32,
        };
        match backend.query(wants, Place::Group(group), query).await? {
            IndexAnswer::Uploads(uploads) => merged.extend(uploads),
            _ => return Err(OpError::unexpected("Uploads")),
        }
    }
    merged.sort_by(|a, b| (&a.key, a.upload).cmp(&(&b.key, b.upload)));
    merged.truncate(LIST_KEYS_MAX);
    Ok(merged)
}
