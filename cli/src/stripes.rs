//! The stripe table as operators look at it: all rows, and how many stripes are below full width.

use anyhow::{Result, bail};
use std::time::Duration;
use tenfour_metadata::Metadata;
use tenfour_metadata::api::{IndexAnswer, IndexQuery};
use tenfour_placement::{ClusterMap, NodeState};
use tenfour_types::{MetaGroupId, Scaled, StripeId, StripeRow};
use tokio::time::Instant;

/// Rows asked for at once.
const ROWS_PER_QUERY: u32 = 256;
/// A count is given up after this: what it says then is of the stripes that it came to.
const COUNT_DEADLINE: Duration = Duration::from_secs(20);

/// Every stripe row that metadata knows.
pub async fn all_stripes(metadata: &Metadata) -> Result<Vec<StripeRow>> {
    let mut rows = Vec::new();
    for group in metadata.index_groups() {
        let mut after = None;
        while let Some(page) =
            page(metadata, group, IndexQuery::Stripes { after, most: ROWS_PER_QUERY }).await?
        {
            after = page.last().map(|row| row.id);
            rows.extend(page);
        }
    }
    Ok(rows)
}

/// Rows that follow; `None` when there are no more.
async fn page(metadata: &Metadata, group: MetaGroupId, query: IndexQuery) -> Result<Option<Vec<StripeRow>>> {
    let IndexAnswer::Stripes(page) = metadata.query(group, query).await?.answer else {
        bail!("{group} gave another answer than was asked for")
    };
    Ok(Some(page).filter(|page| !page.is_empty()))
}

/// How the stripes of a cluster stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Width {
    /// Stripes looked at; `None` when nothing gave reason to look at them.
    pub stripes: Option<u64>,
    /// Those that have a shard missing, or elsewhere than at home.
    pub below: u64,
    /// Those of them that cannot be read now.
    pub unreadable: u64,
    /// How many more nodes the worst readable one survives.
    pub worst: Option<usize>,
    /// Whether all stripes were looked at, as far as they had to be.
    pub complete: bool,
}

impl Width {
    fn add(&mut self, map: &ClusterMap, row: &StripeRow) {
        let standing = map.standing(row);
        *self.stripes.get_or_insert(0) += 1;
        if standing.is_full() {
            return;
        }
        self.below += 1;
        match standing.survives {
            None => self.unreadable += 1,
            Some(more) => self.worst = Some(self.worst.map_or(more, |worst| worst.min(more))),
        }
    }
}

/// Counts the stripes that are below full width: all are looked at while a slot is not whole or a node is away, else only those
/// that have a shard elsewhere.
pub async fn width(metadata: &Metadata, map: &ClusterMap) -> Result<Width> {
    let is_moving = map.groups.iter().flat_map(|row| &row.slots).any(|slot| !slot.sources.is_empty());
    let is_whole = !is_moving && map.nodes.values().all(|node| node.state != NodeState::Down);
    let query = |after: Option<StripeId>| match is_whole {
        true => IndexQuery::StripesAway { after, most: ROWS_PER_QUERY },
        false => IndexQuery::Stripes { after, most: ROWS_PER_QUERY },
    };
    let mut width = Width { complete: true, ..Width::default() };
    let deadline = Instant::now() + COUNT_DEADLINE.scaled();
    for group in metadata.index_groups() {
        let mut after = None;
        while let Some(rows) = page(metadata, group, query(after)).await? {
            after = rows.last().map(|row| row.id);
            rows.iter().for_each(|row| width.add(map, row));
            if Instant::now() > deadline {
                return Ok(Width { complete: false, ..width });
            }
        }
    }
    if is_whole {
        width.stripes = None;
    }
    Ok(width)
}
