//! The command line: parsing does nothing.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::group::member::Member;
use crate::queue::receiver::Receiver;

/// Tortures a Millstream server, and judges what its clients saw.
///
/// The last line of stdout is the verdict. Exit code 0: PASS; 1: FAIL; 2: the run could not begin.
#[derive(Debug, Parser)]
#[command(name = "millstream-torture", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Kill the server again and again under load
    Kill(Kill),
    /// Kill the server and cut connections under producers whose records stand once, and count how often each stands
    Producers(Producers),
    /// Kill members of a consumer group every second, and the server twice, and see whether every record was worked on
    Groups(Groups),
    /// Kill receivers of queues and the server every few seconds, and see whether each message met its fate
    Queues(Queues),
    /// Kill the server again and again while a lake lands what is produced, and see whether each record landed once
    Lake(Lake),
    /// A process of receivers of the queues of `queues`, which starts it
    #[command(hide = true)]
    Receiver(Receiver),
    /// A member of the group of `groups`, which starts it
    #[command(hide = true)]
    Member(Member),
    /// Run the log on a simulated disk that misbehaves, and hold it against its model
    Sim(Sim),
}

#[derive(Debug, Clone, Args)]
pub struct Sim {
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub first: u64,
    /// Put a bug in: the run must then FAIL
    #[arg(long, value_enum, value_name = "BUG")]
    pub bug: Option<Bug>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bug {
    /// Directories are never synced
    NoDirectorySync,
    /// High watermarks move before the sync
    WatermarkBeforeSync,
    /// A failed fdatasync is ignored
    FailedSyncIgnored,
}

/// What all runs against a server have.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// Decides every choice that is not the clock's [default: a new one; the verdict names it]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// The `millstream` program [default: the one beside this program; under `cargo run` it is built first]
    #[arg(long, value_name = "PATH")]
    pub server: Option<PathBuf>,
    /// Keep data, histories and the logs here, whatever the verdict [default: kept only on FAIL]
    #[arg(long, value_name = "DIR")]
    pub keep_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct Kill {
    /// How often the server is killed or stopped, and comes back
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub cycles: u32,
    /// Producers at one time
    #[arg(long, value_name = "P", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub producers: u32,
    /// Partitions of each stream
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub partitions: u32,
    /// Streams; producers take turns
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub streams: u32,
    /// What an acknowledgement means
    #[arg(long, value_enum, default_value_t)]
    pub durability: Durability,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Debug, Clone, Args)]
pub struct Producers {
    /// How often the server is killed or stopped, and comes back
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub cycles: u32,
    /// Pipelining producers at one time, beside the one that forgets and repeats and those of one name
    #[arg(long, value_name = "P", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub producers: u32,
    /// Partitions of the stream
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub partitions: u32,
    /// A canary: producers without idempotence and records without dedup ids, judged as with; the run must then FAIL
    #[arg(long)]
    pub no_idempotence: bool,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Debug, Clone, Args)]
pub struct Groups {
    /// How long members are killed, one a second
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(3..=3_600))]
    pub seconds: u32,
    /// Events to send, one JSON object a line, keyed by `tailnum`; .zst is unpacked [default: made-up ones]
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Members at one time
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub members: u32,
    /// Partitions of the stream
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub partitions: u32,
    /// A canary: members commit before they work; the run must then FAIL
    #[arg(long)]
    pub commit_first: bool,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Debug, Clone, Args)]
pub struct Queues {
    /// How long receivers and the server are killed
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(3..=3_600))]
    pub seconds: u32,
    /// Producers at one time
    #[arg(long, value_name = "P", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub producers: u32,
    /// Processes of receivers at one time, each with one receiver of each queue
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub receivers: u32,
    /// Partitions of the stream
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub partitions: u32,
    /// A canary: receivers acknowledge before they work; the run must then FAIL
    #[arg(long)]
    pub ack_first: bool,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Debug, Clone, Args)]
pub struct Lake {
    /// How often the server is killed or stopped, and comes back
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub cycles: u32,
    /// Where the lake lands
    #[arg(long, value_enum, default_value_t)]
    pub store: LakeStoreKind,
    /// What its files are
    #[arg(long, value_enum, default_value_t)]
    pub format: LakeFormat,
    /// The directory of a record: {c}, {ts:FORMAT} and text; empty: no directories
    #[arg(long, value_name = "TEMPLATE", default_value = "c={c}/d={ts:%Y-%m-%d}")]
    pub layout: String,
    /// Producers at one time
    #[arg(long, value_name = "P", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub producers: u32,
    /// Partitions of the stream
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub partitions: u32,
    /// Of a thousand requests to S3 so many fail
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(0..=500))]
    pub faults: u16,
    /// A canary: deletes a landed file behind the lake's back before the last look; the run must then FAIL
    #[arg(long)]
    pub forget: bool,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LakeStoreKind {
    /// A directory
    #[default]
    Local,
    /// An S3 server in this process, with faults
    S3,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LakeFormat {
    /// Columns
    #[default]
    Parquet,
    /// Lines
    Ndjson,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// The record is on disk
    #[default]
    Synced,
    /// The record is in the page cache, which survives a kill as well
    Written,
}

impl Run {
    /// The seed, the same at every call once it was given or [settled](Self::settle_seed).
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_default()
    }

    /// Makes up a seed if none was given.
    pub fn settle_seed(&mut self) {
        self.seed.get_or_insert_with(new_seed);
    }
}

impl Kill {
    /// The command that makes the same choices.
    pub fn again(&self) -> String {
        let Self { cycles, producers, partitions, streams, .. } = self;
        let (seed, durability) = (self.run.seed(), self.durability.to_possible_value());
        let durability = durability.expect("no value is hidden");
        format!(
            "millstream-torture kill --cycles {cycles} --seed {seed} --producers {producers} --partitions {partitions} \
             --streams {streams} --durability {}",
            durability.get_name()
        )
    }
}

impl Producers {
    /// The command that makes the same choices.
    pub fn again(&self) -> String {
        let Self { cycles, producers, partitions, no_idempotence, .. } = self;
        let canary = if *no_idempotence { " --no-idempotence" } else { "" };
        let seed = self.run.seed();
        format!(
            "millstream-torture producers --cycles {cycles} --seed {seed} --producers {producers} --partitions \
             {partitions}{canary}"
        )
    }
}

impl Groups {
    /// The command that makes the same choices.
    pub fn again(&self) -> String {
        let Self { seconds, data, members, partitions, commit_first, .. } = self;
        let seed = self.run.seed();
        let mut text = format!(
            "millstream-torture groups --seconds {seconds} --seed {seed} --members {members} --partitions {partitions}"
        );
        if let Some(data) = data {
            text += &format!(" --data {}", data.display());
        }
        if *commit_first {
            text += " --commit-first";
        }
        text
    }
}

impl Queues {
    /// The command that makes the same choices.
    pub fn again(&self) -> String {
        let Self { seconds, producers, receivers, partitions, ack_first, .. } = self;
        let seed = self.run.seed();
        let canary = if *ack_first { " --ack-first" } else { "" };
        format!(
            "millstream-torture queues --seconds {seconds} --seed {seed} --producers {producers} --receivers {receivers} \
             --partitions {partitions}{canary}"
        )
    }
}

impl Lake {
    /// The command that makes the same choices.
    pub fn again(&self) -> String {
        let Self { cycles, layout, producers, partitions, faults, forget, .. } = self;
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let (store, format) = (name(self.store.to_possible_value()), name(self.format.to_possible_value()));
        let canary = if *forget { " --forget" } else { "" };
        let seed = self.run.seed();
        format!(
            "millstream-torture lake --cycles {cycles} --seed {seed} --store {store} --format {format} \
             --layout \"{layout}\" --producers {producers} --partitions {partitions} --faults {faults}{canary}"
        )
    }
}

/// Short enough to be typed.
fn new_seed() -> u64 {
    RandomState::new().build_hasher().finish() % 1_000_000
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn kill_of(cli: Cli) -> Kill {
        match cli.command {
            Command::Kill(kill) => kill,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_to_repeat_a_run_means_that_run() {
        let given = "millstream-torture kill --cycles 7 --seed 9 --partitions 300 --streams 2 --durability written";
        let kill = kill_of(Cli::parse_from(given.split(' ')));
        let again = kill_of(Cli::parse_from(kill.again().split(' ')));
        assert_eq!(format!("{kill:?}"), format!("{again:?}"));
        let given = "millstream-torture producers --cycles 7 --seed 9 --producers 3 --no-idempotence";
        let producers_of = |cli: Cli| match cli.command {
            Command::Producers(producers) => producers,
            other => panic!("{other:?}"),
        };
        let producers = producers_of(Cli::parse_from(given.split(' ')));
        let again = producers_of(Cli::parse_from(producers.again().split(' ')));
        assert_eq!(format!("{producers:?}"), format!("{again:?}"));
        let given = "millstream-torture groups --seconds 7 --seed 9 --data flights.ndjson --commit-first";
        let groups_of = |cli: Cli| match cli.command {
            Command::Groups(groups) => groups,
            other => panic!("{other:?}"),
        };
        let groups = groups_of(Cli::parse_from(given.split(' ')));
        let again = groups_of(Cli::parse_from(groups.again().split(' ')));
        assert_eq!(format!("{groups:?}"), format!("{again:?}"));
        let given = "millstream-torture queues --seconds 7 --seed 9 --producers 2 --receivers 3 --ack-first";
        let queues_of = |cli: Cli| match cli.command {
            Command::Queues(queues) => queues,
            other => panic!("{other:?}"),
        };
        let queues = queues_of(Cli::parse_from(given.split(' ')));
        let again = queues_of(Cli::parse_from(queues.again().split(' ')));
        assert_eq!(format!("{queues:?}"), format!("{again:?}"));
        let given = "millstream-torture lake --cycles 7 --seed 9 --store s3 --format ndjson --layout c={c} --forget";
        let lake_of = |cli: Cli| match cli.command {
            Command::Lake(lake) => lake,
            other => panic!("{other:?}"),
        };
        let lake = lake_of(Cli::parse_from(given.split(' ')));
        let again = lake_of(Cli::parse_from(lake.again().replace('"', "").split(' ')));
        assert_eq!(format!("{lake:?}"), format!("{again:?}"));
    }

    #[test]
    fn a_seed_that_was_not_given_is_made_up_once() {
        let mut kill = kill_of(Cli::parse_from(["millstream-torture", "kill"]));
        kill.run.settle_seed();
        let seed = kill.run.seed();
        kill.run.settle_seed();
        assert_eq!(kill.run.seed(), seed);
    }
}
