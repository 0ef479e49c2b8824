//! `millstream-torture`: does to a Millstream server what the world does to it, and judges what its clients saw.
//!
//! It runs the real server program and the real client; the judgement is `millstream-check`'s, of histories on disk that
//! `millstream-check` can judge again. The last line of stdout is the verdict; the exit code is 0 for PASS, 1 for FAIL,
//! 2 if the run could not begin.
//! A kill leaves the page cache as it is; failing disks and lost power are `sim`'s, which runs the log alone on a simulated
//! disk.
#![forbid(unsafe_code)]

mod children;
mod cli;
mod failure;
mod group;
mod judge;
mod lake;
mod last_read;
mod load;
mod proxy;
mod queue;
mod report;
mod run_dir;
mod scenarios;
mod server_process;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Sim(sim) => return scenarios::sim::run(&sim),
        Command::Kill(kill) => {
            Box::pin(scenarios::kill::run(kill)).await.map(|report| (report.to_string(), report.exit()))
        }
        Command::Producers(producers) => {
            let report = Box::pin(scenarios::producers::run(producers)).await;
            report.map(|report| (report.to_string(), report.exit()))
        }
        Command::Groups(groups) => {
            let report = Box::pin(scenarios::groups::run(groups)).await;
            report.map(|report| (report.to_string(), report.exit()))
        }
        Command::Queues(queues) => {
            let report = Box::pin(scenarios::queues::run(queues)).await;
            report.map(|report| (report.to_string(), report.exit()))
        }
        Command::Lake(lake) => {
            let report = Box::pin(scenarios::lake::run(lake)).await;
            report.map(|report| (report.to_string(), report.exit()))
        }
        Command::Member(member) => return child(Box::pin(group::member::run(member)).await),
        Command::Receiver(receiver) => return child(Box::pin(queue::receiver::run(receiver)).await),
    };
    match result {
        Ok((text, exit)) => {
            println!("{text}");
            ExitCode::from(exit)
        }
        Err(Failure::CannotBegin(text)) => {
            eprintln!("error: {text}");
            ExitCode::from(2)
        }
        Err(Failure::Run(text)) => {
            println!("FAIL {text}");
            ExitCode::from(1)
        }
    }
}

/// What a child says goes to a log, not to a verdict.
fn child(ended: Result<(), Failure>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::CannotBegin(text) | Failure::Run(text)) => {
            eprintln!("error: {text}");
            ExitCode::from(1)
        }
    }
}
