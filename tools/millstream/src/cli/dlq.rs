//! `millstream dlq …` as the command line has it.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// List the queues that have a dead-letter stream, and how many of their messages died
    List,
    /// Show what a queue's dead letters say: which message, why it died, after how many deliveries
    Show(DlqShow),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Letters lie in the dead-letter stream until its retention deletes them, those that a redrive has brought back too. With --json
each is a line, with its record as it is stored; `millstream queue redrive` brings them back.")]
pub struct DlqShow {
    /// The queue whose messages died
    pub name: String,
    /// How many letters of each partition to show, oldest first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    pub count: usize,
    /// Show only those that died for this reason: max_receives, rejected, no_group, expired
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
}
