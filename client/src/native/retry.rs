//! What is sent again when a try failed, and why that is safe.
//!
//! A try that failed *before* its request was on its way, and one that the gateway refused with "later", did nothing: the call is made
//! again, whatever it is. When the connection broke *after* the request was sent, or the gateway says that it does not know the
//! outcome, the change was made wholly or not at all, or will still be made. Then:
//!
//! | call | again? | because |
//! |---|---|---|
//! | GET, HEAD, LIST | yes | it changes nothing |
//! | PUT or DELETE with `If-Match`, PUT with `If-None-Match: *` | yes | the second cannot undo what somebody else wrote after the first: then its condition does not hold. When it does not, the first may be the reason, or somebody else who wrote the same bytes: a PUT is unknown then; a DELETE succeeds when the object is gone |
//! | PUT without a condition, or with `If-Match: *` | no, unless `RetryPolicy::overwrite` | between the two somebody else may have written, and been told so; the second would undo that. The caller gets [`super::Error::OutcomeUnknown`] |
//! | DELETE without a condition | no, unless `RetryPolicy::overwrite` | the same: it would remove what somebody else wrote |
//! | a push that broke before its last chunk was written | yes, whatever its condition | the gateway commits nothing before it has every byte |
//! | upload a part | yes | the same number of the same upload with the same bytes; an upload's id is its creator's alone |
//! | complete an upload | yes | completing again what was completed answers as before and changes nothing |
//! | abort an upload | yes | that there is no such upload then means that it is gone |
//! | create an upload | yes | the first may have made an upload that nobody knows: it holds no bytes, and goes with the bucket, or when somebody lists and aborts it |
//!
//! The pauses double up to a second, with chance in them, so that clients that lost the same gateway do not come back as one.

use super::error::{Error, Failure};
use super::{Client, Route};
use std::time::Duration;
use tenfour_types::native::Retry;

/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Whether a call may be made again when its outcome is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Again {
    /// It cannot do harm.
    Safe,
    /// It could undo what somebody else did.
    Unsafe,
}

/// Counts the tries of one call.
pub(super) struct Tries {
    again: Again,
    left: u32,
    pause: Duration,
    /// An earlier try may have made the change.
    pub(super) may_have_happened: bool,
}

impl Tries {
    pub(super) fn new(client: &Client, again: Again) -> Self {
        let policy = &client.config().retry;
        Self { again, left: policy.attempts_max.max(1), pause: policy.pause, may_have_happened: false }
    }

    /// Waits, and returns for the next try; fails when there is none.
    pub(super) async fn after(&mut self, failure: Failure) -> Result<(), Error> {
        self.left -= 1;
        self.may_have_happened |= failure.may_have_happened;
        let is_barred = failure.may_have_happened && self.again == Again::Unsafe;
        if self.left == 0 || is_barred || !failure.error.is_retryable() {
            // What came of an earlier try is not known better by a later one that was not made.
            let says_for_good =
                matches!(&failure.error, Error::Refused(refusal) if refusal.retry == Retry::Never);
            let hides = self.may_have_happened && !says_for_good;
            return Err(if hides { Error::OutcomeUnknown } else { failure.error });
        }
        let fraction = 0.5 + rand::random::<f64>() / 2.0;
        tokio::time::sleep(self.pause.mul_f64(fraction)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

impl Client {
    /// Makes a call until it succeeds, fails for good, or has been tried often enough.
    pub(super) async fn again<T>(
        &self,
        tries: &mut Tries,
        mut call: impl AsyncFnMut(Route<'_>) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        loop {
            let tried = match self.route().await {
                Ok(route) => call(route).await,
                Err(failure) => Err(failure),
            };
            match tried {
                Ok(done) => return Ok(done),
                Err(failure) => tries.after(failure).await?,
            }
        }
    }
}
