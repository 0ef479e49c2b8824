//! The command line: one definition, from which help comes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::load::flags::LoadFlags;
use crate::load::{Load, Scenario, workloads};
use crate::output::sweep::Over;
use crate::study::{commits, groups};
use crate::target::flags::TargetFlags;

/// Puts load on a Millstream server, checks what comes back, and says how fast it was.
///
/// One command to begin with: `millstream-bench end-to-end --start-server`.
#[derive(Debug, Parser)]
#[command(name = "millstream-bench", version, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub target: TargetFlags,
    #[command(flatten)]
    pub output: OutputFlags,
    #[command(subcommand)]
    pub command: Command,
}

/// Where results go.
#[derive(Debug, Clone, Args)]
pub struct OutputFlags {
    /// Print the result as one line of JSON
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Write a page with plots: one file that needs no other
    #[arg(long, global = true, value_name = "FILE.html", help_heading = "Output")]
    pub report: Option<PathBuf>,
    /// Write HdrHistogram logs into this directory
    #[arg(long, global = true, value_name = "DIR", help_heading = "Output")]
    pub hdr: Option<PathBuf>,
    /// Show nothing while it runs
    #[arg(long, global = true, help_heading = "Output")]
    pub quiet: bool,
}

/// What is done.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Scenario(ScenarioCommand),
    /// A named workload; flags override what it says
    Workload(WorkloadFlags),
    /// A scenario again and again, along a setting: how it scales
    Sweep(SweepFlags),
    /// Two runs side by side, from what --json printed
    Compare(CompareFlags),
    /// Studies of one question
    #[command(subcommand)]
    Study(Study),
}

/// The scenarios.
#[derive(Debug, Clone, Subcommand)]
pub enum ScenarioCommand {
    /// Send records, and wait for each ack
    Produce(LoadFlags),
    /// Read a stream from its beginning to its end; without --stream, one that is filled before
    Consume(LoadFlags),
    /// Send records, and read them at the tail
    EndToEnd(LoadFlags),
    /// Send jobs, and have them pushed to workers that acknowledge each
    Queue(LoadFlags),
    /// Send records, and have several subscribers read all of them: --subscribers, and --queues on the same stream
    FanOut(LoadFlags),
    /// Send records, and have the members of a group share the partitions
    Group(LoadFlags),
    /// Send records, while a lake lands them
    Lake(LoadFlags),
    /// Send records, read them at the tail and work on a queue of them, all at once
    Mixed(LoadFlags),
}

impl ScenarioCommand {
    /// Which, and how.
    pub fn parts(&self) -> (Scenario, &LoadFlags) {
        match self {
            ScenarioCommand::Produce(flags) => (Scenario::Produce, flags),
            ScenarioCommand::Consume(flags) => (Scenario::Consume, flags),
            ScenarioCommand::EndToEnd(flags) => (Scenario::EndToEnd, flags),
            ScenarioCommand::Queue(flags) => (Scenario::Queue, flags),
            ScenarioCommand::FanOut(flags) => (Scenario::FanOut, flags),
            ScenarioCommand::Group(flags) => (Scenario::Group, flags),
            ScenarioCommand::Lake(flags) => (Scenario::Lake, flags),
            ScenarioCommand::Mixed(flags) => (Scenario::Mixed, flags),
        }
    }

    /// Its name, its load, and the numbers of consumers it is to be run with, if they are several.
    pub fn load(&self) -> (String, Load, Vec<u32>) {
        let (scenario, flags) = self.parts();
        let mut load = Load::of(scenario);
        flags.apply(&mut load);
        (scenario.name().to_owned(), load, flags.consumers.clone())
    }
}

/// Which workload.
#[derive(Debug, Args)]
pub struct WorkloadFlags {
    /// Its name
    #[arg(value_name = "NAME", required_unless_present = "list")]
    pub name: Option<String>,
    /// Show all of them
    #[arg(long)]
    pub list: bool,
    #[command(flatten)]
    pub flags: LoadFlags,
}

impl WorkloadFlags {
    /// Its name and load.
    pub fn load(&self) -> Result<(String, Load), String> {
        let workload = workloads::find(self.name.as_deref().unwrap_or_default())?;
        let mut load = workload.load;
        self.flags.apply(&mut load);
        Ok((workload.name, load))
    }
}

/// What is swept.
#[derive(Debug, Args)]
pub struct SweepFlags {
    /// A setting and its values, for example record-size=100,1k,16k; each --over is a curve of its own
    #[arg(long, value_name = "SETTING=V,…", required = true)]
    pub over: Vec<Over>,
    /// How often each value is run: the median is drawn, with the range
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    #[command(subcommand)]
    pub scenario: ScenarioCommand,
}

/// What is compared.
#[derive(Debug, Args)]
pub struct CompareFlags {
    /// The run to compare with
    pub before: PathBuf,
    /// The other
    pub after: PathBuf,
}

/// Studies of one question.
#[derive(Debug, Subcommand)]
pub enum Study {
    /// Be many members of many groups: what they cost, and how fast one group rebalances
    Groups(groups::Groups),
    /// Commit offsets: how many become durable beside plain appends
    Commits(commits::Commits),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_sweep_is_read_with_its_scenario_and_the_scenarios_flags() {
        let line = "x sweep --over record-size=100,1k --over partitions=1,4 --rounds 3 produce --duration 5s --json";
        let cli = Cli::try_parse_from(line.split(' ')).expect("legal");
        assert!(cli.output.json);
        let Command::Sweep(sweep) = cli.command else { panic!("a sweep") };
        assert_eq!((sweep.over.len(), sweep.rounds), (2, 3));
        let (name, load, _) = sweep.scenario.load();
        assert_eq!((name.as_str(), load.duration.map(|time| time.to_string())), ("produce", Some("5s".to_owned())));
    }

    #[test]
    fn a_workload_is_overridden_by_flags() {
        let cli =
            Cli::try_parse_from(["x", "workload", "1-topic-16-partitions-1kb", "--producers", "2"]).expect("legal");
        let Command::Workload(workload) = cli.command else { panic!("a workload") };
        let (name, load) = workload.load().expect("it is there");
        assert_eq!((name.as_str(), load.producers, load.partitions), ("1-topic-16-partitions-1kb", 2, Some(16)));
        assert!(Cli::try_parse_from(["x", "workload"]).is_err(), "a name or --list");
    }
}
