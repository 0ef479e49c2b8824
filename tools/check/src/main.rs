//! `millstream-check`: judges histories that were recorded before.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use millstream_check::history::{self, HistoryError};
use millstream_check::log::{LogHistory, LostRanges, Rules};
use millstream_check::verdict::Verdict;

/// Judges what clients of a Millstream server saw: all files together are one history.
///
/// What is judged: the log (L1 to L9), consumer groups (L11, L13), fenced producers (L15), queues (Q1 to Q6 and Q8 to Q12).
///
/// Exit code 0: every promise was kept; 1: one was broken; 2: the files cannot be judged.
#[derive(Debug, Parser)]
#[command(name = "millstream-check", version, max_term_width = 110)]
struct Cli {
    /// The history's files, one JSON line per event
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Accept the loss of what the server reported lost; for runs that damage the disk
    #[arg(long)]
    accept_reported_loss: bool,
    /// How late a queue's message may come that is due while receivers wait, in milliseconds: a second is promised, the
    /// rest is for the way; a busy machine needs more
    #[arg(long, value_name = "MS", default_value_t = 2_000)]
    late_ms: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match judge(&cli) {
        Ok(verdict) => {
            verdict.violations().iter().for_each(|violation| println!("{violation}"));
            println!("{} {verdict}", if verdict.is_good() { "PASS" } else { "FAIL" });
            ExitCode::from(u8::from(!verdict.is_good()))
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn judge(cli: &Cli) -> Result<Verdict, HistoryError> {
    let mut log = LogHistory::default();
    for file in &cli.files {
        history::read(file, |event| log.push(event))?;
    }
    let lost = if cli.accept_reported_loss { LostRanges::AsReported } else { LostRanges::Never };
    Ok(log.judge(Rules { lost, late_ns: cli.late_ms.saturating_mul(1_000_000) }))
}
