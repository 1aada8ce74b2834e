//! The test vectors in docs/PROTOCOL.md, section "Test vectors": a line begins with a vector's name, the hexadecimal digits behind it
//! and on the indented lines below are its bytes.
//!
//! Invariant: the document alone has them. Tests compare what the code makes with what is written there, so that neither changes
//! without the other.
#![cfg(test)]

use std::fmt::Write as _;
use std::iter::once;

const DOCUMENT: &str = include_str!("../../../docs/PROTOCOL.md");

/// The digits of a vector.
pub(crate) fn vector(name: &str) -> String {
    let section = DOCUMENT.split("\n### ").find(|section| section.starts_with("Test vectors\n"));
    let begins = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with("  "));
    let mut lines = section.unwrap_or_default().lines().skip_while(|line| !begins(line));
    let first = lines.next().and_then(|line| line.strip_prefix(name)).unwrap_or_default();
    let more = lines.take_while(|line| line.starts_with("  "));
    once(first).chain(more).flat_map(str::split_whitespace).collect()
}

/// Bytes as the document writes them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Every one of these vectors is in the document, as it is.
pub(crate) fn is_documented(vectors: &[(&str, &[u8])]) {
    let is_wrong = |(name, bytes): &&(&str, &[u8])| vector(name) != hex(bytes);
    let wrong: Vec<String> =
        vectors.iter().filter(is_wrong).map(|(name, bytes)| format!("{name}  {}", hex(bytes))).collect();
    assert!(wrong.is_empty(), "docs/PROTOCOL.md should say\n{}", wrong.join("\n"));
}
