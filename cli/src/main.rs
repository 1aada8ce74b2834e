//! The binary `tenfour`.

fn main() -> std::process::ExitCode {
    tenfour_cli::program::main()
}
