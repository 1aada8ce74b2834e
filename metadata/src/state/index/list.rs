//! LIST: a page of one group's keys in the order of their bytes, which is how S3 orders UTF-8.
//!
//! Costs one seek for the page and one for each common prefix in it: the keys under a common prefix are jumped over, never read.

use crate::api::index::{ListEntry, ListPage, ListRequest};
use crate::state::keys;
use crate::state::rows::{self, ManifestHead};
use crate::table::{Scan, Space, Table, TableError};
use tenfour_types::limits::LIST_KEYS_MAX;

/// One page.
pub(super) fn list(table: &dyn Table, request: &ListRequest) -> Result<ListPage, TableError> {
    let most = (request.most as usize).min(LIST_KEYS_MAX);
    let mut page = ListPage::default();
    if most == 0 {
        return Ok(page);
    }
    let delimiter = request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
    let within = keys::object(request.bucket, &request.prefix);
    let mut start = first_start(request, delimiter, &within);
    loop {
        let mut jump = None;
        rows::scan_prefix(table, Space::Objects, &within, &start, &mut |row, value| {
            if page.entries.len() == most {
                page.more = true;
                return Ok(Scan::Stop);
            }
            let key = row.get(8..).and_then(|key| std::str::from_utf8(key).ok());
            let key = key.ok_or_else(|| TableError::Corrupt("an object's key".into()))?;
            if let Some(common) = common_prefix(key, &request.prefix, delimiter) {
                jump = Some(keys::past_prefix(keys::object(request.bucket, common)));
                page.entries.push(ListEntry::CommonPrefix(common.to_owned()));
                return Ok(Scan::Stop);
            }
            page.entries.push(entry(key, value)?);
            Ok(Scan::On)
        })?;
        match jump {
            Some(past) => start = past,
            None => return Ok(page),
        }
    }
}

/// Where the page begins: at the prefix, or after the entry that the last page ended with. An entry that is a common prefix of
/// `after` was in an earlier page, or is not above it.
fn first_start(request: &ListRequest, delimiter: Option<&str>, within: &[u8]) -> Vec<u8> {
    let Some(after) = &request.after else { return within.to_vec() };
    let past = match common_prefix(after, &request.prefix, delimiter) {
        Some(common) => keys::past_prefix(keys::object(request.bucket, common)),
        None => {
            let mut next = keys::object(request.bucket, after);
            next.push(0);
            next
        }
    };
    past.max(within.to_vec())
}

/// What a key is rolled up into: up to and with the first delimiter after the prefix.
fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: Option<&str>) -> Option<&'a str> {
    let (delimiter, rest) = (delimiter?, key.strip_prefix(prefix)?);
    let at = rest.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

fn entry(key: &str, value: &[u8]) -> Result<ListEntry, TableError> {
    let head: ManifestHead = rows::decode_head(value)?;
    Ok(ListEntry::Object {
        key: key.to_owned(),
        size: head.size,
        etag: head.etag,
        modified_ms: head.modified_ms,
        checksums: head.checksums.iter().map(|checksum| checksum.kind).collect(),
    })
}
