//! What the clients saw: one record an operation, as JSON lines.
//!
//! Times are microseconds of one clock, taken before the request was sent and after its answer was there. An outcome that nobody knows
//! is written as unknown, never as failed: the operation may take effect at any time after it began, or never.

use crate::value::Value;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// What must hold of the object for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Anything.
    None,
    /// There is none (`If-None-Match: *`).
    Absent,
    /// It is this one (`If-Match`).
    Is(Value),
}

/// What a client asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Store a value.
    Put {
        /// Which.
        value: Value,
        /// On what condition.
        condition: Condition,
        /// Uploaded in parts; the interval is that of the completion.
        parts: bool,
    },
    /// Remove the object.
    Delete,
    /// Read all of it.
    Get,
    /// Read a range of it.
    GetRange,
    /// Ask for its ETag and size.
    Head,
    /// List every key.
    List,
}

impl Action {
    /// Its kind, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Put { parts: true, .. } => "multipart",
            Self::Put { condition: Condition::None, .. } => "PUT",
            Self::Put { condition: Condition::Absent, .. } => "PUT if-none-match",
            Self::Put { condition: Condition::Is(_), .. } => "PUT if-match",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::GetRange => "GET range",
            Self::Head => "HEAD",
            Self::List => "LIST",
        }
    }

    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Delete)
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A write was acknowledged.
    Done,
    /// The condition of a write did not hold, or there is no such range.
    Refused,
    /// A read saw this version, or none; its bytes were those of the version.
    Saw(Option<Value>),
    /// A listing: keys with their versions.
    Listed(Vec<(String, Value)>),
    /// What was seen is no version that anybody stored there, or its bytes are not.
    Wrong(String),
    /// It certainly did not happen.
    Failed(String),
    /// It happened as a whole or not at all.
    Unknown(String),
}

impl Outcome {
    /// Its kind, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Done | Self::Saw(_) | Self::Listed(_) => "ok",
            Self::Refused => "refused",
            Self::Wrong(_) => "wrong",
            Self::Failed(_) => "failed",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Who.
    pub client: u16,
    /// Through which gateway, over what.
    pub door: String,
    /// Its object; empty of a listing.
    pub key: String,
    /// What was asked for.
    pub action: Action,
    /// When the request was about to be sent, µs.
    pub began: u64,
    /// When the answer was there, µs.
    pub ended: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// Writes a history, one JSON object a line.
pub fn save(path: &Path, history: &[Record]) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for record in history {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Reads what [`save`] wrote.
pub fn load(path: &Path) -> std::io::Result<Vec<Record>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(std::io::Error::from)).collect()
}
