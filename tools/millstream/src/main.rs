//! `millstream`: server, client commands, checks and demo in one program.
//!
//! ```text
//! cli (one definition) ─► commands/<noun> ─► output (tables or JSON)
//!                           │ context: which server        └─► exit: code by class, what to try next
//!                           └ input: lines of a file or stdin
//! ```
//! It knows how people and scripts talk to Millstream, and nothing else: what a stream or a lake is belongs to the
//! server, how to reach it to the client. Proof: `tests/*.rs` run this program as a person would.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod context;
mod exit;
mod input;
mod nearest;
mod output;
mod time;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json, cli.color);
    match commands::run(cli, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.exit() != exit::Exit::Quiet {
                output.failure(&failure);
            }
            ExitCode::from(failure.exit().number())
        }
    }
}
