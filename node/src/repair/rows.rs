//! The stripe table, page by page, over all index groups.

use super::RoundError;
use tenfour_metadata::Metadata;
use tenfour_metadata::api::{IndexAnswer, IndexQuery};
use tenfour_types::{MetaGroupId, StripeId, StripeRow};

/// Rows of one page.
const PAGE_ROWS: u32 = 512;

/// One stripe's row, if there is still one.
pub(super) async fn row_of(metadata: &Metadata, stripe: StripeId) -> Result<Option<StripeRow>, RoundError> {
    let before = u128::from_be_bytes(stripe.to_bytes()).checked_sub(1);
    let after = before.map(|id| StripeId::from_bytes(id.to_be_bytes()));
    let query = IndexQuery::Stripes { after, most: 1 };
    let IndexAnswer::Stripes(page) = metadata.query(stripe.meta_group, query).await?.answer else {
        return Err(RoundError::Answer);
    };
    Ok(page.into_iter().next().filter(|row| row.id == stripe))
}

/// Which rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    All,
    /// Those with overrides.
    Away,
}

/// A walk over rows in the order of their ids. Each page is a linearizable read of its own.
pub(super) struct Rows<'a> {
    metadata: &'a Metadata,
    which: Which,
    groups: Vec<MetaGroupId>,
    after: Option<StripeId>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(metadata: &'a Metadata, which: Which) -> Self {
        let mut groups = metadata.index_groups();
        groups.reverse();
        Self { metadata, which, groups, after: None }
    }

    /// The next rows, of one index group; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<StripeRow>>, RoundError> {
        while let Some(group) = self.groups.last().copied() {
            let (after, most) = (self.after, PAGE_ROWS);
            let query = match self.which {
                Which::All => IndexQuery::Stripes { after, most },
                Which::Away => IndexQuery::StripesAway { after, most },
            };
            let IndexAnswer::Stripes(page) = self.metadata.query(group, query).await?.answer else {
                return Err(RoundError::Answer);
            };
            self.after = page.last().map(|row| row.id);
            if page.len() < PAGE_ROWS as usize {
                self.groups.pop();
                self.after = None;
            }
            if !page.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }
}
