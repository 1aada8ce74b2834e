//! How patient this process is: one factor for every time that stands for "so slow may a healthy machine be".
//!
//! Deadlines, timeouts, hedges and heartbeats are written down as on an ordinary machine, and pass through [`Scaled::scaled`] where
//! they are used. On an emulated or crowded machine a factor above 1 makes everything wait longer, together and in proportion, so
//! that a slow machine is slow and not taken for broken. What a peer must never exceed for other reasons (the lifetime of a
//! signature or a grant) and pauses that only save work are not scaled.
//!
//! The factor belongs to the process, as the speed of the machine does: it is set once, from its configuration, before anything
//! waits. Members of one cluster should have the same one: a heartbeat is only in time beside the patience of who expects it.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;

static FACTOR_BITS: AtomicU64 = AtomicU64::new(1f64.to_bits());

/// A factor between 0.1 and 1000.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct TimeScale(f64);

/// A factor that no machine needs.
#[derive(Clone, PartialEq, Debug, Error)]
#[error(
    "timeout scale {given}: it is a number between 0.1 and 1000; 1 for an ordinary machine, more for a slow one"
)]
pub struct TimeScaleError {
    given: String,
}

impl TimeScale {
    /// From now on every time of this process is multiplied by it.
    pub fn set_for_process(self) {
        FACTOR_BITS.store(self.0.to_bits(), Ordering::Relaxed);
    }

    /// What this process multiplies its times by.
    pub fn of_process() -> Self {
        Self(f64::from_bits(FACTOR_BITS.load(Ordering::Relaxed)))
    }

    /// This time on such a machine.
    pub fn apply(self, time: Duration) -> Duration {
        if self == Self::default() { time } else { time.mul_f64(self.0) }
    }
}

impl Default for TimeScale {
    fn default() -> Self {
        Self(1.0)
    }
}

impl TryFrom<f64> for TimeScale {
    type Error = TimeScaleError;

    fn try_from(factor: f64) -> Result<Self, TimeScaleError> {
        if (0.1..=1000.0).contains(&factor) {
            Ok(Self(factor))
        } else {
            Err(TimeScaleError { given: factor.to_string() })
        }
    }
}

impl From<TimeScale> for f64 {
    fn from(scale: TimeScale) -> Self {
        scale.0
    }
}

impl FromStr for TimeScale {
    type Err = TimeScaleError;

    fn from_str(text: &str) -> Result<Self, TimeScaleError> {
        text.parse::<f64>().map_err(|_| TimeScaleError { given: format!("{text:?}") })?.try_into()
    }
}

impl fmt::Display for TimeScale {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A time that depends on how fast the machine is.
pub trait Scaled {
    /// This time on the machine that the process runs on.
    #[must_use]
    fn scaled(self) -> Duration;
}

impl Scaled for Duration {
    fn scaled(self) -> Duration {
        TimeScale::of_process().apply(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_a_sensible_number() {
        for wrong in ["", "0", "0.05", "-1", "1001", "NaN", "inf", "three"] {
            assert!(wrong.parse::<TimeScale>().is_err(), "{wrong}");
        }
        let eight: TimeScale = "8".parse().unwrap();
        assert_eq!(
            (eight.to_string().as_str(), eight.apply(Duration::from_millis(5))),
            ("8", Duration::from_millis(40))
        );
        assert_eq!(TimeScale::default().apply(Duration::MAX), Duration::MAX);
    }

    /// The only test of this crate's binary that reads or sets the factor of the process.
    #[test]
    fn the_process_has_one_factor() {
        assert_eq!(Duration::from_secs(3).scaled(), Duration::from_secs(3));
        TimeScale(2.5).set_for_process();
        assert_eq!(Duration::from_secs(2).scaled(), Duration::from_secs(5));
        TimeScale::default().set_for_process();
    }
}
