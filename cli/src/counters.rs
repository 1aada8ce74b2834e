//! The counters of a gateway, for whoever operates it: a Unix socket that answers a connection with all of them and hangs up, and a
//! line in the log from time to time.
//!
//! Who may open the socket is what its mode says: its owner. It shows numbers only, and nothing can be changed through it.

use crate::layout::counter_sockets;
use crate::table;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tenfour_types::Scaled;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// A reader takes so long, or is hung up on.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// After a failed `accept(2)`, so long until the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the counters are logged, when they have changed.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Longest answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Counters by name.
pub type Counters = BTreeMap<String, u64>;

/// A socket that is taken away when it is dropped.
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Listens at a path, in place of a gateway that has ended: gateways of one name never run at the same time.
    pub fn open(path: &Path) -> Result<Self> {
        let context = || format!("cannot listen at {}", path.display());
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(context),
            _ => {}
        }
        let listener = UnixListener::bind(path).with_context(context)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers one reader after the other, for ever.
    pub async fn serve(&self, counted: impl Fn() -> Counters) {
        loop {
            let Ok((mut reader, _)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let text = serde_json::to_vec(&counted()).unwrap_or_default();
            // A reader that does not read is its own loss.
            let _ = timeout(ANSWER_WITHIN.scaled(), reader.write_all(&text)).await;
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // What is left there is taken over by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Logs what the counters have become, for ever.
pub async fn log(counted: impl Fn() -> Counters) {
    let mut logged = Counters::new();
    loop {
        tokio::time::sleep(LOG_EVERY).await;
        let all = counted();
        if all != logged {
            let told: Vec<String> = all
                .iter()
                .filter(|(_, value)| **value > 0)
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            tracing::info!(counters = told.join(" "), "counters since the start");
            logged = all;
        }
    }
}

/// The sums over all gateways of the cluster in a folder that answer; `None` when none does.
pub async fn of_cluster(root: &Path) -> Result<Option<Counters>> {
    let mut sums: Option<Counters> = None;
    for path in counter_sockets(root)? {
        match read(&path).await {
            Ok(counters) => {
                let sums = sums.get_or_insert_default();
                counters.into_iter().for_each(|(name, value)| *sums.entry(name).or_default() += value);
            }
            Err(error) => tracing::debug!(path = %path.display(), "{error:#}"),
        }
    }
    Ok(sums)
}

async fn read(path: &Path) -> Result<Counters> {
    let reading = async {
        let mut text = Vec::new();
        UnixStream::connect(path).await?.take(ANSWER_BYTES_MAX).read_to_end(&mut text).await?;
        io::Result::Ok(text)
    };
    Ok(serde_json::from_slice(&timeout(ANSWER_WITHIN.scaled(), reading).await??)?)
}

/// A stage's share of a difference between two readings.
#[derive(Clone, Copy, Debug)]
pub struct StageUse {
    /// Its name.
    pub name: &'static str,
    /// How often it ended.
    pub times: u64,
    /// Running, not waiting, seconds.
    pub busy_seconds: f64,
    /// From begin to end, seconds.
    pub wall_seconds: f64,
}

/// The stages of the data path, as `tenfour_gateway::counters` names them.
const STAGES: [&str; 6] = ["receive", "encode", "fanout", "commit", "lookup", "gather"];

/// What each stage has taken between two readings; stages that did nothing are left out.
pub fn stages(before: &Counters, after: &Counters) -> Vec<StageUse> {
    let grown = |name: String| {
        let of = |counters: &Counters| counters.get(&name).copied().unwrap_or(0);
        of(after).saturating_sub(of(before))
    };
    let stage = |name: &'static str| StageUse {
        name,
        times: grown(format!("{name}_times")),
        busy_seconds: grown(format!("{name}_busy_nanos")) as f64 / 1e9,
        wall_seconds: grown(format!("{name}_wall_nanos")) as f64 / 1e9,
    };
    STAGES.into_iter().map(stage).filter(|stage| stage.times > 0).collect()
}

/// Adds to `sums` what has been counted between two readings.
pub fn add_growth(sums: &mut Counters, before: &Counters, after: &Counters) {
    for (name, value) in after {
        let grown = value.saturating_sub(before.get(name).copied().unwrap_or(0));
        *sums.entry(name.clone()).or_default() += grown;
    }
}

/// What the gateways did, by transport and by stage, since they started.
pub fn print(counters: &Counters) {
    let of = |name: &str| counters.get(name).copied().unwrap_or(0);
    println!();
    let transports = ["verbs", "shm", "tcp"].map(|name| {
        let cell = |what: &str| of(&format!("{name}_{what}"));
        let mib = |what: &str| format!("{:.1}", cell(what) as f64 / f64::from(1 << 20));
        vec![
            name.to_owned(),
            cell("stored_shards").to_string(),
            mib("stored_bytes"),
            cell("fetched_shards").to_string(),
            mib("fetched_bytes"),
        ]
    });
    table::print(&["transport", "shards stored", "MiB", "shards fetched", "MiB"], &transports);
    println!();
    let stages = stages(&Counters::new(), counters).into_iter().map(|stage| {
        let each = |seconds: f64| format!("{:.3}", seconds * 1e3 / stage.times as f64);
        vec![
            stage.name.to_owned(),
            stage.times.to_string(),
            each(stage.busy_seconds),
            each(stage.wall_seconds),
        ]
    });
    table::print(&["stage", "times", "CPU ms each", "ms each"], &stages.collect::<Vec<_>>());
    println!(
        "\nputs {}   gets {}   hedges {} + {}   substitutes {}   reconstructions {}   bad shards {}   overloads {}",
        of("puts"),
        of("gets"),
        of("write_hedges"),
        of("read_hedges"),
        of("substitutes"),
        of("reconstructions"),
        of("bad_shards"),
        of("overloads")
    );
    if counters.contains_key("gpu_stripes") {
        println!(
            "gpu: stripes {}   batches {}   no room {}   taken over by the CPU {}   not chosen {}   given up {}",
            of("gpu_stripes"),
            of("gpu_batches"),
            of("gpu_declined"),
            of("gpu_taken_over"),
            of("gpu_not_chosen"),
            of("gpu_lost")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_what_grew_between_two_readings() {
        let before =
            Counters::from([("encode_times".to_owned(), 1), ("encode_busy_nanos".to_owned(), 1_000)]);
        let after = Counters::from([
            ("encode_times".to_owned(), 3),
            ("encode_busy_nanos".to_owned(), 2_000_001_000),
            ("encode_wall_nanos".to_owned(), 3_000_000_000),
            ("gather_times".to_owned(), 0),
        ]);
        let [encode] = stages(&before, &after)[..] else { panic!("one stage grew") };
        assert_eq!((encode.name, encode.times), ("encode", 2));
        assert!((encode.busy_seconds - 2.0).abs() < 1e-9 && (encode.wall_seconds - 3.0).abs() < 1e-9);
    }

    /// The names here are those that the gateway gives.
    #[test]
    fn the_gateway_names_the_same_stages() {
        let counters = tenfour_gateway::counters::Counters::default();
        assert_eq!(counters.stages().map(|(name, _)| name), STAGES);
    }
}
