//! Named places of the PUT protocol at which a test ends the process, to see what a crash there leaves behind.
//!
//! `TENFOUR_STOP_AT=NAME` aborts the first time that NAME is reached, `NAME:3` the third time. The environment is read once;
//! without the variable a point costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A stripe has its id, nothing of the body was received.
pub const LEASED: &str = "put.leased";
/// A stripe's bytes are in memory.
pub const RECEIVED: &str = "put.received";
/// A stripe is encoded.
pub const ENCODED: &str = "put.encoded";
/// A stripe has its row and its staging credits.
pub const CREDITED: &str = "put.credited";
/// Before each of the 14 shards is sent: the time *k* + 1 is after *k* shards.
pub const SENDING: &str = "put.sending";
/// All 14 shards of a stripe were sent.
pub const SENT: &str = "put.sent";
/// All 14 shards of a stripe are durable.
pub const DURABLE: &str = "put.durable";
/// The whole body was received and verified, nothing is committed.
pub const VERIFIED: &str = "put.verified";
/// The commit is on its way to metadata, no answer has come.
pub const COMMITTING: &str = "put.committing";
/// The commit was answered, the client was not.
pub const COMMITTED: &str = "put.committed";

/// All points, in the order of the protocol.
pub const NAMES: [&str; 10] =
    [LEASED, RECEIVED, ENCODED, CREDITED, SENDING, SENT, DURABLE, VERIFIED, COMMITTING, COMMITTED];

struct Stop {
    name: String,
    times_left: AtomicU64,
}

static STOP: OnceLock<Option<Stop>> = OnceLock::new();

fn stop() -> Option<&'static Stop> {
    STOP.get_or_init(|| std::env::var("TENFOUR_STOP_AT").ok().map(|text| parse(&text))).as_ref()
}

fn parse(text: &str) -> Stop {
    let (name, times) = text.rsplit_once(':').unwrap_or((text, "1"));
    Stop { name: name.to_owned(), times_left: AtomicU64::new(times.parse().unwrap_or(1).max(1)) }
}

/// Whether the process is to end at this point.
pub fn is_armed(name: &str) -> bool {
    stop().is_some_and(|stop| stop.name == name)
}

/// Ends the process when this is where, and the time at which, it is to end.
pub fn reached(name: &str) {
    let Some(stop) = stop().filter(|stop| stop.name == name) else { return };
    if stop.times_left.fetch_sub(1, Ordering::Relaxed) == 1 {
        tracing::warn!(name, "TENFOUR_STOP_AT: the process ends here");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_or_without_a_count() {
        let stop = parse("put.sending:3");
        assert_eq!((stop.name.as_str(), stop.times_left.into_inner()), ("put.sending", 3));
        let stop = parse("put.durable");
        assert_eq!((stop.name.as_str(), stop.times_left.into_inner()), ("put.durable", 1));
    }

    #[test]
    fn without_the_variable_nothing_is_armed() {
        assert!(NAMES.iter().all(|name| !is_armed(name)));
        NAMES.iter().for_each(|name| reached(name));
    }
}
