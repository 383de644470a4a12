//! `highwater completions`.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::Failure;
use super::output::say;

/// Prints what lets a shell complete this program's commands
///
/// For bash: highwater completions bash > ~/.local/share/bash-completion/completions/highwater
#[derive(Debug, Args)]
pub struct Flags {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints it.
pub fn run(flags: &Flags, command: &mut clap::Command) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, command, "highwater", &mut script);
    say(String::from_utf8(script)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
