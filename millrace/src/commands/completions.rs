//! `millrace completions`

use clap::CommandFactory;

use crate::cli::Cli;

/// Prints the completions of a shell.
pub fn run(shell: clap_complete::Shell) -> anyhow::Result<()> {
    clap_complete::generate(shell, &mut Cli::command(), "millrace", &mut std::io::stdout());
    Ok(())
}
