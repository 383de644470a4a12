//! `highwater completions`.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::Failure;
use super::output::print_line;

/// Prints a completion script for a shell
///
/// For bash, run: highwater completions bash > ~/.local/share/bash-completion/completions/highwater
#[derive(Debug, Args)]
pub struct Flags {
    /// Name of the shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script.
pub fn run(flags: &Flags, command: &mut clap::Command) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, command, "highwater", &mut script);
    print_line(String::from_utf8(script)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
