//! The program: reads the command line, sets up logging, hands over.
//!
//! It is in the library so that the commands are compiled once, for the binary and for the tests.

use crate::process::{self, ProcessArguments};
use crate::{admin, bench, demo, status, up};
use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// A distributed, erasure-coded S3 object store.
#[derive(Parser)]
#[command(name = "tenfour", version, about, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole cluster on this machine: 3 metadata, 14 node and 1 gateway processes.
    Up(up::UpArguments),
    /// Show nodes, targets, placement groups at full width, epoch and leaders.
    Status(status::StatusArguments),
    /// The main job as a story: store objects, kill four nodes, read everything back.
    Demo(demo::DemoArguments),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Operate a cluster.
    #[command(subcommand)]
    Admin(admin::AdminCommand),
    /// Run one metadata replica.
    Meta(ProcessArguments),
    /// Run one storage node.
    Node(ProcessArguments),
    /// Run one gateway.
    Gateway(ProcessArguments),
    #[command(name = "demo-compare", hide = true)]
    DemoCompare(demo::compare::CompareArguments),
}

impl Command {
    /// Whether its log goes to a file that is read later, not to a person who waits.
    fn is_server(&self) -> bool {
        matches!(self, Self::Meta(_) | Self::Node(_) | Self::Gateway(_))
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = if arguments.command.is_server() { "info" } else { "warn" };
    let libraries = "fjall=warn,lsm_tree=warn,openraft=warn,sled=warn,s3s=warn";
    let filter = EnvFilter::try_from_env("TENFOUR_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},{libraries}")));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match dispatch(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenfour: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, from the outside in. Some errors tell their cause themselves: it is not said twice.
fn told(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.ends_with(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

fn dispatch(command: Command) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    match command {
        Command::Up(arguments) => process::run(1, up::run(arguments)),
        Command::Status(arguments) => process::run(1, status::run(arguments)),
        Command::Demo(arguments) => process::run(cores, demo::run(arguments)),
        Command::Bench(command) => process::run(command.workers(cores), bench::run(command)),
        Command::Admin(command) => process::run(1, admin::run(command)),
        Command::Meta(arguments) => process::run(cores, process::meta::run(arguments)),
        Command::Node(arguments) => process::run(1, process::node::run(arguments)),
        Command::Gateway(arguments) => process::run(cores, process::gateway::run(arguments)),
        Command::DemoCompare(arguments) => process::run(1, demo::compare::run(arguments)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_cause_is_said_once() {
        let plain = anyhow!("no space").context("the disk").context("the node cannot start");
        assert_eq!(told(&plain), "the node cannot start: the disk: no space");
        let telling = anyhow!("no space").context("the disk: no space").context("the node cannot start");
        assert_eq!(told(&telling), "the node cannot start: the disk: no space");
    }
}
