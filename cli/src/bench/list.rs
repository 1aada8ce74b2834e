//! `tenfour bench list`: the time of LIST with a delimiter over more and more keys under the same few common prefixes.

use super::Endpoint;
use crate::table;
use anyhow::{Result, bail};
use indicatif::ProgressBar;
use std::time::Instant;
use tenfour_client::S3;

/// Listings timed at each number of keys; the median is shown.
const REPEATS: usize = 21;

/// Options of `tenfour bench list`.
#[derive(clap::Args, Clone, Debug)]
pub struct ListArguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Keys (empty objects) to list over; the listing is timed at a hundredth, a tenth and all of them.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    keys: u64,
    /// Common prefixes that they lie under.
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    prefixes: u64,
    /// Requests in flight while the keys are stored.
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    concurrency: u64,
}

/// Stores the keys and times the listings.
pub async fn run(arguments: ListArguments) -> Result<()> {
    let client = arguments.endpoint.client().await?;
    let prefixes = arguments.prefixes.max(1);
    let mut stored = 0;
    let mut rows = Vec::new();
    for step in [arguments.keys / 100, arguments.keys / 10, arguments.keys] {
        store(&client, stored, step, prefixes, arguments.concurrency.max(1)).await?;
        stored = step.max(stored);
        rows.push(measure(&client, stored, prefixes.min(stored)).await?);
    }
    table::print(&["keys", "delimiter '/': ms", "one page of 1,000 keys: ms"], &rows);
    Ok(())
}

fn key(number: u64, prefixes: u64) -> String {
    format!("list/{:03}/{number:09}", number % prefixes)
}

async fn store(client: &S3, from: u64, to: u64, prefixes: u64, concurrency: u64) -> Result<()> {
    let bar = ProgressBar::new(to.saturating_sub(from));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..concurrency {
        let (client, bar) = (client.clone(), bar.clone());
        workers.spawn(async move {
            for number in (from + worker..to).step_by(concurrency as usize) {
                client.put(&key(number, prefixes), tenfour_client::Body::empty()).await?;
                bar.inc(1);
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    bar.finish_and_clear();
    Ok(())
}

async fn measure(client: &S3, stored: u64, prefixes: u64) -> Result<Vec<String>> {
    let mut rolled_up = Vec::new();
    let mut page = Vec::new();
    for _ in 0..REPEATS {
        let began = Instant::now();
        let listing = client.list("list/", Some("/"), None).await?;
        rolled_up.push(began.elapsed());
        if listing.prefixes.len() as u64 != prefixes || !listing.objects.is_empty() {
            bail!(
                "{} common prefixes and {} keys were listed, {prefixes} and none are there",
                listing.prefixes.len(),
                listing.objects.len()
            );
        }
        let began = Instant::now();
        let listing = client.list("list/", None, None).await?;
        page.push(began.elapsed());
        if listing.objects.len() as u64 != stored.min(1000) {
            bail!("a page of {} keys, {} were expected", listing.objects.len(), stored.min(1000));
        }
    }
    let median = |times: &mut Vec<std::time::Duration>| {
        times.sort_unstable();
        format!("{:.2}", times.get(times.len() / 2).map_or(0.0, std::time::Duration::as_secs_f64) * 1e3)
    };
    Ok(vec![stored.to_string(), median(&mut rolled_up), median(&mut page)])
}
