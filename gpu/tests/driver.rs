//! The driver calls of `src/ffi`, against a `libcuda.so` that this test compiles: `driver/cuda.cpp`, strict, and without a GPU.
//!
//! A library is found by where the loader looks when a process starts, so the tests run in a process of their own.
#![allow(clippy::unwrap_used)] // The helpers of tests are tests too.

#[allow(dead_code)] // What takes the speed of a GPU is only in `device.rs`.
mod on_device;

use std::path::Path;
use std::process::{Command, Output};

mod without_a_gpu {
    #[test]
    #[ignore = "wants the driver of the test below"]
    fn encode_at_many_lengths_from_many_threads() {
        super::on_device::encode_at_many_lengths_from_many_threads();
    }

    #[test]
    #[ignore = "wants the driver of the test below"]
    fn every_loss_pattern() {
        super::on_device::every_loss_pattern();
    }

    #[test]
    #[ignore = "wants the driver of the test below"]
    fn registered_memory_is_read_where_it_is() {
        super::on_device::registered_memory_is_read_where_it_is();
    }

    #[test]
    #[ignore = "wants the driver of the test below"]
    fn memory_of_the_device() {
        super::on_device::memory_of_the_device();
    }

    #[test]
    #[ignore = "wants the driver of the test below"]
    fn both_sides_are_measured() {
        super::on_device::both_sides_are_measured();
    }

    #[test]
    #[ignore = "wants the driver of the test below"]
    fn an_old_driver_is_named() {
        if std::env::var_os("TENFOUR_TEST_OLD_DRIVER").is_some() {
            let error =
                tenfour_gpu::Gpu::open(tenfour_erasure::best(), tenfour_gpu::When::Always, 1).unwrap_err();
            let told = error.to_string();
            assert!(
                told.contains("cuModuleLoadData") && told.contains("device 0: no device, sm_90"),
                "{told}"
            );
        }
    }
}

/// The library, if there is a compiler to make it.
fn driver() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver/cuda.cpp");
    let named = std::env::var("CXX").ok();
    for compiler in named.as_deref().into_iter().chain(["c++", "g++", "clang++"]) {
        let mut command = Command::new(compiler);
        command.args(["-std=c++17", "-O2", "-Wall", "-Wno-unknown-pragmas", "-shared", "-fPIC", "-o"]);
        let Ok(done) = command.arg(folder.path().join("libcuda.so")).arg(&source).output() else { continue };
        assert!(done.status.success(), "{compiler}: {}", String::from_utf8_lossy(&done.stderr));
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "no C++ compiler: install g++ or clang++, or name it in CXX");
    eprintln!("skipped: no C++ compiler (g++, clang++, or what CXX names) to compile a driver with");
    None
}

fn run(driver: &Path, tests: &str, is_old: bool) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", tests]).env("LD_LIBRARY_PATH", driver);
    if is_old {
        command.env("TENFOUR_TEST_OLD_DRIVER", "1");
    }
    command.output().unwrap()
}

#[test]
fn the_calls_are_those_of_the_driver() {
    let Some(folder) = driver() else { return };
    for (tests, is_old, passed) in [("without_a_gpu::", false, 6), ("an_old_driver_is_named", true, 1)] {
        let done = run(folder.path(), tests, is_old);
        let told = String::from_utf8_lossy(&done.stdout);
        let is_good = done.status.success() && told.contains(&format!("{passed} passed; 0 failed"));
        assert!(is_good, "{told}{}", String::from_utf8_lossy(&done.stderr));
    }
}
