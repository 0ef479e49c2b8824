//! `millstream completions`: what a shell needs to complete our commands.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::cli::Cli;
use crate::exit::Failure;

/// Prints the completions.
///
/// # Errors
/// Stdout cannot be written.
pub fn run(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "millstream", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}
