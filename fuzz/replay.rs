//! Replays a fuzz target's committed corpus in a plain test. The `fuzz` module of each crate includes it by `#[path]`.
//!
//! A target takes any bytes, asserts what must hold of them, and says whether they were what it decodes. Its corpus is the folder
//! `fuzz/corpus/TARGET`: *seeds* (`seed-…`), real encodings that the test makes anew and compares, so that no stored or sent format
//! changes unseen, and what the fuzzer found worth keeping. Every file is replayed as it is, cut off at many lengths, and with many
//! bits flipped. `TENFOUR_WRITE_SEEDS=1` in the environment writes the seeds that are missing or differ.
//!
//! Invariant: a folder that is missing or empty, a seed that is not what is encoded today, and a seed that its target does not
//! take for one, fail the test.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// A corpus stays small: it is for replaying, not for measuring.
const FILE_BYTES_MAX: usize = 16 << 10;
/// Cuts and flipped bits that are tried of each file.
const DAMAGES: usize = 24;

/// Replays the corpus of `target` through `check`; `seeds` are real encodings, by name.
pub(crate) fn replay(target: &str, check: fn(&[u8]) -> bool, seeds: &[(&str, Vec<u8>)]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let program = root.join(format!("fuzz_targets/{target}.rs"));
    assert!(program.is_file(), "{} is missing: nothing fuzzes {target}", program.display());
    let corpus = root.join("corpus").join(target);
    assert!(!seeds.is_empty(), "{target} needs a seed: without one nothing shows that it takes anything");
    for (name, seed) in seeds {
        compare_seed(&corpus.join(format!("seed-{name}")), seed);
        assert!(check(seed), "{target} does not take its seed {name} for what it decodes");
    }
    let files = files(&corpus);
    assert!(files.len() >= seeds.len(), "{} is missing or empty", corpus.display());
    for path in files {
        // Shown with the panic when a check fails.
        println!("{}", path.display());
        let bytes = fs::read(&path).expect("a readable corpus file");
        assert!(bytes.len() <= FILE_BYTES_MAX, "{} is too long for a corpus", path.display());
        check(&bytes);
        damaged(&bytes, check);
    }
}

fn compare_seed(path: &Path, seed: &[u8]) {
    if fs::read(path).is_ok_and(|kept| kept == seed) {
        return;
    }
    let writes = env::var_os("TENFOUR_WRITE_SEEDS").is_some();
    assert!(
        writes,
        "{} is not what is encoded today. If a format was meant to change, give it a new version and a migration, and run this test \
         with TENFOUR_WRITE_SEEDS=1",
        path.display()
    );
    fs::create_dir_all(path.parent().expect("a corpus folder")).expect("a writable corpus");
    fs::write(path, seed).expect("a writable corpus");
}

fn files(corpus: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(corpus) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Cuts and flips, spread evenly, the same in every run.
fn damaged(bytes: &[u8], check: fn(&[u8]) -> bool) {
    let mut copy = bytes.to_vec();
    for number in 0..DAMAGES.min(bytes.len()) {
        let at = number * bytes.len() / DAMAGES.min(bytes.len());
        check(&bytes[..at]);
        copy[at] ^= 1 << (number % 8);
        check(&copy);
        copy[at] = bytes[at];
    }
}
