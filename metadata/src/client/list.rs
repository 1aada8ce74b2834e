//! LIST over all index groups: each is asked for one page, and the pages are merged in the order of keys.

use crate::api::index::IndexAnswer;
use crate::api::{IndexQuery, ListEntry, ListPage, ListRequest};
use crate::client::{Metadata, MetadataError, unreadable};
use futures::future::try_join_all;
use tenfour_types::ConfigVersion;

impl Metadata {
    /// One page over all groups, with the newest config version that any of them was fenced to. It contains everything that
    /// was acknowledged before the call.
    pub async fn list(&self, request: ListRequest) -> Result<(ConfigVersion, ListPage), MetadataError> {
        let asked =
            self.index_groups().into_iter().map(|group| self.query(group, IndexQuery::List(request.clone())));
        let mut version = ConfigVersion(0);
        let mut pages = Vec::new();
        for answer in try_join_all(asked).await? {
            version = version.max(answer.config);
            match answer.answer {
                IndexAnswer::List(page) => pages.push(page),
                _ => return Err(unreadable()),
            }
        }
        Ok((version, merge(pages, request.most as usize)))
    }
}

/// Merges pages, each in order; a common prefix that several groups have appears once.
fn merge(pages: Vec<ListPage>, most: usize) -> ListPage {
    // Behind the last entry of a group that has more, that group's next entry is not known.
    let bound = pages
        .iter()
        .filter(|page| page.more)
        .map(|page| page.entries.last().map_or(String::new(), |entry| entry.sort_key().to_owned()))
        .min();
    let mut more = pages.iter().any(|page| page.more);
    let mut entries: Vec<ListEntry> = pages.into_iter().flat_map(|page| page.entries).collect();
    entries.sort_by(|a, b| a.sort_key().cmp(b.sort_key()));
    entries.dedup_by(|a, b| matches!(a, ListEntry::CommonPrefix(_)) && a == b);
    if let Some(bound) = bound {
        entries.retain(|entry| entry.sort_key() <= bound.as_str());
    }
    if entries.len() > most {
        entries.truncate(most);
        more = true;
    }
    ListPage { entries, more }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(prefixes: &[&str], more: bool) -> ListPage {
        ListPage {
            entries: prefixes.iter().map(|text| ListEntry::CommonPrefix((*text).to_owned())).collect(),
            more,
        }
    }

    #[test]
    fn pages_merge_in_order_and_without_repeats() {
        assert_eq!(
            merge(vec![page(&["a", "c"], false), page(&["a", "b"], false)], 10),
            page(&["a", "b", "c"], false)
        );
    }

    #[test]
    fn nothing_is_listed_behind_what_a_group_has_not_told_yet() {
        assert_eq!(
            merge(vec![page(&["a", "b"], true), page(&["c", "d"], false)], 10),
            page(&["a", "b"], true)
        );
        assert_eq!(
            merge(vec![page(&["a", "d"], true), page(&["b", "e"], true)], 10),
            page(&["a", "b", "d"], true)
        );
    }

    #[test]
    fn a_page_is_no_longer_than_asked() {
        assert_eq!(merge(vec![page(&["a", "b"], false), page(&["c"], false)], 2), page(&["a", "b"], true));
    }
}
