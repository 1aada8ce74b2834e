//! Keeps a handle's map and config fresh: a long poll says when they changed, a linearizable read says what they are.
//!
//! A poll is answered from what one replica has applied, which may lag or be cut off: so each poll asks another one, and from time to
//! time the map is read without a poll's word.

use crate::client::{Metadata, Shared};
use crate::net::Kind;
use std::sync::Weak;
use std::time::{Duration, Instant};
use tenfour_types::Scaled;
use tenfour_types::{ConfigVersion, Epoch};

/// A poll is answered within this even when nothing changed (the server answers after 10 s).
const POLL_TIMEOUT: Duration = Duration::from_secs(15);
/// After a failure the next poll waits this long.
const POLL_PAUSE: Duration = Duration::from_millis(250);
/// The map is read so often even when no poll tells of a change.
const READ_EVERY: Duration = Duration::from_secs(30);

/// Runs until the last handle is gone.
pub(super) async fn run(shared: Weak<Shared>) {
    // Handles do not all ask the same replica.
    let mut next: usize = rand::random_range(0..1024);
    let mut read = Instant::now();
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let metadata = Metadata { shared: strong };
        let known = (metadata.shared.map.load().epoch, metadata.shared.config.load().version);
        let links = metadata.shared.router.all();
        let link = links.get(next % links.len().max(1)).cloned();
        next = next.wrapping_add(1);
        // Nothing of the handle is held while the poll waits.
        drop((metadata, links));
        let polled = match link {
            Some(link) => poll(&link, known).await,
            None => None,
        };
        let Some(strong) = shared.upgrade() else { return };
        let metadata = Metadata { shared: strong };
        let refreshed = match polled {
            Some((epoch, config)) => refresh(&metadata, known, epoch, config).await,
            None => false,
        };
        if read.elapsed() >= READ_EVERY.scaled() && metadata.refresh_map().await.is_ok() {
            read = Instant::now();
        }
        drop(metadata);
        if !refreshed {
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }
}

async fn poll(link: &crate::net::Link, known: (Epoch, ConfigVersion)) -> Option<(Epoch, ConfigVersion)> {
    let fill = |out: &mut Vec<u8>| {
        postcard::to_io(&known, out).map(drop).map_err(|_| std::io::ErrorKind::InvalidInput.into())
    };
    let answer =
        link.pipe().await.ok()?.ask_within(POLL_TIMEOUT.scaled(), Kind::Watch, 0, fill).await.ok()?;
    (answer.kind == Kind::Done).then(|| answer.decode()).flatten()
}

async fn refresh(
    metadata: &Metadata,
    known: (Epoch, ConfigVersion),
    epoch: Epoch,
    config: ConfigVersion,
) -> bool {
    if epoch > known.0 && metadata.refresh_map().await.is_err() {
        return false;
    }
    if config > known.1 {
        return metadata.refresh_config().await.is_ok();
    }
    true
}
