//! Rules of the house that a machine can check in the text of every Rust file, and of every document.
//!
//! It is a textual check: in Rust it strips comments and literals and looks at words, and it does not expand macros. What clippy can
//! say (`unwrap`, undocumented `unsafe` blocks, `todo!`) is clippy's business.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The only places with `unsafe` code, and what for.
const UNSAFE_ALLOWED: &[(&str, &str)] = &[
    ("rdma/src/verbs", "libibverbs"),
    ("rdma/src/shm", "mapped memory of other processes"),
    ("rdma/src/memory", "registered memory: anonymous and memfd mappings, and what callers own"),
    ("client/python/src/memory", "memory of Python objects"),
    ("erasure/src/kernel", "SIMD intrinsics"),
    ("gpu/src/ffi", "CUDA"),
    ("node/src/disk", "io_uring, O_DIRECT buffers"),
];
/// Lines of a file, without its unit tests and empty lines.
const FILE_LINES_MAX: usize = 400;
/// Longer files, and why each is one; a file that got a good deal shorter must leave the list.
const LONGER_FILES: &[(&str, &str)] = &[
    (
        "metadata/src/api/index.rs",
        "data only: every command, query and answer of an index group, with its meaning",
    ),
    ("gateway/src/fanout.rs", "one protocol: what happens to a shard is told in one place"),
];
/// Marks of work that somebody meant to do later; it belongs into the tracker.
const LATER: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's folder").to_path_buf()
}

/// Every file of the workspace with this ending: its path from the root, and its text.
fn files(ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).expect("a readable folder").map(|entry| entry.expect("an entry").path())
        {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // What is built lies in a `target` beside a manifest; a room of that name lies in a `src`.
            let is_built = name == "target" && !folder.ends_with("src");
            if entry.is_dir() && !is_built && !name.starts_with('.') && !name.starts_with("tenfour-data") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == ending) {
                let path = entry.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((path, fs::read_to_string(&entry).expect("a readable file")));
            }
        }
    }
    found.sort();
    found
}

/// A file's code without comments and literals, and its comments without the code.
fn split(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::new(), String::new());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let (length, is_comment) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), true)
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), true)
        } else if let Some(length) = literal(rest, &code) {
            (length, false)
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        let (piece, tail) = rest.split_at(length);
        if is_comment {
            comments.push_str(piece);
        } else {
            code.push_str("\"\"");
        }
        code.extend(piece.matches('\n').map(|_| '\n'));
        comments.push('\n');
        rest = tail;
    }
    (code, comments)
}

/// The length of the string or character literal that the text begins with, if it does.
fn literal(text: &str, before: &str) -> Option<usize> {
    let in_word = before.chars().next_back().is_some_and(|last| last.is_alphanumeric() || last == '_');
    if text.starts_with('"') {
        return Some(quoted(text, '"'));
    }
    let hashes = text.strip_prefix('r').map(|tail| tail.len() - tail.trim_start_matches('#').len());
    if let Some(hashes) = hashes.filter(|_| !in_word || before.ends_with('b')) {
        let open = 1 + hashes;
        if text[open..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = open + 1;
            return Some(text[body..].find(&close).map_or(text.len(), |end| body + end + close.len()));
        }
    }
    // 'x' and '\n' are characters, 'name is a lifetime.
    let mut chars = text.strip_prefix('\'')?.chars();
    let (first, second) = (chars.next()?, chars.next()?);
    (first == '\\' || second == '\'').then(|| quoted(text, '\''))
}

/// The length of a quoted piece with backslash escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, next) in text.char_indices().skip(1) {
        match next {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if next == quote => return at + next.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|next: char| !next.is_alphanumeric() && next != '_').any(|found| found == word)
}

/// Lines with something on them, before the unit tests at the file's end.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let is_end = |pair: &[&str]| matches!(pair, ["#[cfg(test)]", next] if next.starts_with("mod ") && next.ends_with('{'));
    let end = lines.windows(2).position(is_end).unwrap_or(lines.len());
    lines.iter().take(end).filter(|line| !line.trim().is_empty()).count()
}

/// What is wrong with a file, as sentences.
fn faults(path: &str, text: &str) -> Vec<String> {
    let (code, comments) = split(text);
    let mut found = Vec::new();
    let may_be_unsafe = UNSAFE_ALLOWED.iter().any(|(place, _)| {
        path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    });
    if !may_be_unsafe && (has_word(&code, "unsafe") || code.contains("allow(unsafe_code)")) {
        found.push(format!("{path}: unsafe code is not allowed here"));
    }
    let lines = lines_without_tests(text);
    let is_test = ["/tests/", "/benches/", "/examples/", "tests.rs"].iter().any(|part| path.contains(part));
    let is_listed = LONGER_FILES.iter().any(|(listed, _)| *listed == path);
    if !is_test && lines > FILE_LINES_MAX && !is_listed {
        found.push(format!(
            "{path}: {lines} lines, {FILE_LINES_MAX} at most: give part of it a file of its own"
        ));
    }
    if is_listed && lines < FILE_LINES_MAX * 9 / 10 {
        found.push(format!("{path}: short enough now, take it off the list of longer files"));
    }
    if !text.starts_with("//!") {
        found.push(format!("{path}: does not begin with `//!`, what it is and what it keeps"));
    }
    if code.contains("todo!") || code.contains("unimplemented!") {
        found.push(format!("{path}: unfinished"));
    }
    for mark in LATER.iter().filter(|mark| has_word(&comments, mark)) {
        found.push(format!("{path}: {mark} in a comment"));
    }
    found
}

/// The paths that a document names: targets of relative links, from the document's folder, and `quoted/paths` that begin
/// with a folder of the workspace, from the root.
fn named_paths(document: &str, text: &str) -> Vec<PathBuf> {
    let folder = root().join(document).parent().map(Path::to_path_buf).unwrap_or_default();
    let links = text.split("](").skip(1).filter_map(|tail| tail.split([')', '#', ' ']).next());
    let links = links.filter(|link| !link.is_empty() && !link.contains(':')).map(|link| folder.join(link));
    let is_path = |quoted: &&str| {
        quoted.chars().all(|next| next.is_ascii_alphanumeric() || "/_-.".contains(next))
            && quoted.split_once('/').is_some_and(|(first, _)| {
                first.starts_with(|next: char| next.is_ascii_lowercase())
                    && root().join(first).join("Cargo.toml").is_file()
            })
    };
    let quoted = text.split('`').skip(1).step_by(2).filter(is_path).map(|path| root().join(path));
    links.chain(quoted).collect()
}

#[test]
fn what_the_documents_name_exists() {
    let mut missing = Vec::new();
    for (document, text) in files("md") {
        let lost = named_paths(&document, &text).into_iter().filter(|path| !path.exists());
        missing.extend(lost.map(|path| format!("{document} names {}", path.display())));
    }
    assert!(missing.is_empty(), "\n  {}", missing.join("\n  "));
    assert_eq!(
        named_paths(
            "docs/A.md",
            "see [it](../gone.md#top) and `types/src/gone.rs`, not `a/b`, `/etc`, `./x` or `u32`"
        )
        .len(),
        2
    );
}

/// The names of what a folder holds, without the ending.
fn stems(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).expect("a readable folder");
    let stem = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    entries.filter_map(|entry| stem(entry.expect("an entry").path())).collect()
}

/// A target without a corpus is not replayed by `cargo test`, and a corpus without a target is not fuzzed.
#[test]
fn every_fuzz_target_has_a_program_a_corpus_and_a_test_that_replays_it() {
    let manifest =
        fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("the manifest of the fuzz targets");
    let programs = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""));
    let programs: BTreeSet<String> = programs.map(str::to_owned).collect();
    let sources = files("rs").into_iter().filter(|(path, _)| path.ends_with("/fuzz.rs"));
    let text: String = sources.map(|(_, text)| text).collect();
    let calls = text
        .split("replay(")
        .skip(1)
        .filter_map(|tail| tail.trim_start().strip_prefix('"')?.split('"').next());
    let replayed: BTreeSet<String> = calls.map(str::to_owned).collect();
    assert!(programs.contains("types_messages"), "the manifest was read");
    assert_eq!(programs, stems("fuzz/fuzz_targets"));
    assert_eq!(programs, stems("fuzz/corpus"));
    assert_eq!(programs, replayed);
}

#[test]
fn every_file_keeps_the_rules_of_the_house() {
    let files = files("rs");
    assert!(files.iter().any(|(path, _)| path == "types/src/ids.rs"), "the files were found");
    let mut found: Vec<String> = files.iter().flat_map(|(path, text)| faults(path, text)).collect();
    for (listed, _) in LONGER_FILES {
        if !files.iter().any(|(path, _)| path == listed) {
            found.push(format!("{listed}: in the list of longer files, but there is no such file"));
        }
    }
    assert!(found.is_empty(), "\n  {}", found.join("\n  "));
}

#[test]
fn each_fault_is_found_and_only_where_it_is_one() {
    let faults = |path: &str, body: &str| faults(path, &format!("//! Head.\n{body}")).len();
    assert_eq!(faults("node/src/log.rs", "fn f() { unsafe { g() } }"), 1);
    assert_eq!(faults("node/src/log.rs", "#![allow(unsafe_code)]"), 1);
    assert_eq!(faults("node/src/disk/ring.rs", "fn f() { unsafe { g() } }"), 0);
    assert_eq!(faults("node/src/disk.rs", "fn f() { unsafe { g() } }"), 0);
    assert_eq!(faults("node/src/disks/ring.rs", "fn f() { unsafe { g() } }"), 1);
    assert_eq!(
        faults("node/src/log.rs", "// unsafe\nconst A: &str = \"unsafe \\\" unsafe\"; /* unsafe */"),
        0
    );
    assert_eq!(
        faults("node/src/log.rs", "const A: &str = r#\"a\" unsafe\"#; const B: char = '\"'; fn f<'a>() {}"),
        0
    );
    assert_eq!(
        faults("node/src/log.rs", "const B: char = '\"'; fn f() { unsafe { g() } } const C: char = '\"';"),
        1
    );
    assert_eq!(faults("node/src/log.rs", &"fn f() {}\n".repeat(400)), 1);
    assert_eq!(faults("node/tests/log.rs", &"fn f() {}\n".repeat(400)), 0);
    let with_tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(400));
    assert_eq!(faults("node/src/log.rs", &with_tests), 0);
    assert_eq!(faults("node/src/log.rs", "fn f() { todo!() }"), 1);
    assert_eq!(faults("node/src/log.rs", "// FIXME: later"), 1);
    assert_eq!(self::faults("node/src/log.rs", "use std::fs;\n").len(), 1);
}
