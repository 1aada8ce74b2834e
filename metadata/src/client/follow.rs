//! Keeps a handle's map and config fresh: a long poll says when they changed, a linearizable read says what they are.

use crate::client::{Metadata, Shared};
use crate::net::Kind;
use std::sync::Weak;
use std::time::Duration;
use tenfour_types::{ConfigVersion, Epoch};

/// A poll is answered within this even when nothing changed (the server answers after 10 s).
const POLL_TIMEOUT: Duration = Duration::from_secs(15);
/// After a failure the next poll waits this long.
const POLL_PAUSE: Duration = Duration::from_millis(250);

/// Runs until the last handle is gone.
pub(super) async fn run(shared: Weak<Shared>) {
    let mut next = 0;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let metadata = Metadata { shared: strong };
        let known = (metadata.shared.map.load().epoch, metadata.shared.config.load().version);
        let links = metadata.shared.router.all();
        let link = links.get(next % links.len().max(1)).cloned();
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
        drop(metadata);
        if !refreshed {
            next += 1;
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }
}

async fn poll(link: &crate::net::Link, known: (Epoch, ConfigVersion)) -> Option<(Epoch, ConfigVersion)> {
    let fill = |out: &mut Vec<u8>| {
        postcard::to_io(&known, out).map(drop).map_err(|_| std::io::ErrorKind::InvalidInput.into())
    };
    let answer = link.pipe().await.ok()?.ask_within(POLL_TIMEOUT, Kind::Watch, 0, fill).await.ok()?;
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
