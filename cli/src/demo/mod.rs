//! `tenfour demo`: the main job told as a story, every step checked.

pub mod compare;
mod story;

use crate::units::ByteSize;
use crate::up::FabricArguments;
use anyhow::{Result, bail};
use std::path::PathBuf;

/// Options of `tenfour demo`.
#[derive(clap::Args, Clone, Debug)]
pub struct DemoArguments {
    /// Files to store; without any, 256 MiB and 1,000 small objects are made up.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// 8 MiB and 50 small objects: for slow machines.
    #[arg(long)]
    pub small: bool,
    /// The fabric.
    #[command(flatten)]
    pub fabric: FabricArguments,
    /// Chooses the nodes that die and the made-up contents; random when absent, and printed.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Keep the cluster's folder afterwards.
    #[arg(long)]
    pub keep: bool,
}

/// Tells the story; an error when any line of its table has a cross.
pub async fn run(arguments: DemoArguments) -> Result<()> {
    for file in &arguments.files {
        if !file.is_file() {
            bail!("{} is not a file", file.display());
        }
    }
    arguments.fabric.check()?;
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let folder = tempfile::Builder::new().prefix("tenfour-demo-").tempdir()?;
    println!("tenfour demo   seed {seed}   {}", folder.path().display());
    let told = tokio::select! {
        told = story::tell(&arguments, seed, folder.path()) => Some(told),
        asked = crate::process::asked_to_end(false) => { asked?; None }
    };
    let Some(failed) = told else {
        // The children end with this process; their folder goes with it.
        bail!("stopped");
    };
    if arguments.keep || !matches!(failed, Ok(0)) {
        let kept = folder.keep();
        println!("kept: {}", kept.display());
    }
    match failed? {
        0 => Ok(()),
        failed => bail!("{failed} of the demo's checks failed"),
    }
}

/// How much is made up.
struct Amount {
    large: ByteSize,
    small_objects: u64,
}

impl Amount {
    fn of(arguments: &DemoArguments) -> Self {
        if arguments.small {
            Self { large: ByteSize::mib(8), small_objects: 50 }
        } else {
            Self { large: ByteSize::mib(256), small_objects: 1000 }
        }
    }
}
