//! `millstream-bench`: load for a server, and what it did with it: rates, latencies (HDR histograms), and whether what came
//! back is what was sent.
//!
//! ```text
//! flags, workload ─► Load ─► scenario ─► producers, readers, workers (drive) ─► meters (record) ─► Run ─► output
//!                              └─ on a target: a server, a server of one's own, the engine
//! ```
//! It measures as an application sees the server, through the public client; what the bare machine can do is measured in
//! `benches/`. Load and server share the machine unless `--server` names another: compare ratios in one run, not figures of
//! two days.
#![forbid(unsafe_code)]

mod cli;
mod clock;
mod command;
mod drive;
mod failure;
mod load;
mod output;
mod record;
mod result;
mod scenario;
mod stamp;
mod study;
mod target;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::failure::Failure;

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(command::run(cli::Cli::parse())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, text }) => {
            eprintln!("error: {text}");
            ExitCode::from(exit)
        }
    }
}
