//! `millrace completions`

use std::io::Write;

use clap::CommandFactory;

use crate::cli::Cli;

/// Prints the completions of a shell.
pub fn run(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "millrace", &mut script);
    match std::io::stdout().write_all(&script) {
        // The reader has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
