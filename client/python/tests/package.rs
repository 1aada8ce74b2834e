//! The Python package as it was just built: what needs no cluster, and then all of it against one.
//!
//! The checks themselves are Python (`check_arrays.py`, `check_client.py`). Cargo builds the library for this test, beside it; the program
//! `tenfour` is built for the tests of `cli`, which any `cargo test --workspace` builds too.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of this test program.
fn built() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

/// Python with what the checks import, which `./check` installs; `None` with a loud word when it is not there.
fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/python");
    let ask = |modules: &str| Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if ask("numpy, boto3").is_ok_and(|told| told.status.success()) {
        return Some(python);
    }
    let missing = "target/venv with numpy and boto3 is missing: run ./check, which installs them";
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("SKIPPED: {missing}");
    None
}

fn passes(script: &str, arguments: &[&Path]) {
    let Some(python) = python() else { return };
    let library = built().join("lib_native.so");
    assert!(library.is_file(), "{} is missing", library.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let told =
        Command::new(python).arg(script).arg("--native").arg(library).args(arguments).output().unwrap();
    print!("{}", String::from_utf8_lossy(&told.stdout));
    eprint!("{}", String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{}", told.status);
}

#[test]
fn arrays() {
    passes("check_arrays.py", &[]);
}

#[test]
fn every_transport_of_a_cluster() {
    let program = built().parent().unwrap().join("tenfour");
    assert!(program.is_file(), "{} is missing: cargo test --workspace builds it", program.display());
    passes("check_client.py", &[Path::new("--tenfour"), &program]);
}
