//! What a gateway sends, handed to the requests that wait for it.

use super::error::Error;
use super::link::{Core, Event, Pending, Reply, open};
use std::sync::Arc;
use tenfour_rdma::Received;
use tenfour_types::native::{Opener, ToClient};

/// Runs until the connection ends; then every request that waits is told.
pub(super) async fn run(core: Arc<Core>, mut opener: Opener) {
    let end = receive(&core, &mut opener).await;
    if let Error::Untrusted(why) = end {
        tracing::warn!(connection = core.connection.id(), why, "closing a connection to a gateway");
    }
    core.state().dead = true;
    core.connection.close().await;
    let pending = std::mem::take(&mut core.state().pending);
    for (_, Pending { events, held, .. }) in pending {
        // Nobody waits: what was granted is dropped with the event.
        drop(events.send(Event::Broken(held)));
    }
}

async fn receive(core: &Core, opener: &mut Opener) -> Error {
    loop {
        let frame = match core.connection.recv().await {
            Ok(Received::Message(frame)) => frame,
            Ok(Received::Immediate { .. }) => return Error::Untrusted("it writes where it should not"),
            Err(_) => return Error::Broken,
        };
        let message = match open(opener, &frame) {
            Ok(message) => message,
            Err(error) => return error,
        };
        match message {
            ToClient::Welcome(_) => return Error::Untrusted("it says welcome twice"),
            ToClient::Closing(refusal) => return Error::Refused(refusal),
            ToClient::WriteHere { id, chunk, remote } => tell(core, id, Event::WriteHere(chunk, remote)),
            ToClient::Entries { id, entries } => tell(core, id, Event::Entries(entries)),
            ToClient::Reply { id, slot, fabric, result } => {
                let mut state = core.state();
                state.slots.extend(slot);
                let Some(Pending { events, held, .. }) = state.pending.remove(&id) else {
                    return Error::Untrusted("it answers what was not asked");
                };
                drop(state);
                // Nobody waits: what was granted is dropped with the event.
                drop(events.send(Event::Reply(Box::new(Reply { fabric, result, held }))));
            }
        }
    }
}

/// Tells a request something; one that nobody waits for is not told.
fn tell(core: &Core, id: u32, event: Event) {
    if let Some(pending) = core.state().pending.get(&id) {
        drop(pending.events.send(event));
    }
}
