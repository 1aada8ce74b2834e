//! What is sent again when a try failed, and why that is safe.
//!
//! A try that failed *before* its request was on its way, and one that the gateway refused with "later", did nothing: the call is made
//! again, whatever it is. When the connection broke *after* the request was sent, or the gateway says that it does not know the
//! outcome, the change was made wholly or not at all, or will still be made. Then:
//!
//! | call | again? | because |
//! |---|---|---|
//! | GET, HEAD, LIST | yes | it changes nothing |
//! | PUT or DELETE with `If-Match`, PUT with `If-None-Match: *` | yes | the second does not undo what somebody else wrote after the first: then its condition does not hold. Unless they put back just what the condition names, as an ETag is one of content: an object of the same bytes, or none, is what the caller agreed to replace |
//! | PUT without a condition, or with `If-Match: *` | no, unless `RetryPolicy::overwrite` | between the two somebody else may have written, and been told so; the second would undo that. The caller gets [`super::Error::OutcomeUnknown`] |
//! | DELETE without a condition | no, unless `RetryPolicy::overwrite` | the same: it would remove what somebody else wrote |
//! | a push that broke before its last chunk was written | yes, whatever its condition | the gateway commits nothing before it has every byte |
//! | upload a part | yes | the same number of the same upload with the same bytes; an upload's id is its creator's alone |
//! | complete an upload | yes | completing again what was completed answers as before and changes nothing |
//! | abort an upload | yes | that there is no such upload then means that it is gone |
//! | create an upload | yes | the first may have made an upload that nobody knows: it holds no bytes, and goes with the bucket, or when somebody lists and aborts it |
//!
//! Once the outcome of one try is unknown, what refuses a later one tells nothing of it: whether the condition does not hold because the
//! first try was made or because of somebody else, or the user was disabled in between, the caller gets
//! [`super::Error::OutcomeUnknown`]. Only that what was to be removed is not there says that it is done.
//!
//! The pauses double up to a second, with chance in them, so that clients that lost the same gateway do not come back as one.

use super::error::{Error, Failure};
use super::{Client, Route};
use std::time::Duration;

/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Whether a call may be made again when its outcome is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Again {
    /// It changes nothing: there is no outcome to be unknown.
    Reads,
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
    /// A try may have made the change.
    may_have_happened: bool,
    /// The code with which the last try was refused.
    refused: Option<String>,
}

impl Tries {
    pub(super) fn new(client: &Client, again: Again) -> Self {
        let policy = &client.config().retry;
        let left = policy.attempts_max.max(1);
        Self { again, left, pause: policy.pause, may_have_happened: false, refused: None }
    }

    /// Waits, and returns for the next try; fails when there is none.
    pub(super) async fn after(&mut self, failure: Failure) -> Result<(), Error> {
        self.left -= 1;
        let may_have_happened = failure.may_have_happened && self.again != Again::Reads;
        self.may_have_happened |= may_have_happened;
        let is_barred = may_have_happened && self.again == Again::Unsafe;
        if self.left == 0 || is_barred || !failure.error.is_retryable() {
            self.refused = failure.error.code().map(str::to_owned);
            return Err(if self.may_have_happened { Error::OutcomeUnknown } else { failure.error });
        }
        let fraction = 0.5 + rand::random::<f64>() / 2.0;
        tokio::time::sleep(self.pause.mul_f64(fraction)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    /// Whether the outcome of a try was unknown and another was then refused with this code.
    pub(super) fn found(&self, code: &str) -> bool {
        self.may_have_happened && self.refused.as_deref() == Some(code)
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
