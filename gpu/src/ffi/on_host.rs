//! The CUDA kernels without CUDA: `kernel/code.cu` compiled by the C++ compiler of this machine, as a [`Device`].
//!
//! For tests. The compiler runs when the first of them asks, so that no build needs one; without one they fail where `CI` is set,
//! and say so elsewhere.

use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;
use tenfour_types::limits::{DATA_SHARDS, SHARD_BYTES_MAX, TOTAL_SHARDS};

use crate::device::{Device, DeviceError, Input, Job, Slot, by_work};
use crate::host_memory::Registrations;
use crate::work::{Kernel, Launch, Work, launches};

type OnHost = unsafe extern "C" fn(u32, u32, *const c_void, *const c_void);

/// The compiled kernels, in the order of [`Kernel::ALL`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compiled([OnHost; Kernel::ALL.len()]);

/// They, compiled once; `None` where there is no compiler to do it.
pub(crate) fn compiled() -> Option<Compiled> {
    static COMPILED: OnceLock<Option<Compiled>> = OnceLock::new();
    let compiled = *COMPILED.get_or_init(|| compile().map(load));
    if compiled.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "no C++ compiler: install g++ or clang++, or name it in CXX"
        );
        eprintln!(
            "skipped: no C++ compiler (g++, clang++, or what CXX names) to compile the CUDA kernels with"
        );
    }
    compiled
}

fn compile() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernel/on_host.cpp");
    let named = std::env::var("CXX").ok();
    for compiler in named.as_deref().into_iter().chain(["c++", "g++", "clang++"]) {
        let mut command = Command::new(compiler);
        command.args([
            "-std=c++17",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-shared",
            "-fPIC",
        ]);
        let Ok(done) = command.arg("-o").arg(folder.path().join("code.so")).arg(&source).output() else {
            continue;
        };
        assert!(done.status.success(), "{compiler}: {}", String::from_utf8_lossy(&done.stderr));
        return Some(folder);
    }
    None
}

fn load(folder: tempfile::TempDir) -> Compiled {
    // SAFETY: a library without initialisers, made of this folder's source.
    let library = unsafe { Library::new(folder.path().join("code.so")) }.unwrap();
    // For the rest of the process: nothing then outlives its code.
    let library: &'static Library = Box::leak(Box::new(library));
    Compiled(Kernel::ALL.map(|kernel| {
        let name = format!("{}_on_host", kernel.name());
        // SAFETY: a function of that signature: on_host.cpp defines one for each kernel.
        *unsafe { library.get::<OnHost>(name.as_bytes()) }.unwrap()
    }))
}

/// The processor, as if it were a device. It computes while it is asked to begin.
#[derive(Debug)]
pub(crate) struct HostDevice {
    kernels: Compiled,
}

impl HostDevice {
    pub(crate) fn new(kernels: Compiled) -> Self {
        Self { kernels }
    }
}

/// Host memory for both sides.
#[derive(Debug)]
pub(crate) struct HostSlot {
    pub(crate) memory: Vec<u8>,
    outputs: std::ops::Range<usize>,
}

impl HostSlot {
    pub(crate) fn new() -> Self {
        Self { memory: vec![0; TOTAL_SHARDS * SHARD_BYTES_MAX], outputs: 0..0 }
    }

    /// What comes next.
    pub(crate) fn is_for(&mut self, work: &Work, shard_bytes: usize) {
        let start = DATA_SHARDS * shard_bytes;
        self.outputs = start..start + work.wanted().len() * shard_bytes;
    }

    pub(crate) fn outputs_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.outputs.clone()]
    }
}

impl Slot for HostSlot {
    fn inputs(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    fn outputs(&self) -> &[u8] {
        &self.memory[self.outputs.clone()]
    }
}

impl Device for HostDevice {
    type Slot = HostSlot;

    fn name(&self) -> String {
        "the processor".to_owned()
    }

    fn slot(&mut self) -> Result<HostSlot, DeviceError> {
        Ok(HostSlot::new())
    }

    fn registrations(&self) -> Registrations {
        Registrations::default()
    }

    fn begin(&mut self, _lane: usize, jobs: &mut [Job<HostSlot>]) -> Result<(), DeviceError> {
        let mut bases = Vec::new();
        for job in jobs.iter_mut() {
            assert!(job.inputs.iter().all(|input| matches!(input, Input::Staged)), "nothing is registered");
            job.slot.is_for(&job.work, job.shard_bytes);
            bases.push(job.slot.memory.as_mut_ptr().expose_provenance() as u64);
        }
        for (work, stripes) in by_work(jobs, |number, _| bases[number]) {
            let plan = work.plan();
            for Launch { blocks, stripes, batch } in launches(&stripes) {
                let kernel = self.kernels.0[work.kernel as usize];
                // SAFETY: every stripe lies in the memory of a slot, which is this batch's; the parameters are the kernel's.
                unsafe { kernel(blocks, stripes, (&raw const *batch).cast(), plan.as_ptr().cast()) };
            }
        }
        Ok(())
    }

    fn is_done(&mut self, _lane: usize) -> Result<bool, DeviceError> {
        Ok(true)
    }
}
