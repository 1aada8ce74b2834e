//! `tenfour-chaos`: a cluster under load and faults, judged.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tenfour_chaos::{check, history, run};

#[derive(Parser)]
#[command(
    name = "tenfour-chaos",
    version,
    about = "Runs a cluster of tenfour under load and faults, and judges it"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a cluster, its load and its faults.
    Run(run::RunArguments),
    /// Judge the history of a run again.
    Check {
        /// `history.jsonl` of a run.
        history: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match play(Arguments::parse().command).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tenfour-chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Does it; returns how many promises were broken.
async fn play(command: Command) -> Result<usize> {
    match command {
        Command::Run(arguments) => run::run(arguments).await,
        Command::Check { history } => {
            let found = check::check(&history::load(&history)?);
            for violation in &found {
                println!("{} at {:.3} s: {}", violation.invariant, violation.at as f64 / 1e6, violation.text);
            }
            println!("{} violations", found.len());
            Ok(found.len())
        }
    }
}
